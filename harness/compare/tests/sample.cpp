#include "harness/compare/tests/sample.h"

#include <cmath>
#include <limits>

#include "harness/contract/tests/small_model.h"

namespace qdiff::compare {

double Random::gaussian() {
  double sum = -6.0;
  for (int i = 0; i < 12; ++i) sum += uniform();
  return sum;
}

Judgement Sample::judge() const {
  const TensorView view = actual.view();
  return compare::judge(
      {.op = op, .actual = view, .expected = expected, .step = step, .precision = precision, .config = config});
}

std::int64_t Sample::at(std::vector<std::int64_t> index) const {
  std::int64_t linear = 0;
  for (std::size_t d = 0; d < index.size(); ++d) linear = linear * expected.shape[d] + index[d];
  return linear;
}

ModelConfig sample_config() { return testing::small_config(6, 2, 32, 100, 150, false, 1001); }

Sample honest_sample(const SampleOptions& options) {
  Sample sample;
  sample.op = options.op;
  sample.config = sample_config();
  sample.precision = plain_precision(options.dtype);
  Step& step = sample.step;
  step.past_length = options.past_length;
  step.left_padding = options.left_padding;
  step.tokens.assign(options.left_padding.size(),
                     std::vector<std::int32_t>(static_cast<std::size_t>(options.num_tokens), 7));
  set_default_positions(step);
  Expectation& expected = sample.expected;
  expected.shape = output_shape(options.op, sample.config, step.batch(), step.num_tokens(), step.valid_length());
  expected.exact = only_moves(options.op);
  const auto n = static_cast<std::size_t>(num_elements(expected.shape));
  expected.sigma_independent.assign(n, expected.exact ? 0.0F : static_cast<float>(options.sigma));
  expected.sigma_shared.assign(n, expected.exact ? 0.0F : static_cast<float>(options.sigma_shared));
  expected.value.resize(n);
  Random random(options.seed);
  for (double& g : expected.value) g = random.gaussian();
  if (expected.exact) {
    for (double& g : expected.value) g = round_to(options.dtype, g);
  }
  if (options.op == Op::kScores || options.op == Op::kProbs) {
    const std::int64_t keys = expected.shape[3];
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(n); ++i) {
      const std::int64_t key = i % keys;
      const std::int64_t token = i / keys % expected.shape[2];
      const std::int64_t b = i / keys / expected.shape[2] / expected.shape[1];
      const auto at = static_cast<std::size_t>(i);
      if (options.op == Op::kProbs) expected.value[at] = std::fabs(expected.value[at]) + 0.01;
      const bool masked = key > options.past_length + token || key < options.left_padding[static_cast<std::size_t>(b)];
      if (!masked) continue;
      expected.value[at] = options.op == Op::kProbs ? 0.0 : -std::numeric_limits<double>::infinity();
      expected.sigma_independent[at] = expected.sigma_shared[at] = 0.0F;
    }
  }
  std::vector<double> candidate = expected.value;
  for (std::size_t i = 0; i < n; ++i) {
    candidate[i] += static_cast<double>(expected.sigma_independent[i]) * random.gaussian();
  }
  sample.actual = Tensor::rounded(options.dtype, expected.shape, candidate);
  return sample;
}

}  // namespace qdiff::compare
