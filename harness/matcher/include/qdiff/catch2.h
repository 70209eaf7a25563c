// CHECK_THAT(stored(output), explained_by_rounding(expected)), for Catch2 2.13 and 3.x.
#pragma once

#if __has_include(<catch2/matchers/catch_matchers.hpp>)
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#else
#include <catch2/catch.hpp>
#endif

#include <string>
#include <utility>

#include "qdiff/expected.h"

namespace qdiff::matcher {

#if __has_include(<catch2/matchers/catch_matchers.hpp>)
using CatchMatcher = Catch::Matchers::MatcherBase<Stored>;
#else
using CatchMatcher = Catch::MatcherBase<Stored>;
#endif

class ExplainedByRounding final : public CatchMatcher {
 public:
  explicit ExplainedByRounding(Expected expected) : expected_(std::move(expected)) {}

  bool match(const Stored& actual) const override {
    const Answer answer = judge(actual, expected_);
    sentence_ = answer.sentence;
    return answer.explained;
  }
  std::string describe() const override { return "must be explained by rounding:\n" + sentence_; }

 private:
  Expected expected_;
  mutable std::string sentence_;  // of the last match: Catch2 asks for the description afterwards
};

inline ExplainedByRounding explained_by_rounding(Expected expected) { return ExplainedByRounding(std::move(expected)); }

}  // namespace qdiff::matcher

namespace Catch {

// Without it Catch2 prints the bytes of the struct.
template <>
struct StringMaker<qdiff::matcher::Stored> {
  static std::string convert(const qdiff::matcher::Stored& actual) {
    return "a tensor of " + std::to_string(actual.size) + " elements";
  }
};

}  // namespace Catch
