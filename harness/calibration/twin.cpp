#include "harness/calibration/twin.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace qdiff::calibration {
namespace {

using P = RoundingPoint;
using Row = std::span<const float>;

float rounded(DType dtype, float x) {
  if (dtype == DType::kBF16) return bf16_to_float(float_to_bf16(x));
  if (dtype == DType::kF16) return f16_to_float(float_to_f16(x));
  return x;
}

// A tensor as rows of columns; every stored type is exact in float.
struct Rows {
  std::int64_t columns = 0;
  std::vector<float> data;
  Rows() = default;
  Rows(std::int64_t rows, std::int64_t c)
      : columns(c), data(static_cast<std::size_t>(rows * c), std::numeric_limits<float>::quiet_NaN()) {}
  float* at(std::int64_t r) { return data.data() + r * columns; }
  Row row(std::int64_t r) const { return {data.data() + r * columns, static_cast<std::size_t>(columns)}; }
};

struct LayerCache {
  std::vector<Rows> keys, values;  // by batch row; rows are slots
};

class Twin {
 public:
  Twin(const Scenario& scenario, const ScenarioWeights& weights)
      : s_(scenario),
        c_(scenario.config),
        weights_(weights),
        random_(scenario.seed * 7919 + 3),
        choices_(draw_choices(random_, scenario.precision)),
        caches_(static_cast<std::size_t>(c_.num_layers)) {}

  trace::Recording run() {
    for (const Step& step : s_.steps) run_step(step);
    return std::move(store_);
  }

 private:
  void run_step(const Step& step);
  void run_layer(int layer, Rows& residual);
  Rows attention(int layer, const Rows& q, const Rows& k_now, const Rows& v_now);

  Rows norm(Op op, int layer, const Rows& x);
  Rows project(Op op, int layer, const Rows& x);
  Rows project_with_bias(Op product, Op op, int layer, const Rows& x);
  Rows rotate(Op op, int layer, const Rows& x);
  Rows add(Op op, int layer, const Rows& a, const Rows& b);
  float exponential(float x);
  float silu(float x);
  float neighbour(float x) {
    const auto way = random_.below(3);
    return way == 0 ? x : std::nextafter(x, way == 1 ? HUGE_VALF : -HUGE_VALF);
  }

  bool is_pad(std::int64_t r) const { return step_->is_pad(r / step_->num_tokens(), r % step_->num_tokens()); }
  std::int64_t num_rows() const { return step_->batch() * step_->num_tokens(); }
  bool declares(P point) const { return s_.precision.points.contains(point); }
  float at(P point, float x) const { return rounded(s_.precision.at(point), x); }
  std::vector<float> weight(Op op, int layer, std::size_t index = 0) const {
    return weights_.values(weight_name({op, layer}, index, c_));
  }
  // Rounds to the stored type, records if the scenario says so, and goes on with what was handed out, or, where the
  // declaration says so, with the value before its rounding.
  void put(Op op, int layer, Rows& values) {
    const DType dtype = s_.stored(op);
    std::vector<double> stored;
    for (float& x : values.data) {
      const float held = rounded(dtype, x);
      stored.push_back(held);
      if (!s_.precision.taken_as.contains(op)) x = held;
    }
    if (!s_.records(op)) return;
    const Shape shape = output_shape(op, c_, step_->batch(), step_->num_tokens(), step_->valid_length());
    store_.put({step_->index, {op, layer}}, Tensor::rounded(dtype, shape, stored));
  }

