// What is solved for of an attention that was computed in one piece.
#include <algorithm>

#include "cmake/catch2.h"
#include "harness/explain/tests/solved_case.h"

namespace qdiff::explain {
namespace {

Case fused() {
  Case c;
  c.span = {{Op::kScores, 1}, {Op::kProbs, 1}, {Op::kAttnOutput, 1}};
  c.kept_inside = DType::kF64;
  return c;
}

// Visits each row of probabilities: (first element, batch row, head, token).
template <typename Visit>
void for_each_row(const ModelConfig& config, const Step& step, Visit visit) {
  std::size_t start = 0;
  for (std::int64_t b = 0; b < step.batch(); ++b) {
    for (std::int64_t h = 0; h < config.num_q_heads; ++h) {
      for (std::int64_t t = 0; t < step.num_tokens(); ++t) {
        visit(start, b, h, t);
        start += static_cast<std::size_t>(step.valid_length());
      }
    }
  }
}

// Scores [B,H,T,S] of which each query sees those up to `ahead` slots behind its own.
Values scores_ahead(const Case& c, const std::vector<Values>& in, const Step& step, std::int64_t ahead) {
  const ModelConfig& config = c.oracle.config();
  const std::int64_t d = config.head_dim, slots = step.valid_length(), tokens = step.num_tokens();
  Values all = c.oracle.scores(in[0], in[1], step);
  for_each_row(config, step, [&](std::size_t start, std::int64_t b, std::int64_t h, std::int64_t t) {
    const std::int64_t last = std::min(slots - 1, step.past_length + t + ahead);
    for (std::int64_t s = step.left_padding[static_cast<std::size_t>(b)]; s <= last; ++s) {
      double sum = 0.0;
      for (std::int64_t i = 0; i < d; ++i) {
        sum +=
            in[0][static_cast<std::size_t>(((b * tokens + t) * config.num_q_heads + h) * d + i)] *
            in[1][static_cast<std::size_t>(((b * slots + s) * config.num_kv_heads + h / config.group_size()) * d + i)];
      }
      all[start + static_cast<std::size_t>(s)] = sum / std::sqrt(static_cast<double>(d));
    }
  });
  return all;
}

// Softmax of scores over which `zeros(t)` slots of score 0 lie behind the last one, of value 0.
template <typename Zeros>
Values probs_beside_zeros(const Case& c, const Values& scores, const Step& step, Zeros zeros) {
  Values probs = scores;
  const auto slots = static_cast<std::size_t>(step.valid_length());
  for_each_row(c.oracle.config(), step, [&](std::size_t start, std::int64_t, std::int64_t, std::int64_t t) {
    auto sum = static_cast<double>(zeros(t));
    for (std::size_t s = 0; s < slots; ++s) sum += std::exp(scores[start + s]);
    for (std::size_t s = 0; s < slots; ++s) probs[start + s] = std::exp(scores[start + s]) / sum;
  });
  return probs;
}

TEST_CASE("a mask that ends late lets queries see what was written, and zeros behind that", "[attention]") {
  for (const std::int64_t ahead : {1, 2}) {
    INFO(ahead);
    Case c = fused();
    const auto theory = c.explained(
        Op::kAttnOutput, 42, [&](const TensorKey& key, const std::vector<Values>& in, const Step& step, Values right) {
          if (key.id.layer != 1) return right;
          if (key.id.op == Op::kScores) return scores_ahead(c, in, step, ahead);
          if (key.id.op != Op::kProbs) return right;
          return probs_beside_zeros(c, in[0], step, [&](std::int64_t t) {
            return std::max<std::int64_t>(0, t + ahead - (step.num_tokens() - 1));
          });
        });
    REQUIRE(c.num_wrong > 0);
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK(theory->mechanism == "beyond_end");
    CHECK(text_of(theory->parameters, "mask") == std::to_string(ahead) + " ahead");
    CHECK(theory->hypothesis == "H10");
    CHECK(theory->scope.empty());
  }
}

TEST_CASE("zeros behind the last slot of a roomy cache are counted, with a mask and without", "[attention]") {
  constexpr std::int64_t kCapacity = 23;
  for (const bool causal : {true, false}) {
    INFO((causal ? "causal" : "no mask"));
    Case c = fused();
    const auto wrong = [&](const TensorKey& key, const std::vector<Values>& in, const Step& step, Values right) {
      if (key.id.layer != 1) return right;
      if (key.id.op == Op::kScores && !causal) return scores_ahead(c, in, step, kCapacity);
      if (key.id.op != Op::kProbs) return right;
      return probs_beside_zeros(c, in[0], step, [&](std::int64_t) { return kCapacity - step.valid_length(); });
    };
    const auto theory = c.explained(Op::kAttnOutput, 41, wrong);
    REQUIRE(c.num_wrong > 0);
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK(theory->mechanism == "beyond_end");
    CHECK(text_of(theory->parameters, "slots") == std::to_string(kCapacity));
    CHECK(theory->hypothesis == (causal ? "H08" : "H10"));
    CHECK(theory->scope.empty());
  }
}

}  // namespace
}  // namespace qdiff::explain
