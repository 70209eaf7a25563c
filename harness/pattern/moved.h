// Whether wrong elements hold what is right elsewhere: in another head, slot, row or batch row, or by a rule over the
// whole tensor.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "harness/pattern/values.h"

namespace qdiff::pattern {

// A rule by which one element's place gives another's.
enum class Rule : std::uint8_t {
  kColumnMajor,         // the output [B*T, columns] was stored column by column
  kColumnMajorByBatch,  // the same within each batch row
  kOtherStride,         // row m of the output begins at m * (columns + value)
  kShiftedColumns,      // every row is shifted by `value` columns
  kHeadsBeforeTokens,   // [H, T, d] stored where [T, H, d] is read
  kHalvesSwapped,       // dimensions i and i + d/2 of each head
  kInterleaved,         // dimension i + (d/2) k of each head stands at 2i + k
  kDeinterleaved,       // the other way round
};

struct Rearranged {
  Rule rule = Rule::kColumnMajor;
  std::int64_t value = 0;
};
std::optional<Rearranged> find_rearrangement(const Values& values, std::span<const Element> wrong);
std::string describe(const Rearranged& found);

// Vectors that equal, element for element, what is expected of another vector: of a head of a row where columns are
// heads, else of a whole row. Most of the wrong vectors do; the rest may be memory that nobody wrote.
struct Mixup {
  enum class Axis : std::uint8_t {
    kHead,
    kBatch,
    kPosition,
    kSeveral,  // the place found differs along more than one axis
  };
  Axis axis = Axis::kSeveral;
  // For kHead and kBatch: each wrong index, and the one whose values it holds.
  std::vector<std::pair<std::int64_t, std::int64_t>> pairs;
  std::int64_t shift = 0;  // of kPosition: the place found less the place it stands in, where that is always the same
};
std::optional<Mixup> find_mixup(const Values& values);
std::string describe(const Mixup& found, const Values& values);

}  // namespace qdiff::pattern
