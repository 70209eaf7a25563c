#include <algorithm>
#include <cstdio>
#include <memory>
#include <numeric>
#include <vector>

#include "harness/cases/case.h"
#include "harness/cli/acceptance.h"
#include "harness/cli/case_model.h"
#include "harness/cli/commands.h"
#include "harness/cli/delivery.h"
#include "harness/cli/engines.h"
#include "harness/cli/gemm_table.h"
#include "harness/cli/memory.h"
#include "harness/cli/output_folder.h"
#include "harness/cli/parties.h"
#include "harness/cli/progress.h"
#include "harness/cli/prompt.h"
#include "harness/cli/text.h"
#include "harness/cli/unit_plan.h"
#include "harness/cli/unit_run.h"
#include "harness/cli/words.h"
#include "harness/diagnose/run.h"
#include "harness/model/model.h"
#include "harness/model/tokenizer.h"
#include "reference/reference.h"

namespace qdiff::cli {
namespace {

// The cases that share a model.
struct Group {
  std::string spec;
  std::vector<int> kept_layers;  // the model's that run; empty: all
  std::unique_ptr<WeightSource> model;
  std::unique_ptr<model::Tokenizer> tokenizer;  // null where the model has none that is known
  DType dtype = DType::kBF16;
  std::optional<std::set<int>> layers;
  std::optional<Injection> inject;
  std::vector<CaseInput> cases;
};

std::vector<cases::Case> load_cases(const RunArguments& arguments) {
  std::vector<cases::Case> loaded;
  for (const std::string& name : arguments.cases) loaded.push_back(cases::load_case(name));
  if (arguments.cases.empty()) loaded = cases::embedded_suite();
  for (std::size_t i = 0; i < loaded.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (loaded[i].id != loaded[j].id) continue;
      throw InputError("two cases have the id " + loaded[i].id + " (" + loaded[j].argument + " and " +
                       loaded[i].argument + "); name one of them, or change an id");
    }
  }
  return loaded;
}

// In the order in which the models come first.
std::vector<Group> group_by_model(const std::vector<cases::Case>& loaded, const RunArguments& arguments) {
  std::vector<Group> groups;
  for (const cases::Case& test_case : loaded) {
    const std::string& spec = arguments.model ? *arguments.model : test_case.model;
    auto group = std::ranges::find_if(
        groups, [&](const Group& g) { return g.spec == spec && g.kept_layers == test_case.layers; });
    if (group == groups.end()) {
      group = groups.emplace(groups.end());
      group->spec = spec;
      group->kept_layers = test_case.layers;
      group->model = open_model_for(test_case, arguments.model);
      group->tokenizer = model::open_tokenizer(spec);
      group->dtype = arguments.dtype.value_or(group->model->config().dtype);
    }
    CaseInput& input = group->cases.emplace_back(cases::input_of(test_case, group->model->config()));
    input.argument = shell_quote(input.argument);
  }
  return groups;
}

// One model and one case, whose later steps hold no tokens yet.
std::vector<Group> group_of_prompt(const RunArguments& arguments) {
  std::vector<Group> groups(1);
  Group& group = groups.front();
  group.spec = *arguments.model;
  group.model = model::open_model(group.spec);
  group.tokenizer = model::open_tokenizer(group.spec);
  group.dtype = arguments.dtype.value_or(group.model->config().dtype);
  if (group.tokenizer == nullptr) {
    throw InputError("--prompt: " + group.spec +
                     " has no vocabulary of byte-level BPE (tokenizer.json, or tokenizer.ggml.* in a GGUF file); give "
                     "token numbers in a case");
  }
  group.cases.push_back(input_of_prompt(*arguments.prompt, arguments.tokens, *group.tokenizer, group.model->config()));
  return groups;
}

// Each model judges those of the layers that it has; a layer that none has is a mistake.
void select_layers(std::vector<Group>& groups, const NumberRanges& wanted) {
  std::int64_t most_layers = 0;
  for (Group& group : groups) {
    const std::int64_t num_layers = group.model->config().num_layers;
    group.layers = wanted.below(num_layers);
    most_layers = std::max(most_layers, num_layers);
  }
  check_below("--layers", wanted, most_layers, "layer");
  std::erase_if(groups, [](const Group& group) { return group.layers->empty(); });
}

// A fault or mistake is planted in the models that have its place; the cases of the others run without it, by name.
void place_fault(std::vector<Group>& groups, const Injection& injection) {
  std::string clean, why;
  const ModelConfig* largest = &groups.front().model->config();
  for (Group& group : groups) {
    const ModelConfig& config = group.model->config();
    if (config.num_layers > largest->num_layers) largest = &config;
    try {
      check_place(injection, config);
      group.inject = injection;
    } catch (const InputError& error) {
      why = error.what();
      for (const CaseInput& input : group.cases) clean += ' ' + input.id;
    }
  }
  if (std::ranges::none_of(groups, [](const Group& group) { return group.inject.has_value(); })) {
    check_place(injection, *largest);  // says which layers there are at most
    throw InputError(why);
  }
  if (clean.empty()) return;
  std::fprintf(stderr, "qdiff: %s; so these run without it:%s\n", one_line(why).c_str(), one_line(clean).c_str());
}

// Cases without a wanted step are left out, by name; a step that none has is a mistake.
std::set<int> select_steps(std::vector<Group>& groups, const NumberRanges& wanted) {
  std::size_t most_steps = 0;
  for (const Group& group : groups) {
    for (const CaseInput& input : group.cases) most_steps = std::max(most_steps, input.steps.size());
  }
  check_below("--steps", wanted, static_cast<std::int64_t>(most_steps), "step");
  std::set<int> steps;
  std::string left_out;
  for (Group& group : groups) {
    std::erase_if(group.cases, [&](const CaseInput& input) {
      const std::set<int> here = wanted.below(static_cast<std::int64_t>(input.steps.size()));
      steps.insert(here.begin(), here.end());
      if (here.empty()) left_out += ' ' + input.id;
      return here.empty();
    });
  }
  std::erase_if(groups, [](const Group& group) { return group.cases.empty(); });
  if (!left_out.empty()) std::fprintf(stderr, "qdiff: --steps leaves out:%s\n", one_line(left_out).c_str());
  return steps;
}

MemoryPlan plan_group(const Group& group, const RunArguments& arguments) {
  const bool scores_on_gpu =
      arguments.backend == EngineKind::kCuda && reference::device_bytes(arguments.reference, group.model->config()) > 0;
  std::vector<PlannedCase> planned;
  for (const CaseInput& input : group.cases) {
    planned.push_back({.steps = input.steps,
                       .capacity = input.capacity,
                       .recordings = arguments.mode == diagnose::Mode::kBoth ? 2 : 1,
                       .scores_on_gpu = scores_on_gpu});
  }
  return checked_plan(group.model->config(), group.dtype, planned, arguments.common.max_memory);
}

void print_gemms(Engine& engine, const ModelConfig& config, const std::string& model, Progress& progress) {
  progress.clear();
  std::fputs(gemm_table(engine.gemms(), config, engine.name(), model).c_str(), stdout);
  std::fflush(stdout);
}

// What each model is expected to take.
std::vector<double> seconds_of(const std::vector<Group>& groups, const std::vector<MemoryPlan>& plans,
                               diagnose::Mode mode) {
  std::vector<double> seconds;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const Group& group = groups[i];
    seconds.push_back(0.0);
    for (const CaseInput& input : group.cases) {
      UnitWork work;
      work.mode = mode;
      work.layers = group.layers;
      work.max_resident_bytes = plans[i].max_resident_bytes;
      seconds.back() += expected_seconds(input, group.model->config(), work);
    }
  }
  return seconds;
}

