#include "harness/formats/shape_hint.h"

#include <algorithm>

namespace qdiff::formats {

std::string shape_hint(const Shape& actual, const Shape& expected) {
  if (std::ranges::find(expected, 0) != expected.end()) return "";
  if (actual.size() == expected.size() && std::is_permutation(actual.begin(), actual.end(), expected.begin())) {
    return "; these are its dimensions in another order, so it is written transposed";
  }
  // Ranks differ: a batch of one was left out, or heads and their dimension were joined.
  const bool same_elements = actual.size() != expected.size() && num_elements(actual) == num_elements(expected);
  return same_elements ? "; it has as many elements, so view it in that shape when it is written" : "";
}

}  // namespace qdiff::formats
