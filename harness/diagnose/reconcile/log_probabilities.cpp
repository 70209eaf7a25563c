#include "harness/diagnose/reconcile/log_probabilities.h"

#include <algorithm>
#include <cmath>

#include "harness/contract/error.h"
#include "harness/diagnose/thresholds.h"

namespace qdiff::diagnose {
namespace {

// Of each row, to measure how far its logits err: the deviation of 512 errors is known to 3 %.
constexpr std::int64_t kSampledLogits = 512;
// Of the residual stream, whose errors are summed over all tokens.
constexpr std::int64_t kSampledStream = 128;

std::vector<double> sample_of(std::span<const double> row, std::int64_t most = kSampledLogits) {
  const auto size = std::ssize(row), count = std::min(size, most);
  std::vector<double> sample;
  for (std::int64_t i = 0; i < count; ++i) sample.push_back(row[static_cast<std::size_t>(i * size / count)]);
  return sample;
}

double mean_square(std::span<const double> values) {
  double sum = 0.0;
  for (double x : values) sum += x * x;
  return sum / static_cast<double>(values.size());
}

double mean_square_error(std::span<const double> a, std::span<const double> b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum / static_cast<double>(a.size());
}

}  // namespace

LogProbabilities::LogProbabilities(const CaseInput& input, const ModelConfig& config,
                                   const ReferenceMaker& make_reference, const ProgressReport& progress)
    : input_(input), config_(config), make_reference_(make_reference), progress_(progress) {}

std::vector<double> stream_sample(std::span<const double> row) { return sample_of(row, kSampledStream); }

void LogProbabilities::walk_tokens(const std::vector<PredictedToken>& tokens, Engine& engine, std::vector<Pass> passes,
                                   const std::string& what, const Use& use_logits, const UseStream& use_stream) const {
  std::map<int, std::vector<std::size_t>> by_step;
  for (std::size_t i = 0; i < tokens.size(); ++i) by_step[tokens[i].logits.step].push_back(i);
  const Course course{.input = input_,
                      .last_step = by_step.empty() ? 0 : by_step.rbegin()->first,
                      .end_layer = static_cast<int>(config_.num_layers),
                      .needs_head = true};
  const auto take = [&](Pass&, const TensorKey& key, const TensorView& whole) {
    const auto found = by_step.find(key.step);
    const bool is_stream = key.id.op == Op::kOutput;
    if ((key.id.op != Op::kLmHead && !is_stream) || found == by_step.end()) return;
    for (std::size_t i : found->second) {
      std::vector<double> row =
          row_at(whole, tokens[i].logits, input_.steps[static_cast<std::size_t>(key.step)].num_tokens());
      if (is_stream) {
        use_stream(i, static_cast<std::size_t>(key.id.layer), row);
        continue;
      }
      if (facts(tokens[i].stored).significant_bits < facts(whole.dtype).significant_bits) {
        for (double& value : row) value = round_to(tokens[i].stored, value);
      }
      use_logits(i, row);
    }
  };
  walk(engine, passes, course, take, progress_, what);
  if (!std::ranges::all_of(passes, &Pass::ran)) {
    throw InputError("the reference cannot run the steps of " + input_.id + " as a whole; record them in order");
  }
}

std::vector<ExpectedToken> LogProbabilities::expected(const std::vector<PredictedToken>& tokens, DType weights) const {
  std::vector<ExpectedToken> result(tokens.size());
  std::vector<PredictedToken> exact = tokens;
  for (PredictedToken& token : exact) token.stored = DType::kF64;
  const auto engine = make_reference_(gold_precision(weights));
  walk_tokens(
      exact, *engine, std::vector<Pass>(1), "log-probabilities in float64",
      [&](std::size_t i, std::span<const double> logits) {
        result[i].log_probability = log_probability(logits, tokens[i].token);
        result[i].sensitivity = sensitivity(logits, tokens[i].token);
        result[i].mean_square = mean_square(logits);
        result[i].sample = sample_of(logits);
      },
      [&](std::size_t i, std::size_t layer, std::span<const double> row) {
        result[i].streams.resize(layer + 1);
        result[i].streams[layer] = stream_sample(row);
      });
  return result;
}

Roundings LogProbabilities::roundings(const std::vector<PredictedToken>& tokens,
                                      const std::vector<ExpectedToken>& expected, const Precision& precision) const {
  std::vector<Pass> passes(kRightPasses);
  for (std::size_t i = 0; i < passes.size(); ++i) passes[i].nudge = i;
  constexpr double kShare = 1.0 / static_cast<double>(kRightPasses);
  struct MeanSquares {
    double of_token = 0.0, of_logits = 0.0;
  };
  std::vector<MeanSquares> errors(tokens.size());
  const auto engine = make_reference_(precision);
  const auto num_layers = static_cast<std::size_t>(config_.num_layers);
  std::vector<double> stream_errors(num_layers), streams(num_layers);
  walk_tokens(
      tokens, *engine, std::move(passes), "log-probabilities as rounded",
      [&](std::size_t i, std::span<const double> logits) {
        const double error = log_probability(logits, tokens[i].token) - expected[i].log_probability;
        errors[i].of_token += kShare * error * error;
        errors[i].of_logits += kShare * mean_square_error(sample_of(logits), expected[i].sample);
      },
      [&](std::size_t i, std::size_t layer, std::span<const double> row) {
        stream_errors[layer] += kShare * mean_square_error(stream_sample(row), expected[i].streams[layer]);
        streams[layer] += kShare * mean_square(expected[i].streams[layer]);
      });
  const double of_sums =
      unit_roundoff(precision.accumulate) * std::sqrt(static_cast<double>(config_.hidden) / 3.0);  // relative
  double relative = 0.0;
  std::int64_t drawn = 0;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const double share = errors[i].of_logits / expected[i].mean_square;
    if (!std::isfinite(share)) continue;
    relative += share;
    ++drawn;
  }
  relative = std::max(drawn > 0 ? relative / static_cast<double>(drawn) : 0.0, of_sums * of_sums);
  Roundings roundings;
  for (std::size_t layer = 0; layer < num_layers; ++layer) {
    roundings.streams.push_back(streams[layer] > 0.0 ? std::sqrt(stream_errors[layer] / streams[layer]) : 0.0);
  }
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const double of_logits = std::max(errors[i].of_logits, relative * expected[i].mean_square);
    const double by_logits = std::sqrt(of_logits) * expected[i].sensitivity;
    const double deviation = std::max(std::sqrt(errors[i].of_token), by_logits);
    const bool measured = std::isfinite(errors[i].of_token) && std::isfinite(by_logits);
    roundings.tokens.push_back(measured ? deviation : HUGE_VAL);
  }
  return roundings;
}

}  // namespace qdiff::diagnose
