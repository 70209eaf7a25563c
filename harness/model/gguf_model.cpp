#include "harness/model/gguf_model.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "harness/contract/error.h"
#include "harness/formats/gguf.h"
#include "harness/formats/limits.h"
#include "harness/formats/shape_hint.h"
#include "harness/formats/suggest.h"
#include "harness/model/gguf_config.h"
#include "harness/model/gguf_keys.h"
#include "harness/model/weight_table.h"

namespace qdiff::model {
namespace {

namespace fs = std::filesystem;
using formats::GgmlType;
using formats::GgufKey;
using formats::GgufReader;
using formats::GgufTensor;
using formats::printable;

constexpr std::int64_t kPieceElements = std::int64_t{1} << 18;  // dequantised at a time: 1 MiB of float32

struct Name {
  std::string_view checkpoint, file;
};
constexpr std::array<Name, 3> kNames = {{{"model.embed_tokens.weight", "token_embd.weight"},
                                         {"model.norm.weight", "output_norm.weight"},
                                         {"lm_head.weight", "output.weight"}}};
constexpr std::array<Name, 12> kNamesInLayer = {{{"input_layernorm.weight", "attn_norm.weight"},
                                                 {"self_attn.q_proj.weight", "attn_q.weight"},
                                                 {"self_attn.k_proj.weight", "attn_k.weight"},
                                                 {"self_attn.v_proj.weight", "attn_v.weight"},
                                                 {"self_attn.q_proj.bias", "attn_q.bias"},
                                                 {"self_attn.k_proj.bias", "attn_k.bias"},
                                                 {"self_attn.v_proj.bias", "attn_v.bias"},
                                                 {"self_attn.o_proj.weight", "attn_output.weight"},
                                                 {"post_attention_layernorm.weight", "ffn_norm.weight"},
                                                 {"mlp.gate_proj.weight", "ffn_gate.weight"},
                                                 {"mlp.up_proj.weight", "ffn_up.weight"},
                                                 {"mlp.down_proj.weight", "ffn_down.weight"}}};

std::string name_in_file(const std::string& checkpoint_name) {
  constexpr std::string_view kLayers = "model.layers.";
  if (!checkpoint_name.starts_with(kLayers)) {
    for (const Name& name : kNames) {
      if (name.checkpoint == checkpoint_name) return std::string(name.file);
    }
  } else {
    const std::size_t dot = checkpoint_name.find('.', kLayers.size());
    const std::string_view rest = std::string_view(checkpoint_name).substr(dot + 1);
    for (const Name& name : kNamesInLayer) {
      if (name.checkpoint != rest) continue;
      return "blk." + checkpoint_name.substr(kLayers.size(), dot - kLayers.size()) + '.' + std::string(name.file);
    }
  }
  throw std::logic_error("name_in_file: the table has a weight that GGUF has no name for: " + checkpoint_name);
}

bool is_query_or_key(const std::string& name) {
  return name.find(".q_proj.") != std::string::npos || name.find(".k_proj.") != std::string::npos;
}

std::optional<DType> plain_type(GgmlType type) {
  switch (type) {
    case GgmlType::kF32:
      return DType::kF32;
    case GgmlType::kF16:
      return DType::kF16;
    case GgmlType::kBF16:
      return DType::kBF16;
    default:
      return std::nullopt;
  }
}

std::string split_name(const std::string& before, std::uint64_t split, std::uint64_t count) {
  char ending[64];
  std::snprintf(ending, sizeof ending, "-%05llu-of-%05llu.gguf", static_cast<unsigned long long>(split) + 1,
                static_cast<unsigned long long>(count));
  return before + ending;
}

class GgufSource : public NotedSource {
 public:
  explicit GgufSource(const fs::path& path) {
    description_ = path.string();
    open_files(path);
    const auto find_tensor = [this](const std::string& name) -> const GgufTensor* {
      const auto found = places_.find(name);
      return found == places_.end() ? nullptr : found->second.tensor;
    };
    GgufConfig parsed = parse_gguf_config(first().header(), find_tensor, first().name());
    config_ = parsed.config;
    notes_ = std::move(parsed.notes);
    find_weights();
    storage_ = "GGUF version " + std::to_string(first().header().version) +
               (files_.size() == 1 ? "" : ", " + std::to_string(files_.size()) + " files");
  }

