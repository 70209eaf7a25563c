// Small synthetic tensors beside their expectation, honest until a test spoils them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "harness/contract/splitmix64.h"
#include "harness/contract/tests/small_model.h"
#include "harness/pattern/pattern.h"

namespace qdiff::pattern {

inline constexpr double kInfinity = std::numeric_limits<double>::infinity();

class Numbers : public SplitMix64 {
 public:
  using SplitMix64::SplitMix64;
  double gaussian() {  // Irwin-Hall of twelve
    double sum = -6.0;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return sum;
  }
};

// Six query heads on three key/value heads of eight dimensions.
inline ModelConfig pattern_config() {
  ModelConfig c = testing::small_config(6, 3, 8, 40, 96, false, 50);
  c.rope_theta = 1e4;
  return c;
}

inline Step pattern_step(std::int64_t num_tokens, std::int64_t past_length = 0, std::vector<std::int64_t> padding = {0},
                         Phase phase = Phase::kPrefill) {
  Step step;
  step.phase = phase;
  step.past_length = past_length;
  step.tokens.assign(padding.size(), std::vector<std::int32_t>(static_cast<std::size_t>(num_tokens), 1));
  step.left_padding = std::move(padding);
  set_default_positions(step);
  return step;
}

struct PatternSample {
  Op op;
  Step step;
  DType dtype;
  ModelConfig config;
  Expectation expected;
  std::vector<double> values;  // of the candidate, before its final rounding

  Pattern pattern() const {
    return find_pattern(op, Tensor::rounded(dtype, expected.shape, values).view(), expected, step, config);
  }
  std::int64_t dim(std::size_t axis) const { return expected.shape[axis]; }
  std::size_t at(std::vector<std::int64_t> index) const {
    std::int64_t flat = 0;
    for (std::size_t i = 0; i < index.size(); ++i) flat = flat * expected.shape[i] + index[i];
    return static_cast<std::size_t>(flat);
  }
  // Spoils each element with f(index, its expected value).
  template <typename F>
  PatternSample& change(const F& f) {
    std::vector<std::int64_t> index(expected.shape.size(), 0);
    for (double& value : values) {
      const double right = expected.value[at(index)];
      const double wrong = f(index, right);
      if (!(wrong == right)) value = wrong;
      for (std::size_t axis = index.size(); axis-- > 0;) {
        if (++index[axis] < expected.shape[axis]) break;
        index[axis] = 0;
      }
    }
    return *this;
  }
  template <typename F>
  PatternSample& change_where(const F& where, double by) {
    return change([&](const auto& index, double right) { return where(index) ? right + by : right; });
  }
};

// Gaussian values of deviation 1, with an expected rounding of 2^-20 that the candidate has. Scores and probabilities
// are masked as they should be, and probabilities are the softmax of Gaussian scores. Caches are moved exactly.
inline PatternSample pattern_sample(Op op, Step step, DType dtype = DType::kBF16, std::uint64_t seed = 1,
                                    ModelConfig config = pattern_config()) {
  constexpr double kSigma = 0x1p-20;
  PatternSample s{op, std::move(step), dtype, std::move(config), {}, {}};
  s.expected.shape = output_shape(op, s.config, s.step.batch(), s.step.num_tokens(), s.step.valid_length());
  s.expected.exact = only_moves(op);
  const bool probs = op == Op::kProbs;
  const bool masked = probs || op == Op::kScores;
  Numbers numbers(seed);
  const auto n = static_cast<std::size_t>(num_elements(s.expected.shape));
  for (std::size_t i = 0; i < n; ++i) {
    const double value = numbers.gaussian();
    s.expected.value.push_back(s.expected.exact ? round_to(dtype, value) : value);
  }
  if (masked) {
    const std::int64_t slots = s.dim(3);
    for (std::int64_t line = 0; line < static_cast<std::int64_t>(n) / slots; ++line) {
      const std::int64_t b = line / (s.dim(1) * s.dim(2));
      const std::int64_t own = s.step.past_length + line % s.dim(2);
      double* values = s.expected.value.data() + line * slots;
      double sum = 0.0;
      for (std::int64_t slot = 0; slot < slots; ++slot) {
        const bool hidden = slot > own || slot < s.step.left_padding[static_cast<std::size_t>(b)];
        if (hidden) values[slot] = -std::numeric_limits<double>::infinity();
        sum += std::exp(values[slot]);
      }
      for (std::int64_t slot = 0; probs && slot < slots; ++slot) {
        values[slot] = sum > 0.0 ? std::exp(values[slot]) / sum : 0.0;
      }
    }
  }
  for (const double value : s.expected.value) {
    const bool exact = s.expected.exact || !std::isfinite(value) || (masked && value == 0.0);
    const double sigma = exact ? 0.0 : kSigma * (probs ? value : 1.0);
    s.expected.sigma_independent.push_back(static_cast<float>(sigma));
    s.expected.sigma_shared.push_back(0.0F);
    const double noise = numbers.gaussian();
    s.values.push_back(exact ? value : value + sigma * noise);
  }
  return s;
}

}  // namespace qdiff::pattern
