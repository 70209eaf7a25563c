// EXPECT_THAT(stored(output), explained_by_rounding(expected)), for GoogleTest 1.11 and later with GoogleMock.
#pragma once

#include <gmock/gmock.h>

#include <ostream>
#include <utility>

#include "qdiff/expected.h"

namespace qdiff::matcher {

class ExplainedByRounding {
 public:
  using is_gtest_matcher = void;

  explicit ExplainedByRounding(Expected expected) : expected_(std::move(expected)) {}

  bool MatchAndExplain(const Stored& actual, std::ostream* listener) const {
    const Answer answer = judge(actual, expected_);
    if (listener != nullptr) *listener << answer.sentence;
    return answer.explained;
  }
  void DescribeTo(std::ostream* out) const { *out << "is explained by rounding"; }
  void DescribeNegationTo(std::ostream* out) const { *out << "is not explained by rounding"; }

 private:
  Expected expected_;
};

inline ExplainedByRounding explained_by_rounding(Expected expected) { return ExplainedByRounding(std::move(expected)); }

// Without it GoogleTest prints the bytes of the struct.
inline void PrintTo(const Stored& actual, std::ostream* out) { *out << "a tensor of " << actual.size << " elements"; }

}  // namespace qdiff::matcher
