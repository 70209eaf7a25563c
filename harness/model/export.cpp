// export_huggingface() of huggingface.h.
#include <algorithm>
#include <cstdio>
#include <vector>

#include "harness/contract/error.h"
#include "harness/formats/atomic_file.h"
#include "harness/formats/safetensors.h"
#include "harness/formats/suggest.h"
#include "harness/model/huggingface.h"
#include "harness/model/huggingface_config.h"

namespace qdiff::model {
namespace {

namespace fs = std::filesystem;

std::uint64_t bytes_of(const WeightInfo& info) {
  return static_cast<std::uint64_t>(num_elements(info.shape)) * size_of(info.dtype);
}

// Weights in order, a new shard wherever the next one would exceed the size; one that is larger has a shard of its own.
std::vector<std::vector<WeightInfo>> split_into_shards(const std::vector<WeightInfo>& weights,
                                                       std::uint64_t max_shard_bytes) {
  std::vector<std::vector<WeightInfo>> shards(1);
  std::uint64_t filled = 0;
  for (const WeightInfo& info : weights) {
    if (!shards.back().empty() && filled + bytes_of(info) > max_shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back(info);
    filled += bytes_of(info);
  }
  return shards;
}

void write_shard(const WeightSource& source, const fs::path& path, const std::vector<WeightInfo>& weights) {
  constexpr std::int64_t kPieceElements = std::int64_t{1} << 20;
  std::vector<formats::SafetensorsTensor> tensors;
  for (const WeightInfo& info : weights) tensors.push_back({info.name, info.dtype, info.shape});
  formats::SafetensorsWriter writer(path, tensors, {{"format", "pt"}});
  std::vector<std::byte> piece;
  for (const WeightInfo& info : weights) {
    const std::int64_t size = num_elements(info.shape);
    for (std::int64_t first = 0; first < size; first += kPieceElements) {
      const std::int64_t count = std::min(kPieceElements, size - first);
      piece.resize(static_cast<std::size_t>(count) * size_of(info.dtype));
      source.read(info, first, count, piece);
      writer.append(info.name, piece);
    }
  }
  writer.finish();
}

std::string shard_name(std::size_t shard, std::size_t count) {
  if (count == 1) return "model.safetensors";
  char text[64];
  std::snprintf(text, sizeof text, "model-%05zu-of-%05zu.safetensors", shard + 1, count);
  return text;
}

void make_empty_directory(const fs::path& directory) {
  const std::string name = formats::printable(directory.string(), 400);
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) throw InputError(name + ": cannot be made: " + error.message());
  const bool empty = fs::is_empty(directory, error);
  if (error) throw InputError(name + ": cannot be read: " + error.message());
  if (!empty) throw InputError(name + ": is not empty; give a new directory");
}

}  // namespace

void export_huggingface(const WeightSource& source, const fs::path& directory, std::uint64_t max_shard_bytes) {
  make_empty_directory(directory);
  const auto shards = split_into_shards(source.weights(), max_shard_bytes);
  formats::Json weight_map = formats::Json::object();
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string name = shard_name(i, shards.size());
    write_shard(source, directory / name, shards[i]);
    for (const WeightInfo& info : shards[i]) {
      weight_map[info.name] = name;
      total += bytes_of(info);
    }
  }
  if (shards.size() > 1) {
    const formats::Json index = {{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}};
    formats::write_file(directory / "model.safetensors.index.json", index.dump(2) + "\n");
  }
  formats::write_file(directory / "config.json", to_huggingface_config(source.config()).dump(2) + "\n");
}

}  // namespace qdiff::model
