// What right code computes in a span, kept for the next question about the same span: of a hundred variants each is
// planted in one or two operations, and what stands before these need not be computed again.
#pragma once

#include <cstdint>
#include <deque>

#include "reference/ensemble.h"

namespace qdiff::reference {

class RightValues {
 public:
  explicit RightValues(WeightStore& weights) : weights_(weights) {}

  // The value of the walk's last unit. Where something is planted, what it does not reach is right code's, and so is
  // what follows from a place where it changed no bit: of a hundred variants many do nothing on the inputs at hand.
  at::Tensor target(const Walk& walk, const Rounding& rounding);
  // Values of the walk's units, the last one left out, that nothing planted in it reaches, with the members of the
  // ensemble; also where nothing is planted. None where the span holds too much to be kept.
  Ensemble unreached_ensemble(const Walk& walk);

 private:
  // What right code's values follow from, the weights aside.
  struct Question {
    std::vector<TensorKey> operations;
    Precision precision;
    bool emulates = false, divides_last = false;
    std::uint64_t inputs = 0;  // a hash of the steps and of what is recorded
    bool operator==(const Question&) const = default;
  };
  // The latest answers, in front the very latest: those of a case's steps, which are asked in turn.
  template <typename Answer>
  struct Kept {
    struct Entry {
      Question question;
      std::int64_t elements;
      Answer answer;
    };
    std::int64_t most_elements;  // in all, in fp64
    std::deque<Entry> entries = {};
    std::int64_t elements = 0;
  };

  // `kept` is where the answer is, or where compute(walk) of right code goes; it has so many elements.
  template <typename Answer, typename Compute>
  const Answer& ask(Kept<Answer>& kept, const Query& query, const Rounding& rounding, std::int64_t elements,
                    Compute compute);

  WeightStore& weights_;
  Kept<Values> values_ = {kMostRightValues};
  Kept<Ensemble> ensembles_ = {kMostRightMembers};
};

// The value of the walk's last unit, with the roundings that `rounding` makes on the way to it.
at::Tensor target_of(const Walk& walk, const Rounding& rounding);

}  // namespace qdiff::reference
