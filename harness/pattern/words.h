// Where a tensor is wrong, axis by axis, in words.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "harness/pattern/pattern.h"
#include "harness/pattern/values.h"

namespace qdiff::pattern {

// One axis of the tensor: for each index how many elements were compared and how many of them were wrong.
struct Axis {
  std::string one;  // "head"
  std::vector<std::int64_t> compared, wrong;

  Axis(std::string word, std::int64_t size)
      : one(std::move(word)), compared(static_cast<std::size_t>(size)), wrong(static_cast<std::size_t>(size)) {}
  Pattern::AxisFacts facts() const;
  // "heads 1, 2 and 4 of 6", "every token row but the first", "the second half of each head", "columns from 768 (a
  // multiple of 128)". Empty where only one index was compared.
  std::string describe() const;
};

// Heads where there are any, batch rows, token rows or slots, and dimensions, columns or key slots.
std::vector<Axis> axes_of(const Values& values);

}  // namespace qdiff::pattern
