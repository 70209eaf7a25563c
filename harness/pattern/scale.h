// Whether wrong values follow from the expected ones by a few numbers: a factor, a constant, a power, a rotation.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "harness/pattern/values.h"

namespace qdiff::pattern {

// Which elements share one fitted number.
enum class Grouping : std::uint8_t { kWhole, kRow, kHead, kColumn, kRowAndHead };

struct Scale {
  enum class Kind : std::uint8_t { kRatio, kOffset };
  Kind kind = Kind::kRatio;
  Grouping by = Grouping::kWhole;
  double least = 0.0, most = 0.0;  // of the fitted numbers; equal for kWhole
  double doubt = 0.0;              // how far the fitted numbers may be off
  // The elements that count as right, in the same groups of wrong rows, are explained as well: they were small, and not
  // spared.
  bool throughout = false;
};

// The coarsest grouping in which one factor, or else one constant, a group explains nearly all wrong elements; nothing
// where both do (values that hardly differ), or too few elements stand against the fitted numbers.
// `wrong` are the wrong elements of `rows`.
std::optional<Scale> find_scale(const Values& values, std::span<const Element> wrong,
                                std::span<const std::int64_t> rows);

// The phrases of it: "in each token row", "each column".
std::string group_name(const Values& values, Grouping by);

// Whether every row of `elements` is a multiple of the expected one, as the visible probabilities are when softmax sums
// over other slots than it should. True for no elements.
bool is_multiple_by_row(const Values& values, std::span<const Element> elements);

// probs = expected^p / sum: scores that were p times too large. From rows with at least three slots above 0.
std::optional<double> find_power(const Values& values, std::span<const std::int64_t> rows);

// What keeps its length though it is wrong, and so was turned: dimensions i and i + d/2 (by a wrong angle), or else a
// whole head only (in other pairs, too).
enum class KeptLength : std::uint8_t { kNone, kPairs, kHeads };
KeptLength find_kept_length(const Values& values, std::span<const Element> wrong);

}  // namespace qdiff::pattern
