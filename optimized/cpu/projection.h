// What the stages with a matrix product share: the norm of all tokens, and a walk over weight rows and token blocks.
#pragma once

#include <algorithm>

#include "optimized/cpu/stages.h"

namespace qdiff::optimized::cpu {

inline const std::byte* at(const std::byte* data, Storage storage, std::int64_t element) {
  return data + element * storage_bytes(storage);
}
inline std::byte* at(std::byte* data, Storage storage, std::int64_t element) {
  return data + element * storage_bytes(storage);
}

// This thread's share of tokens: y = rms_norm(x) * weight, stored, and widened for the product that follows.
inline void norm_share(const StageContext& s, int thread, const std::byte* x, const std::vector<float>& weight,
                       float eps, std::byte* y) {
  const std::int64_t hidden = s.config.hidden;
  const Range share = part_of(s.num_tokens(), thread, s.pool.size());
  for (std::int64_t token = share.begin; token < share.end; ++token) {
    RmsNormParams p;
    p.x = at(x, s.storage, token * hidden);
    p.weight = weight.data();
    p.y = at(y, s.storage, token * hidden);
    p.y_wide = s.arena.wide() + token * round_up_to_lanes(hidden);
    p.hidden = hidden;
    p.eps = eps;
    s.kernels.rms_norm(s.storage, p);
  }
}

// This thread's share of tokens of a stored tensor [B*T, k], widened for the product that follows.
inline void widen_share(const StageContext& s, int thread, const std::byte* x, std::int64_t k) {
  const Range share = part_of(s.num_tokens(), thread, s.pool.size());
  for (std::int64_t token = share.begin; token < share.end; ++token) {
    s.kernels.widen(s.storage, at(x, s.storage, token * k), s.arena.wide() + token * round_up_to_lanes(k), k);
  }
}

// Calls function(block of tokens, unit) for this thread's share of `num_units` units of weight rows, block by block:
// the activations of a block stay in cache while the weights stream past.
template <typename Function>
void for_each_unit(const StageContext& s, int thread, std::int64_t k, std::int64_t num_units, Function&& function) {
  const Range units = part_of(num_units, thread, s.pool.size());
  const std::int64_t block = token_block(k);
  for (std::int64_t first = 0; first < s.num_tokens(); first += block) {
    const Range tokens{first, std::min(first + block, s.num_tokens())};
    for (std::int64_t unit = units.begin; unit < units.end; ++unit) function(tokens, unit);
  }
}

// c[token - tokens.begin][r] = row first_row + r of the matrix . the widened activations of that token.
inline void multiply(const StageContext& s, const Matrix& matrix, std::int64_t first_row, std::int64_t rows,
                     Range tokens, float* panel, float* c) {
  MatmulParams p;
  p.weights = at(matrix.data.data(), s.storage, first_row * matrix.columns);
  p.storage = s.storage;
  p.weight_stride = matrix.columns;
  p.rows = rows;
  p.x_stride = round_up_to_lanes(matrix.columns);
  p.x = s.arena.wide() + tokens.begin * p.x_stride;
  p.tokens = tokens.end - tokens.begin;
  p.k = matrix.columns;
  p.c = c;
  p.c_stride = 2 * kRowUnit;
  p.panel = panel;
  s.kernels.matmul(p);
}

// Rounds columns of c into columns [first, first + rows) of a tensor [B*T, width], after adding `bias` (null: none).
inline void store_columns(const StageContext& s, float* c, const float* bias, std::byte* tensor, std::int64_t width,
                          std::int64_t first, std::int64_t rows, Range tokens) {
  StoreTileParams p;
  p.c = c;
  p.c_stride = 2 * kRowUnit;
  p.bias = bias;
  p.out = at(tensor, s.storage, tokens.begin * width + first);
  p.out_stride = width;
  p.tokens = tokens.end - tokens.begin;
  p.rows = rows;
  s.kernels.store_tile(s.storage, p);
}

}  // namespace qdiff::optimized::cpu
