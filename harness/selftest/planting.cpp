#include "harness/selftest/planting.h"

#include <algorithm>
#include <iterator>
#include <optional>

#include "harness/contract/error.h"
#include "harness/contract/number_text.h"
#include "harness/diagnose/variants.h"
#include "harness/selftest/archive.h"
#include "harness/selftest/scoring.h"
#include "harness/selftest/spec.h"

namespace qdiff::selftest {
namespace {

std::int64_t cost_of(const cases::Case& test_case) { return test_case.batch * test_case.length(); }

// One worker's models, as one engine runs them in one type.
class Benches {
 public:
  explicit Benches(const Makers& makers) : makers_(makers) {}

  Bench& at(const cases::Case& test_case, const PlantingPlan& plan) {
    if (engine_ != plan.engine || dtype_ != plan.dtype) benches_.clear();
    engine_ = plan.engine;
    dtype_ = plan.dtype;
    const std::string spec = spec_in(test_case.model, plan.dtype);
    auto& bench = benches_[spec];
    if (!bench) bench = std::make_unique<Bench>(spec, makers_, engine_, dtype_);
    return *bench;
  }

 private:
  const Makers& makers_;
  std::size_t engine_ = 0;
  DType dtype_ = DType::kBF16;
  std::map<std::string, std::unique_ptr<Bench>> benches_;
};

// One fault in one engine.
class Planting {
 public:
  Planting(const PlantingPlan& plan, FaultId fault, std::size_t number, const std::vector<cases::Case>& suite,
           const Makers& makers, Benches& benches)
      : plan_(plan), fault_(fault), number_(number), suite_(suite), makers_(makers), benches_(benches) {}

  std::vector<Trial> operator()() {
    const Bench& any = benches_.at(suite_.front(), plan_);
    const VariantFacts* facts = any.facts_of(fault_);
    if (facts == nullptr) {
      throw InputError("the catalogue has no fault " + std::string(name(fault_)) + ", which an engine plants");
    }
    order_cases(hypothesis_of(fault_));
    std::vector<Trial> trials;
    for (const Variant& dose : diagnose::doses(*facts)) {
      for (Site site : sites(*facts)) {
        Trial trial = prepare(*facts, dose, site);
        if (!trial.detectable() && !plan_.thorough && !is_last(*facts, dose, site)) continue;
        if (trial.detectable()) run(trial, *facts);
        trials.push_back(std::move(trial));
        if (!plan_.thorough) return trials;
      }
    }
    return trials;
  }

 private:
  struct Showing {
    const cases::Case* test_case;
    Shift shift;
    std::optional<int> planted_layer;
    std::vector<Op> ops;
  };

  // Those of the hypothesis, then those for everything, then the others; the cheapest of each first.
  void order_cases(std::string_view hypothesis) {
    for (const cases::Case& test_case : suite_) ordered_.push_back(&test_case);
    const auto group = [&](const cases::Case& test_case) {
      return !test_case.hypothesis ? 1 : *test_case.hypothesis == hypothesis ? 0 : 2;
    };
    std::ranges::stable_sort(ordered_, [&](const cases::Case* a, const cases::Case* b) {
      return std::pair(group(*a), cost_of(*a)) < std::pair(group(*b), cost_of(*b));
    });
  }

  std::vector<Site> sites(const VariantFacts& facts) const {
    std::vector<Site> sites = sites_of(facts);
    // Which comes first goes round with the faults, so that a run of one site each still visits all.
    const std::size_t first = plan_.thorough ? 0 : number_ % sites.size();
    std::rotate(sites.begin(), sites.begin() + static_cast<std::ptrdiff_t>(first), sites.end());
    return sites;
  }

  bool is_last(const VariantFacts& facts, const Variant& dose, Site site) const {
    return dose == diagnose::doses(facts).back() && site == sites(facts).back();
  }

  // What the `skip`-th case that shows it makes of it.
  std::optional<Showing> shown_by(const VariantFacts& facts, const Variant& dose, Site site, std::size_t skip,
                                  double& largest) {
    for (const cases::Case* test_case : ordered_) {
      Bench& bench = benches_.at(*test_case, plan_);
      const std::vector<int> layers = layers_of(site, bench.config());
      if (layers.empty()) continue;
      const Shift shift = shift_in(bench.shifts(*test_case), facts, dose, layers);
      largest = std::max(largest, shift.deviations);
      if (!shift.first) continue;
      if (skip == 0) {
        const bool at_a_layer = site != Site::kOutside && site != Site::kAll;
        return Showing{test_case, shift, at_a_layer ? std::optional(layers.front()) : std::nullopt,
                       bench.shifts(*test_case).changed_ops(facts, layers.front())};
      }
      --skip;
    }
    return std::nullopt;
  }

