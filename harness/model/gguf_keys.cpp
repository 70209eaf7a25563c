#include "harness/model/gguf_keys.h"

#include <algorithm>
#include <string>
#include <string_view>

#include "harness/contract/wording.h"
#include "harness/model/synthetic.h"

namespace qdiff::model {
namespace {

// What a key has in a published model: several values where they differ in it.
struct Usual {
  std::string_view key;
  std::vector<std::string> values;
  bool in_config = false;  // describe() warns of the value in the config, wherever it comes from
};

std::vector<Usual> usual_of(const ModelConfig& config) {
  std::vector<Usual> usual = {
      {"general.architecture", {"\"qwen2\""}},
      {"qwen2.attention.layer_norm_rms_epsilon", {"1e-06"}, true},
      {"qwen2.rope.freq_base", {"1000000"}, true},
      {"qwen2.context_length", {"32768", "131072"}},
      {"qwen2.attention.key_length", {"128", "64"}, true},
      {"qwen2.attention.value_length", {"128", "64"}},
      {"tokenizer.ggml.model", {"\"gpt2\""}},
      {"tokenizer.ggml.pre", {"\"qwen2\""}},
      {"tokenizer.ggml.tokens", {"151936 strings", "152064 strings"}},
      {"tokenizer.ggml.bos_token_id", {"151643"}},
      {"tokenizer.ggml.eos_token_id", {"151645", "151643"}},
      {"tokenizer.ggml.padding_token_id", {"151643"}},
      {"tokenizer.ggml.add_bos_token", {"false"}},
  };
  for (const SyntheticShape& shape : kSyntheticShapes) {
    const bool published = shape.name.starts_with("qwen2.5-");
    if (!published || shape.hidden != config.hidden || shape.num_layers != config.num_layers) continue;
    usual.push_back({"qwen2.attention.head_count", {std::to_string(shape.num_q_heads)}});
    usual.push_back({"qwen2.attention.head_count_kv", {std::to_string(shape.num_kv_heads)}});
    usual.push_back({"qwen2.feed_forward_length", {std::to_string(shape.intermediate)}});
  }
  return usual;
}

}  // namespace

std::vector<FileKey> compare_keys(const formats::GgufHeader& header, const ModelConfig& config) {
  const std::vector<Usual> usual =
      config.architecture == Architecture::kQwen2 ? usual_of(config) : std::vector<Usual>();
  std::vector<FileKey> keys;
  for (const formats::GgufKey& key : header.keys) {
    FileKey shown{.name = key.name, .value = describe_value(key), .usual = {}};
    for (const Usual& published : usual) {
      if (published.key != key.name) continue;
      shown.usual = joined(published.values, " or ");
      const bool same = std::ranges::find(published.values, shown.value) != published.values.end();
      shown.differs = !same && !published.in_config;
    }
    keys.push_back(std::move(shown));
  }
  return keys;
}

}  // namespace qdiff::model
