#include "harness/selftest/logit_doses.h"

#include <algorithm>
#include <array>
#include <set>

#include "harness/diagnose/far/logit_mistakes.h"
#include "harness/selftest/dose_search.h"
#include "harness/selftest/spec.h"

namespace qdiff::selftest {
namespace {

using diagnose::LogitMistake;
using diagnose::Target;

// What has to be found of each mistake, and the largest dose that is tried.
struct Wanted {
  double found;
  double tried;
};
constexpr Wanted wanted(LogitMistake mistake) {
  constexpr std::array<Wanted, diagnose::kLogitMistakes.size()> kWanted = {{{10.0, 1e4}, {0.1, 1.0}, {0.05, 1.0}}};
  return kWanted[static_cast<std::size_t>(mistake)];
}

class LogitsAlone final : public TensorStore {
 public:
  explicit LogitsAlone(const TensorStore& all) : all_(all) {}
  bool has(const TensorKey& key) const override { return key.id.op == Op::kLmHead && all_.has(key); }
  TensorView get(const TensorKey& key) const override { return all_.get(key); }

 private:
  const TensorStore& all_;
};

// The logits of one step beside whole passes.
class LogitStand {
 public:
  LogitStand(const diagnose::Planting& passes, const Target& target)
      : passes_(passes),
        target_(target),
        gold_(counted(target.gold())),
        naive_(counted(target.right())),
        right_(counted(target.candidate())) {}

  std::string tensor() const { return tensor_name(target_.key().id); }
  DType stored() const { return target_.recorded().dtype; }
  std::vector<double> under(LogitMistake mistake, double dose) const {
    return with_mistake(mistake, dose, passes_, target_);
  }
  bool judge_finds(const std::vector<double>& values) const { return diagnose::is_found(values, passes_, target_); }
  bool rival_finds(Rival rival, const std::vector<double>& values) const {
    return finds(rival, counted(values), gold_, naive_, stored());
  }
  bool alarms_on_right_code(Rival rival) const { return finds(rival, right_, gold_, naive_, stored()); }

 private:
  std::vector<double> counted(std::span<const double> values) const {
    std::vector<double> result;
    for (std::int64_t r = 0; r < target_.num_rows(); ++r) {
      if (!target_.counts(r)) continue;
      const std::span<const double> row = target_.row_of(values, r);
      result.insert(result.end(), row.begin(), row.end());
    }
    return result;
  }

  const diagnose::Planting& passes_;
  const Target& target_;
  std::vector<double> gold_, naive_, right_;  // of rows that count
};

const Target& last_of(Phase phase, const diagnose::Planting& passes, const CaseInput& input) {
  const auto step = std::ranges::find(input.steps.rbegin(), input.steps.rend(), phase, &Step::phase);
  return passes.targets().at({step->index, {Op::kLmHead}});
}

}  // namespace

std::vector<SmallestDose> smallest_logit_doses(const std::vector<cases::Case>& suite, const Makers& makers,
                                               DType dtype) {
  const cases::Case& ordinary = first_of(suite, std::nullopt);
  Bench bench(spec_in(ordinary.model, dtype), makers, 0, dtype);
  const CaseInput& input = bench.input(ordinary);
  const LogitsAlone logits(bench.recording(ordinary));
  const diagnose::Subject subject{&input, "trace", &logits, &logits, {}};
  std::set<TensorKey> targets;
  for (const Step& step : input.steps) targets.insert({step.index, {Op::kLmHead}});
  const std::vector<VariantFacts> no_bugs;
  const diagnose::ReferenceMaker make_reference = [&](const Precision& precision) {
    return makers.reference(bench.weights(), precision);
  };
  const diagnose::ProgressReport progress;
  const diagnose::FreeRankingQuery query{.trace = logits,
                                         .subject = subject,
                                         .targets = targets,
                                         .precision = bench.precision(),
                                         .config = bench.config(),
                                         .catalogue = no_bugs,
                                         .make_reference = make_reference,
                                         .progress = progress,
                                         .probing = false};
  diagnose::Planting passes(query);
  passes.run();
  std::vector<SmallestDose> doses;
  for (const LogitMistake mistake : diagnose::kLogitMistakes) {
    // A whole step is one of decode; a prefill has other rows, beside which one is wrong.
    const Phase phase = mistake == LogitMistake::kOneStep ? Phase::kDecode : Phase::kPrefill;
    const LogitStand stand(passes, last_of(phase, passes, input));
    const diagnose::LogitMistakeFacts of = facts(mistake);
    doses.push_back(search_dose(
        stand, std::string(of.name), std::string(of.unit), wanted(mistake).tried,
        [&](double dose) { return stand.under(mistake, dose); },
        [&](const Finds& finds) { return diagnose::smallest_dose(1e-8, wanted(mistake).tried, kHalvings, finds); }));
  }
  return doses;
}

Goal logit_dose_goal(const std::vector<SmallestDose>& doses) {
  Goal goal{"logits alone: doses found", 1.0, {}, true};
  for (const SmallestDose& dose : doses) {
    for (const LogitMistake mistake : diagnose::kLogitMistakes) {
      if (dose.parameter == facts(mistake).name) goal.reached.count(dose.found && *dose.found <= wanted(mistake).found);
    }
  }
  return goal;
}

}  // namespace qdiff::selftest