  Trial prepare(const VariantFacts& facts, const Variant& dose, Site site) {
    Trial trial;
    trial.planted_in = makers_.engines[plan_.engine].first;
    trial.dtype = plan_.dtype;
    trial.fault = {dose.id, dose.value, std::nullopt};
    trial.site = site;
    trial.right_value = facts.right_value;
    const auto showing = shown_by(facts, dose, site, 0, trial.shift.deviations);
    if (!showing) return trial;
    trial.shift = showing->shift;
    trial.ops = showing->ops;
    trial.cases = {showing->test_case->id};
    trial.fault.layer = showing->planted_layer;
    return trial;
  }

  const cases::Case& case_of(const std::string& id) const {
    return **std::ranges::find_if(ordered_, [&](const cases::Case* test_case) { return test_case->id == id; });
  }

  void run(Trial& trial, const VariantFacts& facts) {
    const cases::Case& first = case_of(trial.cases.front());
    Bench& bench = benches_.at(first, plan_);
    try {
      std::vector<findings::RunResult> results;
      results.push_back(bench.run(first, trial.fault, plan_.mode, /*probing=*/false));
      conclude(trial, results.front());
      trial.tied = is_tie(trial, facts);
      if (reason_of_miss(trial).empty()) return;
      run_second(trial, facts, std::move(results));
    } catch (const InputError& error) {
      trial.failure = error.what();
      return;
    }
    trial.tied = is_tie(trial, facts);
    if (!reason_of_miss(trial).empty()) trial.note = separation(trial, facts, bench, first);
  }

  // The variant named has the planted one beside it, and no case that was run could have told the two apart.
  bool is_tie(const Trial& trial, const VariantFacts& facts) {
    if (!trial.conclusion.first || !trial.conclusion.first->explanation.variant) return false;
    const findings::Explanation& explanation = trial.conclusion.first->explanation;
    const auto& others = explanation.alternatives;
    if (std::ranges::find(others, facts.id) == others.end()) return false;
    return std::ranges::all_of(trial.cases, [&](const std::string& id) {
      Bench& bench = benches_.at(case_of(id), plan_);
      const VariantFacts* named = bench.facts_of(*explanation.variant);
      if (named == nullptr) return false;
      const std::vector<int> layers = layers_of(trial.site, bench.config());
      return std::ranges::all_of(layers, [&](int layer) {
        return bench.shifts(case_of(id))
            .same(facts, {facts.id, trial.fault.value}, *named, {named->id, explanation.value}, layer);
      });
    });
  }

  // A run of the whole suite would show it more often, and one case settles what another leaves open.
  void run_second(Trial& trial, const VariantFacts& facts, std::vector<findings::RunResult> results) {
    double ignored = 0.0;
    const Variant dose = {trial.fault.id, trial.fault.value};
    const auto second = shown_by(facts, dose, trial.site, 1, ignored);
    if (!second) return;
    Fault fault = trial.fault;
    fault.layer = second->planted_layer;
    results.push_back(
        benches_.at(*second->test_case, plan_).run(*second->test_case, fault, plan_.mode, /*probing=*/true));
    const findings::RunResult both = diagnose::merge(std::move(results));
    trial.cases.push_back(second->test_case->id);
    // The place is the first case's; a fault that only the second case shows has the second's.
    if (both.findings.empty() || both.findings.front().case_id == trial.cases.front()) return conclude(trial, both);
    trial.shift = second->shift;
    trial.ops = second->ops;
    trial.fault = fault;
    conclude(trial, both);
  }

  static void conclude(Trial& trial, const findings::RunResult& result) {
    trial.conclusion = {result.verdict, std::nullopt, ""};
    if (!result.findings.empty()) trial.conclusion.first = result.findings.front();
    if (result.closest) {
      trial.conclusion.closest = result.closest->statistic + " at " + digits(result.closest->ratio, 2) +
                                 " of its bound in " + result.closest->tensor;
    }
  }

