#include <cstdio>
#include <filesystem>
#include <thread>

#include "harness/calibration/measure.h"
#include "harness/calibration/scenario.h"
#include "harness/cases/case.h"
#include "harness/cli/commands.h"
#include "harness/cli/engines.h"
#include "harness/cli/output_folder.h"
#include "harness/cli/progress.h"
#include "harness/cli/selftest_units.h"
#include "harness/cli/shard_folder.h"
#include "harness/report/report_file.h"
#include "harness/selftest/selftest.h"
#include "optimized/cpu/engine.h"
#include "reference/reference.h"

namespace qdiff::cli {
namespace {

namespace fs = std::filesystem;

// Each worker has engines of its own, with one thread each: the models are small.
selftest::Makers makers(EngineKind backend) {
  const auto cpu = [](const WeightSource& weights, DType dtype) {
    return optimized::cpu::make_engine(weights, {.dtype = dtype, .num_threads = 1});
  };
  const auto reference = [](const WeightSource& weights, DType dtype) {
    return reference::make_engine(weights, plain_precision(dtype), {.num_threads = 1});
  };
  const auto gold = [](const WeightSource& weights, DType dtype) {
    return reference::make_engine(weights, gold_precision(dtype), {.num_threads = 1});
  };
  const auto oracle = [](const WeightSource& weights) { return reference::make_oracle(weights, {.num_threads = 1}); };
  const auto rounding = [](const WeightSource& weights, const Precision& precision) {
    return reference::make_engine(weights, precision, {.num_threads = 1});
  };
  selftest::Makers made{
      .engines = {{"cpu", cpu}, {"reference", reference}}, .gold = gold, .reference = rounding, .oracle = oracle};
  if (backend != EngineKind::kCuda) return made;
  const auto cuda = [](const WeightSource& weights, DType dtype) {
    return make_engine(EngineKind::kCuda, weights, {.dtype = dtype});
  };
  made.engines = {{"cuda", cuda}};
  return made;
}

selftest::HonestRun run_twin(std::uint64_t seed, DType dtype, calibration::Size size) {
  calibration::Measurement measurement;
  calibration::measure(calibration::draw_scenario(seed, dtype, size), measurement);
  selftest::HonestRun run{measurement.judged, ""};
  if (!measurement.alarms.empty()) {
    run.alarm = measurement.alarms.front().where + ": " + measurement.alarms.front().judgement.reason;
  }
  return run;
}

constexpr std::string_view kMark = "\"qdiff-selftest\"";

selftest::Settings settings_of(const SelftestArguments& arguments) {
  selftest::Settings settings;
  settings.quick = arguments.quick;
  settings.engine_alone = arguments.backend == EngineKind::kCuda;
  settings.only = arguments.only;
  settings.threads = arguments.common.threads.value_or(static_cast<int>(std::thread::hardware_concurrency()));
  settings.other_honest = "calibration twins";
  const auto size = arguments.quick ? calibration::Size::kQuick : calibration::Size::kFull;
  settings.run_other_honest = [size](std::uint64_t seed, DType dtype) { return run_twin(seed, dtype, size); };

  if (arguments.backend == EngineKind::kCpu) {
    settings.mistaken = [](const WeightSource& weights, DType dtype, const std::vector<Mistake>& mistakes) {
      return reference::make_engine(weights, plain_precision(dtype), {.num_threads = 1}, mistakes);
    };
  }
  settings.novel = arguments.novel;
  settings.pairs = arguments.pairs;
  settings.spoiled = arguments.spoiled;
  if (arguments.seed) settings.seed = static_cast<std::uint64_t>(*arguments.seed);
  return settings;
}

fs::path file_in(const std::string& out) { return fs::path(out) / "selftest.json"; }

}  // namespace

selftest::Result run_selftest(const SelftestArguments& arguments, selftest::Ledger* ledger) {
  selftest::Settings settings = settings_of(arguments);
  settings.ledger = ledger;
  Progress progress(arguments.common.quiet);
  return selftest::run_selftest(cases::embedded_suite(), makers(arguments.backend), settings, progress.showing());
}

ExitStatus deliver_selftest(const selftest::Result& result, const SelftestArguments& arguments) {
  // The table first: a disk that is full by now must not lose it.
  if (!arguments.common.quiet) {
    const std::string text = selftest::to_table(result);
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }
  report::write_report_file({file_in(arguments.out), selftest::to_json(result), kMark});
  return result.passed() ? ExitStatus::kMatch : ExitStatus::kDiverged;
}

ExitStatus selftest_command(const SelftestArguments& arguments, const std::string& command) {
  check_available(arguments.backend);
  check_output_folder(arguments.out);
  report::check_own_file(file_in(arguments.out), kMark);
  const auto shard = shard_asked(arguments.shard);
  if (shard || arguments.resume) return run_selftest_by_units(arguments, shard.value_or(shards::Shard{}));
  selftest::Result result = run_selftest(arguments, nullptr);
  result.command = command;
  return deliver_selftest(result, arguments);
}

}  // namespace qdiff::cli
