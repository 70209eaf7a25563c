#include <chrono>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>

#include "harness/cli/case_model.h"
#include "harness/cli/commands.h"
#include "harness/cli/engines.h"
#include "harness/cli/inputs_runner.h"
#include "harness/cli/memory.h"
#include "harness/cli/output_folder.h"
#include "harness/cli/reduction.h"
#include "harness/cli/terminal.h"
#include "harness/cli/text.h"
#include "harness/cli/trace_reduction.h"
#include "harness/formats/duration.h"
#include "harness/report/sentences.h"
#include "harness/trace/trace_writer.h"

namespace qdiff::cli {
namespace {

using Clock = std::chrono::steady_clock;

struct Outcome {
  std::string what;  // the case or the trace
  reduce::Inputs whole;
  reduce::Reduced reduced;
  std::string path;         // of the case
  std::string folder = {};  // of the trace, where one was reduced
  std::string repeat;
};

ExitStatus deliver_outcome(const Outcome& outcome, Clock::time_point started, bool quiet) {
  if (quiet) return ExitStatus::kDiverged;
  const reduce::Reduced& reduced = outcome.reduced;
  const double seconds = std::chrono::duration<double>(Clock::now() - started).count();
  std::printf("REDUCED  %s, %d runs, %s\n", one_line(outcome.what).c_str(), reduced.tries,
              formats::duration_text(seconds).c_str());
  print_field("was", in_words(outcome.whole));
  print_field("is", in_words(reduced.inputs));
  print_field("first at", tensor_name(reduced.finding.tensor));
  print_field("where", report::place_of(reduced.finding));
  print_field("cause", report::cause_without_extent(reduced.finding.explanation));
  print_field("case", outcome.path);
  print_field("trace", outcome.folder);
  print_field("repeat", outcome.repeat);
  if (reduced.out_of_tries)
    print_field("note", "--tries is used up; with more, perhaps something else can be left out");
  return ExitStatus::kDiverged;
}

// Of a run without a divergence.
ExitStatus say_that_nothing_diverges(const std::string& what, const findings::RunResult& result, bool quiet) {
  if (result.verdict != compare::Verdict::kMatch) {
    throw CannotJudgeError(what + " has no divergence that could be reduced" +
                           (result.reason.empty() ? "" : ": " + result.reason));
  }
  if (result.injected && result.planted_executions == 0) {
    throw CannotJudgeError(never_ran(*result.injected) + "; choose a case that runs it");
  }
  if (!quiet) std::printf("MATCH  %s: nothing diverges, so there is nothing to reduce\n", one_line(what).c_str());
  return ExitStatus::kMatch;
}

// The layers of the case's own model, where it runs on some of them already.
void name_layers(std::vector<int>& layers, const cases::Case& original, std::size_t all) {
  if (!original.layers.empty()) {
    for (int& layer : layers) layer = original.layers[static_cast<std::size_t>(layer)];
  } else if (layers.size() == all) {
    layers.clear();
  }
}

ExitStatus reduce_case(const ReduceArguments& arguments, Clock::time_point started) {
  const RunArguments& run = arguments.run;
  const cases::Case original = cases::load_case(run.cases.front());
  check_reduced(original.id, run.out);
  const std::shared_ptr<const WeightSource> model = open_model_for(original, run.model);
  const ModelConfig& config = model->config();
  const CaseInput input = cases::input_of(original, config);
  if (run.inject) check_place(*run.inject, config);
  const DType dtype = run.dtype.value_or(config.dtype);
  const PlannedCase planned{.steps = input.steps, .capacity = input.capacity, .recordings = 2};
  InputsRunner runner(
      {.model = model,
       .backend = run.backend,
       .reference = run.reference,
       .dtype = dtype,
       .threads = run.common.threads,
       .max_resident_bytes = checked_plan(config, dtype, {planned}, run.common.max_memory).max_resident_bytes,
       .inject = run.inject});
  const reduce::Inputs whole = reduce::whole_case(input.steps, input.capacity, config.num_layers);
  Progress progress(run.common.quiet);
  const RunInputs run_inputs = std::ref(runner);
  std::optional<reduce::Reduced> found =
      reduce_sample(run_inputs, whole, run.mode, original.id, arguments.tries, progress);
  if (!found) {
    const findings::RunResult result = run_to_first_divergence(run_inputs, whole, run.mode, original.id, progress);
    if (result.first_divergence() == nullptr) {
      progress.clear();
      return say_that_nothing_diverges(original.id, result, run.common.quiet);
    }
    found = reduce_inputs(run_inputs, whole, result, run.mode, arguments.tries, progress);
  }
  const reduce::Reduced reduced = std::move(*found);
  progress.clear();
  cases::Case smaller = reduced_case(reduced, original.id);
  smaller.model = original.model;
  if (run.model && run.model->starts_with("synthetic:")) smaller.model = *run.model;
  name_layers(smaller.layers, original, whole.layers.size());
  const std::string path = write_case(smaller, run.out);
  RunArguments again = run;
  if (smaller.model == run.model) again.model.reset();
  const auto inject = run.inject ? reduce::in_layers(*run.inject, reduced.inputs.layers) : std::nullopt;
  return deliver_outcome({.what = original.id,
                          .whole = whole,
                          .reduced = reduced,
                          .path = path,
                          .repeat = "qdiff run " + shell_quote(path) + repeat_arguments(again, inject)},
                         started, run.common.quiet);
}

ExitStatus reduce_trace(const ReduceArguments& arguments, Clock::time_point started) {
  const RunArguments& run = arguments.run;
  TraceReduction reduction(arguments);
  check_reduced(reduction.name(), run.out);
  const std::string folder = std::filesystem::path(path_of_reduced(reduction.name(), run.out)).replace_extension();
  trace::check_place(folder);
  Progress progress(run.common.quiet);
  const findings::RunResult result = reduction.judge_to_first_divergence(progress);
  if (result.first_divergence() == nullptr) {
    progress.clear();
    return say_that_nothing_diverges(reduction.name(), result, run.common.quiet);
  }
  const reduce::Reduced reduced = reduction.reduce(*result.first_divergence(), arguments.tries, progress);
  progress.clear();
  cases::Case smaller = reduced_case(reduced, reduction.name());
  smaller.capacity = std::max(smaller.capacity, smaller.length());
  smaller.layers.clear();  // an engine that records has all of them
  if (run.model->starts_with("synthetic:")) smaller.model = *run.model;
  const std::string diagnosed = reduction.write(reduced, folder);
  return deliver_outcome({.what = reduction.name(),
                          .whole = reduction.whole(),
                          .reduced = reduced,
                          .path = write_case(smaller, run.out),
                          .folder = folder,
                          .repeat = "qdiff diagnose" + diagnosed},
                         started, run.common.quiet);
}

}  // namespace

ExitStatus reduce_command(const ReduceArguments& arguments) {
  const auto started = Clock::now();
  check_output_folder(arguments.run.out);
  if (arguments.trace) return reduce_trace(arguments, started);
  check_available(arguments.run.backend);
  if (arguments.run.inject) check_plantable(arguments.run.backend, *arguments.run.inject);
  return reduce_case(arguments, started);
}

}  // namespace qdiff::cli