  std::vector<FileKey> keys() const override { return compare_keys(first().header(), config_); }

  std::uint64_t stored_bytes(const WeightInfo& info) const override { return place_of(info).tensor->bytes; }

  void read(const WeightInfo& info, std::int64_t first, std::int64_t count,
            std::span<std::byte> destination) const override {
    check_read_range(info, first, count, destination);
    const Place& place = place_of(info);
    if (place.permuted) {
      read_permuted(place, info, first, count, destination);
    } else if (plain_type(place.tensor->type)) {
      place.file->read(*place.tensor, static_cast<std::uint64_t>(first) * size_of(info.dtype), destination);
    } else {
      read_quantized(place, first, count, destination);
    }
  }

 private:
  struct Place {
    const GgufReader* file = nullptr;
    const GgufTensor* tensor = nullptr;
    bool permuted = false;  // rows of q and k, where the file interleaves what RoPE turns together
  };

  const GgufReader& first() const { return *files_.front(); }

  const Place& place_of(const WeightInfo& info) const {
    const auto found = places_.find(name_in_file(info.name));
    if (found == places_.end()) throw InputError(description_ + ": the model has no weight \"" + info.name + "\"");
    return found->second;
  }

  // ---- Files ----

  void open_file(const fs::path& path) {
    files_.push_back(std::make_unique<GgufReader>(path));
    const GgufReader& file = *files_.back();
    for (const GgufTensor& tensor : file.header().tensors) {
      const auto [place, is_new] = places_.try_emplace(tensor.name, Place{&file, &tensor});
      if (!is_new) {
        throw InputError(file.name() + ": tensor \"" + tensor.name + "\" is in " + place->second.file->name() +
                         " too; which one is meant cannot be told");
      }
    }
  }

  // A key that is absent or a whole number.
  static std::optional<std::uint64_t> split_key(const GgufReader& file, const char* name) {
    const GgufKey* key = file.header().find_key(name);
    if (key == nullptr) return std::nullopt;
    if (const auto* value = std::get_if<std::uint64_t>(&key->value)) return *value;
    const auto* value = std::get_if<std::int64_t>(&key->value);
    if (value == nullptr || *value < 0) {
      throw InputError(file.name() + ": byte " + std::to_string(key->offset) + ": " + name + " is " +
                       formats::describe_value(*key) + ", but must be a whole number");
    }
    return static_cast<std::uint64_t>(*value);
  }

  void open_files(const fs::path& path) {
    open_file(path);
    const std::uint64_t count = split_key(first(), "split.count").value_or(1);
    if (count <= 1) return;
    if (count > formats::kMaxGgufSplits) {
      throw InputError(first().name() + ": split.count is " + std::to_string(count) + ", more than the limit of " +
                       std::to_string(formats::kMaxGgufSplits));
    }
    const std::uint64_t here = split_key(first(), "split.no").value_or(0);
    if (here != 0) {
      throw InputError(first().name() + ": is file " + std::to_string(here + 1) + " of " + std::to_string(count) +
                       "; give the first one");
    }
    const std::string file_name = path.filename().string();
    const std::string ending = split_name("", 0, count);
    if (!file_name.ends_with(ending)) {
      throw InputError(first().name() + ": is the first of " + std::to_string(count) +
                       " files, so it must be named like NAME" + ending);
    }
    const std::string before = file_name.substr(0, file_name.size() - ending.size());
    for (std::uint64_t split = 1; split < count; ++split) {
      const fs::path next = path.parent_path() / split_name(before, split, count);
      if (!formats::path_exists(next)) {
        throw InputError(first().name() + ": is the first of " + std::to_string(count) + " files, but " +
                         printable(next.filename().string()) + " is not beside it; fetch the model again");
      }
      open_file(next);
      if (split_key(*files_.back(), "split.no") != split || split_key(*files_.back(), "split.count") != count) {
        throw InputError(files_.back()->name() + ": split.no and split.count do not say that it is file " +
                         std::to_string(split + 1) + " of " + std::to_string(count));
      }
    }
    const std::optional<std::uint64_t> tensors = split_key(first(), "split.tensors.count");
    if (tensors && *tensors != places_.size()) {
      throw InputError(first().name() + ": split.tensors.count is " + std::to_string(*tensors) +
                       ", but the files hold " + std::to_string(places_.size()) + " tensors");
    }
  }