  const Scenario& s_;
  const ModelConfig& c_;
  const ScenarioWeights& weights_;
  Random random_;
  Choices choices_;
  const Step* step_ = nullptr;
  std::vector<LayerCache> caches_;
  trace::Recording store_;
};

float Twin::exponential(float x) {
  switch (choices_.exponential) {
    case Exponential::kLibrary:
      return std::exp(x);
    case Exponential::kBaseTwo:
      return std::exp2(x * 1.44269504F);
    case Exponential::kOneOff:
      break;
  }
  const float result = neighbour(std::exp(x));
  return result < 0.0F ? 0.0F : result;
}

float Twin::silu(float x) {
  if (choices_.sigmoid == Sigmoid::kTanh || choices_.sigmoid_rounded) {
    const float sigmoid =
        choices_.sigmoid == Sigmoid::kTanh ? 0.5F + 0.5F * std::tanh(0.5F * x) : 1.0F / (1.0F + exponential(-x));
    return x * (choices_.sigmoid_rounded ? at(P::kMlpSilu, sigmoid) : sigmoid);
  }
  const float denominator = 1.0F + exponential(-x);
  return choices_.multiply_by_reciprocal ? x * (1.0F / denominator) : x / denominator;
}

Rows Twin::norm(Op op, int layer, const Rows& x) {
  const std::vector<float> w = weight(op, layer);
  const auto n = static_cast<float>(x.columns);
  Rows out(num_rows(), x.columns);
  for (std::int64_t r = 0; r < num_rows(); ++r) {
    if (is_pad(r)) continue;
    const float squares = dot(x.row(r), x.row(r), choices_.sums.at(op));
    const float mean = choices_.multiply_by_reciprocal ? squares * (1.0F / n) : squares / n;
    float root = 1.0F / std::sqrt(mean + static_cast<float>(c_.rms_norm_eps));
    if (choices_.rsqrt_one_off) root = neighbour(root);
    for (std::int64_t i = 0; i < x.columns; ++i) {
      const auto column = static_cast<std::size_t>(i);
      const float value = x.row(r)[column];
      if (choices_.weight_times_root_first && !declares(P::kRmsNormNormalized)) {
        out.at(r)[i] = value * (w[column] * root);
      } else {
        out.at(r)[i] = at(P::kRmsNormNormalized, value * root) * w[column];
      }
    }
  }
  put(op, layer, out);
  return out;
}

Rows Twin::project(Op op, int layer, const Rows& x) {
  const std::vector<float> w = weight(op, layer);
  const std::int64_t outputs = weight_shape(op, 0, c_)[0];
  const auto k = static_cast<std::size_t>(x.columns);
  Rows out(num_rows(), outputs);
  for (std::int64_t r = 0; r < num_rows(); ++r) {
    if (is_pad(r)) continue;
    for (std::int64_t o = 0; o < outputs; ++o) {
      out.at(r)[o] = dot(x.row(r), {w.data() + static_cast<std::size_t>(o) * k, k}, choices_.sums.at(op));
    }
  }
  put(op, layer, out);
  return out;
}

Rows Twin::project_with_bias(Op product, Op op, int layer, const Rows& x) {
  const std::vector<float> w = weight(product, layer);
  const std::vector<float> bias = weight(op, layer);
  const std::int64_t outputs = weight_shape(product, 0, c_)[0];
  const auto k = static_cast<std::size_t>(x.columns);
  const SumStyle& style = choices_.sums.at(product);
  const bool separate = s_.records(product) || declares(P::kMatmulBeforeBias);
  Rows before(num_rows(), outputs), out(num_rows(), outputs);
  for (std::int64_t r = 0; r < num_rows(); ++r) {
    if (is_pad(r)) continue;
    for (std::int64_t o = 0; o < outputs; ++o) {
      const Row weights{w.data() + static_cast<std::size_t>(o) * k, k};
      const float b = bias[static_cast<std::size_t>(o)];
      if (separate) {
        before.at(r)[o] = at(P::kMatmulBeforeBias, dot(x.row(r), weights, style));
      } else {
        out.at(r)[o] = dot_with_bias(x.row(r), weights, b, style);
      }
    }
  }
  if (separate) {
    if (s_.records(product)) put(product, layer, before);
    for (std::int64_t r = 0; r < num_rows(); ++r) {
      for (std::int64_t o = 0; o < outputs; ++o) out.at(r)[o] = before.at(r)[o] + bias[static_cast<std::size_t>(o)];
    }
  }
  put(op, layer, out);
  return out;
}

Rows Twin::rotate(Op op, int layer, const Rows& x) {
  const std::int64_t d = c_.head_dim, half = d / 2;
  Rows out(num_rows(), x.columns);
  for (std::int64_t r = 0; r < num_rows(); ++r) {
    if (is_pad(r)) continue;
    const auto b = static_cast<std::size_t>(r / step_->num_tokens());
    const auto position = static_cast<double>(step_->positions[b][static_cast<std::size_t>(r % step_->num_tokens())]);
    for (std::int64_t i = 0; i < half; ++i) {
      const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(d);
      float frequency = 1.0F / std::pow(static_cast<float>(c_.rope_theta), static_cast<float>(exponent));
      if (choices_.frequency_in_double) frequency = static_cast<float>(std::pow(c_.rope_theta, -exponent));
      const float angle = static_cast<float>(position) * frequency;
      float cosine = std::cos(angle), sine = std::sin(angle);
      constexpr float kQuarterTurn = 1.57079632679489662F;
      if (choices_.cosine_by_sine) cosine = std::sin(kQuarterTurn - angle);
      if (choices_.table_in_double) {
        const double exact = position * std::pow(c_.rope_theta, -exponent);
        cosine = static_cast<float>(std::cos(exact));
        sine = static_cast<float>(std::sin(exact));
      }
      cosine = at(P::kRopeTable, cosine);
      sine = at(P::kRopeTable, sine);
      for (std::int64_t first = i; first < x.columns; first += d) {
        const float a = x.row(r)[static_cast<std::size_t>(first)];
        const float z = x.row(r)[static_cast<std::size_t>(first + half)];
        if (choices_.fused_rotation && !declares(P::kRopeProducts)) {
          out.at(r)[first] = std::fma(a, cosine, -(z * sine));
          out.at(r)[first + half] = std::fma(z, cosine, a * sine);
        } else {
          out.at(r)[first] = at(P::kRopeProducts, a * cosine) - at(P::kRopeProducts, z * sine);
          out.at(r)[first + half] = at(P::kRopeProducts, z * cosine) + at(P::kRopeProducts, a * sine);
        }
      }
    }
  }
  put(op, layer, out);
  return out;
}

Rows Twin::add(Op op, int layer, const Rows& a, const Rows& b) {
  Rows out(num_rows(), a.columns);
  for (std::size_t i = 0; i < out.data.size(); ++i) out.data[i] = a.data[i] + b.data[i];
  put(op, layer, out);
  return out;
}

// q [B*T, H*d], k and v of this step [B*T, K*d].
Rows Twin::attention(int layer, const Rows& q, const Rows& k_now, const Rows& v_now) {
  LayerCache& cache = caches_[static_cast<std::size_t>(layer)];
  const std::int64_t batch = step_->batch(), tokens = step_->num_tokens(), slots = step_->valid_length();
  const std::int64_t d = c_.head_dim, heads = c_.num_q_heads;
  cache.keys.resize(static_cast<std::size_t>(batch), Rows(0, c_.kv_width()));
  cache.values.resize(static_cast<std::size_t>(batch), Rows(0, c_.kv_width()));
  Rows all_keys(0, c_.kv_width()), all_values(0, c_.kv_width());
  for (std::int64_t b = 0; b < batch; ++b) {
    Rows& keys = cache.keys[static_cast<std::size_t>(b)];
    Rows& values = cache.values[static_cast<std::size_t>(b)];
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (const float x : k_now.row(b * tokens + t)) keys.data.push_back(rounded(s_.stored(Op::kKCache), x));
      for (const float x : v_now.row(b * tokens + t)) values.data.push_back(rounded(s_.stored(Op::kVCache), x));
    }
    all_keys.data.insert(all_keys.data.end(), keys.data.begin(), keys.data.end());
    all_values.data.insert(all_values.data.end(), values.data.begin(), values.data.end());
  }
  put(Op::kKCache, layer, all_keys);
  put(Op::kVCache, layer, all_values);

