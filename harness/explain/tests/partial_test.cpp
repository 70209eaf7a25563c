// Mistakes in some columns, heads or slots alone: what is right beside them says nothing of the mistake.
#include <algorithm>
#include <cmath>

#include "cmake/catch2.h"
#include "harness/explain/tests/solved_case.h"

namespace qdiff::explain {
namespace {

// Wrongs the elements of a tensor that `wanted` holds of, and leaves right code's in the others.
template <typename Wanted, typename Wrong>
Wronging where(Op op, Wanted wanted, Wrong wrong) {
  return at(op, [wanted, wrong](const std::vector<Values>& in, const Step& step, Values right) {
    const Values other = wrong(in, step, right);
    for (std::size_t i = 0; i < right.size(); ++i) {
      if (wanted(i)) right[i] = other[i];
    }
    return right;
  });
}

TEST_CASE("a bias with another coefficient in some dimensions of each head is solved for", "[partial]") {
  Case c;
  const auto theory = c.explained(Op::kQProj, 110,
                                  where(
                                      Op::kQProj, [](std::size_t i) { return i % kHeadDim < 3; },
                                      [&](const auto&, const Step&, Values right) {
                                        const Values& bias = c.oracle.weight({Op::kQProj, 1});
                                        for (std::size_t i = 0; i < right.size(); ++i) right[i] += bias[i % 48];
                                        return right;
                                      }));
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(theory->mechanism == "bias");
  CHECK(text_of(theory->parameters, "coefficient") == "2");
  CHECK(text_of(theory->scope, "columns") == "below 3");
}

TEST_CASE("heads that are out of place in some of their dimensions are solved for", "[partial]") {
  Case c;
  const auto theory = c.explained(Op::kQProj, 111,
                                  where(
                                      Op::kQProj, [](std::size_t i) { return i % kHeadDim >= 5; },
                                      [](const auto&, const Step&, const Values& right) {
                                        Values other = right;
                                        for (std::size_t i = 0; i < right.size(); ++i) {
                                          const std::size_t head = i % 48 / kHeadDim;
                                          other[i] = right[i / 48 * 48 + (5 - head) * kHeadDim + i % kHeadDim];
                                        }
                                        return other;
                                      }));
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(theory->mechanism == "heads.moved");
  CHECK(text_of(theory->scope, "columns") == "5 and up");
}

TEST_CASE("columns that hold those of the token before are solved for", "[partial]") {
  Case c;
  const auto theory = c.explained(Op::kUpProj, 112,
                                  where(
                                      Op::kUpProj, [](std::size_t i) { return i % 64 >= 40; },
                                      [](const auto&, const Step& step, const Values& right) {
                                        Values other = right;
                                        const auto tokens = static_cast<std::size_t>(step.num_tokens());
                                        for (std::size_t i = 64; i < right.size(); ++i) {
                                          if (i / 64 % tokens > 0) other[i] = right[i - 64];
                                        }
                                        return other;
                                      }));
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(theory->mechanism == "copy.vectors");
  CHECK_THAT(theory->sentence, ContainsSubstring("mlp.up_proj of 1 before"));
  CHECK(text_of(theory->scope, "columns") == "40 and up");
}

TEST_CASE("inputs that are permuted for some heads of a product are solved for", "[partial]") {
  Case c;
  const auto theory = c.explained(Op::kQProjMatmul, 113,
                                  where(
                                      Op::kQProjMatmul, [](std::size_t i) { return i % 48 >= 4 * kHeadDim; },
                                      [&](const auto& in, const Step&, const Values&) {
                                        Values x = in[0];
                                        for (std::size_t i = 0; i < x.size(); ++i) {
                                          x[i] = in[0][i / 16 * 16 + i % 2 * 8 + i % 16 / 2];
                                        }
                                        return c.oracle.product(x, c.oracle.weight({Op::kQProjMatmul, 1}));
                                      }));
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(theory->mechanism == "product.input_order");
  CHECK(text_of(theory->parameters, "block") == "16");
  CHECK(text_of(theory->scope, "heads") == "4 and up");
}

// What a cache holds of earlier steps is right: it is what was recorded of them.
TEST_CASE("a factor of the slots that a step writes into a cache is solved for", "[partial]") {
  Case c;
  const auto theory = c.explained(Op::kVCache, 114, at(Op::kVCache, [](const auto&, const Step& step, Values right) {
                                    const auto slots = static_cast<std::size_t>(step.valid_length());
                                    for (std::size_t i = 0; i < right.size(); ++i) {
                                      const auto slot = static_cast<std::int64_t>(i / (2 * kHeadDim) % slots);
                                      if (slot >= step.past_length) right[i] *= 0.25;
                                    }
                                    return right;
                                  }));
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(theory->mechanism == "factor");
  CHECK_THAT(theory->sentence, ContainsSubstring("times 0.25, in the slots that a step writes"));
  CHECK(theory->scope.empty());
}

TEST_CASE("a soft cap far below an outlier is solved for", "[partial]") {
  constexpr double kCap = 0.5;
  Case c;
  const auto theory = c.explained(Op::kOutput, 115, [&](const TensorKey& key, const auto&, const Step&, Values right) {
    if (key.id == TensorId{Op::kDownProj, 1}) right[7] += 1000.0;
    if (key.id != TensorId{Op::kOutput, 1}) return right;
    for (double& x : right) x = kCap * std::tanh(x / kCap);
    return right;
  });
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(theory->mechanism == "soft_cap");
  CHECK_THAT(theory->sentence, ContainsSubstring("is 0.5 * tanh(x / 0.5)"));
}

// A stored value far below the cap says little of it: all of them together say it to three digits.
TEST_CASE("a soft cap is told to its digits, though single values do not tell them", "[partial]") {
  for (const double cap : {0.8, 2.37, 4.5}) {
    INFO(cap);
    Case c;
    const auto theory = c.explained(Op::kLmHead, 116, at(Op::kLmHead, [cap](const auto&, const Step&, Values right) {
                                      for (double& x : right) x = cap * std::tanh(x / cap);
                                      return right;
                                    }));
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK(theory->mechanism == "soft_cap");
    CHECK(std::get<double>(theory->parameters.front().second) == Approx(cap));
  }
}

TEST_CASE("signs with one magnitude are no soft cap", "[partial]") {
  Case c;
  const auto theory = c.explained(Op::kLmHead, 117, at(Op::kLmHead, [](const auto&, const Step&, Values right) {
                                    for (double& x : right) x = std::copysign(1e-7, x);
                                    return right;
                                  }));
  INFO((theory ? theory->sentence : ""));
  CHECK((!theory || theory->mechanism != "soft_cap"));
}

}  // namespace
}  // namespace qdiff::explain