  // ---- Weights ----

  void find_weights() {
    // Before a list is made whose length a key alone decides.
    if (static_cast<std::uint64_t>(config_.num_layers) > places_.size()) {
      throw InputError(first().name() + ": " + std::string(name(config_.architecture)) + ".block_count is " +
                       std::to_string(config_.num_layers) + ", but only " + std::to_string(places_.size()) +
                       " tensors are stored");
    }
    std::set<std::string> used;
    std::set<DType> matrix_types;
    for (WeightInfo& info : expected_weights(config_)) {
      const std::string name = name_in_file(info.name);
      used.insert(name);
      const auto found = places_.find(name);
      if (found == places_.end()) {
        throw InputError(first().name() + ": there is no tensor " + name +
                         (name.ends_with(".bias") ? "; Qwen2 has biases on q, k and v" : "; is this a whole model?"));
      }
      Place& place = found->second;
      place.permuted = facts(config_.architecture).interleaved_in_gguf && is_query_or_key(info.name);
      check(place, info);
      const std::optional<DType> plain = plain_type(place.tensor->type);
      info.dtype = plain.value_or(DType::kF32);
      if (!plain) info.stored_as = std::string(facts(place.tensor->type).name);
      if (info.shape.size() == 2) matrix_types.insert(info.dtype);
      weights_.push_back(std::move(info));
    }
    // The type of the checkpoint: that of its matrices, float32 where they have several or are quantised.
    config_.dtype = matrix_types.size() == 1 ? *matrix_types.begin() : DType::kF32;
    look_at_others(used);
  }

  void check(const Place& place, const WeightInfo& info) const {
    const GgufTensor& tensor = *place.tensor;
    const std::string where = place.file->name() + ": tensor " + tensor.name;
    const formats::GgmlTypeFacts& type = facts(tensor.type);
    if (!type.readable()) {
      throw InputError(where + " has the type " + std::string(type.name) +
                       ", which is not read; quantise the model to another, as Q4_K or Q8_0");
    }
    if (tensor.shape != info.shape) {
      throw InputError(where + " has the shape " + qdiff::to_string(tensor.shape) + ", but the file's keys ask for " +
                       qdiff::to_string(info.shape) + " (row-major)" + formats::shape_hint(tensor.shape, info.shape));
    }
    if (info.shape.size() == 1 && !plain_type(tensor.type)) {
      throw InputError(where + " has the type " + std::string(type.name) + ", but vectors must be F32, F16 or BF16");
    }
  }

  void look_at_others(const std::set<std::string>& used) {
    std::vector<std::string> others;
    for (const auto& [name, place] : places_) {
      if (!used.contains(name)) others.push_back(name);
    }
    if (others.empty()) return;
    std::ranges::sort(others);
    constexpr std::string_view kOfTheForwardPass[] = {"blk.", "output", "position_embd", "rope_", "token_"};
    for (const std::string& name : others) {
      if (std::none_of(std::begin(kOfTheForwardPass), std::end(kOfTheForwardPass),
                       [&](std::string_view start) { return name.starts_with(start); })) {
        continue;
      }
      throw InputError(first().name() + ": tensor " + name + " belongs to no operation of \"" +
                       std::string(qdiff::name(config_.architecture)) +
                       "\" that is supported, and would change the forward pass");
    }
    notes_.push_back(std::to_string(others.size()) + " tensors are stored and not used: " + others.front() +
                     (others.size() > 1 ? ", ..." : ""));
  }

