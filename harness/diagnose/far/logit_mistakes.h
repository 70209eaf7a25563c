// Mistakes in logits that leave most of them right, by their size: what is searched for the smallest that is found
// where logits alone were recorded (harness/selftest/logit_doses.h, harness/calibration/far.h).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "harness/diagnose/far/planting.h"

namespace qdiff::diagnose {

enum class LogitMistake : std::uint8_t {
  kOneLogit,  // the middle one of the last row moved away from gold, in deviations of what rounding does to that row
  kOneRow,    // the last row scaled; relative
  kOneStep,   // all rows scaled; relative
};
inline constexpr std::array kLogitMistakes = {LogitMistake::kOneLogit, LogitMistake::kOneRow, LogitMistake::kOneStep};

struct LogitMistakeFacts {
  std::string_view name;
  std::string_view unit;
};
constexpr LogitMistakeFacts facts(LogitMistake mistake) {
  constexpr std::array<LogitMistakeFacts, kLogitMistakes.size()> kFacts = {
      {{"one logit", "deviations"}, {"one row", "relative"}, {"one step", "relative"}}};
  return kFacts[static_cast<std::size_t>(mistake)];
}

// The candidate's logits of the target's step with the mistake, in the type in which they were recorded.
std::vector<double> with_mistake(LogitMistake mistake, double dose, const Planting& passes, const Target& target);

// Whether a row or an element is beyond its bound then.
bool is_found(const std::vector<double>& logits, const Planting& passes, const Target& target);

// The smallest dose from `least` to `most` that is found, over its logarithm, so many times halved; nothing where not
// even `most` is. What is found at one dose is taken to be found at every larger one.
std::optional<double> smallest_dose(double least, double most, int halvings,
                                    const std::function<bool(double dose)>& finds);
}  // namespace qdiff::diagnose
