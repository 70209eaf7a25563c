// A forward pass of closed formulas in double, for tests: an oracle that evaluates rows of the table one at a time, and
// a recording of two cases that may be wronged. Its rounding is that of storing, and a little more.
#pragma once

#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "harness/contract/oracle.h"
#include "harness/contract/splitmix64.h"
#include "harness/explain/scene.h"

namespace qdiff::explain {

using Values = std::vector<double>;

class MapStore final : public TensorStore {
 public:
  std::map<TensorKey, Tensor> tensors;
  bool has(const TensorKey& key) const override { return tensors.contains(key); }
  TensorView get(const TensorKey& key) const override { return tensors.at(key).view(); }
};

inline constexpr std::int64_t kHeads = 6, kKvHeads = 2, kHeadDim = 8;

inline ModelConfig closed_form_config() {
  ModelConfig c;
  c.hidden = 48;
  c.num_layers = 2;
  c.num_q_heads = kHeads;
  c.num_kv_heads = kKvHeads;
  c.head_dim = kHeadDim;
  c.intermediate = 64;
  c.vocab = 50;
  c.rms_norm_eps = 1e-6;
  c.rope_theta = 1e4;
  c.max_position_embeddings = 256;
  return c;
}

class ClosedForm final : public Oracle {
 public:
  explicit ClosedForm(ModelConfig config) : config_(std::move(config)) {
    for (const OperationRow& of : kOperationTable) {
      if (of.weights.empty() || !config_.has(of.component)) continue;
      // By the row's name, so that a further row of the table changes no weight of another.
      std::uint64_t seed = 7;
      for (const char c : of.name) seed = 31 * seed + static_cast<unsigned char>(c);
      SplitMix64 random(seed);
      const Shape shape = weight_shape(of.op, 0, config_);
      for (int layer = 0; layer < static_cast<int>(config_.num_layers); ++layer) {
        Values& weight = weights_[{of.op, of.scope == Scope::kLayer ? layer : kNoLayer}];
        weight.resize(static_cast<std::size_t>(num_elements(shape)));
        const double size = shape.size() == 2 && of.op != Op::kEmbedTokens ? 1.0 / std::sqrt(shape[1]) : 1.0;
        for (double& w : weight) w = (shape.size() == 1 ? 0.5 + random.uniform() : 2.0 * random.uniform() - 1.0) * size;
      }
    }
  }

  const ModelConfig& config() const override { return config_; }
  const std::vector<VariantFacts>& catalogue() const override { return catalogue_; }
  std::vector<double> emulate(const Query& query) override { return evaluate(query).value; }
  const Values& weight(const TensorId& id) const { return weights_.at(id); }
  Values& weight(const TensorId& id) { return weights_.at(id); }

  Expectation evaluate(const Query& query) override {
    std::map<TensorKey, Values> computed;
    Expectation expectation;
    for (const TensorKey& key : query.operations) {
      const Step& step = query.steps[static_cast<std::size_t>(key.step)];
      std::vector<Values> inputs;
      for (const Input& input : row(key.id.op).inputs) {
        const int at = input.from == From::kPreviousStep ? key.step - 1 : key.step;
        const TensorKey from{at, resolve(input, key.id, config_)};
        if (computed.contains(from)) {
          inputs.push_back(computed[from]);
        } else {
          inputs.push_back(at < 0 ? Values{} : to_doubles(query.recorded.get(from)));
        }
      }
      computed[key] = value(key.id, inputs, step);
      expectation.shape = output_shape(key.id.op, config_, step.batch(), step.num_tokens(), step.valid_length());
    }
    expectation.value = computed[query.operations.back()];
    expectation.exact = only_moves(query.operations.back().id.op);
    for (double v : expectation.value) {
      const double size = std::isfinite(v) && !expectation.exact ? 1e-6 * (std::fabs(v) + 1e-3) : 0.0;
      expectation.sigma_independent.push_back(static_cast<float>(size));
      expectation.sigma_shared.push_back(0.0F);
    }
    return expectation;
  }

  Values value(const TensorId& id, const std::vector<Values>& in, const Step& step) const {
    if (!config_.has(row(id.op).component)) return in[0];
    switch (arithmetic_of(id.op)) {
      case Arithmetic::kLookup: {
        Values out;
        for (const auto& tokens : step.tokens) {
          for (std::int32_t token : tokens) {
            const auto first = weight(id).begin() + token * config_.hidden;
            out.insert(out.end(), first, first + config_.hidden);
          }
        }
        return out;
      }
      case Arithmetic::kNorm:
        return norm(in[0], weight(id));
      case Arithmetic::kBias: {
        Values out = in[0];
        for (std::size_t i = 0; i < out.size(); ++i) out[i] += weight(id)[i % weight(id).size()];
        return out;
      }
      case Arithmetic::kRotate:
        return rotated(in[0], step.positions);
      case Arithmetic::kAppend:
        return appended(in[0], in[1], step);
      case Arithmetic::kScores:
        return scores(in[0], in[1], step);
      case Arithmetic::kSoftmax:
        return softmax(in[0], step.valid_length());
      case Arithmetic::kWeightedSum:
        return weighted(in[0], in[1], step);
      case Arithmetic::kAdd: {
        Values out = in[0];
        for (std::size_t i = 0; i < out.size(); ++i) out[i] += in[1][i];
        return out;
      }
      case Arithmetic::kGate: {
        Values out = in[0];
        for (std::size_t i = 0; i < out.size(); ++i) out[i] = in[0][i] / (1.0 + std::exp(-in[0][i])) * in[1][i];
        return out;
      }
      case Arithmetic::kProduct:
        break;
    }
    return product(in[0], weight(id));
  }

