// Pairs of honest twins of one model that ran the same tokens and round differently: how far their log-probabilities
// stray from the reference's (harness/diagnose/reconcile/bounds.h), and what `qdiff reconcile` makes of them.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "harness/calibration/measure.h"
#include "harness/diagnose/reconcile/bounds.h"

namespace qdiff::calibration {

struct Pair {
  Scenario weights;  // that both compute with
  std::array<Scenario, 2> twins;
};

// One to six layers; logits alone, the layers' outputs, or whatever the scenario draws.
Pair draw_pair(std::uint64_t seed);

// So many tokens in a row, for the mean over few tokens.
inline constexpr std::array<std::size_t, 6> kFewTokens = {1, 2, 4, 8, 16, 32};

struct PairMeasurement {
  std::int64_t pairs = 0;
  std::int64_t tokens = 0;  // of both twins
  // By RowPrecision: of each twin its figures, and the worst of all.
  struct Figures {
    std::vector<double> all, worst;
    Worst worst_all, worst_token;
    std::array<double, kFewTokens.size()> worst_of_few{};  // root mean square, of any so many in a row
  };
  std::array<Figures, diagnose::kNumRowPrecisions> figures{};
};
void measure_pair(const Pair& pair, PairMeasurement& into);

struct PairVerification {
  std::int64_t pairs = 0, judged = 0;  // judged: their log-probabilities could be held against each other
  std::vector<double> shares;          // explained, of each judged pair
  std::vector<std::string> accused;
};
void verify_pair(const Pair& pair, PairVerification& into);

// The text of harness/diagnose/reconcile/bounds_table.inc.
std::string pair_bounds_table(const PairMeasurement& measurement, const std::string& command, const std::string& date);
std::string summary(const PairMeasurement& measurement);
std::string summary(const PairVerification& verification);

}  // namespace qdiff::calibration
