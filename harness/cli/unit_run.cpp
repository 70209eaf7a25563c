#include "harness/cli/unit_run.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <future>
#include <memory>
#include <numeric>
#include <set>

#include "harness/cli/acceptance.h"
#include "harness/cli/delivery.h"
#include "harness/cli/kept_reference.h"
#include "harness/cli/model_hash.h"
#include "harness/cli/output_folder.h"
#include "harness/cli/parties.h"
#include "harness/cli/progress.h"
#include "harness/cli/shard_folder.h"
#include "harness/cli/text.h"
#include "harness/cli/unit_plan.h"
#include "harness/cli/words.h"
#include "harness/model/model.h"
#include "harness/model/tokenizer.h"
#include "harness/shards/result_archive.h"

namespace qdiff::cli {
namespace {

using shards::Unit;
using shards::UnitResult;

// Does units one after the other, and keeps what the next one can use too: the model, and its engines.
class UnitRunner {
 public:
  UnitRunner(const RunArguments& arguments, const PlannedRun& run, KeptReference& kept)
      : arguments_(arguments), run_(run), kept_(kept) {}

  shards::Entry entry_of(std::size_t i) {
    const Unit& unit = run_.plan.units[i];
    open(run_.work[i]);
    if (inputs_.empty()) inputs_ = model_hash(*model_);
    return {.unit = unit.name, .identity = unit.identity, .program = run_.plan.program, .inputs = inputs_};
  }

  UnitResult run(std::size_t i, const diagnose::ProgressReport& progress) {
    const auto start = std::chrono::steady_clock::now();
    UnitResult result{entry_of(i), ""};
    findings::RunResult found = judge(i, progress);
    result.found = shards::to_text(found, model_->config());
    result.entry.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return result;
  }

 private:
  void open(const UnitWork& work) {
    const cases::Case& test_case = run_.cases[work.test_case];
    if (model_ && path_ == work.model && kept_layers_ == test_case.layers) return;
    parties_.reset();
    model_ = open_model_of_unit(test_case, work.model, work.shown_model);
    tokenizer_ = model::open_tokenizer(work.model);
    path_ = work.model;
    kept_layers_ = test_case.layers;
    inputs_.clear();
  }

  // A planted engine counts how often it ran, over all units.
  RunParties& parties_for(const UnitWork& work, const diagnose::ProgressReport& progress) {
    const bool fits = parties_ && !work.is_planted && !used_.is_planted && used_.backend == work.backend &&
                      used_.dtype == work.dtype && used_.max_resident_bytes == work.max_resident_bytes;
    if (!fits) {
      parties_.reset();
      EngineSettings settings{.dtype = work.dtype,
                              .threads = arguments_.common.threads,
                              .max_resident_bytes = work.max_resident_bytes,
                              .progress = progress,
                              .inject = {}};
      if (work.is_planted) settings.inject = arguments_.inject;
      parties_ = std::make_unique<RunParties>(*model_, work.backend, settings, arguments_.reference, kept_);
      used_ = work;
    }
    return *parties_;
  }

  findings::RunResult judge(std::size_t i, const diagnose::ProgressReport& progress) {
    const UnitWork& work = run_.work[i];
    CaseInput input = cases::input_of(run_.cases[work.test_case], model_->config());
    input.id = run_.plan.units[i].name;
    input.argument = shell_quote(input.argument);
    RunArguments repeated = arguments_;
    repeated.backend = work.backend;
    if (!work.shown_model.empty()) repeated.model = work.shown_model;
    if (arguments_.suite || arguments_.dtype) repeated.dtype = work.dtype;
    diagnose::RunOptions options;
    options.mode = work.mode;
    options.layers = work.layers;
    options.steps = work.steps;
    if (work.is_planted) options.inject = arguments_.inject;
    options.repeat_arguments = repeat_arguments(repeated, options.inject);
    options.progress = progress;
    RunParties& parties = parties_for(work, progress);
    options.kept = parties.kept_parts();
    findings::RunResult result = diagnose::run_cases({&input, 1}, parties.get(), options);
    // A path stands in reports as in the suite.
    if (!is_synthetic(work.model) && result.model.starts_with(work.model)) {
      result.model = work.shown_model + result.model.substr(work.model.size());
    }
    put_words(tokenizer_.get(), result.free_runs);
    return result;
  }