  Values norm(const Values& x, const Values& w) const {
    Values out(x.size());
    const std::size_t n = w.size();
    for (std::size_t r = 0; r < x.size() / n; ++r) {
      double sum = 0.0;
      for (std::size_t c = 0; c < n; ++c) sum += x[r * n + c] * x[r * n + c];
      const double scale = 1.0 / std::sqrt(sum / static_cast<double>(n) + config_.rms_norm_eps);
      for (std::size_t c = 0; c < n; ++c) out[r * n + c] = x[r * n + c] * scale * w[c];
    }
    return out;
  }
  // W is [out, in] with `in` the width of x.
  Values product(const Values& x, const Values& w, std::int64_t width = 0) const {
    const std::size_t in = width > 0 ? static_cast<std::size_t>(width) : input_width(x, w);
    const std::size_t n = w.size() / in;
    Values out(x.size() / in * n);
    for (std::size_t r = 0; r < x.size() / in; ++r) {
      for (std::size_t c = 0; c < n; ++c) {
        for (std::size_t k = 0; k < in; ++k) out[r * n + c] += x[r * in + k] * w[c * in + k];
      }
    }
    return out;
  }
  Values rotated(const Values& x, const std::vector<std::vector<std::int64_t>>& positions) const {
    const std::int64_t d = config_.head_dim, half = d / 2;
    Values out(x.size());
    const auto tokens = static_cast<std::int64_t>(positions.size() * positions[0].size());
    const auto width = static_cast<std::int64_t>(x.size()) / tokens;
    for (std::int64_t r = 0; r < tokens; ++r) {
      const auto in_row = static_cast<std::int64_t>(positions[0].size());
      const auto p =
          static_cast<double>(positions[static_cast<std::size_t>(r / in_row)][static_cast<std::size_t>(r % in_row)]);
      for (std::int64_t h = 0; h < width / d; ++h) {
        for (std::int64_t i = 0; i < half; ++i) {
          const double angle = p * std::pow(config_.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(d));
          const auto a = static_cast<std::size_t>(r * width + h * d + i), b = a + static_cast<std::size_t>(half);
          out[a] = x[a] * std::cos(angle) - x[b] * std::sin(angle);
          out[b] = x[b] * std::cos(angle) + x[a] * std::sin(angle);
        }
      }
    }
    return out;
  }
  Values appended(const Values& past, const Values& now, const Step& step) const {
    const std::int64_t width = config_.kv_width(), before = step.past_length, tokens = step.num_tokens();
    Values out;
    for (std::int64_t b = 0; b < step.batch(); ++b) {
      if (before > 0) out.insert(out.end(), past.begin() + b * before * width, past.begin() + (b + 1) * before * width);
      out.insert(out.end(), now.begin() + b * tokens * width, now.begin() + (b + 1) * tokens * width);
    }
    return out;
  }
  Values scores(const Values& q, const Values& k, const Step& step) const {
    const std::int64_t heads = config_.num_q_heads, kv = config_.num_kv_heads, d = config_.head_dim;
    const std::int64_t tokens = step.num_tokens(), slots = step.valid_length();
    Values out;
    for (std::int64_t b = 0; b < step.batch(); ++b) {
      for (std::int64_t h = 0; h < heads; ++h) {
        for (std::int64_t t = 0; t < tokens; ++t) {
          for (std::int64_t s = 0; s < slots; ++s) {
            double sum = 0.0;
            for (std::int64_t i = 0; i < d; ++i) {
              sum += q[static_cast<std::size_t>(((b * tokens + t) * heads + h) * d + i)] *
                     k[static_cast<std::size_t>(((b * slots + s) * kv + h / config_.group_size()) * d + i)];
            }
            const bool seen = s <= step.past_length + t && s >= step.left_padding[static_cast<std::size_t>(b)];
            out.push_back(seen ? sum / std::sqrt(static_cast<double>(d)) : -std::numeric_limits<double>::infinity());
          }
        }
      }
    }
    return out;
  }
  Values softmax(const Values& scores, std::int64_t slots) const {
    Values out(scores.size());
    for (std::size_t start = 0; start < scores.size(); start += static_cast<std::size_t>(slots)) {
      double largest = -std::numeric_limits<double>::infinity(), sum = 0.0;
      for (std::int64_t s = 0; s < slots; ++s) largest = std::max(largest, scores[start + static_cast<std::size_t>(s)]);
      for (std::int64_t s = 0; s < slots; ++s) sum += std::exp(scores[start + static_cast<std::size_t>(s)] - largest);
      for (std::int64_t s = 0; s < slots; ++s) {
        const std::size_t i = start + static_cast<std::size_t>(s);
        out[i] = std::isfinite(largest) ? std::exp(scores[i] - largest) / sum : 0.0;
      }
    }
    return out;
  }
  Values weighted(const Values& probs, const Values& v, const Step& step) const {
    const std::int64_t heads = config_.num_q_heads, kv = config_.num_kv_heads, d = config_.head_dim;
    const std::int64_t tokens = step.num_tokens(), slots = step.valid_length();
    Values out(static_cast<std::size_t>(step.batch() * tokens * heads * d));
    for (std::int64_t b = 0; b < step.batch(); ++b) {
      for (std::int64_t t = 0; t < tokens; ++t) {
        for (std::int64_t h = 0; h < heads; ++h) {
          for (std::int64_t i = 0; i < d; ++i) {
            double sum = 0.0;
            for (std::int64_t s = 0; s < slots; ++s) {
              sum += probs[static_cast<std::size_t>(((b * heads + h) * tokens + t) * slots + s)] *
                     v[static_cast<std::size_t>(((b * slots + s) * kv + h / config_.group_size()) * d + i)];
            }
            out[static_cast<std::size_t>(((b * tokens + t) * heads + h) * d + i)] = sum;
          }
        }
      }
    }
    return out;
  }

