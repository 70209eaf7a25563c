#include "harness/model/huggingface_config.h"

#include <stdexcept>

#include "harness/contract/error.h"
#include "harness/formats/limits.h"
#include "harness/formats/suggest.h"

namespace qdiff::model {
namespace {

using formats::Json;

class HuggingFaceConfigReader {
 public:
  HuggingFaceConfigReader(const Json& json, const std::string& where) : json_(json), where_(where) {}

  HuggingFaceConfig read() {
    if (!json_.is_object()) refuse("is " + formats::show(json_) + ", but must be an object");
    const ArchitectureFacts& defaults = read_architecture();
    ModelConfig& c = result_.config;
    c.architecture = defaults.architecture;
    c.qkv_bias = defaults.qkv_bias;
    c.vocab = dimension("vocab_size", defaults.vocab);
    c.hidden = dimension("hidden_size", 4096);
    c.intermediate = dimension("intermediate_size", defaults.intermediate);
    c.num_layers = dimension("num_hidden_layers", 32);
    c.num_q_heads = dimension("num_attention_heads", 32);
    const bool as_many =
        is_null("num_key_value_heads") || (defaults.num_kv_heads == 0 && absent("num_key_value_heads"));
    c.num_kv_heads = as_many ? c.num_q_heads : dimension("num_key_value_heads", defaults.num_kv_heads);
    c.head_dim = absent("head_dim") ? c.hidden / c.num_q_heads : dimension("head_dim", 0);
    c.max_position_embeddings = dimension("max_position_embeddings", defaults.max_position_embeddings);
    c.rms_norm_eps = number("rms_norm_eps", 1e-6, 1.0);
    c.tie_word_embeddings = boolean("tie_word_embeddings", false);
    read_rope();
    check_sliding_window();
    read_dtype();
    try {
      c.validate();
    } catch (const std::invalid_argument& error) {
      refuse(error.what());
    }
    return std::move(result_);
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const { throw InputError(where_ + ": " + what); }

  bool absent(const char* key) const { return !json_.contains(key) || json_[key].is_null(); }
  bool is_null(const char* key) const { return json_.contains(key) && json_[key].is_null(); }

  void note_default(const std::string& key, const std::string& value) {
    result_.notes.push_back("config.json has no " + key + "; transformers' default is " + value);
  }

  std::int64_t dimension(const char* key, std::int64_t otherwise) {
    if (const auto value = formats::optional_int(json_, key, 1, formats::kLargestDimension, where_)) return *value;
    note_default(key, std::to_string(otherwise));
    return otherwise;
  }

  double number(const char* key, double otherwise, double max) {
    if (const auto value = formats::optional_number(json_, key, 0.0, max, where_)) return *value;
    note_default(key, formats::show(Json(otherwise)));
    return otherwise;
  }

  bool boolean(const char* key, bool otherwise) {
    if (const auto value = formats::optional_bool(json_, key, where_)) return *value;
    note_default(key, otherwise ? "true" : "false");
    return otherwise;
  }

  const ArchitectureFacts& read_architecture() const {
    if (!json_.contains("model_type")) {
      refuse("\"model_type\" is missing; is this the config.json of a model? Supported are " + known_architectures());
    }
    const std::string type = formats::require_string(json_, "model_type", where_);
    const std::optional<Architecture> architecture = parse_architecture(type);
    if (!architecture) {
      refuse("\"model_type\" is \"" + formats::printable(type) + "\", but only " + known_architectures() +
             " are supported");
    }
    const ArchitectureFacts& defaults = facts(*architecture);
    if (!absent("architectures")) {
      bool causal = false;
      for (const Json& entry : formats::require_array(json_, "architectures", where_)) {
        causal = causal || entry == defaults.causal_model;
      }
      if (!causal) {
        refuse("\"architectures\" is " + formats::printable(json_["architectures"].dump()) + ", but must name \"" +
               std::string(defaults.causal_model) + "\": other heads are not supported");
      }
    }
    if (!absent("quantization_config")) {
      refuse("\"quantization_config\" is present: quantised checkpoints are not supported; give the original one");
    }
    if (json_.contains("hidden_act")) {
      const std::string activation = formats::require_string(json_, "hidden_act", where_);
      if (activation != "silu") {
        refuse("\"hidden_act\" is \"" + formats::printable(activation) + "\", but only \"silu\" is supported");
      }
    }
    for (const char* key : {"attention_bias", "mlp_bias"}) {  // llama's, whose attention_bias is one of o_proj too
      if (formats::optional_bool(json_, key, where_).value_or(false)) {
        refuse(std::string("\"") + key + "\" is true, which is not supported");
      }
    }
    return defaults;
  }

  // One object that describes the rotary embedding. Keys that change nothing for the default type may stand there.
  void read_rope_object(const char* key, std::optional<double>& theta, std::string& theta_from) {
    if (absent(key)) return;
    const Json& rope = formats::require_object(json_, key, where_);
    const std::string inside = where_ + ": " + key;
    for (const char* type : {"rope_type", "type"}) {  // before the parameters of whatever type it is
      if (rope.contains(type) && !rope[type].is_null() && rope[type] != "default") {
        refuse(std::string(key) + "." + type + " is " + formats::show(rope[type]) +
               ": rope scaling is not supported, only \"default\"");
      }
    }
    for (const auto& [name, value] : rope.items()) {
      if (value.is_null()) continue;
      if (name == "rope_theta") {
        take_theta(formats::require_number(rope, name, 0.0, 1e300, inside), inside, theta, theta_from);
      } else if (name == "factor" || name == "partial_rotary_factor") {
        if (formats::require_number(rope, name, 0.0, 1e300, inside) != 1.0) {
          refuse(std::string(key) + "." + name + " is " + formats::show(value) + ", but only 1 is supported");
        }
      } else if (name != "rope_type" && name != "type" && name != "original_max_position_embeddings") {
        refuse(std::string(key) + "." + formats::printable(name) + " is not supported for Qwen2");
      }
    }
  }

  void take_theta(double value, const std::string& from, std::optional<double>& theta, std::string& theta_from) const {
    if (!(value > 0.0)) refuse("rope_theta is " + formats::show(Json(value)) + ", but must be positive");
    if (theta && *theta != value) {
      refuse("rope_theta is " + formats::show(Json(value)) + " in " + from + " and " + formats::show(Json(*theta)) +
             " in " + theta_from + "; keep one");
    }
    theta = value;
    theta_from = from;
  }

  void read_rope() {
    std::optional<double> theta;
    std::string from;
    read_rope_object("rope_parameters", theta, from);
    read_rope_object("rope_scaling", theta, from);
    if (!absent("rope_theta")) {
      take_theta(formats::require_number(json_, "rope_theta", 0.0, 1e300, where_), where_, theta, from);
    }
    if (!theta) note_default("rope_theta", "10000");
    result_.config.rope_theta = theta.value_or(10000.0);
  }

  void check_sliding_window() {
    const std::int64_t layers = result_.config.num_layers;
    if (!absent("layer_types")) {
      const Json& types = formats::require_array(json_, "layer_types", where_);
      if (static_cast<std::int64_t>(types.size()) != layers) {
        refuse("\"layer_types\" has " + std::to_string(types.size()) + " entries, but there are " +
               std::to_string(layers) + " layers");
      }
      for (std::size_t i = 0; i < types.size(); ++i) {
        if (types[i] != "full_attention") {
          refuse("layer_types[" + std::to_string(i) + "] is " + formats::show(types[i]) +
                 ", but only \"full_attention\" is supported");
        }
      }
      return;
    }
    const bool use = formats::optional_bool(json_, "use_sliding_window", where_).value_or(false);
    if (!use || is_null("sliding_window")) return;
    const std::int64_t first = formats::optional_int(json_, "max_window_layers", 0, INT64_MAX, where_).value_or(28);
    if (first < layers) {
      refuse("\"use_sliding_window\" is true and layers " + std::to_string(first) + " to " +
             std::to_string(layers - 1) + " have a sliding window, which is not supported");
    }
  }

  std::optional<DType> declared_dtype(const char* key) const {
    if (absent(key)) return std::nullopt;
    std::string text = formats::require_string(json_, key, where_);
    if (text.starts_with("torch.")) text.erase(0, 6);
    const std::optional<DType> dtype = parse_dtype(text);
    if (!dtype || *dtype == DType::kF64) {
      refuse(std::string("\"") + key + "\" is \"" + formats::printable(text) +
             "\", but must be bfloat16, float16 or float32");
    }
    return dtype;
  }

  void read_dtype() {
    const std::optional<DType> five = declared_dtype("dtype");
    const std::optional<DType> four = declared_dtype("torch_dtype");
    if (five && four && *five != *four) {
      refuse("\"dtype\" is " + std::string(name(*five)) + " and \"torch_dtype\" is " + std::string(name(*four)) +
             "; keep one");
    }
    result_.dtype = five ? five : four;
    if (result_.dtype) result_.config.dtype = *result_.dtype;
  }

  const Json& json_;
  const std::string& where_;
  HuggingFaceConfig result_;
};

}  // namespace

HuggingFaceConfig parse_huggingface_config(const Json& json, const std::string& where) {
  return HuggingFaceConfigReader(json, where).read();
}

Json to_huggingface_config(const ModelConfig& config) {
  Json layer_types = Json::array();
  for (std::int64_t i = 0; i < config.num_layers; ++i) layer_types.push_back("full_attention");
  const ArchitectureFacts& architecture = facts(config.architecture);
  Json json = {{"architectures", {std::string(architecture.causal_model)}},
               {"attention_dropout", 0.0},
               {"dtype", std::string(name(config.dtype))},
               {"head_dim", config.head_dim},
               {"hidden_act", "silu"},
               {"hidden_size", config.hidden},
               {"initializer_range", 0.02},
               {"intermediate_size", config.intermediate},
               {"max_position_embeddings", config.max_position_embeddings},
               {"model_type", std::string(architecture.name)},
               {"num_attention_heads", config.num_q_heads},
               {"num_hidden_layers", config.num_layers},
               {"num_key_value_heads", config.num_kv_heads},
               {"rms_norm_eps", config.rms_norm_eps},
               {"rope_parameters", {{"rope_theta", config.rope_theta}, {"rope_type", "default"}}},
               {"tie_word_embeddings", config.tie_word_embeddings},
               {"use_cache", true},
               {"vocab_size", config.vocab}};
  if (architecture.slides) {
    json["layer_types"] = layer_types;
    json["use_sliding_window"] = false;
  }
  return json;
}

}  // namespace qdiff::model
