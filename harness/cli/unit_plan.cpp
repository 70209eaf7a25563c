#include "harness/cli/unit_plan.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "harness/cli/case_model.h"
#include "harness/cli/engines.h"
#include "harness/cli/memory.h"
#include "harness/cli/text.h"
#include "harness/contract/error.h"
#include "harness/contract/wording.h"
#include "harness/diagnose/selection.h"
#include "harness/formats/content_hash.h"
#include "harness/shards/suite.h"

namespace qdiff::cli {
namespace {

namespace fs = std::filesystem;
using shards::Suite;
using shards::Unit;

// One model and the cases that run on it, all of which keep the same of its layers.
struct ModelCases {
  std::string name;   // in the names of units; empty: none
  std::string path;   // what open_model() takes
  std::string shown;  // in reports; empty: each case's own
  std::vector<std::size_t> cases;
};

// What the command line asks for, as a suite without names.
Suite suite_of(const RunArguments& arguments) {
  if (arguments.suite) return shards::read_suite(*arguments.suite);
  Suite suite;
  suite.cases = arguments.cases;
  return suite;
}

std::string from_folder(const fs::path& folder, const std::string& path) {
  if (is_synthetic(path) || fs::path(path).is_absolute()) return path;
  return (folder / path).string();
}

std::vector<cases::Case> load_unit_cases(const Suite& suite, const fs::path& folder) {
  if (suite.cases.empty()) return cases::embedded_suite();
  std::vector<cases::Case> loaded;
  std::error_code error;
  for (const std::string& name : suite.cases) {
    const std::string file = from_folder(folder, name);
    cases::Case& test_case = loaded.emplace_back(cases::load_case(fs::exists(file, error) ? file : name));
    if (fs::exists(file, error)) test_case.argument = name;
  }
  return loaded;
}

// Every model of the suite or of the command line with all cases, else each case with its own; in the order in which
// models come first.
std::vector<ModelCases> models_of(const RunArguments& arguments, const Suite& suite, const fs::path& folder,
                                  const std::vector<cases::Case>& loaded) {
  std::vector<ModelCases> named, models;
  for (const shards::SuiteModel& model : suite.models) {
    named.push_back({model.name, from_folder(folder, model.path), model.path, {}});
  }
  if (arguments.model) named.push_back({"", *arguments.model, *arguments.model, {}});
  const auto add = [&](const ModelCases& wanted, std::size_t i) {
    auto found = std::ranges::find_if(models, [&](const ModelCases& model) {
      return model.name == wanted.name && model.path == wanted.path &&
             loaded[model.cases.front()].layers == loaded[i].layers;
    });
    if (found == models.end()) found = models.insert(models.end(), wanted);
    found->cases.push_back(i);
  };
  for (const ModelCases& model : named) {
    for (std::size_t i = 0; i < loaded.size(); ++i) add(model, i);
  }
  for (std::size_t i = 0; named.empty() && i < loaded.size(); ++i) add({"", loaded[i].model, "", {}}, i);
  return models;
}

// The layers of each unit, with the text that names them; one unit of everything where they are not split.
std::vector<std::pair<std::optional<std::set<int>>, std::string>> layers_of_units(const RunArguments& arguments,
                                                                                  const Suite& suite,
                                                                                  std::int64_t num_layers) {
  if (arguments.layers) return {{arguments.layers->below(num_layers), arguments.layers->text}};
  if (!suite.layers_per_unit || *suite.layers_per_unit >= num_layers) return {{std::nullopt, ""}};
  std::vector<std::pair<std::optional<std::set<int>>, std::string>> units;
  for (std::int64_t first = 0; first < num_layers; first += *suite.layers_per_unit) {
    const std::int64_t end = std::min(first + *suite.layers_per_unit, num_layers);
    std::set<int> layers;
    for (std::int64_t layer = first; layer < end; ++layer) layers.insert(static_cast<int>(layer));
    if (end == num_layers) layers.insert(kNoLayer);
    units.emplace_back(layers, std::to_string(first) + '-' + std::to_string(end - 1));
  }
  return units;
}

// What a unit takes whatever it holds, and what each product of its forward passes and each recorded element adds.
// Fitted to the 21 built-in cases, of which it guesses each at 0.57 to 1.31 times what it takes (docs/scale.md);
// earlier durations are better.
constexpr double kSecondsOfUnit = 0.06, kSecondsOfProduct = 9e-10, kSecondsOfElement = 1.2e-7;
// Of one weight of a synthetic model, made anew: 3.7 s of the processor for the 494 million of qwen2.5-0.5b, once each.
constexpr double kSecondsOfWeight = 7e-9;

}  // namespace

double expected_seconds(const CaseInput& input, const ModelConfig& config, const UnitWork& work) {
  double weights = 0.0;
  for (const ModelWeight& weight : weights_of(config)) weights += static_cast<double>(num_elements(weight.shape));
  double tokens = 0.0, elements = 0.0;
  for (const Step& step : input.steps) {
    tokens += static_cast<double>(step.batch() * step.num_tokens());
    for (const TensorId& id : all_tensors(config, /*optional_too=*/true)) {
      elements += static_cast<double>(
          num_elements(output_shape(id.op, config, step.batch(), step.num_tokens(), step.valid_length())));
    }
  }
  const double recordings = work.mode == diagnose::Mode::kBoth ? 2.0 : 1.0;
  const double share =
      work.layers ? static_cast<double>(work.layers->size()) / static_cast<double>(config.num_layers) : 1.0;
  // Where they do not fit, each step of a recording reads all of them, and the reference and the judge once each.
  double readings = 0.0;
  if (work.max_resident_bytes > 0) {
    const double recorded = work.mode == diagnose::Mode::kLockstep ? 1.0 : recordings + 1.0;  // untapped once more
    readings = 2.0 + static_cast<double>(input.steps.size()) * recorded;
  }
  return kSecondsOfUnit + (kSecondsOfProduct * tokens + kSecondsOfWeight * readings) * weights +
         kSecondsOfElement * elements * recordings * std::min(share, 1.0);
}

namespace {

// `why_not` is set where there is none.
bool has_place(const Injection& injection, const ModelConfig& config, std::string& why_not) {
  try {
    check_place(injection, config);
    return true;
  } catch (const InputError& error) {
    why_not = error.what();
    return false;
  }
}

std::string identity_of(const RunArguments& arguments, const UnitWork& work, const Unit& unit, const CaseInput& input,
                        const ModelConfig& config) {
  formats::ContentHash hash;
  for (const std::string& text :
       {unit.model, unit.dtype, unit.backend, unit.mode, unit.layers, unit.kept_layers, input.id, input.title,
        input.hypothesis.value_or(""), input.argument, to_string(config)}) {
    hash.add(text);
  }
  hash.add(arguments.steps ? arguments.steps->text : std::string());
  hash.add(work.is_planted ? to_string(*arguments.inject) : std::string());
  hash.add(static_cast<std::uint64_t>(arguments.reference));
  hash.add(input.seed).add(static_cast<std::uint64_t>(input.capacity));
  const auto add_all = [&](const auto& numbers) {
    hash.add(std::uint64_t{numbers.size()});
    for (const auto number : numbers) hash.add(static_cast<std::uint64_t>(number));
  };
  for (const Step& step : input.steps) {
    hash.add(static_cast<std::uint64_t>(step.phase));
    for (const auto& row : step.tokens) add_all(row);
    for (const auto& row : step.positions) add_all(row);
    add_all(step.left_padding);
  }
  return hash.text();
}

class Planner {
 public:
  Planner(const RunArguments& arguments, const shards::Durations& durations)
      : arguments_(arguments),
        durations_(durations),
        suite_(suite_of(arguments)),
        limit_(memory_limit(arguments.common.max_memory)) {}

