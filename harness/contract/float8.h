// The two 8-bit floating-point types in which engines keep k and v (arXiv:2209.05433): one bit of sign, then 4 or 5
// bits of exponent. Rounding to them saturates, as CUDA's conversions do (__NV_SATFINITE, of which vLLM and
// TensorRT-LLM make their caches): what lies beyond the largest number is that number. PyTorch's cast gives NaN there,
// or infinity.
#pragma once

#include <algorithm>
#include <cmath>

namespace qdiff {

struct Float8Facts {
  int significant_bits;  // the leading one included
  int min_exponent;      // of the smallest normal number, 2^min_exponent
  double largest;
};
inline constexpr Float8Facts kFloat8E4M3 = {4, -6, 448.0};  // without infinities: its last exponent has numbers
inline constexpr Float8Facts kFloat8E5M2 = {3, -14, 57344.0};

// Distance between neighbouring numbers of the type at a finite |x|.
inline double spacing(const Float8Facts& type, double x) {
  const int exponent = x == 0.0 ? type.min_exponent : std::max(std::ilogb(x), type.min_exponent);
  return std::ldexp(1.0, exponent - type.significant_bits + 1);
}

// The number of the type nearest to x, ties to even. NaN stays NaN.
inline double round_to(const Float8Facts& type, double x) {
  if (std::isnan(x)) return x;
  const double within = std::clamp(x, -type.largest, type.largest);
  const double step = spacing(type, within);
  return std::nearbyint(within / step) * step;  // exact: the step is a power of two
}

}  // namespace qdiff
