// What right code computes in a span, kept for the next question about the same span: of a hundred variants each is
// planted in one or two operations, and what stands before these need not be computed again.
#pragma once

#include <cstdint>
#include <deque>

#include "reference/walk.h"

namespace qdiff::reference {

class RightValues {
 public:
  explicit RightValues(WeightStore& weights) : weights_(weights) {}

  // Values of the walk's units, the last one left out, that nothing planted in it reaches; none where nothing is
  // planted, or where the span holds too much to be kept.
  Values unreached(const Walk& walk, const Rounding& rounding);

 private:
  struct Kept {
    std::vector<TensorKey> operations;
    Precision precision;
    bool emulates = false, divides_last = false;
    std::uint64_t inputs = 0;  // a hash of the steps and of what is recorded
    Values values;
  };
  const Values& values_of(const Query& right, const Rounding& rounding);

  WeightStore& weights_;
  std::deque<Kept> kept_;  // the latest in front
};

// The values of the walk's units but the last, those that are not there yet.
void evaluate_units(const Walk& walk, const Rounding& rounding, Values& computed);

}  // namespace qdiff::reference
