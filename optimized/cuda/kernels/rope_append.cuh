// One rotary pair of one head and token: rotate, hand out, append to the cache.
// (low, high) turns to (low*cos - high*sin, high*cos + low*sin), elements i and i + d/2 of a head (rotate_half in
// modeling_qwen2.py; Su et al. 2021, arXiv:2104.09864).
#pragma once

#include "optimized/cuda/kernels/storage.cuh"

namespace qdiff::optimized::cuda {

__device__ __forceinline__ void rotate(float& low, float& high, float2 turn) {
  const float x = low;
  const float y = high;
  low = x * turn.x - y * turn.y;
  high = y * turn.x + x * turn.y;
}

// `head` counts the q heads, then the k heads, then the v heads; `turn` is angle i of the token's position, `slot` its
// place in the cache.
template <typename T>
__device__ __forceinline__ void rotate_and_append(const RopeAppendParams& p, int b, int t, int head, int i, T low,
                                                  T high, float2 turn, std::int64_t slot) {
  const int half = p.head_dim / 2;
  const std::int64_t row = static_cast<std::int64_t>(b) * p.num_tokens + t;
  if (head >= p.num_q_heads + p.num_kv_heads) {
    const int kv_head = head - p.num_q_heads - p.num_kv_heads;
    T* cache = static_cast<T*>(p.value_cache);
    cache[p.layout.offset(p.layer, b, kv_head, slot, i)] = low;
    cache[p.layout.offset(p.layer, b, kv_head, slot, i + half)] = high;
    return;
  }
  float x = widen(low);
  float y = widen(high);
  rotate(x, y, turn);
  const T rotated_low = narrow<T>(x);
  const T rotated_high = narrow<T>(y);
  if (head < p.num_q_heads) {
    T* out = static_cast<T*>(p.q_rope) + (row * p.num_q_heads + head) * p.head_dim;
    out[i] = rotated_low;
    out[i + half] = rotated_high;
    return;
  }
  const int kv_head = head - p.num_q_heads;
  T* out = static_cast<T*>(p.k_rope) + (row * p.num_kv_heads + kv_head) * p.head_dim;
  out[i] = rotated_low;
  out[i + half] = rotated_high;
  T* cache = static_cast<T*>(p.key_cache);
  cache[p.layout.offset(p.layer, b, kv_head, slot, i)] = rotated_low;
  cache[p.layout.offset(p.layer, b, kv_head, slot, i + half)] = rotated_high;
}

}  // namespace qdiff::optimized::cuda
