// The inner loops. This file is compiled once for each instruction set, with QDIFF_SIMD naming it; see kernels.h for
// why it includes so little and for the order of every sum.
#include "optimized/cpu/kernels/kernels.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define QDIFF_INLINE static inline __attribute__((always_inline))

namespace qdiff::optimized::cpu::QDIFF_SIMD {
namespace {

struct Bf16 {
  std::uint16_t bits;
};
struct F16 {
  std::uint16_t bits;
};

#if defined(__AVX512F__)
#include "optimized/cpu/kernels/simd_avx512.h"
#elif defined(__AVX2__)
#include "optimized/cpu/kernels/simd_avx2.h"
#else
#include "optimized/cpu/kernels/simd_baseline.h"
#endif

#if !defined(__AVX512F__)
// The first n < 16 elements; zeros behind them.
template <typename T>
QDIFF_INLINE Vec load_first(const T* p, std::int64_t n) {
  T padded[kLanes] = {};
  for (std::int64_t i = 0; i < n; ++i) padded[i] = p[i];
  return load(padded);
}
template <typename T>
QDIFF_INLINE void store_first(T* p, Vec a, std::int64_t n) {
  T padded[kLanes];
  store(padded, a);
  for (std::int64_t i = 0; i < n; ++i) p[i] = padded[i];
}
#endif

#include "optimized/cpu/kernels/matmul.h"
#include "optimized/cpu/kernels/pointwise.h"
// attend_tile() multiplies with matmul's tiles.
#include "optimized/cpu/kernels/attention.h"

}  // namespace

#define QDIFF_STRING(x) #x
#define QDIFF_NAME(x) QDIFF_STRING(x)

const KernelSet& kernel_set() {
  static constexpr KernelSet kSet = {
      QDIFF_NAME(QDIFF_SIMD), widen,       narrow, matmul,      rms_norm, store_tile, rotate, silu_mul,
      add_residual,           attend_tile, divide, exp_of_array};
  return kSet;
}

}  // namespace qdiff::optimized::cpu::QDIFF_SIMD
