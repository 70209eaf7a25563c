// Sixteen floats in one AVX-512 register. The three simd_*.h files define the same functions.
#pragma once

struct Vec {
  __m512 v;
};

QDIFF_INLINE Vec zero() { return {_mm512_setzero_ps()}; }
QDIFF_INLINE Vec broadcast(float x) { return {_mm512_set1_ps(x)}; }
QDIFF_INLINE Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
QDIFF_INLINE Vec sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
QDIFF_INLINE Vec mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
QDIFF_INLINE Vec div(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
QDIFF_INLINE Vec multiply_add(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// c - a*b
QDIFF_INLINE Vec subtract_product(Vec a, Vec b, Vec c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
// A NaN in the second operand stays.
QDIFF_INLINE Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
QDIFF_INLINE Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
QDIFF_INLINE Vec negated_magnitude(Vec a) { return {_mm512_or_ps(a.v, _mm512_set1_ps(-0.0F))}; }
// a where x is negative (or -0), else b.
QDIFF_INLINE Vec select_by_sign(Vec x, Vec a, Vec b) {
  return {_mm512_mask_blend_ps(_mm512_movepi32_mask(_mm512_castps_si512(x.v)), b.v, a.v)};
}
QDIFF_INLINE Vec round_to_integer(Vec a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// x * 2^n for an integral n in [-151, 129], rounded once.
QDIFF_INLINE Vec scale_by_power_of_two(Vec x, Vec n) { return {_mm512_scalef_ps(x.v, n.v)}; }

QDIFF_INLINE __mmask16 first_lanes(std::int64_t n) { return static_cast<__mmask16>((1U << n) - 1U); }

QDIFF_INLINE Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
QDIFF_INLINE Vec load(const Bf16* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
QDIFF_INLINE Vec load(const F16* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
// The first n < 16 elements; zeros behind them.
QDIFF_INLINE Vec load_first(const float* p, std::int64_t n) { return {_mm512_maskz_loadu_ps(first_lanes(n), p)}; }
QDIFF_INLINE Vec load_first(const Bf16* p, std::int64_t n) {
  const __m256i bits = _mm256_maskz_loadu_epi16(first_lanes(n), p);
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
QDIFF_INLINE Vec load_first(const F16* p, std::int64_t n) {
  return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(n), p))};
}

QDIFF_INLINE __m256i to_bf16(__m512 v) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  rounded = _mm512_mask_or_epi32(rounded, nan, _mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
  return _mm512_cvtepi32_epi16(rounded);
}

QDIFF_INLINE void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
QDIFF_INLINE void store(Bf16* p, Vec a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bf16(a.v)); }
QDIFF_INLINE void store(F16* p, Vec a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
QDIFF_INLINE void store_first(float* p, Vec a, std::int64_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), a.v); }
QDIFF_INLINE void store_first(Bf16* p, Vec a, std::int64_t n) {
  _mm256_mask_storeu_epi16(p, first_lanes(n), to_bf16(a.v));
}
QDIFF_INLINE void store_first(F16* p, Vec a, std::int64_t n) {
  _mm256_mask_storeu_epi16(p, first_lanes(n), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}

// Sums of the lanes of a, b, c, d in the order (i, i+8), (i, i+4), (i, i+2), (i, i+1).
QDIFF_INLINE void sum_lanes(Vec a, Vec b, Vec c, Vec d, float* out) {
  const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a.v, b.v, 0x44), _mm512_shuffle_f32x4(a.v, b.v, 0xEE));
  const __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c.v, d.v, 0x44), _mm512_shuffle_f32x4(c.v, d.v, 0xEE));
  __m512 s = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xDD));
  s = _mm512_add_ps(s, _mm512_shuffle_ps(s, s, 0x4E));
  s = _mm512_add_ps(s, _mm512_shuffle_ps(s, s, 0xB1));
  const __m512i first_of_four = _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
  _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(first_of_four, s)));
}
QDIFF_INLINE float max_lane(Vec a) { return _mm512_reduce_max_ps(a.v); }