findings::RunResult run_group(Group& group, const RunArguments& arguments, const MemoryPlan& plan,
                              const std::optional<std::set<int>>& steps, KeptReference& kept, Progress& progress,
                              const diagnose::ProgressReport& report) {
  RunParties parties(*group.model, arguments.backend,
                     {.dtype = group.dtype,
                      .threads = arguments.common.threads,
                      .max_resident_bytes = plan.max_resident_bytes,
                      .progress = report,
                      .inject = group.inject},
                     arguments.reference, kept);
  if (arguments.print_gemms) print_gemms(parties.candidate(), group.model->config(), group.spec, progress);
  diagnose::RunOptions options;
  options.mode = arguments.mode;
  options.layers = group.layers;
  options.steps = steps;
  options.inject = group.inject;
  options.kept = parties.kept_parts();
  options.repeat_arguments = repeat_arguments(arguments, group.inject);
  options.progress = report;
  std::vector<std::int64_t> expected, actual;
  if (arguments.prompt) {
    // The candidate first, as in every run, in memory that holds no right answers.
    actual = write_greedily(parties.candidate(), *group.tokenizer, group.cases.front(), options.progress);
    expected = write_greedily(parties.reference(), *group.tokenizer, group.cases.front(), options.progress);
    feed(expected, group.cases.front());
    const std::size_t num_steps = group.cases.front().steps.size();
    if (steps && static_cast<std::size_t>(*steps->begin()) >= num_steps) {
      throw InputError("--steps: the text that the reference writes ends at step " + std::to_string(num_steps - 1));
    }
  }
  findings::RunResult result = diagnose::run_cases(group.cases, parties.get(), options);
  put_words(group.tokenizer.get(), result.free_runs);
  for (findings::FreeRun& run : result.free_runs) {
    if (!arguments.prompt) continue;
    run.greedy = true;
    run.expected_written = words(*group.tokenizer, expected);
    run.actual_written = words(*group.tokenizer, actual);
  }
  return result;
}