  const bool keep_scores = s_.records(Op::kScores), keep_probs = s_.records(Op::kProbs);
  const bool online = choices_.online_softmax && !keep_scores && !keep_probs;
  // A tensor of probabilities is rounded once, as it is handed out.
  const bool exponential_rounded = choices_.exponential_rounded && !keep_probs;
  const bool scale_in_query =
      (choices_.scale_in_query || choices_.scaled_query_rounded) && !declares(P::kAttentionScores);
  const auto scale = static_cast<float>(s_.score_scale / std::sqrt(static_cast<double>(d)));
  const DType scores_type = s_.stored(Op::kScores);
  float masked = -std::numeric_limits<float>::infinity();
  if (choices_.stand_in_for_mask) masked = scores_type == DType::kF16 ? -65504.0F : -3.0e38F;

  Rows scores(keep_scores ? batch * heads * tokens : 0, slots), probs(keep_probs ? batch * heads * tokens : 0, slots);
  Rows out(batch * tokens, c_.q_width());
  std::vector<float> query(static_cast<std::size_t>(d)), weights, column;
  for (std::int64_t r = 0; r < batch * tokens; ++r) {
    if (is_pad(r)) continue;
    const std::int64_t b = r / tokens, t = r % tokens;
    const std::int64_t first = step_->left_padding[static_cast<std::size_t>(b)], end = step_->past_length + t + 1;
    const auto visible = static_cast<std::size_t>(end - first);
    for (std::int64_t h = 0; h < heads; ++h) {
      const std::int64_t kv = h / c_.group_size();
      const auto key = [&](std::size_t j) {
        const Rows& keys = cache.keys[static_cast<std::size_t>(b)];
        return Row{keys.row(first + static_cast<std::int64_t>(j)).data() + kv * d, static_cast<std::size_t>(d)};
      };
      const Rows& values = cache.values[static_cast<std::size_t>(b)];
      for (std::int64_t i = 0; i < d; ++i) {
        const float x = q.row(r)[static_cast<std::size_t>(h * d + i)];
        float& taken = query[static_cast<std::size_t>(i)];
        if (scale_in_query && choices_.scaled_query_rounded) {
          taken = at(P::kAttentionQuery, x * scale);
        } else {
          taken = at(P::kAttentionQuery, x) * (scale_in_query ? scale : 1.0F);
        }
      }
      weights.assign(visible, 0.0F);
      const std::int64_t score_row = (b * heads + h) * tokens + t;
      for (std::size_t j = 0; j < visible; ++j) {
        float score = dot(query, key(j), choices_.score_sum);
        if (!scale_in_query) score = at(P::kAttentionScores, score) * scale;
        weights[j] = at(P::kAttentionScaledScores, score);
        if (keep_scores) weights[j] = rounded(scores_type, weights[j]);
      }
      if (keep_scores) {
        std::fill_n(scores.at(score_row), slots, masked);
        std::copy(weights.begin(), weights.end(), scores.at(score_row) + first);
      }

      // Softmax: the weights become exp(s - max), with their sum beside them.
      const auto tile = online ? static_cast<std::size_t>(choices_.key_tile) : visible;
      float maximum = -std::numeric_limits<float>::infinity(), total = 0.0F;
      std::vector<float> accumulated(static_cast<std::size_t>(d), 0.0F);
      for (std::size_t start = 0; start < visible; start += tile) {
        const std::size_t size = std::min(tile, visible - start);
        float* w = weights.data() + start;
        const float grown = std::max(maximum, *std::max_element(w, w + size));
        const float rescale = maximum == grown || start == 0 ? 1.0F : exponential(maximum - grown);
        maximum = grown;
        for (std::size_t j = 0; j < size; ++j) {
          w[j] = exponential(w[j] - maximum);
          if (exponential_rounded) w[j] = at(P::kAttentionProbs, w[j]);
        }
        total = total * rescale + sum({w, size}, choices_.weight_sum);
        const float reciprocal = 1.0F / total;
        // Normalised before P.V where probabilities are a tensor (or by choice), after it where tiles pass.
        const bool normalise_first = !online && (keep_probs || !choices_.scale_in_query);
        for (std::size_t j = 0; j < size; ++j) {
          if (normalise_first) w[j] = choices_.multiply_by_reciprocal ? w[j] * reciprocal : w[j] / total;
          if (!exponential_rounded) w[j] = at(P::kAttentionProbs, w[j]);
          if (keep_probs) w[j] = rounded(scores_type, w[j]);
        }
        if (keep_probs) {
          std::fill_n(probs.at(score_row), slots, 0.0F);
          std::copy(w, w + size, probs.at(score_row) + first);
        }
        column.resize(size);
        for (std::int64_t i = 0; i < d; ++i) {
          for (std::size_t j = 0; j < size; ++j) {
            column[j] = values.row(first + static_cast<std::int64_t>(start + j))[static_cast<std::size_t>(kv * d + i)];
          }
          float& o = accumulated[static_cast<std::size_t>(i)];
          o = o * rescale + dot({w, size}, column, choices_.value_sum);
          if (start + size == visible && !normalise_first) {
            o = choices_.multiply_by_reciprocal ? o * reciprocal : o / total;
          }
        }
      }
      std::copy(accumulated.begin(), accumulated.end(), out.at(r) + h * d);
    }
  }
  if (keep_scores) put(Op::kScores, layer, scores);
  if (keep_probs) put(Op::kProbs, layer, probs);
  put(Op::kAttnOutput, layer, out);
  return out;
}

