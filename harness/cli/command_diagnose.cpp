#include <filesystem>
#include <memory>
#include <vector>

#include "harness/cli/acceptance.h"
#include "harness/cli/commands.h"
#include "harness/cli/delivery.h"
#include "harness/cli/kept_reference.h"
#include "harness/cli/output_folder.h"
#include "harness/cli/progress.h"
#include "harness/cli/text.h"
#include "harness/cli/trace_memory.h"
#include "harness/cli/weight_notes.h"
#include "harness/cli/words.h"
#include "harness/diagnose/held_weights.h"
#include "harness/diagnose/trace_run.h"
#include "harness/model/model.h"
#include "harness/model/tokenizer.h"
#include "harness/trace/trace_reader.h"
#include "reference/reference.h"

namespace qdiff::cli {
namespace {

std::optional<std::set<int>> selected(const char* option, const std::optional<NumberRanges>& wanted, std::int64_t end,
                                      const char* what) {
  if (!wanted) return std::nullopt;
  check_below(option, *wanted, end, what);
  return wanted->below(end);
}

// Those that the command line names, and those that the manifest does, whose folders lie beside or within its own.
std::vector<std::unique_ptr<trace::Trace>> read_repeats(const DiagnoseArguments& arguments, const trace::Trace& first) {
  std::vector<std::unique_ptr<trace::Trace>> repeats;
  for (const std::string& folder : first.manifest().repeats) {
    repeats.push_back(trace::read_trace(std::filesystem::path(arguments.trace) / folder));
  }
  for (const std::string& folder : arguments.repeats) repeats.push_back(trace::read_trace(folder));
  return repeats;
}

}  // namespace

ExitStatus diagnose_command(const DiagnoseArguments& arguments, const std::string& command) {
  const auto trace = trace::read_trace(arguments.trace);
  const auto model = model::open_model(arguments.model);
  const auto tokenizer = model::open_tokenizer(arguments.model);  // a broken one is refused before anything is judged
  const ModelConfig& config = model->config();
  diagnose::TraceOptions options;
  options.id = folder_name(arguments.trace);
  options.command =
      "qdiff diagnose --model " + shell_quote(arguments.model) + " --trace " + shell_quote(arguments.trace);
  const std::vector<std::unique_ptr<trace::Trace>> repeats = read_repeats(arguments, *trace);
  for (const auto& repeat : repeats) options.repeats.push_back(repeat.get());
  for (const std::string& repeat : arguments.repeats) options.command += " --repeat " + shell_quote(repeat);
  options.layers = selected("--layers", arguments.layers, config.num_layers, "layer");
  options.steps =
      selected("--steps", arguments.steps, static_cast<std::int64_t>(trace->manifest().steps.size()), "step");
  options.allow_precision = arguments.allow_precision;
  options.infer_points = arguments.infer_points;
  const auto terms = read_terms(arguments.acceptance, arguments.out, arguments.allow_precision);
  check_report_folder(arguments.out);
  if (terms) acceptance::check_baseline(*terms, true, {options.id});

  Progress progress(arguments.common.quiet);
  std::vector<std::string> on_weights;
  bool weights_differ = false;
  if (arguments.weights) {
    const diagnose::WeightComparison compared =
        diagnose::compare_weights(*model, *arguments.weights,
                                  [shown = progress.showing(options.id + ": ")](std::int64_t done, std::int64_t total) {
                                    shown("comparing weights", done, total);
                                  });
    on_weights = weight_notes(compared, config);
    weights_differ = !compared.different.empty();
  }
  const reference::Options reference_options{.num_threads = arguments.common.threads.value_or(0)};
  KeptReference kept(arguments.common);
  const KeptReference::WithParts made = kept.make_oracle(*model, reference_options);
  const auto make_reference = [&](const Precision& precision) {
    return kept.make_engine(*model, precision, reference_options);
  };
  // Once the trace is known to be one of this model, and before anything of its size is allocated.
  options.before_judging = [&] { options.beside_reference = check_memory_for(*trace, config, arguments.common); };
  options.kept = made.parts;
  findings::RunResult result = diagnose::judge_trace({*trace, *model, *made.oracle, make_reference}, options);
  progress.clear();
  if (weights_differ && result.verdict == compare::Verdict::kMatch) {
    on_weights.push_back(
        "the trace is right with the model's weights, so the engine did not run with those that it saved");
  }
  result.notes.insert(result.notes.begin(), on_weights.begin(), on_weights.end());
  put_words(tokenizer.get(), result.free_runs);
  if (tokenizer != nullptr && result.fed_tokens && result.fed_tokens->not_chosen > 0) {
    result.fed_tokens->fed_word = words(*tokenizer, {result.fed_tokens->fed});
    result.fed_tokens->chosen_word = words(*tokenizer, {result.fed_tokens->chosen});
  }
  result.command = command;
  result.reference_values = kept.values();
  apply_terms(terms, result);
  return deliver(result, arguments.common, arguments.out);
}

}  // namespace qdiff::cli
