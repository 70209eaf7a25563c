#include "harness/model/huggingface.h"

#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "harness/contract/error.h"
#include "harness/contract/operation_table.h"
#include "harness/formats/input_file.h"
#include "harness/formats/safetensors.h"
#include "harness/formats/shape_hint.h"
#include "harness/formats/strict_json.h"
#include "harness/formats/suggest.h"
#include "harness/model/huggingface_config.h"
#include "harness/model/weight_table.h"

namespace qdiff::model {
namespace {

namespace fs = std::filesystem;
using formats::Json;
using formats::printable;

constexpr const char* kConfigFile = "config.json";
constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

// What the index says: which shard holds which tensor.
struct ShardIndex {
  std::map<std::string, std::string> shard_of;  // tensor -> file name
  std::optional<double> total_size;             // bytes, as metadata.total_size has it
};

// Names from a file never become paths: a separator, a drive, a leading dot or a control character is refused.
void check_shard_name(const std::string& name, const std::string& where) {
  bool plain = name.ends_with(".safetensors") && name.front() != '.' && name.size() <= 255;
  for (unsigned char c : name) plain = plain && c > 0x20 && c != 0x7F && c != '/' && c != '\\' && c != ':';
  if (!plain) {
    throw InputError(where + ": the shard \"" + printable(name) +
                     "\" must be the plain name of a .safetensors file in the same directory");
  }
}

ShardIndex read_index(const fs::path& path) {
  const std::string where = printable(path.string(), 400);
  const Json json = formats::read_json_file(path, formats::kShardIndexLimits);
  ShardIndex index;
  for (const auto& [tensor, file] : formats::require_object(json, "weight_map", where).items()) {
    if (!file.is_string()) {
      throw InputError(where + ": weight_map \"" + printable(tensor) + "\" is " + formats::show(file) +
                       ", but must be a string");
    }
    const auto& name = file.get_ref<const std::string&>();
    check_shard_name(name, where);
    index.shard_of[tensor] = name;
  }
  if (index.shard_of.empty()) throw InputError(where + ": \"weight_map\" is empty");
  if (json.contains("metadata") && json["metadata"].is_object()) {
    index.total_size = formats::optional_number(json["metadata"], "total_size", 0.0, 1e18, where + ": metadata");
  }
  return index;
}

class HuggingFaceSource : public NotedSource {
 public:
  explicit HuggingFaceSource(const fs::path& directory) {
    description_ = directory.string();
    const std::string config_name = printable((directory / kConfigFile).string(), 400);
    HuggingFaceConfig parsed = parse_huggingface_config(formats::read_json_file(directory / kConfigFile), config_name);
    config_ = parsed.config;
    notes_ = std::move(parsed.notes);
    if (formats::path_exists(directory / kSingleFile)) {
      open_shard(directory / kSingleFile);
      storage_ = std::string("Hugging Face directory, ") + kSingleFile;
    } else {
      open_shards(directory);
      storage_ = "Hugging Face directory, " + std::to_string(shards_.size()) + " shards";
    }
    find_weights(!parsed.dtype.has_value());
  }

  void read(const WeightInfo& info, std::int64_t first, std::int64_t count,
            std::span<std::byte> destination) const override {
    check_read_range(info, first, count, destination);
    const auto found = places_.find(info.name);
    if (found == places_.end()) throw InputError(description_ + ": the model has no weight \"" + info.name + "\"");
    const Place& place = found->second;
    place.shard->read(*place.entry, static_cast<std::uint64_t>(first) * size_of(info.dtype), destination);
  }

 private:
  struct Place {
    const formats::SafetensorsReader* shard = nullptr;
    const formats::SafetensorsEntry* entry = nullptr;
  };

  const formats::SafetensorsReader& open_shard(const fs::path& path) {
    shards_.push_back(std::make_unique<formats::SafetensorsReader>(path));
    const formats::SafetensorsReader& shard = *shards_.back();
    for (const formats::SafetensorsEntry& entry : shard.header().entries) {
      const auto [place, is_new] = places_.try_emplace(entry.name, Place{&shard, &entry});
      if (!is_new) {
        throw InputError(shard.name() + ": tensor \"" + printable(entry.name) + "\" is in " +
                         place->second.shard->name() + " too; which one is meant cannot be told");
      }
      stored_bytes_ += entry.bytes();
    }
    return shard;
  }

  void open_shards(const fs::path& directory) {
    const std::string where = printable((directory / kIndexFile).string(), 400);
    const ShardIndex index = read_index(directory / kIndexFile);
    std::set<std::string> files;
    for (const auto& [tensor, file] : index.shard_of) files.insert(file);
    std::map<std::string, const formats::SafetensorsReader*> opened;
    for (const std::string& file : files) {
      if (!formats::path_exists(directory / file)) {
        throw InputError(where + ": names the shard \"" + file + "\", which is not there; fetch the model again");
      }
      opened[file] = &open_shard(directory / file);
    }
    for (const auto& [tensor, file] : index.shard_of) {
      if (opened[file]->header().find(tensor) == nullptr) {
        throw InputError(where + ": tensor \"" + printable(tensor) + "\" is not in the shard \"" + file + "\"");
      }
    }
    if (index.total_size && *index.total_size != static_cast<double>(stored_bytes_)) {
      throw InputError(where + ": metadata.total_size is " + formats::show(Json(*index.total_size)) +
                       ", but the shards hold " + std::to_string(stored_bytes_) + " bytes of tensors");
    }
  }

