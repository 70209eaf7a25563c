#include "harness/model/describe.h"

#include <algorithm>
#include <map>
#include <vector>

#include "harness/contract/number_text.h"
#include "harness/formats/suggest.h"
#include "harness/model/noted_source.h"

namespace qdiff::model {
namespace {

std::string grouped(std::uint64_t number) {
  const std::string digits = std::to_string(number);
  std::string text;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

constexpr std::size_t kLabelWidth = 34;

void line(std::string& out, const std::string& label, const std::string& value) {
  out += label + std::string(label.size() < kLabelWidth ? kLabelWidth - label.size() : 1, ' ') + value + '\n';
}

// Weights that differ in their layer only.
struct Kind {
  std::string name;  // "model.layers.*.mlp.up_proj.weight"
  Shape shape;
  std::string type;  // as stored: "bfloat16", "Q4_K"
  std::size_t count = 0;
};

std::string without_layer(const std::string& name) {
  constexpr std::string_view kLayers = "model.layers.";
  if (!name.starts_with(kLayers)) return name;
  return std::string(kLayers) + '*' + name.substr(name.find('.', kLayers.size()));
}

std::string stored_type(const WeightInfo& info) {
  return info.stored_as.empty() ? std::string(name(info.dtype)) : info.stored_as;
}

std::vector<Kind> kinds_of(const std::vector<WeightInfo>& weights) {
  std::vector<Kind> kinds;
  for (const WeightInfo& info : weights) {
    const std::string name = without_layer(info.name);
    const auto same = std::ranges::find_if(kinds, [&](const Kind& kind) {
      return kind.name == name && kind.type == stored_type(info) && kind.shape == info.shape;
    });
    if (same == kinds.end()) {
      kinds.push_back({name, info.shape, stored_type(info), 1});
    } else {
      ++same->count;
    }
  }
  return kinds;
}

// How many weights and elements each type holds, where there are quantised ones.
void list_types(std::string& out, const std::vector<WeightInfo>& weights) {
  struct Type {
    std::size_t weights = 0;
    std::uint64_t elements = 0;
  };
  std::map<std::string, Type> types;
  bool any_quantized = false;
  for (const WeightInfo& info : weights) {
    Type& type = types[stored_type(info)];
    ++type.weights;
    type.elements += static_cast<std::uint64_t>(num_elements(info.shape));
    any_quantized = any_quantized || !info.stored_as.empty();
  }
  if (!any_quantized) return;
  out += "types, quantised ones read as float32:\n";
  for (const auto& [name, type] : types) {
    line(out, "  " + name, grouped(type.elements) + " elements in " + std::to_string(type.weights) + " weights");
  }
}

void list_keys(std::string& out, const std::vector<FileKey>& keys) {
  constexpr std::size_t kNameWidth = 44, kValueWidth = 24;
  const auto padded = [](std::string text, std::size_t width) {
    if (text.size() < width) text.resize(width, ' ');
    return text + ' ';
  };
  if (keys.empty()) return;
  const bool any_usual = std::ranges::any_of(keys, [](const FileKey& key) { return !key.usual.empty(); });
  out += any_usual ? "keys of the file, and what Qwen2.5 usually has:\n" : "keys of the file:\n";
  for (const FileKey& key : keys) {
    out += "  " +
           (key.usual.empty() ? padded(key.name, kNameWidth) + key.value
                              : padded(key.name, kNameWidth) + padded(key.value, kValueWidth) + key.usual) +
           '\n';
  }
}

void warn_of_unusual_values(std::string& out, const ModelConfig& c, const std::vector<FileKey>& keys) {
  if (c.architecture != Architecture::kQwen2) return;
  const auto warn = [&](const std::string& text) { out += "warning: " + text + '\n'; };
  if (c.rms_norm_eps != 1e-6) {
    warn("rms_norm_eps is " + digits(c.rms_norm_eps, 10) + "; most Qwen2.5 checkpoints have 1e-06");
  }
  if (c.rope_theta != 1e6) {
    warn("rope theta is " + digits(c.rope_theta, 10) + "; Qwen2.5 has 1e+06, some models made from it do not");
  }
  if (c.head_dim != 64 && c.head_dim != 128) {
    warn("the head dimension is " + std::to_string(c.head_dim) + "; Qwen2.5 has 64 or 128");
  }
  if (c.q_width() != c.hidden) {
    warn("heads times head dimension is " + std::to_string(c.q_width()) + ", not the hidden size; in Qwen2.5 it is");
  }
  for (const FileKey& key : keys) {
    if (key.differs) warn(key.name + " is " + key.value + "; Qwen2.5 usually has " + key.usual);
  }
}

}  // namespace

std::string describe(const WeightSource& source) {
  const ModelConfig& c = source.config();
  const auto* noted = dynamic_cast<const NotedSource*>(&source);
  std::string out;
  line(out, "model", formats::printable(source.description(), 400));
  if (noted != nullptr) line(out, "storage", noted->storage());
  line(out, "architecture", std::string(name(c.architecture)));
  line(out, "hidden size (D)", std::to_string(c.hidden));
  line(out, "layers (L)", std::to_string(c.num_layers));
  line(out, "query heads (H)", std::to_string(c.num_q_heads));
  line(out, "key/value heads (K)",
       std::to_string(c.num_kv_heads) + ", " + std::to_string(c.group_size()) +
           (c.group_size() == 1 ? " query head" : " query heads") + " each");
  line(out, "head dimension (d)", std::to_string(c.head_dim));
  line(out, "intermediate size (I)", std::to_string(c.intermediate));
  line(out, "vocabulary (V)", std::to_string(c.vocab));
  line(out, "rms_norm_eps", digits(c.rms_norm_eps, 10));
  line(out, "rope theta", digits(c.rope_theta, 10));
  line(out, "max positions", std::to_string(c.max_position_embeddings));
  line(out, "embeddings", c.tie_word_embeddings ? "tied: lm_head is the embedding" : "untied");
  line(out, "dtype", std::string(name(c.dtype)));

  if (!c.qkv_bias) line(out, "biases on q, k and v", "none");

  std::uint64_t parameters = 0, bytes = 0, stored = 0;
  for (const WeightInfo& info : source.weights()) {
    ++stored;
    const auto size = static_cast<std::uint64_t>(num_elements(info.shape));
    parameters += size;
    bytes += noted != nullptr ? noted->stored_bytes(info) : size * size_of(info.dtype);
  }
  line(out, "parameters", grouped(parameters) + " in " + std::to_string(stored) + " weights");
  line(out, "bytes", grouped(bytes));
  out += "weights:\n";
  for (const Kind& kind : kinds_of(source.weights())) {
    line(out, "  " + std::to_string(kind.count) + " x " + qdiff::to_string(kind.shape) + ' ' + kind.type,
         "  " + kind.name);
  }
  list_types(out, source.weights());
  const std::vector<FileKey> keys = noted != nullptr ? noted->keys() : std::vector<FileKey>();
  list_keys(out, keys);
  if (noted != nullptr) {
    for (const std::string& note : noted->notes()) out += "note: " + note + '\n';
  }
  warn_of_unusual_values(out, c, keys);
  return out;
}

}  // namespace qdiff::model
