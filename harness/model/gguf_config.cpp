#include "harness/model/gguf_config.h"

#include <array>
#include <charconv>
#include <cmath>
#include <optional>
#include <stdexcept>

#include "harness/contract/error.h"
#include "harness/formats/limits.h"
#include "harness/formats/suggest.h"

namespace qdiff::model {
namespace {

using formats::GgufHeader;
using formats::GgufKey;
using formats::GgufType;

// A writer rounds 1e-6 to float32, and the double nearest to that is 9.99999997e-07. The shortest decimal that gives
// the float32 back is the number that was meant, and what config.json of the same model says.
double as_written(double value) {
  const auto narrow = static_cast<float>(value);
  if (static_cast<double>(narrow) != value) return value;
  std::array<char, 32> text{};
  const char* end = std::to_chars(text.data(), text.data() + text.size(), narrow).ptr;
  std::from_chars(text.data(), end, value);
  return value;
}

class GgufConfigReader {
 public:
  GgufConfigReader(const GgufHeader& header, const FindTensor& find_tensor, const std::string& where)
      : header_(header), find_tensor_(find_tensor), where_(where) {}

  GgufConfig read() {
    ModelConfig& c = result_.config;
    const std::string architecture = text("general.architecture");
    const std::optional<Architecture> known = parse_architecture(architecture);
    if (!known) {
      throw InputError(where_ + ": general.architecture is \"" + formats::printable(architecture) + "\", but only " +
                       known_architectures() + " are supported");
    }
    c.architecture = *known;
    prefix_ = architecture + '.';
    c.hidden = dimension("embedding_length");
    c.num_layers = dimension("block_count");
    c.num_q_heads = dimension("attention.head_count");
    c.num_kv_heads = dimension("attention.head_count_kv", c.num_q_heads);
    c.head_dim = dimension("attention.key_length", c.hidden / c.num_q_heads);
    c.intermediate = dimension("feed_forward_length");
    c.max_position_embeddings = dimension("context_length");
    c.rms_norm_eps = required_number("attention.layer_norm_rms_epsilon");
    c.rope_theta = theta();
    refuse_other_models();
    read_vocabulary();
    c.tie_word_embeddings = find_tensor_("output.weight") == nullptr;
    c.qkv_bias = facts(c.architecture).qkv_bias || find_tensor_("blk.0.attn_q.bias") != nullptr;
    try {
      c.validate();
    } catch (const std::invalid_argument& error) {
      throw InputError(where_ + ": " + error.what());
    }
    return std::move(result_);
  }

 private:
  [[noreturn]] void refuse(const GgufKey& key, const std::string& rule) const {
    throw InputError(where_ + ": byte " + std::to_string(key.offset) + ": " + key.name + " is " +
                     formats::describe_value(key) + ", but " + rule);
  }

  const GgufKey* find(const std::string& name) const { return header_.find_key(prefix_ + name); }

  const GgufKey& require(const std::string& name, const std::string& rule) const {
    if (const GgufKey* key = find(name)) return *key;
    throw InputError(where_ + ": the key " + prefix_ + name + " is missing; it must be " + rule);
  }

  std::string text(const std::string& name) const {
    const GgufKey& key = require(name, "a string");
    if (const auto* value = std::get_if<std::string>(&key.value)) return *value;
    refuse(key, "must be a string");
  }

  // Reads a whole number of any type.
  static std::optional<std::int64_t> whole(const GgufKey& key) {
    if (const auto* value = std::get_if<std::int64_t>(&key.value)) return *value;
    const auto* value = std::get_if<std::uint64_t>(&key.value);
    if (value == nullptr || *value > INT64_MAX) return std::nullopt;
    return static_cast<std::int64_t>(*value);
  }

  std::int64_t dimension(const std::string& name) const {
    const std::string rule = "a whole number from 1 to " + std::to_string(formats::kLargestDimension);
    const GgufKey& key = require(name, rule);
    const std::optional<std::int64_t> value = whole(key);
    if (!value || *value < 1 || *value > formats::kLargestDimension) refuse(key, "must be " + rule);
    return *value;
  }

  std::int64_t dimension(const std::string& name, std::int64_t otherwise) {
    return find(name) == nullptr ? otherwise : dimension(name);
  }

