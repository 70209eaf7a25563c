// Columns with a factor or a constant of their own.
#include <algorithm>
#include <cmath>

#include "cmake/catch2.h"
#include "harness/explain/tests/solved_case.h"

namespace qdiff::explain {
namespace {

Values drawn(std::size_t count, double least, double most, std::uint64_t seed) {
  SplitMix64 random(seed);
  Values values;
  for (std::size_t i = 0; i < count; ++i) values.push_back(least + (most - least) * random.uniform());
  return values;
}

TEST_CASE("scales of output channels that are lost are a factor of each column", "[columns]") {
  for (Op op : {Op::kUpProj, Op::kQProjMatmul, Op::kInputLayernorm}) {
    INFO(row(op).name);
    Case c;
    const auto theory = c.explained(op, 130, at(op, [](const auto&, const Step& step, Values right) {
                                      const std::size_t width =
                                          right.size() / static_cast<std::size_t>(step.batch() * step.num_tokens());
                                      const Values scales = drawn(width, 20.0, 400.0, 131);
                                      for (std::size_t i = 0; i < right.size(); ++i) right[i] *= scales[i % width];
                                      return right;
                                    }));
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK(theory->mechanism == "columns.factor");
    CHECK(theory->hypothesis == (op == Op::kInputLayernorm ? "H09" : "H07"));
    CHECK_THAT(theory->sentence, ContainsSubstring("times a factor of each column's own, 2"));
    CHECK(theory->scope.empty());
  }
}

// A column that is right keeps right code's number, which costs no bits.
TEST_CASE("factors of some columns leave the others as they are", "[columns]") {
  Case c;
  const auto theory = c.explained(Op::kUpProj, 138, at(Op::kUpProj, [](const auto&, const Step&, Values right) {
                                    const Values scales = drawn(64, 20.0, 400.0, 139);
                                    for (std::size_t i = 0; i < right.size(); ++i) {
                                      if (i % 64 % 3 == 0) right[i] *= scales[i % 64];
                                    }
                                    return right;
                                  }));
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(theory->mechanism == "columns.factor");
  CHECK(theory->scope.empty());
}

// Times 0 would say the same in more bits.
TEST_CASE("a tensor of zeros is no factor of right code", "[factor]") {
  for (Op op : {Op::kUpProj, Op::kInputLayernorm, Op::kResidMid}) {
    INFO(row(op).name);
    Case c;
    const auto theory =
        c.explained(op, 144, at(op, [](const auto&, const Step&, Values right) { return Values(right.size(), 0.0); }));
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK(theory->mechanism == "copy.zeros");
  }
}

TEST_CASE("a bias of values that no tensor has is a constant of each column, in the phase that has it", "[columns]") {
  Case c;
  const auto theory = c.explained(Op::kKProj, 132, at(Op::kKProj, [](const auto&, const Step& step, Values right) {
                                    if (step.phase == Phase::kDecode) return right;
                                    const Values bias = drawn(16, -3.0, 3.0, 133);
                                    for (std::size_t i = 0; i < right.size(); ++i) right[i] += bias[i % 16];
                                    return right;
                                  }));
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(theory->mechanism == "columns.offset");
  CHECK(theory->hypothesis == "H06");
  CHECK(text_of(theory->scope, "phase") == "prefill");
}

// Numbers of its own for each column and token would explain anything.
TEST_CASE("errors that differ from token to token are no factor and no constant of columns", "[columns]") {
  for (Op op : {Op::kUpProj, Op::kKProj, Op::kInputLayernorm}) {
    INFO(row(op).name);
    SplitMix64 random(135);
    Case c;
    const auto theory = c.explained(op, 134, at(op, [&](const auto&, const Step&, Values right) {
                                      for (double& x : right) x = x * (0.5 + random.uniform()) + random.uniform();
                                      return right;
                                    }));
    CHECK(c.num_wrong > 0);
    CHECK_FALSE(theory.has_value());
  }
}

// 24 constants for each column are told by no 30 tokens.
TEST_CASE("constants of groups are not told where there are fewer than two tokens for each", "[columns]") {
  Case c;
  const Values delta = drawn(64 * 24, -0.3, 0.3, 137);
  const auto theory = c.explained(Op::kUpProj, 136, at(Op::kUpProj, [&](const auto& in, const Step&, Values right) {
                                    for (std::size_t i = 0; i < right.size(); ++i) {
                                      for (std::size_t k = 0; k < 48; ++k) {
                                        right[i] += in[0][i / 64 * 48 + k] * delta[i % 64 * 24 + k / 2];
                                      }
                                    }
                                    return right;
                                  }));
  CHECK(c.num_wrong > 0);
  CHECK_FALSE(theory.has_value());
}

}  // namespace
}  // namespace qdiff::explain