  PlannedRun plan() {
    const fs::path folder = arguments_.suite ? fs::path(*arguments_.suite).parent_path() : fs::path();
    run_.cases = load_unit_cases(suite_, folder);
    run_.plan = {.program = program_name(), .words = words_of_units(arguments_), .units = {}};
    for (const ModelCases& model : models_of(arguments_, suite_, folder, run_.cases)) add_model(model);
    shards::check_names(run_.plan);
    if (run_.work.empty()) throw InputError("the plan has no unit: no case has a layer and a step that are wanted");
    check_injection();
    return std::move(run_);
  }

 private:
  void add_model(const ModelCases& model) {
    const auto source = open_model_of_unit(run_.cases[model.cases.front()], model.path, model.shown);
    const ModelConfig& config = source->config();
    std::vector<DType> dtypes = suite_.dtypes;
    if (dtypes.empty()) dtypes = {arguments_.dtype.value_or(config.dtype)};
    std::vector<std::string> backend_words = suite_.backends, mode_words = suite_.modes;
    if (backend_words.empty()) backend_words = {backends().word(arguments_.backend)};
    if (mode_words.empty()) mode_words = {modes().word(arguments_.mode)};
    const auto layers = layers_of_units(arguments_, suite_, config.num_layers);
    const bool planted = arguments_.inject && has_place(*arguments_.inject, config, why_not_);
    for (const DType dtype : dtypes) {
      for (const std::string& backend : backend_words) {
        for (const std::size_t i : model.cases) {
          const CaseInput input = cases::input_of(run_.cases[i], config);
          UnitWork work{.model = model.path,
                        .shown_model = model.shown,
                        .test_case = i,
                        .backend = backends()("backend", backend),
                        .dtype = dtype,
                        .is_planted = planted};
          if (arguments_.steps) {
            work.steps = arguments_.steps->below(static_cast<std::int64_t>(input.steps.size()));
            if (work.steps->empty()) continue;
          }
          for (const std::string& mode : mode_words) {
            work.mode = modes()("mode", mode);
            for (const auto& [numbers, text] : layers) {
              work.layers = numbers;
              if (!numbers || !numbers->empty()) add_unit(model, work, text, input, config);
            }
          }
        }
      }
    }
  }