 private:
  // Rows of x are as wide as the matrix: of the widths that the model has, the one that divides both.
  std::size_t input_width(const Values& x, const Values& w) const {
    for (const auto& [id, weight] : weights_) {
      if (&weight == &w) return static_cast<std::size_t>(weight_shape(id.op, 0, config_)[1]);
    }
    return x.size();
  }

  ModelConfig config_;
  std::map<TensorId, Values> weights_;
  std::vector<VariantFacts> catalogue_;
};

// Two batch rows, one of them padded: a prefill of twelve tokens and four decode steps.
inline std::vector<Step> closed_form_steps(SplitMix64& random, const ModelConfig& config) {
  std::vector<Step> steps;
  std::int64_t past = 0;
  for (std::int64_t tokens : {12, 1, 1, 1, 1}) {
    Step step;
    step.index = static_cast<int>(steps.size());
    step.phase = steps.empty() ? Phase::kPrefill : Phase::kDecode;
    step.past_length = past;
    step.left_padding = {0, 2};
    for (int b = 0; b < 2; ++b) {
      step.tokens.emplace_back();
      for (std::int64_t t = 0; t < tokens; ++t) {
        step.tokens.back().push_back(static_cast<std::int32_t>(random.below(config.vocab)));
      }
    }
    set_default_positions(step);
    past += tokens;
    steps.push_back(step);
  }
  return steps;
}

// Gives a row's value in the place of right code's, of these inputs; `right` is what right code makes of them.
using Wronging = std::function<Values(const TensorKey&, const std::vector<Values>& inputs, const Step&, Values right)>;

// A candidate that computes with the closed formulas, stores in bfloat16 and goes on with what it stored. Scores and
// probabilities, which a fused attention never stores, may stand in a wider type.
struct Recorded {
  std::vector<Step> steps;
  MapStore store;

  Recorded(const ClosedForm& oracle, std::uint64_t seed, const Wronging& wrong, DType of_scores = DType::kBF16) {
    SplitMix64 random(seed);
    const ModelConfig& config = oracle.config();
    steps = closed_form_steps(random, config);
    for (const Step& step : steps) {
      for (const TensorId& id : all_tensors(config, /*optional_too=*/true)) {
        const TensorKey key{step.index, id};
        std::vector<Values> inputs;
        for (const Input& input : row(id.op).inputs) {
          const int at = input.from == From::kPreviousStep ? key.step - 1 : key.step;
          const TensorKey from{at, resolve(input, id, config)};
          inputs.push_back(at < 0 ? Values{} : to_doubles(store.get(from)));
        }
        const Values value = wrong(key, inputs, step, oracle.value(id, inputs, step));
        const Shape shape = output_shape(id.op, config, step.batch(), step.num_tokens(), step.valid_length());
        const bool is_inside = id.op == Op::kScores || id.op == Op::kProbs;
        store.tensors[key] = Tensor::rounded(is_inside ? of_scores : DType::kBF16, shape, value);
      }
    }
  }
};

}  // namespace qdiff::explain
