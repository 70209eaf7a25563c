#include "harness/selftest/scoring.h"

#include <algorithm>
#include <cmath>

#include "harness/contract/number_text.h"
#include "harness/diagnose/variants.h"

namespace qdiff::selftest {

namespace {

constexpr std::size_t kOutsiders = kNumSubjects - 1;
constexpr std::size_t kUnexplained = kNumSubjects;
constexpr std::size_t kNotFound = kNumSubjects + 1;

// The row of a hypothesis in a confusion matrix; outsiders' for any other text.
std::size_t subject_of(std::string_view hypothesis) {
  for (std::size_t i = 0; i < kHypotheses.size(); ++i) {
    if (kHypotheses[i].id == hypothesis) return i;
  }
  return kOutsiders;
}

const findings::Explanation* explanation_of(const Trial& trial) {
  return is_detected(trial) && trial.conclusion.first ? &trial.conclusion.first->explanation : nullptr;
}

std::string place(const TensorKey& key) { return tensor_name(key.id) + " of step " + std::to_string(key.step); }

std::string named_in(const findings::Explanation& explanation) {
  std::string text(explanation.variant ? name(*explanation.variant) : "nothing");
  if (explanation.value) text += "=" + digits(*explanation.value, 3);
  for (FaultId other : explanation.alternatives) text += " or " + std::string(name(other));
  return text;
}

}  // namespace

bool is_outsider(const Trial& trial) { return subject_of(hypothesis_of(trial.fault.id)) == kOutsiders; }

bool is_detected(const Trial& trial) { return trial.conclusion.verdict == compare::Verdict::kDiverged; }

bool is_located(const Trial& trial) {
  if (!is_detected(trial) || !trial.conclusion.first || !trial.shift.first) return false;
  const findings::Finding& found = *trial.conclusion.first;
  const TensorKey at = {found.step, found.tensor};
  const bool changed = std::ranges::find(trial.ops, found.tensor.op) != trial.ops.end();
  return changed && found.tensor.layer == trial.shift.first->id.layer && !(*trial.shift.first < at);
}

bool is_named(const Trial& trial) {
  const findings::Explanation* explanation = explanation_of(trial);
  return explanation != nullptr && (explanation->variant == trial.fault.id || trial.tied);
}

bool has_right_hypothesis(const Trial& trial) {
  const findings::Explanation* explanation = explanation_of(trial);
  return explanation != nullptr && (explanation->hypothesis == hypothesis_of(trial.fault.id) || trial.tied);
}

bool is_among_first_three(const Trial& trial) {
  if (is_named(trial)) return true;
  const findings::Explanation* explanation = explanation_of(trial);
  if (explanation == nullptr) return false;
  const auto& alternatives = explanation->alternatives;
  const auto end = alternatives.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(2, alternatives.size()));
  return std::find(alternatives.begin(), end, trial.fault.id) != end;
}

bool is_abstained(const Trial& trial) {
  const findings::Explanation* explanation = explanation_of(trial);
  if (explanation == nullptr) return false;
  return explanation->variant ? explanation->variant == trial.fault.id : !explanation->hypothesis;
}

bool has_right_value(const Trial& trial) {
  const findings::Explanation* explanation = explanation_of(trial);
  if (explanation == nullptr || !explanation->value || !trial.fault.value || !trial.right_value) return false;
  const double dose = std::fabs(*trial.fault.value - *trial.right_value);
  return std::fabs(*explanation->value - *trial.fault.value) <= 0.02 * dose;
}

std::string reason_of_miss(const Trial& trial) {
  if (!trial.detectable()) return "";
  if (!trial.failure.empty()) return "the engine cannot run with it: " + trial.failure;
  const std::string note = trial.note.empty() ? "" : "; " + trial.note;
  if (!is_detected(trial)) {
    return "not found: it moves " + place(*trial.shift.first) + " by " + digits(trial.shift.deviations, 3) +
           " deviations, and the verdict is " + std::string(compare::name(trial.conclusion.verdict)) +
           (trial.conclusion.closest.empty() ? "" : " (nearest: " + trial.conclusion.closest + ")");
  }
  if (!trial.conclusion.first) return "diverged without a finding";
  const findings::Finding& found = *trial.conclusion.first;
  std::string reason;
  if (!is_located(trial)) {
    reason = "found at " + place({found.step, found.tensor}) + " instead of " + place(*trial.shift.first);
  }
  const bool right_name = is_outsider(trial) ? is_abstained(trial) : is_named(trial);
  if (!right_name) reason += (reason.empty() ? "" : "; ") + std::string("named ") + named_in(found.explanation) + note;
  return reason;
}

Score score(const std::vector<Trial>& trials) {
  Score result;
  for (const Trial& trial : trials) {
    ++result.planted;
    if (!trial.detectable()) continue;
    result.detected.count(is_detected(trial));
    result.located.count(is_located(trial));
    if (is_outsider(trial)) {
      result.abstained.count(is_abstained(trial));
      continue;
    }
    result.named.count(is_named(trial));
    result.hypothesis_named.count(has_right_hypothesis(trial));
    result.among_first_three.count(is_among_first_three(trial));
    if (is_named(trial) && !trial.tied && trial.right_value && trial.fault.value)
      result.value_right.count(has_right_value(trial));
  }
  return result;
}

Confusion confusion(const std::vector<Trial>& trials) {
  Confusion matrix{};
  for (const Trial& trial : trials) {
    if (!trial.detectable()) continue;
    std::size_t column = kNotFound;
    if (const findings::Explanation* explanation = explanation_of(trial)) {
      column = kUnexplained;
      if (explanation->hypothesis) {
        column = subject_of(*explanation->hypothesis);
      } else if (explanation->variant) {
        column = kOutsiders;
      }
    }
    ++matrix[subject_of(hypothesis_of(trial.fault.id))][column];
  }
  return matrix;
}

double upper_bound(std::int64_t alarms, std::int64_t runs) {
  if (runs == 0) return 1.0;
  const auto n = static_cast<double>(runs);
  if (alarms == 0) return std::min(1.0, 3.0 / n);
  constexpr double kOneSided = 1.6449;  // of a normal deviate, 95 %
  const double p = static_cast<double>(alarms) / n;
  const double z2 = kOneSided * kOneSided;
  return (p + z2 / (2 * n) + kOneSided * std::sqrt(p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n);
}

std::vector<Goal> goals_of(const std::string& what, const Score& score) {
  return {{what + "found", 0.98, score.detected},
          {what + "exact tensor", 0.96, score.located},
          {what + "named, variant", 0.93, score.named},
          {what + "outsiders unexplained or named as themselves", 1.0, score.abstained, true}};
}

Goal false_alarm_goal(const std::vector<HonestRuns>& honest) {
  Goal goal{"honest runs without an alarm", 1.0, {}, true};
  for (const HonestRuns& runs : honest) {
    goal.reached.of += runs.runs;
    goal.reached.hits += runs.runs - static_cast<std::int64_t>(runs.alarms.size());
  }
  return goal;
}

}  // namespace qdiff::selftest
