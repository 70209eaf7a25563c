// Element types of named tensors, and rounding to them.
//
// bfloat16 has 8 significant bits, float16 (IEEE 754 binary16) 11, float32 24, float64 53.
// All rounding is to nearest, ties to even (IEEE 754-2019, 4.3.1), in one step from double: rounding through
// float32 first would round twice.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace qdiff {

enum class DType : std::uint8_t { kF64, kF32, kF16, kBF16 };

struct DTypeFacts {
  std::string_view name;         // as in config.json and manifest.json: "bfloat16"
  std::string_view safetensors;  // as in a safetensors header: "BF16"
  std::size_t bytes;
  int significant_bits;  // the leading one included
  int min_exponent;      // of the smallest normal number, 2^min_exponent
  int max_exponent;      // of the largest binade, 2^max_exponent
};

constexpr DTypeFacts facts(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return {"float64", "F64", 8, 53, -1022, 1023};
    case DType::kF32:
      return {"float32", "F32", 4, 24, -126, 127};
    case DType::kF16:
      return {"float16", "F16", 2, 11, -14, 15};
    case DType::kBF16:
      break;
  }
  return {"bfloat16", "BF16", 2, 8, -126, 127};
}

constexpr std::string_view name(DType dtype) { return facts(dtype).name; }
constexpr std::size_t size_of(DType dtype) { return facts(dtype).bytes; }

// Accepts the names of config.json ("bfloat16") and of safetensors ("BF16").
constexpr std::optional<DType> parse_dtype(std::string_view text) {
  for (DType dtype : {DType::kF64, DType::kF32, DType::kF16, DType::kBF16}) {
    if (text == facts(dtype).name || text == facts(dtype).safetensors) return dtype;
  }
  return std::nullopt;
}

// Largest relative error of one rounding to nearest of a normal number: 2^-significant_bits.
inline double unit_roundoff(DType dtype) { return std::ldexp(1.0, -facts(dtype).significant_bits); }

// Distance between neighbouring numbers of `dtype` at |x|; at and below the smallest normal number it is the subnormal
// spacing. NaN and infinity give NaN. Asked of every element, so the exponents are read and written as binary64 keeps
// them: biased by 1023, above 52 bits of fraction (IEEE 754-2019, 3.4).
inline double spacing(DType dtype, double x) {
  constexpr int kBias = 1023, kFractionBits = 52, kOfInfinity = 0x7FF;
  const auto biased = static_cast<int>((std::bit_cast<std::uint64_t>(x) >> kFractionBits) & kOfInfinity);
  if (biased == kOfInfinity) return std::nan("");
  const DTypeFacts f = facts(dtype);
  const int exponent = std::max(biased - kBias, f.min_exponent) - f.significant_bits + 1;
  if (exponent <= -kBias) return std::ldexp(1.0, exponent);  // below binary64's own normal numbers
  return std::bit_cast<double>(static_cast<std::uint64_t>(exponent + kBias) << kFractionBits);
}

// The number of `dtype` nearest to x, as a double; beyond the largest finite number plus half a spacing, infinity.
inline double round_to(DType dtype, double x) {
  if (dtype == DType::kF64 || !std::isfinite(x) || x == 0.0) return x;
  if (dtype == DType::kF32) return static_cast<double>(static_cast<float>(x));
  const double q = spacing(dtype, x);
  const double rounded = std::nearbyint(x / q) * q;  // x / q and the product are exact: q is a power of two
  const DTypeFacts f = facts(dtype);
  if (std::fabs(rounded) >= std::ldexp(1.0, f.max_exponent + 1)) return std::copysign(HUGE_VAL, x);
  return rounded;
}

// ---- Storage bits -------------------------------------------------------------------------------------------------

inline float bf16_to_float(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

inline std::uint16_t float_to_bf16(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  if (std::isnan(x)) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);  // keep it a (quiet) NaN
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

inline float f16_to_float(std::uint16_t bits) {
  const std::uint32_t sign = (std::uint32_t{bits} & 0x8000U) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1FU;
  const std::uint32_t mantissa = bits & 0x3FFU;
  if (exponent == 0x1FU) return std::bit_cast<float>(sign | 0x7F800000U | (mantissa << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112U) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;  // subnormal or zero: exact
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
}

inline std::uint16_t float_to_f16(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000U);
  if (std::isnan(x)) return static_cast<std::uint16_t>(sign | 0x7E00U);
  const double rounded = round_to(DType::kF16, std::fabs(static_cast<double>(x)));
  if (std::isinf(rounded)) return static_cast<std::uint16_t>(sign | 0x7C00U);
  if (rounded < 0x1p-14) return static_cast<std::uint16_t>(sign | static_cast<std::uint16_t>(rounded * 0x1p24));
  const std::uint32_t r = std::bit_cast<std::uint32_t>(static_cast<float>(rounded));
  return static_cast<std::uint16_t>(sign | ((((r >> 23) - 112U) << 10) + ((r >> 13) & 0x3FFU)));
}

// One element of raw storage as a double, exactly. `data` need not be aligned.
double load_element(const void* data, DType dtype, std::size_t index);
// Rounds `value` once to `dtype` and stores it.
void store_element(void* data, DType dtype, std::size_t index, double value);

}  // namespace qdiff
