// Dot products of weight rows and token rows, a register tile of them at a time. Included by kernel_set.cpp alone.
//
// Both operands lie along k, so a tile of R rows and N tokens needs R + N loads for R * N multiply-adds, and raw
// row-major weights serve one token and many alike.
#pragma once

#if defined(__AVX512F__)
inline constexpr int kTokenTile = 6;  // 4 x 6 sums, 4 weights, 1 x: 29 of 32 registers
inline constexpr int kRowTile = 4;
inline constexpr int kRowTileOneToken = 8;
#else
inline constexpr int kTokenTile = 2;  // 2 x 2 sums of two registers each, of 16
inline constexpr int kRowTile = 2;
inline constexpr int kRowTileOneToken = 4;
#endif
// From this many tokens on, weights are widened to fp32 once and read from there.
inline constexpr std::int64_t kPanelTokens = 2 * kTokenTile + 1;

// Asks for the cache lines of the next R weight rows, a share of them at each step of this tile's walk along k, so that
// they are asked for in the order of memory. Rows are short, and eight of them read side by side are eight short
// streams, in which the hardware's own prefetching never finds its pace: one core of a Zen 4 read bfloat16 rows of 896
// at 13 GB/s without this and at 26 GB/s with it, where a plain sum reads 36 GB/s.
template <typename W, int R>
QDIFF_INLINE void prefetch_next_rows(const W* weights, std::int64_t weight_stride, std::int64_t i) {
  const auto* ahead = reinterpret_cast<const char*>(weights + R * weight_stride + R * i);
#pragma GCC unroll 8
  for (std::size_t line = 0; line < R * kLanes * sizeof(W); line += 64) __builtin_prefetch(ahead + line, 0, 2);
}

template <typename W, int R, int N, bool kPrefetch>
QDIFF_INLINE void dot_tile(const W* weights, std::int64_t weight_stride, const float* x, std::int64_t x_stride,
                           std::int64_t k, float* c, std::int64_t c_stride) {
  Vec sums[N][R];
#pragma GCC unroll 8
  for (int t = 0; t < N; ++t) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) sums[t][r] = zero();
  }
  std::int64_t i = 0;
  for (; i + kLanes <= k; i += kLanes) {
    if constexpr (kPrefetch) prefetch_next_rows<W, R>(weights, weight_stride, i);
    Vec w[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) w[r] = load(weights + r * weight_stride + i);
#pragma GCC unroll 8
    for (int t = 0; t < N; ++t) {
      const Vec xt = load(x + t * x_stride + i);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) sums[t][r] = multiply_add(w[r], xt, sums[t][r]);
    }
  }
  if (i < k) {
    Vec w[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) w[r] = load_first(weights + r * weight_stride + i, k - i);
#pragma GCC unroll 8
    for (int t = 0; t < N; ++t) {
      const Vec xt = load_first(x + t * x_stride + i, k - i);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) sums[t][r] = multiply_add(w[r], xt, sums[t][r]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < N; ++t) {
    float* out = c + t * c_stride;
    if constexpr (R == 8) {
      sum_lanes(sums[t][0], sums[t][1], sums[t][2], sums[t][3], out);
      sum_lanes(sums[t][4], sums[t][5], sums[t][6], sums[t][7], out + 4);
    } else if constexpr (R == 4) {
      sum_lanes(sums[t][0], sums[t][1], sums[t][2], sums[t][3], out);
    } else {
      float some[4];
      sum_lanes(sums[t][0], R > 1 ? sums[t][R - 1] : zero(), zero(), zero(), some);
      for (int r = 0; r < R; ++r) out[r] = some[r];
    }
  }
}

// R weight rows against all tokens. The first tile asks for the next rows, if they are to come from memory.
template <typename W, int R, bool kPrefetch>
QDIFF_INLINE void dot_rows(const W* weights, std::int64_t weight_stride, const MatmulParams& p, float* c) {
  const float* x = p.x;
  std::int64_t left = p.tokens;
  if (left >= kTokenTile) {
    dot_tile<W, R, kTokenTile, kPrefetch>(weights, weight_stride, x, p.x_stride, p.k, c, p.c_stride);
    for (left -= kTokenTile; left >= kTokenTile; left -= kTokenTile) {
      x += kTokenTile * p.x_stride;
      c += kTokenTile * p.c_stride;
      dot_tile<W, R, kTokenTile, false>(weights, weight_stride, x, p.x_stride, p.k, c, p.c_stride);
    }
    x += kTokenTile * p.x_stride;
    c += kTokenTile * p.c_stride;
  }
  if constexpr (kTokenTile == 6) {
    if (left == 5) dot_tile<W, R, 5, kPrefetch>(weights, weight_stride, x, p.x_stride, p.k, c, p.c_stride);
    if (left == 4) dot_tile<W, R, 4, kPrefetch>(weights, weight_stride, x, p.x_stride, p.k, c, p.c_stride);
    if (left == 3) dot_tile<W, R, 3, kPrefetch>(weights, weight_stride, x, p.x_stride, p.k, c, p.c_stride);
    if (left == 2) dot_tile<W, R, 2, kPrefetch>(weights, weight_stride, x, p.x_stride, p.k, c, p.c_stride);
  }
  if (left == 1) dot_tile<W, R, 1, kPrefetch>(weights, weight_stride, x, p.x_stride, p.k, c, p.c_stride);
}

template <typename W>
void widen_row(const W* x, float* y, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, load(x + i));
  if (i < n) store_first(y + i, load_first(x + i, n - i), n - i);
}

template <typename W>
void matmul_of(const MatmulParams& p) {
  const W* weights = static_cast<const W*>(p.weights);
  std::int64_t r = 0;
  if (p.tokens == 1) {
    for (; r + kRowTileOneToken <= p.rows; r += kRowTileOneToken) {
      dot_tile<W, kRowTileOneToken, 1, true>(weights + r * p.weight_stride, p.weight_stride, p.x, p.x_stride, p.k,
                                             p.c + r, p.c_stride);
    }
  } else if (sizeof(W) < sizeof(float) && p.tokens >= kPanelTokens) {
    const std::int64_t panel_stride = round_up_to_lanes(p.k);
    for (; r + kRowTile <= p.rows; r += kRowTile) {
      for (int i = 0; i < kRowTile; ++i) {
        const W* row = weights + (r + i) * p.weight_stride;
        widen_row(row, p.panel + i * panel_stride, p.k);
        // The next panel's, while this one is at work.
        const auto* next = reinterpret_cast<const char*>(row + kRowTile * p.weight_stride);
        const auto bytes = p.k * static_cast<std::int64_t>(sizeof(W));
        for (std::int64_t line = 0; line < bytes; line += 64) __builtin_prefetch(next + line, 0, 2);
      }
      dot_rows<float, kRowTile, false>(p.panel, panel_stride, p, p.c + r);
    }
  }
  for (; r + kRowTile <= p.rows; r += kRowTile) {
    dot_rows<W, kRowTile, true>(weights + r * p.weight_stride, p.weight_stride, p, p.c + r);
  }
  for (; r < p.rows; ++r) dot_rows<W, 1, true>(weights + r * p.weight_stride, p.weight_stride, p, p.c + r);
}

void matmul(const MatmulParams& p) {
  switch (p.storage) {
    case Storage::kF32:
      return matmul_of<float>(p);
    case Storage::kBF16:
      return matmul_of<Bf16>(p);
    case Storage::kF16:
      return matmul_of<F16>(p);
  }
}
