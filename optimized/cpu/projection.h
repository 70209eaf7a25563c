// What the stages with a matrix product share: the norm of all tokens, a walk over weight rows and token blocks, and
// the product itself. Each has a planted twin in planted_stages.h.
#pragma once

#include <algorithm>

#include "optimized/cpu/planted_stages.h"
#include "optimized/cpu/stages.h"

namespace qdiff::optimized::cpu {

// Calls function(token) for every token; a few tokens are not worth waking anybody.
template <typename Function>
void for_each_token(const StageContext& s, Function&& function) {
  constexpr std::int64_t kFewTokens = 8;
  const std::int64_t num_tokens = s.num_tokens();
  if (num_tokens <= kFewTokens) {
    for (std::int64_t token = 0; token < num_tokens; ++token) function(token);
  } else {
    s.pool.for_each(num_tokens, [&](std::int64_t token, int) { function(token); });
  }
}

// y = rms_norm(x) * weight for every token, stored, and widened for the product that follows.
inline void norm_tokens(const StageContext& s, const std::byte* x, const std::vector<float>& weight, float eps,
                        std::byte* y) {
  const std::int64_t hidden = s.config.hidden;
  for_each_token(s, [&](std::int64_t token) {
    RmsNormParams p;
    p.x = at(x, s.storage, token * hidden);
    p.weight = weight.data();
    p.y = at(y, s.storage, token * hidden);
    p.y_wide = s.arena.wide() + token * round_up_to_lanes(hidden);
    p.hidden = hidden;
    p.eps = eps;
    s.kernels.rms_norm(s.storage, p);
  });
}

// Every token of a stored tensor [B*T, k], widened for the product that follows.
inline void widen_tokens(const StageContext& s, const std::byte* x, std::int64_t k) {
  for_each_token(s, [&](std::int64_t token) {
    s.kernels.widen(s.storage, at(x, s.storage, token * k), s.arena.wide() + token * round_up_to_lanes(k), k);
  });
}

// Calls function(scratch, block of tokens, unit) for `num_units` units of weight rows, block after block: the
// activations of a block stay in cache while the weights stream past.
template <typename Function>
void for_each_unit(const StageContext& s, std::int64_t k, std::int64_t num_units, Function&& function) {
  const std::int64_t block = token_block(k);
  const std::int64_t num_blocks = (s.num_tokens() + block - 1) / block;
  s.pool.for_each(num_blocks * num_units, [&](std::int64_t index, int thread) {
    const std::int64_t first = index / num_units * block;
    function(s.arena.thread(thread), Range{first, std::min(first + block, s.num_tokens())}, index % num_units);
  });
}

// c[token - tokens.begin][r] = row first_row + r of the matrix . the widened activations of that token.
inline MatmulParams product_of(const StageContext& s, const Matrix& matrix, std::int64_t first_row, std::int64_t rows,
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
  return p;
}

// out[r] = row r of weights [rows, n] . x [n], in the order of summation of every product.
inline void multiply_rows(const KernelSet& kernels, const float* weights, std::int64_t rows, const float* x,
                          std::int64_t n, float* out) {
  MatmulParams p;
  p.weights = weights;
  p.weight_stride = n;
  p.rows = rows;
  p.x = x;
  p.x_stride = n;
  p.tokens = 1;
  p.k = n;
  p.c = out;
  p.c_stride = rows;
  kernels.matmul(p);
}

inline float dot(const KernelSet& kernels, const float* a, const float* b, std::int64_t n) {
  float result = 0.0F;
  multiply_rows(kernels, a, 1, b, n, &result);
  return result;
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

// ---- The same in the clean engine and in the planted one ----------------------------------------------------------

template <bool kPlanted>
void normalize(const StageContext& s, Op norm, const std::byte* x, const std::vector<float>& weight) {
  if constexpr (kPlanted) {
    planted_norm_tokens(s, norm, x, weight);
  } else {
    norm_tokens(s, x, weight, static_cast<float>(s.config.rms_norm_eps), s.arena.tensor(norm));
  }
}

template <bool kPlanted>
void multiply(const LayerContext& s, Op projection, const Matrix& matrix, std::int64_t first_row, std::int64_t rows,
              Range tokens, float* panel, float* c) {
  if constexpr (kPlanted) {
    planted_multiply(s, projection, product_of(s, matrix, first_row, rows, tokens, panel, c),
                     {matrix, first_row, tokens});
  } else {
    s.kernels.matmul(product_of(s, matrix, first_row, rows, tokens, panel, c));
  }
}

}  // namespace qdiff::optimized::cpu