std::vector<std::string> ids_of(const std::vector<Group>& groups) {
  std::vector<std::string> ids;
  for (const Group& group : groups) {
    for (const CaseInput& input : group.cases) ids.push_back(input.id);
  }
  return ids;
}

}  // namespace

ExitStatus run_command(const RunArguments& arguments, const std::string& command) {
  check_available(arguments.backend);
  if (arguments.inject) check_plantable(arguments.backend, *arguments.inject);
  if (const auto by_units = asked_by_units(arguments)) return run_by_units(*by_units);
  std::vector<Group> groups =
      arguments.prompt ? group_of_prompt(arguments) : group_by_model(load_cases(arguments), arguments);
  if (arguments.layers) select_layers(groups, *arguments.layers);
  const auto steps = arguments.steps ? std::optional(select_steps(groups, *arguments.steps)) : std::nullopt;
  if (arguments.inject) {
    if (arguments.layers) check_injection_is_among(*arguments.inject, *arguments.layers);
    place_fault(groups, *arguments.inject);
  }
  const auto terms = read_terms(arguments.acceptance, arguments.out, false);
  check_report_folder(arguments.out);
  if (terms) acceptance::check_baseline(*terms, false, ids_of(groups));
  std::vector<MemoryPlan> plans;
  for (const Group& group : groups) plans.push_back(plan_group(group, arguments));
  KeptReference kept(arguments.common);

  Progress progress(arguments.common.quiet);
  const std::vector<double> seconds = seconds_of(groups, plans, arguments.mode);
  double bytes = 0.0;
  for (const MemoryPlan& plan : plans) bytes = std::max(bytes, plan.total());
  progress.announce(std::accumulate(seconds.begin(), seconds.end(), 0.0), bytes);
  const WholeWork whole(seconds);
  std::vector<findings::RunResult> results;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const std::string which =
        groups.size() == 1 ? "" : "model " + std::to_string(i + 1) + " of " + std::to_string(groups.size()) + ", ";
    const auto show = [&](const std::string& what, std::int64_t done, std::int64_t total) {
      progress.show_whole(which + groups[i].spec + ": " + what, whole.share(i, share_of_run(what, done, total)), done,
                          total);
    };
    results.push_back(run_group(groups[i], arguments, plans[i], steps, kept, progress, show));
  }
  progress.clear();
  findings::RunResult result = diagnose::merge(std::move(results));
  result.command = command;
  result.reference_values = kept.values();
  if (arguments.inject) result.injected = arguments.inject;
  doubt_planting(result);
  apply_terms(terms, result);
  return deliver(result, arguments.common, arguments.out);
}

}  // namespace qdiff::cli
