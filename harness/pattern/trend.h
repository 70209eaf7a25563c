// What wrong values have in common by themselves, and how their error goes along with position and size.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "harness/pattern/values.h"

namespace qdiff::pattern {

// "all zero", "zero where wrong", "NaN only", "infinite", "saturated at +-65504", "29952 where wrong": nearly all wrong
// elements are of that one kind, and nothing can be read from their values. Empty otherwise.
std::string describe_special_values(const Values& values, std::span<const Element> wrong);

// A type coarser than the stored one that holds every finite value compared, though expected values are not of it.
std::optional<DType> find_coarser_type(const Values& values, std::span<const Element> wrong);

struct Growth {
  std::optional<double> power;  // the relative error goes as position to this power
};
// Whether the relative error of a position grows with it: by rank over at least five positions.
std::optional<Growth> find_growth(const Values& values);

// The power of two from which on expected values are wrong, most of them, and below which none are. Nothing unless at
// least half of the elements lie below.
std::optional<double> find_least_wrong_size(const Values& values);

}  // namespace qdiff::pattern