  void add_unit(const ModelCases& model, UnitWork work, const std::string& layers, const CaseInput& input,
                const ModelConfig& config) {
    Unit unit{.name = "",
              .model = model.shown.empty() ? model.path : model.shown,
              .dtype = std::string(name(work.dtype)),
              .backend = backends().word(work.backend),
              .test_case = input.id,
              .mode = modes().word(work.mode),
              .layers = layers,
              .kept_layers = joined(run_.cases[work.test_case].layers, ",")};
    const auto add = [&](bool named, const std::string& part) {
      if (named) unit.name += (unit.name.empty() ? "" : "/") + part;
    };
    add(!model.name.empty(), model.name);
    add(!suite_.dtypes.empty(), unit.dtype);
    add(!suite_.backends.empty(), unit.backend);
    add(true, unit.test_case);
    add(!suite_.modes.empty(), unit.mode);
    add(suite_.layers_per_unit.has_value(), "layers-" + (layers.empty() ? "all" : layers));
    unit.identity = identity_of(arguments_, work, unit, input, config);
    const MemoryPlan memory = plan_run(
        config, work.dtype,
        {{.steps = input.steps, .capacity = input.capacity, .recordings = work.mode == diagnose::Mode::kBoth ? 2 : 1}},
        limit_);
    work.max_resident_bytes = memory.max_resident_bytes;
    try {
      check_memory(memory, limit_, arguments_.common.max_memory.has_value());
    } catch (const InputError& error) {
      work.refusal = error.what();
    }
    const auto known = durations_.find(unit.name);
    const double seconds = known == durations_.end() ? expected_seconds(input, config, work) : known->second;
    run_.costs.push_back({seconds, memory.total()});
    run_.plan.units.push_back(std::move(unit));
    run_.work.push_back(std::move(work));
  }

  // A fault or mistake is planted in the models that have its place; the units of the others run without it, by name.
  void check_injection() const {
    if (!arguments_.inject) return;
    std::string clean;
    for (std::size_t i = 0; i < run_.work.size(); ++i) {
      if (!run_.work[i].is_planted) clean += ' ' + run_.plan.units[i].name;
    }
    if (std::ranges::none_of(run_.work, &UnitWork::is_planted)) throw InputError(why_not_);
    if (clean.empty()) return;
    std::fprintf(stderr, "qdiff: %s; so these run without it:%s\n", one_line(why_not_).c_str(),
                 one_line(clean).c_str());
  }

  const RunArguments& arguments_;
  const shards::Durations& durations_;
  Suite suite_;
  std::uint64_t limit_;
  std::string why_not_;
  PlannedRun run_;
};

}  // namespace

std::unique_ptr<WeightSource> open_model_of_unit(const cases::Case& test_case, const std::string& path,
                                                 const std::string& shown) {
  return open_model_for(test_case, shown.empty() ? std::nullopt : std::optional(path));
}

std::string program_name() { return "qdiff " QDIFF_VERSION; }

PlannedRun plan_units(const RunArguments& arguments, const shards::Durations& durations) {
  return Planner(arguments, durations).plan();
}

}  // namespace qdiff::cli
