// Scores of trials: counting, and nothing else.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "harness/contract/hypothesis.h"
#include "harness/selftest/trial.h"

namespace qdiff::selftest {

// ---- One trial ----

bool is_detected(const Trial& trial);
// The first finding stands in the planted layer, at a tensor that the fault changes, and no later than the first
// tensor that it moves far.
bool is_located(const Trial& trial);
bool is_named(const Trial& trial);              // the variant itself, or one that it ties with
bool has_right_hypothesis(const Trial& trial);  // whichever variant of it, or a tie
bool is_among_first_three(const Trial& trial);  // the variant, or one of the first two alternatives
// Whether an outsider is named as itself, or left without a name.
bool is_abstained(const Trial& trial);
// Whether the fitted value of a continuous parameter is within 2 % of the planted one, as a distance from right code's.
bool has_right_value(const Trial& trial);
bool is_outsider(const Trial& trial);

// Why a detectable trial is not all that it should be; empty where it is.
std::string reason_of_miss(const Trial& trial);

// ---- Many ----

struct Ratio {
  std::int64_t hits = 0;
  std::int64_t of = 0;
  void count(bool hit) {
    ++of;
    hits += hit ? 1 : 0;
  }
  // 0 where nothing was counted: nothing shown is nothing reached.
  double value() const { return of == 0 ? 0.0 : static_cast<double>(hits) / static_cast<double>(of); }
};

struct Score {
  std::int64_t planted = 0;
  Ratio detected;  // of the detectable
  Ratio located;   // of the detectable
  Ratio named;     // top-1, of the detectable that one of the ten hypotheses covers
  Ratio hypothesis_named;
  Ratio among_first_three;
  Ratio value_right;  // of those named whose parameter is continuous
  Ratio abstained;    // of the detectable outsiders
};

Score score(const std::vector<Trial>& trials);

// Rows: the hypothesis planted, H01..H10, then outsiders. Columns: the one named, then outsiders, then "unexplained",
// then "not found". Detectable trials only.
inline constexpr std::size_t kNumSubjects = kHypotheses.size() + 1;
using Confusion = std::array<std::array<std::int64_t, kNumSubjects + 2>, kNumSubjects>;
Confusion confusion(const std::vector<Trial>& trials);

// Honest runs of one kind.
struct HonestRuns {
  std::string what;  // "cpu engine", "calibration twins"
  DType dtype = DType::kBF16;
  std::int64_t runs = 0;
  std::int64_t tensors = 0;
  std::vector<std::string> alarms;  // one for each flagged run
};
// The rate that no more than 5 % of luck would hide: 3/n where none was flagged (the rule of three), else the upper end
// of Wilson's interval.
double upper_bound(std::int64_t alarms, std::int64_t runs);

struct Goal {
  std::string what;
  double wanted = 0.0;
  Ratio reached;
  bool exactly = false;  // every one
  bool met() const { return reached.of > 0 && (exactly ? reached.hits == reached.of : !(reached.value() < wanted)); }
};
// `what` names the score: "cpu: ".
std::vector<Goal> goals_of(const std::string& what, const Score& score);
Goal false_alarm_goal(const std::vector<HonestRuns>& honest);

}  // namespace qdiff::selftest