void Twin::run_layer(int layer, Rows& residual) {
  const Rows normed = norm(Op::kInputLayernorm, layer, residual);
  const Rows q = project_with_bias(Op::kQProjMatmul, Op::kQProj, layer, normed);
  const Rows k = project_with_bias(Op::kKProjMatmul, Op::kKProj, layer, normed);
  const Rows v = project_with_bias(Op::kVProjMatmul, Op::kVProj, layer, normed);
  const Rows q_rope = rotate(Op::kQRope, layer, q);
  const Rows k_rope = rotate(Op::kKRope, layer, k);
  const Rows attended = attention(layer, q_rope, k_rope, v);
  const Rows mid = add(Op::kResidMid, layer, residual, project(Op::kOProj, layer, attended));
  const Rows post = norm(Op::kPostAttentionLayernorm, layer, mid);
  const Rows gate = project(Op::kGateProj, layer, post);
  const Rows up = project(Op::kUpProj, layer, post);
  Rows act(num_rows(), c_.intermediate);
  for (std::size_t i = 0; i < act.data.size(); ++i) {
    act.data[i] = at(P::kMlpSilu, silu(gate.data[i])) * up.data[i];
  }
  put(Op::kAct, layer, act);
  residual = add(Op::kOutput, layer, mid, project(Op::kDownProj, layer, act));
}