  // ---- Values ----

  // Elements [first, first + count) in the file's order, as float32.
  static void read_quantized(const Place& place, std::int64_t first, std::int64_t count,
                             std::span<std::byte> destination) {
    const formats::GgmlTypeFacts& type = facts(place.tensor->type);
    const auto block = static_cast<std::int64_t>(type.block_elements);
    std::vector<std::byte> blocks;
    std::vector<float> values;
    std::byte* out = destination.data();
    for (std::int64_t at = first; at < first + count;) {
      const std::int64_t begin = at / block;
      const std::int64_t wanted = std::min(first + count - at, kPieceElements - at % block);
      const std::int64_t end = (at + wanted + block - 1) / block;
      blocks.resize(static_cast<std::size_t>(end - begin) * type.block_bytes);
      values.resize(static_cast<std::size_t>((end - begin) * block));
      place.file->read(*place.tensor, static_cast<std::uint64_t>(begin) * type.block_bytes, blocks);
      dequantize(type.type, blocks, values);
      std::memcpy(out, values.data() + at % block, static_cast<std::size_t>(wanted) * sizeof(float));
      out += static_cast<std::size_t>(wanted) * sizeof(float);
      at += wanted;
    }
  }

  // The same, in the checkpoint's order of rows. A whole head is read at a time: its rows lie apart, but within it.
  void read_permuted(const Place& place, const WeightInfo& info, std::int64_t first, std::int64_t count,
                     std::span<std::byte> destination) const {
    const formats::GgmlTypeFacts& type = facts(place.tensor->type);
    const std::int64_t columns = info.shape.size() == 1 ? 1 : info.shape[1];
    const auto row_bytes = static_cast<std::size_t>(columns / type.block_elements) * type.block_bytes;
    const std::int64_t d = config_.head_dim;
    const bool plain = plain_type(place.tensor->type).has_value();
    std::vector<std::byte> head(static_cast<std::size_t>(d) * row_bytes);
    std::vector<float> values(plain ? 0 : static_cast<std::size_t>(columns));
    std::int64_t head_read = -1;
    std::byte* out = destination.data();
    for (std::int64_t at = first; at < first + count;) {
      const std::int64_t row = at / columns, column = at % columns;
      if (row / d != head_read) {
        head_read = row / d;
        place.file->read(*place.tensor, static_cast<std::uint64_t>(head_read) * head.size(), head);
      }
      const std::int64_t half = row % d / (d / 2), pair = row % d % (d / 2);
      std::span<const std::byte> stored =
          std::span(head).subspan(static_cast<std::size_t>(2 * pair + half) * row_bytes, row_bytes);
      if (!plain) {
        dequantize(type.type, stored, values);
        stored = std::as_bytes(std::span(values));
      }
      const std::int64_t wanted = std::min(columns - column, first + count - at);
      const std::size_t bytes = static_cast<std::size_t>(wanted) * size_of(info.dtype);
      std::memcpy(out, stored.data() + static_cast<std::size_t>(column) * size_of(info.dtype), bytes);
      out += bytes;
      at += wanted;
    }
  }

  std::vector<std::unique_ptr<GgufReader>> files_;
  std::unordered_map<std::string, Place> places_;  // every stored tensor, by its name in the file
};

}  // namespace

bool is_gguf(const fs::path& path) {
  std::error_code ignored;
  if (path.native().ends_with(".gguf")) return !fs::is_directory(path, ignored);
  if (!fs::is_regular_file(path, ignored)) return false;
  std::array<char, 4> start{};
  std::ifstream(path, std::ios::binary).read(start.data(), start.size());
  return std::string_view(start.data(), start.size()) == "GGUF";
}

std::unique_ptr<NotedSource> open_gguf(const fs::path& path) { return std::make_unique<GgufSource>(path); }

}  // namespace qdiff::model