  // How far the named variant is from the planted one on these inputs.
  std::string separation(const Trial& trial, const VariantFacts& facts, Bench& bench, const cases::Case& test_case) {
    if (!trial.conclusion.first || !trial.conclusion.first->explanation.variant) return "";
    const findings::Explanation& explanation = trial.conclusion.first->explanation;
    if (*explanation.variant == trial.fault.id) return "";
    const VariantFacts* named = bench.facts_of(*explanation.variant);
    if (named == nullptr) return "";
    const double deviations =
        bench.shifts(test_case).between(facts, {trial.fault.id, trial.fault.value}, *named,
                                        {named->id, explanation.value}, trial.shift.first->id.layer);
    return "on these inputs the two differ by " + digits(deviations, 2) + " deviations at most";
  }

  const PlantingPlan& plan_;
  FaultId fault_;
  std::size_t number_;
  const std::vector<cases::Case>& suite_;
  const Makers& makers_;
  Benches& benches_;
  std::vector<const cases::Case*> ordered_;
};

struct Task {
  const PlantingPlan* plan;
  FaultId fault;
  std::size_t number;
};

std::vector<Task> tasks_of(const std::vector<PlantingPlan>& plans, const std::vector<cases::Case>& suite,
                           const Makers& makers) {
  std::vector<Task> tasks;
  for (const PlantingPlan& plan : plans) {
    const Bench bench(spec_in(suite.front().model, plan.dtype), makers, plan.engine, plan.dtype);
    std::vector<FaultId> faults = bench.plantable_faults();
    std::erase_if(faults, [&](FaultId id) { return !name(id).starts_with(plan.only); });
    for (std::size_t i = 0; i < faults.size(); i += plan.one_in) tasks.push_back({&plan, faults[i], i / plan.one_in});
  }
  return tasks;
}

}  // namespace

std::vector<int> layers_of(Site site, const ModelConfig& config) {
  const auto num_layers = static_cast<int>(config.num_layers);
  std::vector<int> layers;
  switch (site) {
    case Site::kFirst:
      return {0};
    case Site::kMiddle:
      if (num_layers > 2) layers = {num_layers / 2};
      return layers;
    case Site::kLast:
      if (num_layers > 1) layers = {num_layers - 1};
      return layers;
    case Site::kOutside:
      return {kNoLayer};
    case Site::kAll:
      break;
  }
  for (int layer = 0; layer < num_layers; ++layer) layers.push_back(layer);
  return layers;
}

std::vector<Site> sites_of(const VariantFacts& facts) {
  const bool in_layers = std::ranges::any_of(facts.ops, [](Op op) { return row(op).scope == Scope::kLayer; });
  if (!in_layers) return {Site::kOutside};
  if (facts.leaves_layer) return {Site::kAll};
  return {Site::kFirst, Site::kMiddle, Site::kLast};
}

Shift shift_in(Shifts& shifts, const VariantFacts& facts, const Variant& dose, const std::vector<int>& layers) {
  Shift earliest;
  for (int layer : layers) {
    const Shift here = shifts.of(facts, dose, layer);
    if (here.first && (!earliest.first || *here.first < *earliest.first)) {
      earliest = here;
    } else if (!earliest.first) {
      earliest.deviations = std::max(earliest.deviations, here.deviations);
    }
  }
  return earliest;
}

std::vector<Trial> plant_all(const std::vector<PlantingPlan>& plans, const std::vector<cases::Case>& suite,
                             const Makers& makers, const Crew& crew) {
  const std::vector<Task> tasks = tasks_of(plans, suite, makers);
  const auto engine_of = [&](std::size_t i) { return makers.engines[tasks[i].plan->engine].first; };
  const auto dtype_of = [&](std::size_t i) { return std::string(name(tasks[i].plan->dtype)); };
  std::vector<std::string> units;
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    units.push_back("plant/" + engine_of(i) + '/' + dtype_of(i) + '/' + std::string(name(tasks[i].fault)));
  }
  auto done = in_units<std::vector<Trial>>(
      units, crew, [&] { return Benches(makers); },
      [&](Benches& benches, std::size_t i) {
        return Planting(*tasks[i].plan, tasks[i].fault, tasks[i].number, suite, makers, benches)();
      },
      [&](std::size_t i) {
        return "planting " + std::string(name(tasks[i].fault)) + " in " + engine_of(i) + ", " + dtype_of(i);
      });
  std::vector<Trial> trials;
  for (std::vector<Trial>& of_task : done) std::move(of_task.begin(), of_task.end(), std::back_inserter(trials));
  return trials;
}

}  // namespace qdiff::selftest