void Twin::run_step(const Step& step) {
  step_ = &step;
  const std::vector<float> table = weight(Op::kEmbedTokens, kNoLayer);
  Rows residual(num_rows(), c_.hidden);
  for (std::int64_t r = 0; r < num_rows(); ++r) {
    if (is_pad(r)) continue;
    const auto b = static_cast<std::size_t>(r / step.num_tokens());
    const std::int64_t token = step.tokens[b][static_cast<std::size_t>(r % step.num_tokens())];
    std::copy_n(table.begin() + token * c_.hidden, c_.hidden, residual.at(r));
  }
  put(Op::kEmbedTokens, kNoLayer, residual);
  for (int layer = 0; layer < c_.num_layers; ++layer) run_layer(layer, residual);
  const Rows normed = norm(Op::kNorm, kNoLayer, residual);
  project(Op::kLmHead, kNoLayer, normed);
}

}  // namespace

Choices draw_choices(Random& random, const Precision& precision) {
  Choices c;
  const bool matrix_units = precision.activations != DType::kF32;
  for (const OperationRow& r : kOperationTable) {
    const bool multiplies = matrix_units && r.arithmetic != Arithmetic::kNorm;
    if (facts(r.arithmetic).sums) c.sums[r.op] = draw_sum_style(random, multiplies);
  }
  c.score_sum = draw_sum_style(random, matrix_units);
  c.weight_sum = draw_sum_style(random, false);
  c.value_sum = draw_sum_style(random, matrix_units && precision.points.contains(P::kAttentionProbs));
  c.exponential = random.one_of({Exponential::kLibrary, Exponential::kBaseTwo, Exponential::kOneOff});
  c.rsqrt_one_off = random.chance(0.5);
  c.weight_times_root_first = random.chance(0.3);
  c.multiply_by_reciprocal = random.chance(0.5);
  c.table_in_double = random.chance(0.3);
  c.frequency_in_double = random.chance(0.5);
  c.fused_rotation = random.chance(0.5);
  c.online_softmax = random.chance(0.6);
  c.scale_in_query = random.chance(0.4);
  c.key_tile =
      random.one_of({std::int64_t{4}, std::int64_t{16}, std::int64_t{32}, std::int64_t{64}, std::int64_t{128}});
  c.stand_in_for_mask = random.chance(0.4);
  c.sigmoid = random.one_of({Sigmoid::kQuotient, Sigmoid::kTanh});
  c.sigmoid_rounded = precision.points.contains(P::kMlpSilu) && random.chance(0.5);
  c.cosine_by_sine = random.chance(0.3);
  c.exponential_rounded = precision.points.contains(P::kAttentionProbs) && random.chance(0.5);
  c.scaled_query_rounded = precision.points.contains(P::kAttentionQuery) && random.chance(0.5);
  return c;
}

trace::Recording run_twin(const Scenario& scenario, const ScenarioWeights& weights) {
  return Twin(scenario, weights).run();
}

}  // namespace qdiff::calibration