  double number(const GgufKey& key) const {
    const auto* value = std::get_if<double>(&key.value);
    if (value == nullptr) refuse(key, "must be a float32");
    return key.type == GgufType::kFloat32 ? as_written(*value) : *value;
  }

  double required_number(const std::string& name) const {
    const GgufKey& key = require(name, "a finite number that is not negative");
    const double value = number(key);
    if (!(value >= 0.0 && std::isfinite(value))) refuse(key, "must be finite and not negative");
    return value;
  }

  double theta() {
    const GgufKey* key = find("rope.freq_base");
    if (key == nullptr) {
      result_.notes.push_back("there is no key " + prefix_ + "rope.freq_base; llama.cpp's default is 10000");
      return 10000.0;
    }
    const double value = number(*key);
    if (!(value > 0.0 && std::isfinite(value))) refuse(*key, "must be finite and positive");
    return value;
  }

  // Keys that may stand there with the one value that changes nothing.
  void must_be(const std::string& name, double harmless, const std::string& why) const {
    const GgufKey* key = find(name);
    if (key == nullptr) return;
    const auto* fraction = std::get_if<double>(&key->value);
    const std::optional<std::int64_t> value = whole(*key);
    const bool same = fraction != nullptr ? *fraction == harmless : value && static_cast<double>(*value) == harmless;
    if (!same) refuse(*key, why);
  }

  void refuse_other_models() const {
    const auto d = static_cast<double>(result_.config.head_dim);
    must_be("attention.value_length", d, "values whose head dimension is not that of the keys are not supported");
    must_be("rope.dimension_count", d, "a rotation of a part of each head is not supported");
    must_be("rope.scale_linear", 1.0, "rope scaling is not supported");
    must_be("rope.scaling.factor", 1.0, "rope scaling is not supported");
    must_be("rope.scaling.attn_factor", 1.0, "rope scaling is not supported");
    must_be("attention.sliding_window", 0.0, "a sliding window is not supported");
    must_be("expert_count", 0.0, "mixtures of experts are not supported");
    must_be("attention.scale", 0.0, "a scale of its own for attention is not supported");
    must_be("logit_scale", 1.0, "scaled logits are not supported");
    must_be("residual_scale", 1.0, "a scaled residual stream is not supported");
    must_be("embedding_scale", 1.0, "scaled embeddings are not supported");
    if (const GgufKey* key = find("rope.scaling.type")) {
      const auto* type = std::get_if<std::string>(&key->value);
      if (type == nullptr || *type != "none") refuse(*key, "rope scaling is not supported, only \"none\"");
    }
    if (const GgufKey* key = find("attention.causal")) {
      const auto* causal = std::get_if<bool>(&key->value);
      if (causal == nullptr || !*causal) refuse(*key, "only causal attention is supported");
    }
    if (const GgufKey* key = find("use_parallel_residual")) {
      const auto* parallel = std::get_if<bool>(&key->value);
      if (parallel == nullptr || *parallel) refuse(*key, "a parallel residual is not supported");
    }
  }

  void read_vocabulary() {
    const formats::GgufTensor* embedding = find_tensor_("token_embd.weight");
    if (embedding == nullptr)
      throw InputError(where_ + ": there is no tensor token_embd.weight; is this a whole model?");
    result_.config.vocab = embedding->shape.front();
    const std::string rows = std::to_string(result_.config.vocab);
    if (const GgufKey* key = find("vocab_size")) {
      if (whole(*key) != result_.config.vocab) refuse(*key, "token_embd.weight has " + rows + " rows");
    }
    if (const GgufKey* key = header_.find_key("tokenizer.ggml.tokens")) {
      const auto* tokens = std::get_if<formats::GgufArray>(&key->value);
      if (tokens == nullptr || tokens->element_type != GgufType::kString) refuse(*key, "must be an array of strings");
      if (static_cast<std::int64_t>(tokens->count) != result_.config.vocab) {
        refuse(*key, "token_embd.weight has " + rows + " rows: the vocabulary is another model's");
      }
    }
  }

  const GgufHeader& header_;
  const FindTensor& find_tensor_;
  const std::string& where_;
  std::string prefix_;
  GgufConfig result_;
};

}  // namespace

GgufConfig parse_gguf_config(const GgufHeader& header, const FindTensor& find_tensor, const std::string& where) {
  return GgufConfigReader(header, find_tensor, where).read();
}

}  // namespace qdiff::model
