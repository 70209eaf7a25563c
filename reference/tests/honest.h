// Honest float32 implementations of the operations: plain loops, no LibTorch, every intermediate a float. The noise
// models are measured against them.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace qdiff::reference::honest {

using Floats = std::vector<float>;

enum class Order { kForward, kBackward, kPairwise };

inline float sum(const float* terms, std::size_t count, Order order) {
  if (order == Order::kPairwise && count > 8) {
    const std::size_t half = count / 2;
    return sum(terms, half, order) + sum(terms + half, count - half, order);
  }
  float total = 0.0F;
  for (std::size_t i = 0; i < count; ++i) total += terms[order == Order::kBackward ? count - 1 - i : i];
  return total;
}

inline float dot(const float* a, const float* b, std::size_t count, Order order) {
  Floats products(count);
  for (std::size_t i = 0; i < count; ++i) products[i] = a[i] * b[i];
  return sum(products.data(), count, order);
}

// x [rows, in], weight [out, in], bias [out] or empty.
inline Floats matmul(const Floats& x, const Floats& weight, const Floats& bias, std::size_t in, Order order) {
  const std::size_t out = weight.size() / in;
  Floats y;
  for (std::size_t r = 0; r < x.size() / in; ++r) {
    for (std::size_t o = 0; o < out; ++o) {
      const float product = dot(&x[r * in], &weight[o * in], in, order);
      y.push_back(bias.empty() ? product : product + bias[o]);
    }
  }
  return y;
}

inline Floats rms_norm(const Floats& x, const Floats& weight, float eps, Order order) {
  const std::size_t width = weight.size();
  Floats y;
  for (std::size_t r = 0; r < x.size() / width; ++r) {
    const float* row = &x[r * width];
    const float mean = dot(row, row, width, order) / static_cast<float>(width);
    const float scale = 1.0F / std::sqrt(mean + eps);
    for (std::size_t i = 0; i < width; ++i) y.push_back(weight[i] * (row[i] * scale));
  }
  return y;
}

// x [tokens, heads, d], one position for each token.
inline Floats rope(const Floats& x, const std::vector<std::int64_t>& positions, std::size_t heads, std::size_t d,
                   float theta) {
  Floats y(x.size());
  for (std::size_t row = 0; row < x.size() / d; ++row) {
    for (std::size_t i = 0; i < d / 2; ++i) {
      const float exponent = static_cast<float>(2 * i) / static_cast<float>(d);
      const float frequency = 1.0F / std::pow(theta, exponent);
      const float angle = static_cast<float>(positions[row / heads]) * frequency;
      const float c = std::cos(angle), s = std::sin(angle);
      const float x1 = x[row * d + i], x2 = x[row * d + i + d / 2];
      y[row * d + i] = x1 * c - x2 * s;
      y[row * d + i + d / 2] = x2 * c + x1 * s;
    }
  }
  return y;
}

// One causal sequence. q [T, H, d], k and v [S, K, d]; the last T of the S slots are the queries' own.
struct Heads {
  std::size_t q_heads, kv_heads, d;
};

// Keys in tiles, the sums rescaled whenever the maximum grows (Milakov & Gimelshein 2018); one tile is two-pass
// softmax.
inline Floats attention(const Floats& q, const Floats& k, const Floats& v, const Heads& h, std::size_t tile,
                        Order order) {
  const std::size_t tokens = q.size() / (h.q_heads * h.d), slots = k.size() / (h.kv_heads * h.d);
  const float scale = 1.0F / std::sqrt(static_cast<float>(h.d));
  Floats out(q.size());
  for (std::size_t t = 0; t < tokens; ++t) {
    for (std::size_t head = 0; head < h.q_heads; ++head) {
      const std::size_t kv = head / (h.q_heads / h.kv_heads), visible = slots - tokens + t + 1;
      float maximum = -INFINITY, total = 0.0F;
      Floats accumulated(h.d, 0.0F);
      for (std::size_t first = 0; first < visible; first += tile) {
        const std::size_t count = std::min(tile, visible - first);
        Floats scores, weights;
        for (std::size_t j = first; j < first + count; ++j) {
          scores.push_back(dot(&q[(t * h.q_heads + head) * h.d], &k[(j * h.kv_heads + kv) * h.d], h.d, order) * scale);
        }
        float larger = maximum;
        for (float s : scores) larger = std::max(larger, s);
        const float shrink = std::exp(maximum - larger);
        for (float s : scores) weights.push_back(std::exp(s - larger));
        total = total * shrink + sum(weights.data(), count, order);
        for (std::size_t i = 0; i < h.d; ++i) {
          Floats products;
          for (std::size_t j = 0; j < count; ++j) {
            products.push_back(weights[j] * v[((first + j) * h.kv_heads + kv) * h.d + i]);
          }
          accumulated[i] = accumulated[i] * shrink + sum(products.data(), count, order);
        }
        maximum = larger;
      }
      for (std::size_t i = 0; i < h.d; ++i) out[(t * h.q_heads + head) * h.d + i] = accumulated[i] / total;
    }
  }
  return out;
}

// [H, T, S], -inf where masked.
inline Floats scores(const Floats& q, const Floats& k, const Heads& h, Order order) {
  const std::size_t tokens = q.size() / (h.q_heads * h.d), slots = k.size() / (h.kv_heads * h.d);
  const float scale = 1.0F / std::sqrt(static_cast<float>(h.d));
  Floats out;
  for (std::size_t head = 0; head < h.q_heads; ++head) {
    for (std::size_t t = 0; t < tokens; ++t) {
      for (std::size_t j = 0; j < slots; ++j) {
        const std::size_t kv = head / (h.q_heads / h.kv_heads);
        const float s = dot(&q[(t * h.q_heads + head) * h.d], &k[(j * h.kv_heads + kv) * h.d], h.d, order) * scale;
        out.push_back(j <= slots - tokens + t ? s : -INFINITY);
      }
    }
  }
  return out;
}

inline Floats softmax(const Floats& scores, std::size_t slots, Order order) {
  Floats out;
  for (std::size_t row = 0; row < scores.size() / slots; ++row) {
    float maximum = -INFINITY;
    for (std::size_t j = 0; j < slots; ++j) maximum = std::max(maximum, scores[row * slots + j]);
    Floats weights;
    for (std::size_t j = 0; j < slots; ++j) weights.push_back(std::exp(scores[row * slots + j] - maximum));
    const float total = sum(weights.data(), slots, order);
    for (float w : weights) out.push_back(w / total);
  }
  return out;
}

inline Floats silu_times(const Floats& gate, const Floats& up) {
  Floats y;
  for (std::size_t i = 0; i < gate.size(); ++i) y.push_back(gate[i] / (1.0F + std::exp(-gate[i])) * up[i]);
  return y;
}

inline Floats add(const Floats& a, const Floats& b) {
  Floats y;
  for (std::size_t i = 0; i < a.size(); ++i) y.push_back(a[i] + b[i]);
  return y;
}

}  // namespace qdiff::reference::honest
