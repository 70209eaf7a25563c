// The forward pass in double, one plain loop after another, written from the model's definition and nothing else. Each
// operation is computed from given inputs: an engine's own recorded tensors (replay), or its own results (free run).
#pragma once

#include <cmath>
#include <functional>
#include <vector>

#include "harness/contract/operation_table.h"
#include "harness/contract/step.h"
#include "optimized/cpu/tests/random_model.h"

namespace qdiff::optimized::cpu::testing {

using Values = std::vector<double>;

// A value and the sum of the magnitudes that went into it, which bounds what rounding may do to it.
struct Naive {
  Values value;
  Values magnitude;
};

class NaiveForward {
 public:
  // Weights are rounded once to `dtype`.
  NaiveForward(RandomModel& model, DType dtype) : model_(model), dtype_(dtype), c_(model.config()) {}

  // The same with another kv head for each query head.
  NaiveForward with_head_map(std::function<std::int64_t(std::int64_t)> map) const {
    NaiveForward other = *this;
    other.head_map_ = std::move(map);
    return other;
  }

  // `get` gives a tensor of a step as doubles.
  using Get = std::function<Values(const TensorKey&)>;

  Naive evaluate(const TensorKey& key, const std::vector<Step>& steps, const Get& get) const {
    const Step& step = steps[static_cast<std::size_t>(key.step)];
    const int layer = key.id.layer;
    const auto in = [&](Op op) { return get({key.step, {op, row(op).scope == Scope::kLayer ? layer : kNoLayer}}); };
    const auto residual = [&] { return get({key.step, resolve({Op::kOutput, From::kResidual}, key.id, c_)}); };
    switch (key.id.op) {
      case Op::kEmbedTokens:
        return embed(step);
      case Op::kInputLayernorm:
      case Op::kNorm:
        return norm(residual(), key.id);
      case Op::kPostAttentionLayernorm:
        return norm(in(Op::kResidMid), key.id);
      case Op::kQProj:
        return linear(in(Op::kInputLayernorm), {Op::kQProjMatmul, layer}, weight({Op::kQProj, layer}));
      case Op::kKProj:
        return linear(in(Op::kInputLayernorm), {Op::kKProjMatmul, layer}, weight({Op::kKProj, layer}));
      case Op::kVProj:
        return linear(in(Op::kInputLayernorm), {Op::kVProjMatmul, layer}, weight({Op::kVProj, layer}));
      case Op::kQRope:
        return rope(in(Op::kQProj), step, c_.num_q_heads);
      case Op::kKRope:
        return rope(in(Op::kKProj), step, c_.num_kv_heads);
      case Op::kKCache:
        return cache(Op::kKRope, layer, key.step, steps, get);
      case Op::kVCache:
        return cache(Op::kVProj, layer, key.step, steps, get);
      case Op::kAttnOutput:
        return attention(in(Op::kQRope), in(Op::kKCache), in(Op::kVCache), step);
      case Op::kOProj:
        return linear(in(Op::kAttnOutput), key.id, {});
      case Op::kResidMid:
        return sum(residual(), in(Op::kOProj));
      case Op::kGateProj:
      case Op::kUpProj:
        return linear(in(Op::kPostAttentionLayernorm), key.id, {});
      case Op::kAct:
        return activate(in(Op::kGateProj), in(Op::kUpProj));
      case Op::kDownProj:
        return linear(in(Op::kAct), key.id, {});
      case Op::kOutput:
        return sum(in(Op::kResidMid), in(Op::kDownProj));
      case Op::kLmHead:
        return linear(in(Op::kNorm), key.id, {});
      default:
        throw std::logic_error("not a tensor that the engine hands out");
    }
  }

 protected:
  const Values& weight(const TensorId& id) const {
    Values& values = weights_[id];
    if (values.empty()) {
      values = to_doubles(model_.tensor(weight_name(id, 0, c_)).view());
      for (double& value : values) value = round_to(dtype_, value);
    }
    return values;
  }

  Naive embed(const Step& step) const {
    const Values& table = weight({Op::kEmbedTokens, kNoLayer});
    Naive out;
    for (const auto& tokens : step.tokens) {
      for (std::int32_t token : tokens) {
        for (std::int64_t i = 0; i < c_.hidden; ++i) {
          out.value.push_back(table[static_cast<std::size_t>(token * c_.hidden + i)]);
          out.magnitude.push_back(0.0);
        }
      }
    }
    return out;
  }

  Naive norm(const Values& x, const TensorId& id) const {
    const Values& w = weight(id);
    const std::size_t n = w.size();
    Naive out;
    for (std::size_t first = 0; first < x.size(); first += n) {
      double squares = 0.0;
      for (std::size_t i = 0; i < n; ++i) squares += x[first + i] * x[first + i];
      const double rms = std::sqrt(squares / static_cast<double>(n) + c_.rms_norm_eps);
      for (std::size_t i = 0; i < n; ++i) {
        out.value.push_back(x[first + i] / rms * w[i]);
        out.magnitude.push_back(std::fabs(out.value.back()));
      }
    }
    return out;
  }

  Naive linear(const Values& x, const TensorId& id, const Values& bias) const {
    const Values& w = weight(id);
    const Shape shape = weight_shape(id.op, 0, c_);
    const auto rows = static_cast<std::size_t>(shape[0]);
    const auto k = static_cast<std::size_t>(shape[1]);
    Naive out;
    for (std::size_t first = 0; first < x.size(); first += k) {
      for (std::size_t r = 0; r < rows; ++r) {
        double total = bias.empty() ? 0.0 : bias[r];
        double magnitude = std::fabs(total);
        for (std::size_t i = 0; i < k; ++i) {
          total += w[r * k + i] * x[first + i];
          magnitude += std::fabs(w[r * k + i] * x[first + i]);
        }
        out.value.push_back(total);
        out.magnitude.push_back(magnitude);
      }
    }
    return out;
  }

