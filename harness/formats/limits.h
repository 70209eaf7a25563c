// Limits on files that come from anywhere. Within them a reader's memory is bounded by the file's own size times a
// small constant; beyond them it refuses. Every limit has a test at the limit and one beyond it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qdiff::formats {

inline constexpr std::uint64_t kMaxFileBytes = std::uint64_t{1} << 40;

// safetensors. Upstream allows 100,000,000 bytes of header; that of a 72B checkpoint has about 100 KiB.
inline constexpr std::uint64_t kMaxSafetensorsHeaderBytes = std::uint64_t{16} << 20;
inline constexpr std::size_t kMaxTensorRank = 64;  // PyTorch's own limit

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
// A safetensors header: the bytes bound the number of nodes.
inline constexpr JsonLimits kSafetensorsHeaderLimits = {kMaxSafetensorsHeaderBytes, 3, kMaxSafetensorsHeaderBytes,
                                                        std::size_t{64} << 10};

}  // namespace qdiff::formats
