// Sixteen floats as four vectors of the compiler's own, for any processor. No fused multiply-add: products are rounded.
// The three simd_*.h files define the same functions.
#pragma once

typedef float Float4 __attribute__((vector_size(16)));
typedef std::int32_t Int4 __attribute__((vector_size(16)));

struct Vec {
  Float4 v[4];
};

template <typename Function>
QDIFF_INLINE Vec for_each_part(Function&& function) {
  return {{function(0), function(1), function(2), function(3)}};
}

QDIFF_INLINE Float4 all_of(float x) { return Float4{x, x, x, x}; }
QDIFF_INLINE Int4 all_of_int(std::int32_t x) { return Int4{x, x, x, x}; }

QDIFF_INLINE Vec broadcast(float x) {
  return for_each_part([&](int) { return all_of(x); });
}
QDIFF_INLINE Vec zero() { return broadcast(0.0F); }
QDIFF_INLINE Vec add(Vec a, Vec b) {
  return for_each_part([&](int i) { return a.v[i] + b.v[i]; });
}
QDIFF_INLINE Vec sub(Vec a, Vec b) {
  return for_each_part([&](int i) { return a.v[i] - b.v[i]; });
}
QDIFF_INLINE Vec mul(Vec a, Vec b) {
  return for_each_part([&](int i) { return a.v[i] * b.v[i]; });
}
QDIFF_INLINE Vec div(Vec a, Vec b) {
  return for_each_part([&](int i) { return a.v[i] / b.v[i]; });
}
QDIFF_INLINE Vec multiply_add(Vec a, Vec b, Vec c) {
  return for_each_part([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
// c - a*b
QDIFF_INLINE Vec subtract_product(Vec a, Vec b, Vec c) {
  return for_each_part([&](int i) { return c.v[i] - a.v[i] * b.v[i]; });
}
// A NaN in the second operand stays.
QDIFF_INLINE Vec max(Vec a, Vec b) {
  return for_each_part([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
QDIFF_INLINE Vec min(Vec a, Vec b) {
  return for_each_part([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
QDIFF_INLINE Vec negated_magnitude(Vec a) {
  return for_each_part(
      [&](int i) { return reinterpret_cast<Float4>(reinterpret_cast<Int4>(a.v[i]) | all_of_int(INT32_MIN)); });
}
// a where x is negative (or -0), else b.
QDIFF_INLINE Vec select_by_sign(Vec x, Vec a, Vec b) {
  return for_each_part([&](int i) { return reinterpret_cast<Int4>(x.v[i]) < all_of_int(0) ? a.v[i] : b.v[i]; });
}
// Adding and taking away 1.5 * 2^23 leaves the nearest integer of any |x| < 2^22, ties to even.
QDIFF_INLINE Vec round_to_integer(Vec a) {
  const Float4 magic = all_of(12582912.0F);
  return for_each_part([&](int i) { return (a.v[i] + magic) - magic; });
}
// x * 2^n for an integral n in [-151, 129] and x near 1, rounded once: two factors, for 2^n itself may be no normal
// number; the first product is exact.
QDIFF_INLINE Vec scale_by_power_of_two(Vec x, Vec n) {
  return for_each_part([&](int i) {
    // NaN alone differs from itself. NOLINTNEXTLINE(misc-redundant-expression)
    const Float4 safe = n.v[i] == n.v[i] ? n.v[i] : all_of(0.0F);
    const Int4 exponent = __builtin_convertvector(safe, Int4);
    const Int4 half = exponent >> 1;
    const Float4 first = reinterpret_cast<Float4>((half + 127) << 23);
    const Float4 second = reinterpret_cast<Float4>((exponent - half + 127) << 23);
    return x.v[i] * first * second;
  });
}

QDIFF_INLINE Vec load(const float* p) {
  Vec a;
  __builtin_memcpy(&a, p, sizeof a);
  return a;
}
QDIFF_INLINE float widen_element(Bf16 x) { return __builtin_bit_cast(float, std::uint32_t{x.bits} << 16); }
// The exponent moves by 112; 2^112 as a factor does that for subnormal numbers too. Infinities and NaN keep all ones.
QDIFF_INLINE float widen_element(F16 x) {
  const std::uint32_t sign = (std::uint32_t{x.bits} & 0x8000U) << 16;
  const std::uint32_t magnitude = std::uint32_t{x.bits} & 0x7FFFU;
  if (magnitude >= 0x7C00U) return __builtin_bit_cast(float, sign | 0x7F800000U | (magnitude << 13));
  const float value = __builtin_bit_cast(float, magnitude << 13) * 0x1p112F;
  return __builtin_bit_cast(float, sign | __builtin_bit_cast(std::uint32_t, value));
}
QDIFF_INLINE Vec load(const Bf16* p) {
  float wide[16];
  for (int i = 0; i < 16; ++i) wide[i] = widen_element(p[i]);
  return load(wide);
}
QDIFF_INLINE Vec load(const F16* p) {
  float wide[16];
  for (int i = 0; i < 16; ++i) wide[i] = widen_element(p[i]);
  return load(wide);
}

QDIFF_INLINE void round_element(float x, Bf16* out) {
  const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, x);
  if (x != x) {
    out->bits = static_cast<std::uint16_t>((bits >> 16) | 0x40U);
  } else {
    out->bits = static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
  }
}
QDIFF_INLINE void round_element(float x, F16* out) {
  const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, x);
  const std::uint32_t sign = (bits >> 16) & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  std::uint32_t half = 0;
  if (magnitude > 0x7F800000U) {
    half = 0x7E00U;
  } else if (magnitude >= 0x477FF000U) {  // 65520 and more
    half = 0x7C00U;
  } else if (magnitude < 0x38800000U) {  // below 2^-14: adding 0.5 rounds to multiples of 2^-24
    const float shifted = __builtin_bit_cast(float, magnitude) + 0.5F;
    half = __builtin_bit_cast(std::uint32_t, shifted) - 0x3F000000U;
  } else {
    const std::uint32_t odd = (magnitude >> 13) & 1U;
    half = ((magnitude + 0xFFFU + odd) >> 13) - (112U << 10);
  }
  out->bits = static_cast<std::uint16_t>(sign | half);
}

QDIFF_INLINE void store(float* p, Vec a) { __builtin_memcpy(p, &a, sizeof a); }
QDIFF_INLINE void store(Bf16* p, Vec a) {
  for (int i = 0; i < 16; ++i) round_element(a.v[i / 4][i % 4], p + i);
}
QDIFF_INLINE void store(F16* p, Vec a) {
  for (int i = 0; i < 16; ++i) round_element(a.v[i / 4][i % 4], p + i);
}

// Sum of the lanes in the order (i, i+8), (i, i+4), (i, i+2), (i, i+1).
QDIFF_INLINE float sum_of_lanes(Vec a) {
  const Float4 s = (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]);
  return (s[0] + s[2]) + (s[1] + s[3]);
}
QDIFF_INLINE void sum_lanes(Vec a, Vec b, Vec c, Vec d, float* out) {
  out[0] = sum_of_lanes(a);
  out[1] = sum_of_lanes(b);
  out[2] = sum_of_lanes(c);
  out[3] = sum_of_lanes(d);
}
QDIFF_INLINE float max_lane(Vec a) {
  float best = a.v[0][0];
  for (int i = 1; i < 16; ++i) best = best > a.v[i / 4][i % 4] ? best : a.v[i / 4][i % 4];
  return best;
}