  Naive rope(const Values& x, const Step& step, std::int64_t heads) const {
    Naive out;
    out.value.resize(x.size());
    out.magnitude.resize(x.size());
    const auto d = static_cast<std::size_t>(c_.head_dim);
    std::size_t first = 0;
    for (const auto& positions : step.positions) {
      for (std::int64_t position : positions) {
        for (std::int64_t h = 0; h < heads; ++h, first += d) {
          for (std::size_t i = 0; i < d / 2; ++i) {
            const double frequency = std::pow(c_.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(d));
            const double cosine = std::cos(static_cast<double>(position) * frequency);
            const double sine = std::sin(static_cast<double>(position) * frequency);
            const double a = x[first + i];
            const double b = x[first + i + d / 2];
            out.value[first + i] = a * cosine - b * sine;
            out.value[first + i + d / 2] = b * cosine + a * sine;
            out.magnitude[first + i] = out.magnitude[first + i + d / 2] = std::fabs(a) + std::fabs(b);
          }
        }
      }
    }
    return out;
  }

  // [B,S,K,d]: what every step so far wrote.
  Naive cache(Op written, int layer, int step, const std::vector<Step>& steps, const Get& get) const {
    const std::int64_t length = steps[static_cast<std::size_t>(step)].valid_length();
    const std::int64_t width = c_.kv_width();
    Naive out;
    out.value.resize(static_cast<std::size_t>(steps.front().batch() * length * width));
    out.magnitude.resize(out.value.size(), 0.0);
    for (int s = 0; s <= step; ++s) {
      const Step& each = steps[static_cast<std::size_t>(s)];
      const Values x = get({s, {written, layer}});
      for (std::int64_t b = 0; b < each.batch(); ++b) {
        for (std::int64_t t = 0; t < each.num_tokens(); ++t) {
          for (std::int64_t i = 0; i < width; ++i) {
            out.value[static_cast<std::size_t>((b * length + each.past_length + t) * width + i)] =
                x[static_cast<std::size_t>((b * each.num_tokens() + t) * width + i)];
          }
        }
      }
    }
    return out;
  }

  Naive attention(const Values& q, const Values& k, const Values& v, const Step& step) const {
    const std::int64_t d = c_.head_dim;
    const std::int64_t length = step.valid_length();
    const auto cached = [&](const Values& x, std::int64_t b, std::int64_t slot, std::int64_t head, std::int64_t i) {
      return x[static_cast<std::size_t>(((b * length + slot) * c_.num_kv_heads + head) * d + i)];
    };
    Naive out;
    for (std::int64_t b = 0; b < step.batch(); ++b) {
      const std::int64_t pads = step.left_padding[static_cast<std::size_t>(b)];
      for (std::int64_t t = 0; t < step.num_tokens(); ++t) {
        for (std::int64_t h = 0; h < c_.num_q_heads; ++h) {
          const std::int64_t kv_head = head_map_ ? head_map_(h) : h / (c_.num_q_heads / c_.num_kv_heads);
          const std::int64_t q_first = ((b * step.num_tokens() + t) * c_.num_q_heads + h) * d;
          Values scores;
          double highest = -HUGE_VAL;
          double score_magnitude = 0.0;
          for (std::int64_t slot = pads; slot <= step.past_length + t; ++slot) {
            double dot = 0.0;
            double magnitude = 0.0;
            for (std::int64_t i = 0; i < d; ++i) {
              const double product = q[static_cast<std::size_t>(q_first + i)] * cached(k, b, slot, kv_head, i);
              dot += product;
              magnitude += std::fabs(product);
            }
            scores.push_back(dot / std::sqrt(static_cast<double>(d)));
            highest = std::max(highest, scores.back());
            score_magnitude = std::max(score_magnitude, magnitude / std::sqrt(static_cast<double>(d)));
          }
          double total = 0.0;
          for (double& score : scores) total += score = std::exp(score - highest);
          for (std::int64_t i = 0; i < d; ++i) {
            double value = 0.0;
            double magnitude = 0.0;
            for (std::size_t j = 0; j < scores.size(); ++j) {
              const double x = cached(v, b, pads + static_cast<std::int64_t>(j), kv_head, i);
              value += scores[j] / total * x;
              magnitude += scores[j] / total * std::fabs(x);
            }
            out.value.push_back(value);
            out.magnitude.push_back(magnitude * (1.0 + score_magnitude));  // a score's error is relative in exp
          }
        }
      }
    }
    return out;
  }

  static Naive sum(const Values& a, const Values& b) {
    Naive out;
    for (std::size_t i = 0; i < a.size(); ++i) {
      out.value.push_back(a[i] + b[i]);
      out.magnitude.push_back(std::fabs(a[i]) + std::fabs(b[i]));
    }
    return out;
  }

  static Naive activate(const Values& gate, const Values& up) {
    Naive out;
    for (std::size_t i = 0; i < gate.size(); ++i) {
      out.value.push_back(gate[i] / (1.0 + std::exp(-gate[i])) * up[i]);
      out.magnitude.push_back(std::fabs(out.value.back()));
    }
    return out;
  }

  RandomModel& model_;
  DType dtype_;
  const ModelConfig& c_;

 private:
  std::function<std::int64_t(std::int64_t)> head_map_;
  mutable std::map<TensorId, Values> weights_;  // rounded
};

}  // namespace qdiff::optimized::cpu::testing