  // Checks every weight of the table and lists it with the dtype in which it is stored.
  void find_weights(bool dtype_from_weights) {
    // Before a list is made whose length config.json alone decides.
    if (static_cast<std::uint64_t>(config_.num_layers) > places_.size()) {
      throw InputError(printable(description_, 400) + ": config.json asks for " + std::to_string(config_.num_layers) +
                       " layers, but only " + std::to_string(places_.size()) + " tensors are stored");
    }
    std::set<std::string> needed;
    for (WeightInfo& info : expected_weights(config_)) {
      needed.insert(info.name);
      const auto found = places_.find(info.name);
      if (found == places_.end()) refuse_missing(info.name);
      const formats::SafetensorsEntry& entry = *found->second.entry;
      const std::string where = found->second.shard->name() + ": tensor \"" + info.name + "\"";
      if (!entry.dtype || *entry.dtype == DType::kF64) {
        throw InputError(where + " is stored as " + entry.dtype_name +
                         ", but must be F32, F16 or BF16; quantised checkpoints are not supported");
      }
      if (entry.shape != info.shape) {
        throw InputError(where + " has the shape " + qdiff::to_string(entry.shape) + ", but config.json asks for " +
                         qdiff::to_string(info.shape) + formats::shape_hint(entry.shape, info.shape));
      }
      info.dtype = *entry.dtype;
      weights_.push_back(std::move(info));
    }
    if (dtype_from_weights) {
      config_.dtype = weights_.front().dtype;
      notes_.push_back("config.json has no dtype; the embedding is stored as " + std::string(name(config_.dtype)));
    }
    refuse_weights_that_would_count();
    note_unused(needed);
  }

  // Stored weights of operations that a model of this architecture does not have.
  void refuse_weights_that_would_count() const {
    for (const TensorId& id : all_tensors(config_, /*optional_too=*/true)) {
      if (config_.has(row(id.op).component)) continue;
      const std::string weight = weight_name(id, 0, config_);
      if (!places_.contains(weight)) continue;
      throw InputError(printable(description_, 400) + ": tensor \"" + weight + "\" is stored, but config.json says \"" +
                       std::string(name(config_.architecture)) + "\", whose models have none");
    }
  }

  [[noreturn]] void refuse_missing(const std::string& name) const {
    std::string text = printable(description_, 400) + ": the checkpoint has no tensor \"" + name + "\"";
    if (name == "lm_head.weight") {
      text += "; if the output is the embedding, config.json must say \"tie_word_embeddings\": true";
    } else if (name.ends_with("_proj.bias")) {
      text += "; Qwen2 has biases on q, k and v";
    } else if (places_.count(name.substr(name.find('.') + 1)) != 0) {
      text += ", though it has \"" + name.substr(name.find('.') + 1) +
              "\": it holds the bare model; save it as Qwen2ForCausalLM";
    } else {
      text += "; is it complete?";
    }
    throw InputError(text);
  }

  void note_unused(const std::set<std::string>& needed) {
    std::vector<std::string> unused;
    for (const auto& [name, place] : places_) {
      if (needed.count(name) == 0) unused.push_back(name);
    }
    if (unused.empty()) return;
    std::ranges::sort(unused);
    std::string text = std::to_string(unused.size()) + " tensors are stored and not used: " + printable(unused.front());
    if (unused.size() > 1) text += ", ...";
    notes_.push_back(text);
    if (config_.tie_word_embeddings && std::ranges::binary_search(unused, "lm_head.weight")) {
      notes_.push_back("lm_head.weight is stored, but config.json ties the embeddings: the embedding is used" +
                       std::string(lm_head_equals_embedding()
                                       ? " (they are equal)"
                                       : "; they DIFFER, and transformers 5 would use lm_head.weight"));
    }
  }

  bool lm_head_equals_embedding() const {
    const Place& head = places_.at("lm_head.weight");
    const Place& embedding = places_.at("model.embed_tokens.weight");
    if (head.entry->dtype_name != embedding.entry->dtype_name || head.entry->shape != embedding.entry->shape) {
      return false;
    }
    constexpr std::uint64_t kPiece = std::uint64_t{4} << 20;
    std::vector<std::byte> a, b;
    for (std::uint64_t at = 0; at < head.entry->bytes(); at += kPiece) {
      const auto piece = static_cast<std::size_t>(std::min(kPiece, head.entry->bytes() - at));
      a.resize(piece);
      b.resize(piece);
      head.shard->read(*head.entry, at, a);
      embedding.shard->read(*embedding.entry, at, b);
      if (a != b) return false;
    }
    return true;
  }

  std::vector<std::unique_ptr<formats::SafetensorsReader>> shards_;
  std::unordered_map<std::string, Place> places_;  // every stored tensor
  std::uint64_t stored_bytes_ = 0;
};

}  // namespace

std::unique_ptr<NotedSource> open_huggingface(const fs::path& directory) {
  const std::string name = printable(directory.string(), 400);
  const char* const kWanted =
      "a Hugging Face model directory has config.json, and model.safetensors or model.safetensors.index.json with its "
      "shards";
  if (!formats::path_exists(directory)) throw InputError(name + ": there is no such file or directory");
  if (!fs::is_directory(directory)) {
    throw InputError(name + ": is not a directory; " + kWanted);
  }
  if (!formats::path_exists(directory / kConfigFile)) throw InputError(name + ": has no config.json; " + kWanted);
  if (!formats::path_exists(directory / kSingleFile) && !formats::path_exists(directory / kIndexFile)) {
    const bool pickled = formats::path_exists(directory / "pytorch_model.bin") ||
                         formats::path_exists(directory / "pytorch_model.bin.index.json");
    throw InputError(name + ": has config.json but neither model.safetensors nor model.safetensors.index.json" +
                     (pickled ? "; pickled weights (pytorch_model.bin) are not read: save it with safetensors" : ""));
  }
  return std::make_unique<HuggingFaceSource>(directory);
}

}  // namespace qdiff::model
