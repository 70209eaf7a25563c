// A Hugging Face directory as a weight source, and a weight source as a Hugging Face directory.
//
// Looked for: config.json (huggingface_config.h) and, in transformers' order, model.safetensors or
// model.safetensors.index.json with the shards that it names. Shard names are plain file names in the same directory.
// Every weight of the operation table must be there, in its shape, as F32, F16 or BF16; other tensors of any dtype are
// left aside. Where config.json ties the embeddings, a stored lm_head.weight is left aside too.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "harness/model/noted_source.h"

namespace qdiff::model {

// Throws qdiff::InputError saying what was looked for, or what is wrong in which file.
std::unique_ptr<NotedSource> open_huggingface(const std::filesystem::path& directory);

inline constexpr std::uint64_t kDefaultShardBytes = 5'000'000'000;  // transformers' usual max_shard_size

// Writes config.json in the dialect of transformers 5, and the weights as one safetensors file or, beyond
// `max_shard_bytes`, as shards with an index. The directory is made where it is not there and must be empty. Weights
// pass through a buffer of a few MiB, so that models larger than memory can be written; config.json comes last, so
// that what a killed run leaves behind is no model.
void export_huggingface(const WeightSource& source, const std::filesystem::path& directory,
                        std::uint64_t max_shard_bytes = kDefaultShardBytes);

}  // namespace qdiff::model
