// ggml's element types: how many bytes a block of elements takes, and which float32 values its bytes stand for.
//
// Dequantisation follows dequantize_row_*() of ggml/src/ggml-quants.c (llama.cpp) operation by operation, each rounded
// to float32 in the same order, as `gguf.quants.dequantize` of the PyPI package `gguf` (0.19) does too: equal bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace qdiff::formats {

// Numbers as in a GGUF file: `enum ggml_type` of ggml/include/ggml.h. Types that upstream has removed (4, 5, 31-33,
// 36-38) are not here.
enum class GgmlType : std::uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ8_1 = 9,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kQ8_K = 15,
  kIQ2_XXS = 16,
  kIQ2_XS = 17,
  kIQ3_XXS = 18,
  kIQ1_S = 19,
  kIQ4_NL = 20,
  kIQ3_S = 21,
  kIQ2_S = 22,
  kIQ4_XS = 23,
  kI8 = 24,
  kI16 = 25,
  kI32 = 26,
  kI64 = 27,
  kF64 = 28,
  kIQ1_M = 29,
  kBF16 = 30,
  kTQ1_0 = 34,
  kTQ2_0 = 35,
  kMXFP4 = 39,
  kNVFP4 = 40,
  kQ1_0 = 41,
};

struct GgmlTypeFacts {
  GgmlType type;
  std::string_view name;         // "Q4_K"
  std::uint32_t block_elements;  // a row is a whole number of blocks
  std::uint32_t block_bytes;
  // What dequantize() does with whole blocks; null of types that can be listed and left aside.
  void (*read_blocks)(std::span<const std::byte> blocks, std::span<float> values);

  bool readable() const { return read_blocks != nullptr; }
};

// Nothing where ggml has no such type.
std::optional<GgmlTypeFacts> find_ggml_type(std::uint32_t number);
const GgmlTypeFacts& facts(GgmlType type);

// `blocks` holds whole blocks, `values` their elements. Throws std::invalid_argument where the sizes do not fit or the
// type is not readable: a caller's mistake, not bad input. Any bytes are valid blocks.
void dequantize(GgmlType type, std::span<const std::byte> blocks, std::span<float> values);

}  // namespace qdiff::formats
