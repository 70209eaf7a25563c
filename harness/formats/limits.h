// Limits on files that come from anywhere. Within them a reader's memory is bounded by the file's own size times a
// small constant; beyond them it refuses. Every limit has a test at the limit and one beyond it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qdiff::formats {

inline constexpr std::uint64_t kMaxFileBytes = std::uint64_t{1} << 40;

// Of any one dimension of a model: what ModelConfig::validate() allows.
inline constexpr std::int64_t kLargestDimension = (std::int64_t{1} << 31) - 1;

// safetensors. Upstream allows 100,000,000 bytes of header; that of a 72B checkpoint has about 100 KiB.
inline constexpr std::uint64_t kMaxSafetensorsHeaderBytes = std::uint64_t{16} << 20;
inline constexpr std::size_t kMaxTensorRank = 64;  // PyTorch's own limit

// GGUF. llama.cpp allows strings of 1 GiB and sets no limit to counts.
inline constexpr std::uint64_t kMaxGgufKeys = 65'536;
inline constexpr std::uint64_t kMaxGgufTensors = 65'536;
inline constexpr std::uint64_t kMaxGgufStringBytes = std::uint64_t{1} << 20;
inline constexpr std::uint64_t kMaxGgufKeyBytes = 65'535;
inline constexpr std::uint64_t kMaxGgufTensorNameBytes = 63;  // GGML_MAX_NAME counts a final NUL
inline constexpr std::uint64_t kMaxGgufArrayElements = std::uint64_t{16} << 20;
inline constexpr std::uint64_t kMaxGgufDimensions = 4;  // GGML_MAX_DIMS
inline constexpr std::uint64_t kMinGgufAlignment = 8;
inline constexpr std::uint64_t kMaxGgufAlignment = 4096;
// All before the data: it bounds what keys and strings can take. A vocabulary of 256,000 with merges has some 15 MB.
inline constexpr std::uint64_t kMaxGgufHeaderBytes = std::uint64_t{128} << 20;
inline constexpr std::uint64_t kMaxGgufSplits = 1000;  // files of one model, each held open

struct JsonLimits {
  std::size_t bytes;         // of the whole text
  std::size_t depth;         // of nested objects and arrays
  std::size_t nodes;         // values of every kind, containers included; keys do not count
  std::size_t string_bytes;  // of each string and key, decoded
};

// Case files, manifests, config.json.
inline constexpr JsonLimits kDocumentLimits = {std::size_t{8} << 20, 32, 100'000, std::size_t{64} << 10};
// model.safetensors.index.json: one line for each tensor.
inline constexpr JsonLimits kShardIndexLimits = {std::size_t{16} << 20, 8, 200'000, std::size_t{64} << 10};
// tokenizer.json: a vocabulary of 256,000 with as many merges, each an array of two strings.
inline constexpr JsonLimits kTokenizerLimits = {std::size_t{64} << 20, 32, 4'000'000, std::size_t{64} << 10};
// A safetensors header: the bytes bound the number of nodes.
inline constexpr JsonLimits kSafetensorsHeaderLimits = {kMaxSafetensorsHeaderBytes, 3, kMaxSafetensorsHeaderBytes,
                                                        std::size_t{64} << 10};

}  // namespace qdiff::formats
