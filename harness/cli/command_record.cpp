#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <set>
#include <span>

#include "harness/cases/case.h"
#include "harness/cli/commands.h"
#include "harness/cli/engines.h"
#include "harness/cli/gemm_table.h"
#include "harness/cli/memory.h"
#include "harness/cli/progress.h"
#include "harness/cli/text.h"
#include "harness/cli/unit_plan.h"
#include "harness/diagnose/record.h"
#include "harness/model/model.h"
#include "harness/trace/recording.h"
#include "harness/trace/trace_writer.h"
#include "reference/reference.h"

namespace qdiff::cli {
namespace {

// What is written of the case. The steps before the last one written run all the same, and so do the layers before.
struct Extent {
  std::set<int> layers;
  bool outside_layers = true;  // the embedding and the head too
  std::set<int> steps;

  bool has(const TensorKey& key) const {
    return steps.contains(key.step) && (key.id.layer == kNoLayer ? outside_layers : layers.contains(key.id.layer));
  }
  int end_layer() const { return *layers.rbegin() + 1; }
  int last_step() const { return *steps.rbegin(); }
};

Extent extent_of(const RecordArguments& arguments, std::int64_t num_layers, std::int64_t num_steps) {
  if (arguments.layers) check_below("--layers", *arguments.layers, num_layers, "layer");
  if (arguments.steps) check_below("--steps", *arguments.steps, num_steps, "step");
  if (arguments.inject && arguments.layers) check_injection_is_among(*arguments.inject, *arguments.layers);
  const NumberRanges all{.text = "", .ranges = {{0, std::max(num_layers, num_steps)}}};
  return {.layers = arguments.layers.value_or(all).below(num_layers),
          .outside_layers = !arguments.layers,
          .steps = arguments.steps.value_or(all).below(num_steps)};
}

// One step, part by part, each part fed with what the engine itself put out before. With `verify`, returns the tensors
// that were written again after they had been handed out.
std::vector<std::string> record_step(Session& session, const Step& step, const Extent& extent, bool verify,
                                     trace::Recording& recording) {
  trace::RecordingSink sink(recording, step.index);
  std::vector<std::string> changed;
  const auto end_part = [&] {
    if (!verify) return;
    for (std::string& name : sink.verify_unchanged()) changed.push_back(std::move(name));
  };
  // Copies: the view that one part returns ends with the call of the next.
  Tensor residual = Tensor::copy_of(session.run_embedding(step, &sink));
  end_part();
  for (int layer = 0; layer < extent.end_layer(); ++layer) {
    residual = Tensor::copy_of(session.run_layer(layer, step, residual.view(), &sink));
    end_part();
  }
  if (extent.outside_layers) {
    session.run_head(step, residual.view(), &sink);
    end_part();
  }
  for (const TensorKey& key : recording.keys()) {
    if (!extent.has(key)) recording.erase(key);
  }
  return changed;
}

// Every layer fed with what the reference in float64 puts out.
diagnose::Recorded record_all_in_lockstep(Engine& engine, const WeightSource& model, const CaseInput& input,
                                          const Extent& extent, const RecordArguments& arguments, Progress& progress) {
  const auto reference = reference::make_engine(model, gold_precision(engine.precision().weights),
                                                {.num_threads = arguments.common.threads.value_or(0)});
  const auto chains =
      diagnose::run_reference(*reference, {&input}, {extent.last_step()}, engine.precision().activations,
                              model.config(), extent.end_layer(), progress.showing());
  return diagnose::record_lockstep(engine, input, chains.front(), extent.layers, extent.outside_layers,
                                   extent.last_step(), Poison::kNaN);
}

void warn_of_later_write(Progress& progress, const std::string& tensor, int step) {
  progress.clear();
  std::fprintf(stderr, "qdiff: warning: the engine wrote %s of step %d again after it had handed it out\n",
               tensor.c_str(), step);
}

std::string device_text(const Device& device) {
  return device.kind == DeviceKind::kCpu ? "cpu" : "cuda:" + std::to_string(device.index);
}

}  // namespace

ExitStatus record_command(const RecordArguments& arguments) {
  check_available(arguments.engine);
  const cases::Case test_case = cases::load_case(arguments.test_case);
  if (!test_case.layers.empty()) {
    throw InputError(test_case.argument +
                     ": the case keeps some of the model's layers, and a trace cannot say which; 'qdiff run' takes it");
  }
  const auto model = model::open_model(arguments.model);
  const ModelConfig& config = model->config();
  const CaseInput input = cases::input_of(test_case, config);
  const std::vector<Step>& steps = input.steps;
  const DType dtype = arguments.dtype.value_or(config.dtype);
  const Extent extent = extent_of(arguments, config.num_layers, static_cast<std::int64_t>(steps.size()));
  const bool lockstep = arguments.mode == diagnose::Mode::kLockstep;
  const std::uint64_t limit = memory_limit(arguments.common.max_memory);
  const PlannedCase planned{.steps = steps, .capacity = test_case.capacity, .recordings = 1};
  const MemoryPlan plan = lockstep
                              ? plan_run(config, dtype, {planned}, limit)
                              : plan_record(config, dtype, planned, arguments.engine == EngineKind::kReference, limit);
  check_memory(plan, limit, arguments.common.max_memory.has_value());
  trace::TraceWriter writer(arguments.trace);  // before a model is read for a trace that would have no place
  const auto engine = make_engine(arguments.engine, *model,
                                  {.dtype = dtype,
                                   .threads = arguments.common.threads,
                                   .max_resident_bytes = plan.max_resident_bytes,
                                   .inject = arguments.inject});
  if (arguments.print_gemms) {
    std::fputs(gemm_table(engine->gemms(), config, engine->name(), arguments.model).c_str(), stdout);
  }

  Progress progress(arguments.common.quiet);
  UnitWork work;
  work.mode = arguments.mode;
  work.max_resident_bytes = plan.max_resident_bytes;
  progress.announce(expected_seconds(input, config, work), plan.total());
  std::optional<diagnose::Recorded> all;
  std::unique_ptr<Session> session;
  if (lockstep) {
    all = record_all_in_lockstep(*engine, *model, input, extent, arguments, progress);
    for (const auto& [step, tensor] : all->later_writes) warn_of_later_write(progress, tensor, step);
    for (const TensorKey& key : all->tensors.keys()) {
      if (!extent.has(key)) all->tensors.erase(key);
    }
  } else {
    session = engine->open({.batch = steps.front().batch(),
                            .capacity = test_case.capacity,
                            .left_padding = steps.front().left_padding,
                            .poison = Poison::kNaN});
  }
  // The reference's operations are pure functions: nothing is written twice, and each result is freed once it is used.
  const bool verify = arguments.engine != EngineKind::kReference;
  std::size_t num_tensors = 0, bytes = 0;
  for (const Step& step : std::span(steps).first(static_cast<std::size_t>(extent.last_step()) + 1)) {
    if (lockstep) {
      writer.write_step(step, all->tensors);
      continue;
    }
    progress.show("recording " + test_case.id, step.index, extent.last_step() + 1);
    trace::Recording recording;
    const auto changed = record_step(*session, step, extent, verify, recording);
    for (const std::string& name : changed) warn_of_later_write(progress, name, step.index);
    writer.write_step(step, recording);
    num_tensors += recording.size();
    bytes += recording.bytes();
  }
  if (lockstep) {
    num_tensors = all->tensors.size();
    bytes = all->tensors.bytes();
  }
  progress.clear();
  if (arguments.inject && engine->planted_executions() == 0) {
    throw CannotJudgeError(never_ran(*arguments.inject) + ", so no trace is written; choose a case that runs it");
  }
  trace::Manifest about;
  about.engine = {engine->name(), QDIFF_VERSION, device_text(engine->device())};
  about.precision = engine->precision();
  about.config = trace::declare(config);
  about.cache_capacity = test_case.capacity;
  writer.commit(std::move(about));
  if (!arguments.common.quiet) {
    std::printf("wrote %s: %s on %s, engine %s in %s%s, %zu steps, %zu tensors, %s\n",
                one_line(arguments.trace).c_str(), one_line(test_case.id).c_str(), one_line(arguments.model).c_str(),
                engine->name().c_str(), std::string(name(dtype)).c_str(),
                arguments.inject ? (", planted " + to_string(*arguments.inject)).c_str() : "", extent.steps.size(),
                num_tensors, bytes_text(bytes).c_str());
  }
  return ExitStatus::kMatch;
}

}  // namespace qdiff::cli
