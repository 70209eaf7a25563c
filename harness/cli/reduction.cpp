#include "harness/cli/reduction.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <utility>

#include "harness/contract/error.h"
#include "harness/contract/wording.h"
#include "harness/report/report_file.h"
#include "harness/report/sentences.h"

namespace qdiff::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kCaseMark = "\"qdiff-case\"";

// 0 to count - 1
std::set<int> layer_numbers(std::size_t count) {
  std::set<int> numbers;
  for (std::size_t i = 0; i < count; ++i) numbers.insert(static_cast<int>(i));
  return numbers;
}

diagnose::Mode mode_of(const findings::Finding& finding) {
  return finding.mode == "lockstep" ? diagnose::Mode::kLockstep : diagnose::Mode::kFree;
}

// Letters, digits, '-' and '_', the first no sign, as a case's id has to be.
std::string id_from(const std::string& origin) {
  constexpr std::string_view kEnd = "-reduced";
  constexpr std::size_t kLongest = 64;
  std::string id;
  for (const char c : origin) {
    const bool plain = std::isalnum(static_cast<unsigned char>(c)) != 0;
    if (!plain && id.empty()) continue;
    id += plain || c == '_' ? c : '-';
  }
  if (id.empty()) id = "case";
  return id.substr(0, kLongest - kEnd.size()) + std::string(kEnd);
}

cases::CaseStep case_step_of(const Step& step) {
  cases::CaseStep result{.phase = step.phase, .num_tokens = step.num_tokens(), .tokens = step.tokens, .positions = {}};
  Step usual = step;
  set_default_positions(usual);
  if (usual.positions != step.positions) result.positions = step.positions;
  return result;
}

}  // namespace

std::optional<findings::RunResult> first_wrong_layers(int num_layers, const LayersJudge& judge) {
  using Found = std::optional<findings::RunResult>;
  const std::string of_all = " of " + std::to_string(num_layers);
  // A rounding may stand before a bug that is further on.
  const auto diverges = [&](const std::set<int>& layers, bool alone, const std::string& where) -> Found {
    findings::RunResult result = judge(layers, alone, where);
    const findings::Finding* first = result.first_divergence();
    if (first == nullptr || first->kind != findings::FindingKind::kLogic) return std::nullopt;
    return result;
  };
  const auto is_explained = [](const Found& found) {
    return found && found->first_divergence()->explanation.verdict.has_value();
  };
  // Twice as many each time, so that what is run again to reach a late layer is no more than was judged.
  for (int first = 0, count = 1; first < num_layers; first += count, count *= 2) {
    const auto end = static_cast<std::size_t>(std::min(first + count, num_layers));
    std::set<int> layers = layer_numbers(end);
    layers.erase(layers.begin(), layers.lower_bound(first));
    Found found = diverges(layers, false, "in layer " + report::ranges({layers.begin(), layers.end()}) + of_all);
    if (!found) continue;
    // What layers do to each other's memory is explained where all layers ran: those before it too.
    if (!is_explained(found) && end > 1) {
      Found together = diverges(layer_numbers(end), true, "in the first " + std::to_string(end) + of_all + " layers");
      if (is_explained(together)) return together;
    }
    return found;
  }
  return std::nullopt;
}

namespace {

std::optional<findings::RunResult> first_wrong_in_lockstep(const RunInputs& run, const reduce::Inputs& inputs,
                                                           const std::string& name, Progress& progress) {
  const auto judge = [&](const std::set<int>& layers, bool alone, const std::string& where) {
    const reduce::Inputs judged =
        alone ? reduce::keep_layers(inputs, reduce::all_indices(static_cast<std::size_t>(*layers.rbegin()) + 1))
              : inputs;
    return run(judged, {.mode = diagnose::Mode::kLockstep,
                        .layers = layers,
                        .progress = progress.showing(name + ", looking " + where + ": ")});
  };
  const auto num_layers = static_cast<int>(inputs.layers.size());
  if (auto found = first_wrong_layers(num_layers, judge)) return found;
  // A run judges one layer at least.
  findings::RunResult outside = judge({kNoLayer, num_layers - 1}, false, "at embedding and head");
  const findings::Finding* first = outside.first_divergence();
  if (first == nullptr || first->kind != findings::FindingKind::kLogic) return std::nullopt;
  return outside;
}

// Embedding and head cost more than a layer where the vocabulary is large.
std::optional<std::set<int>> layers_to_judge(const reduce::Inputs& inputs, const findings::Finding& failure) {
  if (failure.tensor.layer == kNoLayer) return std::nullopt;
  return layer_numbers(inputs.layers.size());
}

// What does not fit the model is no smaller case.
std::optional<findings::Finding> first_divergence(const RunInputs& run, const reduce::Inputs& inputs,
                                                  const Judging& judging) {
  try {
    const findings::RunResult tried = run(inputs, judging);
    const findings::Finding* found = tried.first_divergence();
    return found == nullptr ? std::nullopt : std::optional(*found);
  } catch (const InputError&) {
    return std::nullopt;
  }
}

}  // namespace

