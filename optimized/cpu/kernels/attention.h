// Online softmax over one key tile (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; the
// tiled form is FlashAttention's). Included by kernel_set.cpp alone.
#pragma once

// out[r] = out[r] * correction[r] + sum over j < num_keys of p[r][j] * v[j], in increasing j, for R rows and
// C * 16 columns at a time.
template <int R, int C>
QDIFF_INLINE void accumulate_values(const float* p, const float* correction, const AttendTileParams& a, float* out,
                                    const float* v) {
  Vec sums[R][C];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      sums[r][c] = mul(load(out + r * a.width + c * kLanes), broadcast(correction[r]));
    }
  }
  for (std::int64_t j = 0; j < a.num_keys; ++j) {
    Vec value[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) value[c] = load(v + j * a.width + c * kLanes);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Vec weight = broadcast(p[r * kKeyTile + j]);
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) sums[r][c] = multiply_add(weight, value[c], sums[r][c]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) store(out + r * a.width + c * kLanes, sums[r][c]);
  }
}

template <int C>
QDIFF_INLINE void accumulate_columns(const float* correction, const AttendTileParams& a, std::int64_t column) {
  std::int64_t r = 0;
  constexpr int kRows = C * 4 <= kRowTileOneToken * 2 ? 4 : 1;
  for (; r + kRows <= a.rows; r += kRows) {
    accumulate_values<kRows, C>(a.scores + r * kKeyTile, correction + r, a, a.out + r * a.width + column, a.v + column);
  }
  for (; r < a.rows; ++r) {
    accumulate_values<1, C>(a.scores + r * kKeyTile, correction + r, a, a.out + r * a.width + column, a.v + column);
  }
}

constexpr std::int64_t kMaxRows = 16;  // query rows in one pass; more are taken in several

void attend_rows(const AttendTileParams& a) {
  MatmulParams scores;
  scores.weights = a.k;
  scores.storage = Storage::kF32;
  scores.weight_stride = a.width;
  scores.rows = a.num_keys;
  scores.x = a.q;
  scores.x_stride = a.width;
  scores.tokens = a.rows;
  scores.k = a.width;
  scores.c = a.scores;
  scores.c_stride = kKeyTile;
  matmul_of<float>(scores);

  const Vec scale = broadcast(a.scale);
  float correction[kMaxRows];
  for (std::int64_t r = 0; r < a.rows; ++r) {
    float* row = a.scores + r * kKeyTile;
    // What lies behind the last key never was a score: it weighs exactly nothing.
    for (std::int64_t j = a.num_keys; j < kKeyTile; ++j) row[j] = -__builtin_inff();
    Vec highest = broadcast(a.maximum[r]);
#pragma GCC unroll 4
    for (std::int64_t j = 0; j < kKeyTile; j += kLanes) {
      const Vec scaled = mul(load(row + j), scale);
      store(row + j, scaled);
      highest = max(highest, scaled);
    }
    const float maximum = max_lane(highest);
    Vec sums = zero();
#pragma GCC unroll 4
    for (std::int64_t j = 0; j < kKeyTile; j += kLanes) {
      const Vec weight = exp_of(sub(load(row + j), broadcast(maximum)));
      store(row + j, weight);
      sums = add(sums, weight);
    }
    float exponent[kLanes];
    store(exponent, exp_of(sub(broadcast(a.maximum[r]), broadcast(maximum))));
    correction[r] = exponent[0];
    float sum[4];
    sum_lanes(sums, zero(), zero(), zero(), sum);
    a.sum[r] = a.sum[r] * correction[r] + sum[0];
    a.maximum[r] = maximum;
  }

  std::int64_t column = 0;
  for (; column + 4 * kLanes <= a.width; column += 4 * kLanes) accumulate_columns<4>(correction, a, column);
  for (; column < a.width; column += kLanes) accumulate_columns<1>(correction, a, column);
}

void attend_tile(const AttendTileParams& params) {
  AttendTileParams part = params;
  for (std::int64_t r = 0; r < params.rows; r += kMaxRows) {
    part.rows = params.rows - r < kMaxRows ? params.rows - r : kMaxRows;
    part.q = params.q + r * params.width;
    part.maximum = params.maximum + r;
    part.sum = params.sum + r;
    part.out = params.out + r * params.width;
    part.scores = params.scores + r * kKeyTile;
    attend_rows(part);
  }
}
