#include "harness/formats/ggml_types.h"

#include <array>
#include <cstring>
#include <stdexcept>
#include <string>

#include "harness/contract/dtype.h"

namespace qdiff::formats {
namespace {

using Bytes = const std::uint8_t*;

// kvalues_iq4nl of ggml/src/ggml-common.h.
constexpr std::array<float, 16> kLevelsOfIq4 = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                1,    13,   25,  38,  53,  69,  89,  113};

std::uint16_t load16(Bytes p) { return static_cast<std::uint16_t>(p[0] | p[1] << 8); }
float half(Bytes p) { return f16_to_float(load16(p)); }
float low(std::uint8_t byte) { return static_cast<float>(byte & 0x0F); }
float high(std::uint8_t byte) { return static_cast<float>(byte >> 4); }

void f32_block(Bytes p, float* y) { std::memcpy(y, p, sizeof(float)); }
void f16_block(Bytes p, float* y) { *y = half(p); }
void bf16_block(Bytes p, float* y) { *y = bf16_to_float(load16(p)); }

// d[2] qs[16]: the low halves are elements 0-15, the high ones 16-31.
void q4_0_block(Bytes p, float* y) {
  const float d = half(p);
  for (int i = 0; i < 16; ++i) {
    y[i] = d * (low(p[2 + i]) - 8.0F);
    y[i + 16] = d * (high(p[2 + i]) - 8.0F);
  }
}

// d[2] m[2] qs[16]
void q4_1_block(Bytes p, float* y) {
  const float d = half(p), m = half(p + 2);
  for (int i = 0; i < 16; ++i) {
    y[i] = d * low(p[4 + i]) + m;
    y[i + 16] = d * high(p[4 + i]) + m;
  }
}

// Element i of the fifth bits: bit i of the four bytes.
float fifth_bit(Bytes bits, int i) { return static_cast<float>((bits[i / 8] >> (i % 8) & 1) << 4); }

// d[2] qh[4] qs[16]
void q5_0_block(Bytes p, float* y) {
  const float d = half(p);
  for (int i = 0; i < 16; ++i) {
    y[i] = d * (low(p[6 + i]) + fifth_bit(p + 2, i) - 16.0F);
    y[i + 16] = d * (high(p[6 + i]) + fifth_bit(p + 2, i + 16) - 16.0F);
  }
}

// d[2] m[2] qh[4] qs[16]
void q5_1_block(Bytes p, float* y) {
  const float d = half(p), m = half(p + 2);
  for (int i = 0; i < 16; ++i) {
    y[i] = d * (low(p[8 + i]) + fifth_bit(p + 4, i)) + m;
    y[i + 16] = d * (high(p[8 + i]) + fifth_bit(p + 4, i + 16)) + m;
  }
}

// d[2] qs[32]
void q8_0_block(Bytes p, float* y) {
  const float d = half(p);
  for (int i = 0; i < 32; ++i) y[i] = static_cast<float>(static_cast<std::int8_t>(p[2 + i])) * d;
}

// d[2] qs[16]
void iq4_nl_block(Bytes p, float* y) {
  const float d = half(p);
  for (int i = 0; i < 16; ++i) {
    y[i] = d * kLevelsOfIq4[p[2 + i] & 0x0F];
    y[i + 16] = d * kLevelsOfIq4[p[2 + i] >> 4];
  }
}

// The two-bit planes of Q2_K and Q3_K, in halves of 128 elements: plane k of the half's 32 bytes is elements 32k to
// 32k + 31 of the half. `group` counts sixteens of elements.
std::uint8_t two_bits(Bytes qs, int group, int i) {
  const int half_block = group / 8, plane = group % 8 / 2, byte = group % 2 * 16 + i;
  return static_cast<std::uint8_t>(qs[half_block * 32 + byte] >> (2 * plane) & 3);
}

// scales[16] qs[64] d[2] dmin[2]; a scale holds the step below and the minimum above
void q2_k_block(Bytes p, float* y) {
  const float d = half(p + 80), dmin = half(p + 82);
  for (int group = 0; group < 16; ++group) {
    const float step = d * low(p[group]), minimum = dmin * high(p[group]);
    for (int i = 0; i < 16; ++i) y[group * 16 + i] = step * static_cast<float>(two_bits(p + 16, group, i)) - minimum;
  }
}

// hmask[32] qs[64] scales[12] d[2]; six-bit scales: the low halves of bytes 0-7, then their high halves, and two bits
// each from bytes 8-11. A bit of hmask that is not set takes 4 off.
void q3_k_block(Bytes p, float* y) {
  const Bytes scales = p + 96;
  const float d = half(p + 108);
  for (int group = 0; group < 16; ++group) {
    const int below = group < 8 ? scales[group] & 0x0F : scales[group - 8] >> 4;
    const int above = scales[8 + group % 4] >> (2 * (group / 4)) & 3;
    const float step = d * static_cast<float>((below | above << 4) - 32);
    for (int i = 0; i < 16; ++i) {
      const bool set = (p[group % 2 * 16 + i] >> (group / 2) & 1) != 0;
      y[group * 16 + i] = step * static_cast<float>(two_bits(p + 32, group, i) - (set ? 0 : 4));
    }
  }
}

struct ScaleAndMinimum {
  float scale, minimum;
};

// get_scale_min_k4() of ggml-quants.c: eight six-bit scales and eight six-bit minima in twelve bytes.
ScaleAndMinimum scale_and_minimum(Bytes q, int group) {
  if (group < 4) return {static_cast<float>(q[group] & 63), static_cast<float>(q[group + 4] & 63)};
  const int scale = (q[group + 4] & 0x0F) | (q[group - 4] >> 6) << 4;
  const int minimum = (q[group + 4] >> 4) | (q[group] >> 6) << 4;
  return {static_cast<float>(scale), static_cast<float>(minimum)};
}

// d[2] dmin[2] scales[12] qs[128]; each 32 bytes of qs hold 64 elements, the low halves first
void q4_k_block(Bytes p, float* y) {
  const float d = half(p), dmin = half(p + 2);
  for (int group = 0; group < 8; ++group) {
    const ScaleAndMinimum s = scale_and_minimum(p + 4, group);
    const float step = d * s.scale, minimum = dmin * s.minimum;
    const Bytes qs = p + 16 + group / 2 * 32;
    for (int i = 0; i < 32; ++i) y[group * 32 + i] = step * (group % 2 == 0 ? low(qs[i]) : high(qs[i])) - minimum;
  }
}

// d[2] dmin[2] scales[12] qh[32] qs[128]; bit `group` of qh[i] is the fifth bit
void q5_k_block(Bytes p, float* y) {
  const float d = half(p), dmin = half(p + 2);
  for (int group = 0; group < 8; ++group) {
    const ScaleAndMinimum s = scale_and_minimum(p + 4, group);
    const float step = d * s.scale, minimum = dmin * s.minimum;
    const Bytes qs = p + 48 + group / 2 * 32;
    for (int i = 0; i < 32; ++i) {
      const float fifth = static_cast<float>((p[16 + i] >> group & 1) << 4);
      y[group * 32 + i] = step * ((group % 2 == 0 ? low(qs[i]) : high(qs[i])) + fifth) - minimum;
    }
  }
}

// ql[128] qh[64] scales[16] d[2]; in halves of 128 elements: 64 bytes of ql, low halves first, and 32 of qh in planes
// of two bits
void q6_k_block(Bytes p, float* y) {
  const float d = half(p + 208);
  for (int group = 0; group < 16; ++group) {
    const float step = d * static_cast<float>(static_cast<std::int8_t>(p[192 + group]));
    const int half_block = group / 8, in_half = group % 8;
    const Bytes ql = p + half_block * 64 + in_half % 4 * 16;
    for (int i = 0; i < 16; ++i) {
      const int below = in_half < 4 ? ql[i] & 0x0F : ql[i] >> 4;
      const int above = two_bits(p + 128, group, i);
      y[group * 16 + i] = step * static_cast<float>((below | above << 4) - 32);
    }
  }
}

// d[2] scales_h[2] scales_l[4] qs[128]
void iq4_xs_block(Bytes p, float* y) {
  const float d = half(p);
  const int above = load16(p + 2);
  for (int group = 0; group < 8; ++group) {
    const int below = p[4 + group / 2] >> (4 * (group % 2)) & 0x0F;
    const float step = d * static_cast<float>((below | (above >> (2 * group) & 3) << 4) - 32);
    const Bytes qs = p + 8 + group * 16;
    for (int i = 0; i < 16; ++i) {
      y[group * 32 + i] = step * kLevelsOfIq4[qs[i] & 0x0F];
      y[group * 32 + i + 16] = step * kLevelsOfIq4[qs[i] >> 4];
    }
  }
}

template <auto kBlock, std::size_t kElements, std::size_t kBytes>  // so that blocks of one element become one loop
void each_block(std::span<const std::byte> blocks, std::span<float> values) {
  const auto* from = reinterpret_cast<const std::uint8_t*>(blocks.data());
  float* to = values.data();
  for (std::size_t count = blocks.size() / kBytes; count > 0; --count) {
    kBlock(from, to);
    from += kBytes;
    to += kElements;
  }
}

template <auto kBlock, std::size_t kElements, std::size_t kBytes>
constexpr GgmlTypeFacts readable(GgmlType type, const char* name) {
  return {type, name, kElements, kBytes, each_block<kBlock, kElements, kBytes>};
}

// Sizes as in GGML_QUANT_SIZES of gguf-py/gguf/constants.py.
constexpr std::array<GgmlTypeFacts, 34> kTypes = {{
    readable<f32_block, 1, 4>(GgmlType::kF32, "F32"),
    readable<f16_block, 1, 2>(GgmlType::kF16, "F16"),
    readable<q4_0_block, 32, 18>(GgmlType::kQ4_0, "Q4_0"),
    readable<q4_1_block, 32, 20>(GgmlType::kQ4_1, "Q4_1"),
    readable<q5_0_block, 32, 22>(GgmlType::kQ5_0, "Q5_0"),
    readable<q5_1_block, 32, 24>(GgmlType::kQ5_1, "Q5_1"),
    readable<q8_0_block, 32, 34>(GgmlType::kQ8_0, "Q8_0"),
    {GgmlType::kQ8_1, "Q8_1", 32, 40, nullptr},
    readable<q2_k_block, 256, 84>(GgmlType::kQ2_K, "Q2_K"),
    readable<q3_k_block, 256, 110>(GgmlType::kQ3_K, "Q3_K"),
    readable<q4_k_block, 256, 144>(GgmlType::kQ4_K, "Q4_K"),
    readable<q5_k_block, 256, 176>(GgmlType::kQ5_K, "Q5_K"),
    readable<q6_k_block, 256, 210>(GgmlType::kQ6_K, "Q6_K"),
    {GgmlType::kQ8_K, "Q8_K", 256, 292, nullptr},
    {GgmlType::kIQ2_XXS, "IQ2_XXS", 256, 66, nullptr},
    {GgmlType::kIQ2_XS, "IQ2_XS", 256, 74, nullptr},
    {GgmlType::kIQ3_XXS, "IQ3_XXS", 256, 98, nullptr},
    {GgmlType::kIQ1_S, "IQ1_S", 256, 50, nullptr},
    readable<iq4_nl_block, 32, 18>(GgmlType::kIQ4_NL, "IQ4_NL"),
    {GgmlType::kIQ3_S, "IQ3_S", 256, 110, nullptr},
    {GgmlType::kIQ2_S, "IQ2_S", 256, 82, nullptr},
    readable<iq4_xs_block, 256, 136>(GgmlType::kIQ4_XS, "IQ4_XS"),
    {GgmlType::kI8, "I8", 1, 1, nullptr},
    {GgmlType::kI16, "I16", 1, 2, nullptr},
    {GgmlType::kI32, "I32", 1, 4, nullptr},
    {GgmlType::kI64, "I64", 1, 8, nullptr},
    {GgmlType::kF64, "F64", 1, 8, nullptr},
    {GgmlType::kIQ1_M, "IQ1_M", 256, 56, nullptr},
    readable<bf16_block, 1, 2>(GgmlType::kBF16, "BF16"),
    {GgmlType::kTQ1_0, "TQ1_0", 256, 54, nullptr},
    {GgmlType::kTQ2_0, "TQ2_0", 256, 66, nullptr},
    {GgmlType::kMXFP4, "MXFP4", 32, 17, nullptr},
    {GgmlType::kNVFP4, "NVFP4", 64, 36, nullptr},
    {GgmlType::kQ1_0, "Q1_0", 128, 18, nullptr},
}};

}  // namespace

std::optional<GgmlTypeFacts> find_ggml_type(std::uint32_t number) {
  for (const GgmlTypeFacts& type : kTypes) {
    if (static_cast<std::uint32_t>(type.type) == number) return type;
  }
  return std::nullopt;
}

const GgmlTypeFacts& facts(GgmlType type) {
  for (const GgmlTypeFacts& known : kTypes) {
    if (known.type == type) return known;
  }
  throw std::invalid_argument("facts: no such ggml type");
}

void dequantize(GgmlType type, std::span<const std::byte> blocks, std::span<float> values) {
  const GgmlTypeFacts& t = facts(type);
  if (blocks.size() % t.block_bytes != 0 || blocks.size() / t.block_bytes * t.block_elements != values.size()) {
    throw std::invalid_argument("dequantize: " + std::to_string(blocks.size()) + " bytes of " + std::string(t.name) +
                                " are not " + std::to_string(values.size()) + " elements");
  }
  if (!t.readable()) throw std::invalid_argument("dequantize: " + std::string(t.name) + " is not read");
  t.read_blocks(blocks, values);
}

}  // namespace qdiff::formats