  const RunArguments& arguments_;
  const PlannedRun& run_;
  KeptReference& kept_;
  std::string path_, inputs_;
  std::vector<int> kept_layers_;
  std::unique_ptr<WeightSource> model_;
  std::unique_ptr<model::Tokenizer> tokenizer_;
  std::unique_ptr<RunParties> parties_;
  UnitWork used_;
};

void check_can_be_done(const PlannedRun& run, const std::vector<std::size_t>& mine) {
  std::set<EngineKind> backends;
  for (const std::size_t i : mine) {
    const UnitWork& work = run.work[i];
    if (!work.refusal.empty()) throw InputError("unit " + run.plan.units[i].name + ": " + work.refusal);
    backends.insert(work.backend);
  }
  for (const EngineKind backend : backends) check_available(backend);
}

// Those of which there is no result yet.
void do_units(const RunArguments& arguments, const PlannedRun& run, const std::vector<std::size_t>& mine,
              const ShardFolder& folder, KeptReference& kept) {
  Progress progress(arguments.common.quiet);
  std::vector<double> seconds;
  for (const std::size_t i : mine) seconds.push_back(folder.has(i) ? 0.0 : run.costs[i].seconds);
  double bytes = 0.0;
  for (const std::size_t i : mine) bytes = std::max(bytes, run.costs[i].bytes);
  progress.announce(std::accumulate(seconds.begin(), seconds.end(), 0.0), bytes);
  const WholeWork whole(seconds);
  UnitRunner runner(arguments, run, kept);
  for (std::size_t n = 0; n < mine.size(); ++n) {
    const Unit& unit = run.plan.units[mine[n]];
    if (const auto earlier = folder.find(mine[n])) {
      if (earlier->entry.inputs == runner.entry_of(mine[n]).inputs) continue;
      throw InputError(folder.file_of(mine[n]) + ": was made with other weights than model " + unit.model +
                       " has now; remove it, and the unit is run again");
    }
    const std::string which =
        "unit " + std::to_string(n + 1) + " of " + std::to_string(mine.size()) + ", " + unit.name + ": ";
    folder.keep(runner.run(mine[n], [&](const std::string& what, std::int64_t done, std::int64_t total) {
      progress.show_whole(which + what, whole.share(n, share_of_run(what, done, total)), done, total);
    }));
  }
}

}  // namespace

std::optional<RunArguments> asked_by_units(const RunArguments& arguments) {
  RunArguments asked = arguments;
  if (!arguments.prompt && !arguments.print_gemms) asked.shard = shard_asked(arguments.shard);
  if (!asked.suite && !asked.shard && !asked.resume && !asked.durations) return std::nullopt;
  return asked;
}

std::vector<std::string> names_of(const shards::Plan& plan, const std::vector<std::size_t>& units) {
  std::vector<std::string> names;
  for (const std::size_t i : units) names.push_back(plan.units[i].name);
  return names;
}

JoinedUnits join_units(const shards::Plan& plan, const std::vector<std::size_t>& units,
                       const std::function<UnitResult(std::size_t)>& result_of) {
  struct ReadUnit {
    shards::Entry entry;
    shards::ReadResult found;
  };
  const auto read = [&](std::size_t i) {
    UnitResult unit = result_of(i);
    return ReadUnit{std::move(unit.entry), shards::read_result(unit.found, "the result of unit " + unit.entry.unit)};
  };
  constexpr std::size_t kReadAhead = 4;  // results held at once before they are joined; it changes no byte
  std::deque<std::future<ReadUnit>> reading;
  JoinedUnits joined;
  shards::ResultReader reader;
  diagnose::Joiner joiner;
  for (std::size_t next = 0; next < units.size() || !reading.empty();) {
    for (; next < units.size() && reading.size() < kReadAhead; ++next) {
      reading.push_back(std::async(std::launch::async, read, units[next]));
    }
    ReadUnit unit = reading.front().get();
    reading.pop_front();
    findings::RunResult result = reader.with_catalogue(std::move(unit.found));
    result.seconds = unit.entry.seconds;
    joiner.add(std::move(result));
    joined.durations[unit.entry.unit] = unit.entry.seconds;
  }
  joined.result = joiner.finish();
  const CommandLine whole = read_words(plan.words);
  joined.result.command = whole.command;
  joined.result.injected = std::get<RunArguments>(whole.arguments).inject;
  doubt_planting(joined.result);
  return joined;
}

void doubt_planting(findings::RunResult& result) {
  if (!result.injected || result.planted_executions > 0 || result.verdict != compare::Verdict::kMatch) return;
  result.verdict = compare::Verdict::kInconclusive;
  result.reason = never_ran(*result.injected) + "; choose a case that runs it";
}

ExitStatus run_by_units(const RunArguments& arguments) {
  const shards::Durations known =
      arguments.durations ? shards::read_durations(*arguments.durations) : shards::Durations();
  const PlannedRun run = plan_units(arguments, known);
  const shards::Shard shard = arguments.shard.value_or(shards::Shard{});
  const std::vector<std::size_t> mine = shards::units_of_shard(run.costs, shard);
  check_can_be_done(run, mine);
  const auto terms = read_terms(arguments.acceptance, arguments.out, false);
  check_report_folder(arguments.out);
  if (terms) acceptance::check_baseline(*terms, false, names_of(run.plan, mine));
  KeptReference kept(arguments.common);
  const ShardFolder folder(run.plan, mine, shard, arguments.out, arguments.resume, arguments.common.quiet);
  do_units(arguments, run, mine, folder, kept);
  JoinedUnits joined = join_units(run.plan, mine, [&](std::size_t i) { return *folder.find(i); });
  joined.result.reference_values = kept.values();
  apply_terms(terms, joined.result);
  write_durations(joined.durations, arguments.out);
  return deliver(joined.result, arguments.common, arguments.out);
}

}  // namespace qdiff::cli
