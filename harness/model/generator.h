// Random numbers for synthetic weights: counter-based, from integer arithmetic, the same bits everywhere.
//
// Element i of a stream depends on (key, i) alone, so that any range can be made on its own, on any machine, by any
// number of threads, and on a GPU. The value path is integer arithmetic followed by one conversion to float32 and one
// to the stored dtype, both IEEE 754 round to nearest even; no libm, no std:: distribution (their values differ
// between libraries).
//
//   bits  = mix(key + (i + 1) * 0x9E3779B97F4A7C15)          SplitMix64: Steele, Lea, Flood, OOPSLA 2014
//   s     = sum of the four 16-bit quarters of bits, less 131070
//   value = float32(offset + multiplier * s) * 2^-shift
//
// s is a centred Irwin-Hall sum of four uniforms: mean 0, standard deviation sqrt((2^32 - 1) / 3) = 37836.6, kurtosis
// 2.7 (a normal has 3), range +-3.46 standard deviations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "harness/contract/dtype.h"

namespace qdiff::model {

// How an element follows from its random integer s: (offset + multiplier * s) * 2^-shift, in 32-bit integers.
struct Law {
  std::int32_t offset = 0;
  std::int32_t multiplier = 0;
  int shift = 0;
  bool operator==(const Law&) const = default;
};

// The law nearest to a normal of this mean and standard deviation (>= 0); both are kept to about 12 bits or better,
// relative to the larger of the two. Computed with + * / and frexp alone, which IEEE 754 makes exact or correctly
// rounded, so that it is the same everywhere. Throws std::invalid_argument for what is not finite.
Law normal_law(double mean, double deviation);

// FNV-1a, 64 bits: std::hash may differ between libraries.
std::uint64_t lasting_hash(std::string_view text);

// The stream of a tensor of a model.
std::uint64_t stream_key(std::uint64_t seed, std::string_view name);

// Elements [first, first + count) of a stream, rounded to `dtype` and stored; `destination` holds count elements.
// A float16 or bfloat16 value is the float32 value of the same stream rounded once. F64 holds the float32 value.
void generate(const Law& law, std::uint64_t key, std::int64_t first, std::int64_t count, DType dtype,
              std::byte* destination);

}  // namespace qdiff::model