findings::RunResult run_to_first_divergence(const RunInputs& run, const reduce::Inputs& whole, diagnose::Mode mode,
                                            const std::string& name, Progress& progress) {
  if (mode != diagnose::Mode::kFree) {
    if (auto found = first_wrong_in_lockstep(run, whole, name, progress)) return std::move(*found);
  }
  return run(whole, {.mode = mode, .progress = progress.showing(name + ": ")});
}

reduce::Settings settings_of(int most_tries, Progress& progress) {
  return {.most_tries = most_tries, .progress = [&progress](const reduce::Pace& pace) {
            progress.show("tries to leave something out of " + in_words(pace.smallest), pace.in_vain,
                          pace.in_vain + pace.left);
          }};
}

reduce::Reduced reduce_inputs(const RunInputs& run, const reduce::Inputs& whole, const findings::RunResult& result,
                              diagnose::Mode mode, int most_tries, Progress& progress) {
  const findings::Finding first = *result.first_divergence();
  const reduce::Settings settings = settings_of(most_tries, progress);
  const auto part_of_job = [&](const reduce::Inputs& inputs) {
    return first_divergence(run, inputs, {.mode = mode_of(first), .layers = layers_to_judge(inputs, first)});
  };
  const auto whole_job = [&](const reduce::Inputs& inputs) {
    return first_divergence(run, inputs, {.mode = mode, .probing = true});
  };
  // What the whole run does not need to find this failure is left out of the tries; it has the last word.
  reduce::Reduced reduced = reduce::reduce(whole, first, part_of_job, settings);
  const auto last = whole_job(reduced.inputs);
  if (last && reduce::shows(*last, reduce::failure_of(first))) {
    reduced.finding = *last;
    ++reduced.tries;
    return reduced;
  }
  const int before = reduced.tries + 1;
  reduced = reduce::reduce(whole, first, whole_job, settings);
  reduced.tries += before;
  return reduced;
}

std::optional<reduce::Reduced> reduce_sample(const RunInputs& run, const reduce::Inputs& whole, diagnose::Mode mode,
                                             const std::string& name, int most_tries, Progress& progress) {
  if (mode == diagnose::Mode::kFree) return std::nullopt;
  const std::optional<reduce::Inputs> sample = reduce::sample_of(whole);
  if (!sample) return std::nullopt;
  const std::string of_sample = name + ", " + counted(sample->length(), "token") + " a row";
  const auto found = first_wrong_in_lockstep(run, *sample, of_sample, progress);
  if (!found) return std::nullopt;
  reduce::Reduced reduced = reduce_inputs(run, *sample, *found, mode, most_tries, progress);
  // A few tokens may fail in another way than all of these rows do.
  const reduce::Indices layers(reduced.inputs.layers.begin(), reduced.inputs.layers.end());
  const auto all_tokens = reduce::keep_rows(reduce::keep_layers(whole, layers), reduced.inputs.rows);
  if (!all_tokens) return std::nullopt;
  const auto last = first_divergence(run, *all_tokens,
                                     {.mode = mode_of(*found->first_divergence()),
                                      .layers = layers_to_judge(*all_tokens, reduced.finding),
                                      .progress = progress.showing(name + ", all tokens of what is left: ")});
  if (!last || !reduce::shows(*last, reduce::failure_of(reduced.finding))) return std::nullopt;
  ++reduced.tries;
  return reduced;
}

cases::Case reduced_case(const reduce::Reduced& reduced, const std::string& origin) {
  const findings::Finding& finding = reduced.finding;
  const std::string cause = findings::cause_name(finding.explanation);
  const reduce::Inputs& inputs = reduced.inputs;
  cases::Case result;
  result.id = id_from(origin);
  result.title =
      (cause.empty() ? "An unexplained divergence" : cause) + " at " + std::string(row(finding.tensor.op).name);
  result.hypothesis = finding.explanation.hypothesis;
  result.stresses = "What 'qdiff reduce' left of " + origin + ": " + in_words(inputs) + ".";
  result.layers = inputs.layers;
  result.batch = inputs.batch();
  result.left_padding = inputs.steps.front().left_padding;
  result.capacity = inputs.capacity;
  for (const Step& step : inputs.steps) result.steps.push_back(case_step_of(step));
  return result;
}

std::string path_of_reduced(const std::string& origin, const std::string& folder) {
  return (fs::path(folder) / (id_from(origin) + ".json")).string();
}

void check_reduced(const std::string& origin, const std::string& folder) {
  report::check_own_file(path_of_reduced(origin, folder), kCaseMark);
}

std::string write_case(const cases::Case& test_case, const std::string& folder) {
  const fs::path path = fs::path(folder) / (test_case.id + ".json");
  report::write_report_file({path, to_json(test_case), kCaseMark});
  return path.string();
}

}  // namespace qdiff::cli
