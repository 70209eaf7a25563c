// Operations that were recorded together, as most engines record them: a product with its bias, attention in one piece.
#include <algorithm>
#include <cmath>

#include "cmake/catch2.h"
#include "harness/explain/tests/solved_case.h"

namespace qdiff::explain {
namespace {

constexpr std::size_t kWidth = 48, kIn = 48;  // of q_proj

struct Fused {
  std::string mechanism, parameter, value;
  std::function<Values(const Case&, const Values& x)> product;  // without its bias
};

Values weights_of(const Case& c, Op op, int layer) { return c.oracle.weight({op, layer}); }

std::vector<Fused> fused_products() {
  const auto q = [](const Case& c) { return weights_of(c, Op::kQProjMatmul, 1); };
  return {
      {"product.rows", "rows", "head 5 holds head 1 of self_attn.k_proj",
       [q](const Case& c, const Values& x) {
         // Weights and bias of another projection, as where one matrix of all three is cut wrongly.
         Values y = c.oracle.product(x, q(c), kIn);
         const Values k = c.oracle.product(x, weights_of(c, Op::kKProjMatmul, 1), kIn);
         const Values own = weights_of(c, Op::kQProj, 1), other = weights_of(c, Op::kKProj, 1);
         for (std::size_t r = 0; r < y.size() / kWidth; ++r) {
           for (std::size_t i = 0; i < 8; ++i) {
             y[r * kWidth + 40 + i] = k[r * 16 + 8 + i] + other[8 + i] - own[40 + i];
           }
         }
         return y;
       }},
      {"product.input_order", "block", "16",
       [q](const Case& c, const Values& x) {
         Values permuted = x;
         for (std::size_t i = 0; i < x.size(); ++i) permuted[i] = x[i / 16 * 16 + 15 - i % 16];
         return c.oracle.product(permuted, q(c), kIn);
       }},
      {"product.coefficients", "inputs 20..47", "0",
       [q](const Case& c, const Values& x) {
         Values cut = x;
         for (std::size_t i = 0; i < x.size(); ++i) cut[i] *= i % kIn < 20 ? 1.0 : 0.0;
         return c.oracle.product(cut, q(c), kIn);
       }},
      {"product.weights", "weights", "rounded to 4-bit levels with a scale for each output",
       [q](const Case& c, const Values& x) {
         Values levels = q(c);
         for (std::size_t start = 0; start < levels.size(); start += kIn) {
           double largest = 0.0;
           for (std::size_t i = start; i < start + kIn; ++i) largest = std::max(largest, std::fabs(levels[i]));
           const double scale = round_to(DType::kF32, largest / 7.0);
           for (std::size_t i = start; i < start + kIn; ++i) {
             levels[i] = round_to(DType::kBF16, std::nearbyint(levels[i] / scale) * scale);
           }
         }
         return c.oracle.product(x, levels, kIn);
       }},
      {"product.groups", "group", "24",
       [q](const Case& c, const Values& x) {
         Values shifted = q(c);
         for (std::size_t i = 0; i < shifted.size(); ++i) {
           shifted[i] += 0.1 * std::cos(1.7 * static_cast<double>(i / 24));  // two groups of each row
         }
         return c.oracle.product(x, shifted, kIn);
       }},
      {"product.layer", "layer", "0",
       [](const Case& c, const Values& x) {
         // The other layer's bias too.
         Values y = c.oracle.product(x, weights_of(c, Op::kQProjMatmul, 0), kIn);
         const Values own = weights_of(c, Op::kQProj, 1), other = weights_of(c, Op::kQProj, 0);
         for (std::size_t i = 0; i < y.size(); ++i) y[i] += other[i % kWidth] - own[i % kWidth];
         return y;
       }},
      {"bias", "coefficient", "3",
       [q](const Case& c, const Values& x) {
         Values y = c.oracle.product(x, q(c), kIn);
         for (std::size_t i = 0; i < y.size(); ++i) y[i] += 2.0 * weights_of(c, Op::kQProj, 1)[i % kWidth];
         return y;
       }},
  };
}

// q_proj of layer 1 from its input, with nothing recorded between.
Wronging wrong_product(const Case& c, const Fused& fused) {
  return [&c, &fused, x = Values()](const TensorKey& key, const auto&, const Step&, Values right) mutable {
    if (key.id == TensorId{Op::kInputLayernorm, 1}) {
      x = right;
      for (double& value : x) value = round_to(DType::kBF16, value);
    }
    if (key.id != TensorId{Op::kQProj, 1}) return right;
    Values y = fused.product(c, x);
    for (std::size_t i = 0; i < y.size(); ++i) y[i] += weights_of(c, Op::kQProj, 1)[i % kWidth];
    return y;
  };
}

TEST_CASE("a product that was recorded with its bias is solved for like one by itself", "[fused]") {
  for (const Fused& fused : fused_products()) {
    INFO(fused.mechanism);
    Case c;
    c.span = {{Op::kQProjMatmul, 1}, {Op::kQProj, 1}};
    const auto theory = c.explained(Op::kQProj, 270, wrong_product(c, fused));
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK(theory->mechanism == fused.mechanism);
    CHECK(text_of(theory->parameters, fused.parameter) == fused.value);
    CHECK(theory->scope.empty());
  }
}

TEST_CASE("attention in one piece whose softmax counts more, or whose heads read others, is told", "[fused]") {
  const auto fused = [] {
    Case c;
    c.span = {{Op::kScores, 1}, {Op::kProbs, 1}, {Op::kAttnOutput, 1}};
    c.kept_inside = DType::kF64;
    return c;
  };
  for (const double added : {1.0, 6.0}) {
    Case c = fused();
    const auto theory =
        c.explained(Op::kAttnOutput, 271, at(Op::kProbs, [&](const auto& in, const Step& step, Values right) {
                      const auto slots = static_cast<std::size_t>(step.valid_length());
                      for (std::size_t start = 0; start < right.size(); start += slots) {
                        double sum = 0.0;
                        for (std::size_t s = start; s < start + slots; ++s) sum += std::exp(in[0][s]);
                        for (std::size_t s = start; s < start + slots; ++s) right[s] *= sum / (sum + added);
                      }
                      return right;
                    }));
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK(theory->mechanism == "beyond_end");
    CHECK(theory->hypothesis == "H02");
    CHECK(text_of(theory->parameters, "more slots") == std::to_string(static_cast<int>(added)));
  }
  // Both of the other head.
  Case c = fused();
  const auto moved = [](Values cache) {  // [B, S, 2, 8]
    for (std::size_t slot = 0; slot < cache.size(); slot += 16) {
      std::swap_ranges(cache.begin() + static_cast<std::ptrdiff_t>(slot),
                       cache.begin() + static_cast<std::ptrdiff_t>(slot) + 8,
                       cache.begin() + static_cast<std::ptrdiff_t>(slot) + 8);
    }
    return cache;
  };
  const auto theory = c.explained(
      Op::kAttnOutput, 272, [&](const TensorKey& key, const std::vector<Values>& in, const Step& step, Values right) {
        if (key.id == TensorId{Op::kScores, 1}) return c.oracle.scores(in[0], moved(in[1]), step);
        if (key.id == TensorId{Op::kAttnOutput, 1}) return c.oracle.weighted(in[0], moved(in[1]), step);
        return right;
      });
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(theory->mechanism == "heads.read");
  CHECK(text_of(theory->parameters, "head of self_attn.k_cache") == "1 1 1 0 0 0");
  CHECK(text_of(theory->parameters, "head of self_attn.v_cache") == "1 1 1 0 0 0");
}

TEST_CASE("a factor of the slots that decode steps alone write is told", "[fused]") {
  Case c;
  const auto theory = c.explained(Op::kVCache, 273, at(Op::kVCache, [](const auto&, const Step& step, Values right) {
                                    const auto slots = static_cast<std::size_t>(step.valid_length());
                                    for (std::size_t i = 0; i < right.size(); ++i) {
                                      const auto slot = static_cast<std::int64_t>(i / 16 % slots);
                                      const bool is_new = step.phase == Phase::kDecode && slot >= step.past_length;
                                      right[i] *= is_new ? 0.5 : 1.0;
                                    }
                                    return right;
                                  }));
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(theory->mechanism == "factor");
  CHECK_THAT(theory->sentence, ContainsSubstring("times 0.5, in the slots that a step writes"));
  CHECK(text_of(theory->scope, "phase") == "decode");
}

TEST_CASE("slots that hold another batch row's vectors are told with their distance", "[fused]") {
  for (const std::int64_t from : {0, 1}) {
    Case c;
    const auto theory =
        c.explained(Op::kVCache, 276, at(Op::kVCache, [&](const auto&, const Step& step, Values right) {
                      if (step.index != 0) return right;
                      const std::ptrdiff_t of_row = step.valid_length() * 16;
                      const Values before = right;  // [B, S, 2, 8]
                      std::copy_n(before.begin() + from * of_row, of_row, right.begin() + (1 - from) * of_row);
                      return right;
                    }));
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK(theory->mechanism == "copy.vectors");
    CHECK_THAT(theory->sentence, ContainsSubstring(from == 1 ? "of batch row b + 1" : "of batch row b - 1"));
  }
}

// What is fitted to one token says no more than that its input was recorded wrongly.
TEST_CASE("another input of one token alone is not told, nor coefficients of its inputs", "[fused]") {
  const auto one = [](Values right, const Values& other, std::size_t width) {
    std::copy_n(other.begin(), width, right.begin());
    return right;
  };
  Case source;
  Values values;
  auto theory =
      source.explained(Op::kKRope, 274, [&](const TensorKey& key, const auto&, const Step& step, Values right) {
        if (key.id == TensorId{Op::kVProj, 1}) {
          values = right;
          for (double& x : values) x = round_to(DType::kBF16, x);
        }
        const bool wrong = key.id == TensorId{Op::kKRope, 1} && step.index == 2;
        return wrong ? one(right, source.oracle.rotated(values, step.positions), 16) : right;
      });
  CHECK(source.num_wrong == 1);
  CHECK_FALSE(theory.has_value());
  Case coefficients;
  theory = coefficients.explained(
      Op::kDownProj, 275, at(Op::kDownProj, [&](const auto& in, const Step& step, Values right) {
        Values x = in[0];
        for (std::size_t i = 0; i < x.size(); ++i) x[i] *= i % 64 < 32 ? 1.0 : 0.0;
        const Values other = coefficients.oracle.product(x, coefficients.oracle.weight({Op::kDownProj, 1}));
        return step.index == 2 ? one(right, other, 48) : right;
      }));
  CHECK(coefficients.num_wrong == 1);
  CHECK_FALSE(theory.has_value());
}

}  // namespace
}  // namespace qdiff::explain
