#include "harness/model/generator.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "harness/contract/splitmix64.h"

namespace qdiff::model {
namespace {

constexpr double kUnitDeviation = 37836.598907344;  // sqrt((2^32 - 1) / 3)

// The centred sum of the four 16-bit quarters, in [-131070, 131070].
constexpr std::int32_t centred_sum(std::uint64_t bits) {
  const std::uint64_t pairs = (bits & 0x0000FFFF0000FFFFU) + ((bits >> 16) & 0x0000FFFF0000FFFFU);
  return static_cast<std::int32_t>(static_cast<std::uint32_t>(pairs) + static_cast<std::uint32_t>(pairs >> 32)) -
         131070;
}

// Work goes in blocks that stay in the first-level cache, so that each stage is a loop of its own, which vectorises.
constexpr std::int64_t kBlock = 1024;

void fill_integers(const Law& law, std::uint64_t key, std::int64_t first, std::int64_t count, std::int32_t* out) {
  std::uint64_t counter = key + (static_cast<std::uint64_t>(first) + 1) * kGoldenGamma;
  for (std::int64_t i = 0; i < count; ++i, counter += kGoldenGamma) {
    out[i] = law.offset + law.multiplier * centred_sum(splitmix64(counter));
  }
}

// Finite by construction, so that the plain rounding is enough: float_to_bf16 without its test for NaN.
std::uint16_t finite_float_to_bf16(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

// As float_to_f16 for finite numbers, in steps that vectorise: rounding in the integer image for normal results, and
// for subnormal ones by adding 1/2, whose spacing as a float32 is the spacing of float16's subnormals, 2^-24.
std::uint16_t finite_float_to_f16(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  const std::uint32_t rebased = magnitude - (112U << 23);
  const std::uint32_t normal = std::min((rebased + 0xFFFU + ((rebased >> 13) & 1U)) >> 13, 0x7C00U);
  const std::uint32_t subnormal =
      std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5F) - std::bit_cast<std::uint32_t>(0.5F);
  const std::uint32_t rounded = magnitude < (113U << 23) ? subnormal : normal;
  return static_cast<std::uint16_t>(((bits >> 16) & 0x8000U) | rounded);
}

template <typename Stored, typename Convert>
void convert_block(const std::int32_t* integers, std::int64_t count, float scale, Convert convert,
                   std::byte* destination) {
  std::array<Stored, kBlock> stored;
  for (std::int64_t i = 0; i < count; ++i) {
    stored[static_cast<std::size_t>(i)] = convert(static_cast<float>(integers[i]) * scale);
  }
  std::memcpy(destination, stored.data(), static_cast<std::size_t>(count) * sizeof(Stored));
}

}  // namespace

Law normal_law(double mean, double deviation) {
  if (!std::isfinite(mean) || !std::isfinite(deviation) || deviation < 0.0) {
    throw std::invalid_argument("normal_law: mean and deviation must be finite, deviation not negative");
  }
  // |offset| <= 2^29 and |multiplier * s| <= 131070 * 2^12.6 < 2^30: their sum stays inside 31 bits.
  const double unit = deviation / kUnitDeviation;
  const double largest = std::max(std::fabs(mean), unit * 131072.0);
  if (largest == 0.0) return {};
  int exponent = 0;
  std::frexp(largest, &exponent);   // largest < 2^exponent
  const int shift = 29 - exponent;  // largest * 2^shift < 2^29
  const double scale = std::ldexp(1.0, shift);
  return {static_cast<std::int32_t>(std::floor(mean * scale + 0.5)),
          static_cast<std::int32_t>(std::floor(unit * scale + 0.5)), shift};
}

std::uint64_t lasting_hash(std::string_view text) {
  std::uint64_t hash = 0xCBF29CE484222325U;
  for (char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3U;
  return hash;
}

std::uint64_t stream_key(std::uint64_t seed, std::string_view name) {
  return splitmix64(splitmix64(seed + kGoldenGamma) ^ lasting_hash(name));
}

void generate(const Law& law, std::uint64_t key, std::int64_t first, std::int64_t count, DType dtype,
              std::byte* destination) {
  const float scale = std::ldexp(1.0F, -law.shift);  // a power of two: the product is exact
  std::array<std::int32_t, kBlock> integers;
  for (std::int64_t done = 0; done < count; done += kBlock) {
    const std::int64_t block = std::min(kBlock, count - done);
    fill_integers(law, key, first + done, block, integers.data());
    switch (dtype) {
      case DType::kBF16:
        convert_block<std::uint16_t>(integers.data(), block, scale, finite_float_to_bf16, destination);
        break;
      case DType::kF16:
        convert_block<std::uint16_t>(integers.data(), block, scale, finite_float_to_f16, destination);
        break;
      case DType::kF32:
        convert_block<float>(
            integers.data(), block, scale, [](float x) { return x; }, destination);
        break;
      case DType::kF64:
        convert_block<double>(
            integers.data(), block, scale, [](float x) { return static_cast<double>(x); }, destination);
        break;
    }
    destination += static_cast<std::size_t>(block) * size_of(dtype);
  }
}

}  // namespace qdiff::model
