#include "harness/selftest/selftest.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <iterator>

#include "harness/contract/error.h"
#include "harness/selftest/archive.h"
#include "harness/selftest/logit_doses.h"

namespace qdiff::selftest {
namespace {

constexpr std::array kTypes = {DType::kBF16, DType::kF32, DType::kF16};

// Neither the bounds nor any test has seen them.
constexpr std::uint64_t kFirstHonestSeed = 5'000'000;
// Settings::only.
constexpr std::string_view kNovelAlone = "novel";

std::vector<PlantingPlan> plans_of(const Settings& settings, const Makers& makers) {
  std::vector<PlantingPlan> plans;
  if (settings.engine_alone) {
    for (DType dtype : kTypes) {
      if (settings.quick && dtype != DType::kBF16) continue;
      plans.push_back({.dtype = dtype, .thorough = false, .only = settings.only});
    }
    return plans;
  }
  for (std::size_t engine = 0; engine < makers.engines.size(); ++engine) {
    if (settings.quick) {
      constexpr std::size_t kOfOtherEngines = 6;
      plans.push_back({.engine = engine,
                       .dtype = DType::kBF16,
                       .thorough = false,
                       .one_in = engine == 0 ? 1 : kOfOtherEngines,
                       .only = settings.only,
                       .mode = diagnose::Mode::kFree});
      continue;
    }
    for (DType dtype : kTypes) plans.push_back({.engine = engine, .dtype = dtype, .only = settings.only});
  }
  return plans;
}

void run_novel_faults(const Makers& makers, const Settings& settings, const Crew& crew, Result& result) {
  const auto count = [&](const std::optional<std::int64_t>& asked, std::int64_t whole, std::int64_t quick) {
    return asked.value_or(settings.quick ? quick : whole);
  };
  result.novel = run_all_novel(count(settings.novel, 600, 12), settings.seed, 1, makers, settings.mistaken, crew);
  result.pairs = run_all_novel(count(settings.pairs, 300, 4), settings.seed, 2, makers, settings.mistaken, crew);
  result.spoiled = run_all_spoiled(count(settings.spoiled, 1000, 20), settings.seed, makers, crew);
}

void run_doses(const std::vector<cases::Case>& suite, const Makers& makers, const Settings& settings, const Crew& crew,
               Result& result) {
  const auto search = [&](const std::string& kind, const std::string& what, DType dtype, const auto& smallest) {
    const auto doses = in_units<std::vector<SmallestDose>>(
        {kind + '/' + std::string(name(dtype))}, crew, no_state,
        [&](NoState&, std::size_t) { return smallest(suite, makers, dtype); },
        [&](std::size_t) { return what + ", " + std::string(name(dtype)); });
    for (const auto& of_type : doses) result.doses.insert(result.doses.end(), of_type.begin(), of_type.end());
  };
  for (DType dtype : kTypes) {
    if (settings.quick && dtype != DType::kBF16) continue;
    search("doses", "smallest doses", dtype, smallest_doses);
  }
  for (DType dtype : kTypes) search("logit-doses", "smallest doses in logits alone", dtype, smallest_logit_doses);
}

void run_parts(const std::vector<cases::Case>& suite, const Makers& makers, const Settings& settings, const Crew& crew,
               Result& result) {
  if (settings.only == kNovelAlone) {
    result.engines.clear();
    return run_novel_faults(makers, settings, crew, result);
  }
  result.trials = plant_all(plans_of(settings, makers), suite, makers, crew);
  if (result.of_some_faults) {
    if (result.trials.empty() && settings.ledger == nullptr)
      throw InputError("--only " + settings.only +
                       ": no fault has an id that begins so; ids begin with H01 to H10 or X");
    return;
  }

  const std::int64_t runs_of_each_type = settings.quick ? 10 : settings.engine_alone ? 100 : 200;
  const auto clean_engine = [&](std::uint64_t seed, DType dtype) { return run_random_case(seed, dtype, makers, 0); };
  std::vector<std::pair<std::string, RunHonest>> honest = {{result.engines.front() + " engine", clean_engine}};
  if (!settings.engine_alone) honest.emplace_back(settings.other_honest, settings.run_other_honest);
  for (const auto& [what, run] : honest) {
    for (HonestRuns& runs : run_honest(what, runs_of_each_type, kFirstHonestSeed, run, crew)) {
      result.honest.push_back(std::move(runs));
    }
  }
  if (!settings.engine_alone) run_doses(suite, makers, settings, crew, result);
  if (settings.mistaken) run_novel_faults(makers, settings, crew, result);
}

}  // namespace

std::vector<Trial> Result::trials_in(const std::string& engine) const {
  std::vector<Trial> chosen;
  std::copy_if(trials.begin(), trials.end(), std::back_inserter(chosen),
               [&](const Trial& trial) { return trial.planted_in == engine; });
  return chosen;
}

std::vector<Goal> Result::goals() const {
  std::vector<Goal> goals;
  for (const std::string& engine : engines) {
    for (Goal& goal : goals_of(engine + ": ", score(trials_in(engine)))) goals.push_back(std::move(goal));
  }
  goals.push_back(false_alarm_goal(honest));
  if (!doses.empty()) goals.push_back(logit_dose_goal(doses));
  for (Goal& goal : novel_goals(score(novel), score(pairs), score(spoiled))) {
    if (goal.reached.of > 0) goals.push_back(std::move(goal));
  }
  if (of_some_faults) std::erase_if(goals, [](const Goal& goal) { return goal.reached.of == 0; });
  return goals;
}

bool Result::passed() const {
  const std::vector<Goal> all = goals();
  return !all.empty() && std::ranges::all_of(all, [](const Goal& goal) { return goal.met(); });
}

Result run_selftest(const std::vector<cases::Case>& suite, const Makers& makers, const Settings& settings,
                    const Progress& progress) {
  const auto start = std::chrono::steady_clock::now();
  const Crew crew{.threads = settings.threads, .progress = progress, .ledger = settings.ledger};
  Result result;
  result.quick = settings.quick;
  result.of_some_faults = !settings.only.empty();
  for (const auto& [engine, make] : makers.engines) result.engines.push_back(engine);
  run_parts(suite, makers, settings, crew, result);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace qdiff::selftest
