#include "harness/model/huggingface_config.h"

#include <string>

#include "cmake/catch2.h"
#include "harness/formats/tests/temporary_directory.h"

using namespace qdiff;
using namespace qdiff::model;
using formats::Json;
using qdiff::testing::input_error_of;

namespace {

// As transformers 4.45 wrote Qwen2.5-0.5B's.
const char* const kFour = R"({
  "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151643,
  "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02, "intermediate_size": 4864,
  "max_position_embeddings": 32768, "max_window_layers": 24, "model_type": "qwen2", "num_attention_heads": 14,
  "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
  "sliding_window": 32768, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "transformers_version": "4.45.0",
  "use_cache": true, "use_mrope": false, "use_sliding_window": false, "vocab_size": 151936})";

Json four() { return formats::parse_json(kFour, "four"); }

Json five() {
  Json json = four();
  json.erase("rope_theta");
  json.erase("torch_dtype");
  json["rope_parameters"] = {{"rope_theta", 1000000.0}, {"rope_type", "default"}};
  json["dtype"] = "bfloat16";
  json["sliding_window"] = nullptr;
  json["layer_types"] = Json::array();
  for (int i = 0; i < 24; ++i) json["layer_types"].push_back("full_attention");
  return json;
}

HuggingFaceConfig config_of(const Json& json) { return parse_huggingface_config(json, "config.json"); }

std::string config_error_of(const Json& json) {
  return input_error_of([&] { config_of(json); });
}

std::string error_with(const char* key, const Json& value) {
  Json json = five();
  json[key] = value;
  return config_error_of(json);
}

}  // namespace

TEST_CASE("config: the dialects of transformers 4 and 5 say the same") {
  const HuggingFaceConfig from_four = config_of(four());
  const HuggingFaceConfig from_five = config_of(five());
  CHECK(from_four.config == from_five.config);
  CHECK(to_string(from_five.config) ==
        "qwen2 D=896 L=24 H=14 K=2 d=64 I=4864 V=151936 eps=1e-06 theta=1e+06 tied bfloat16");
  CHECK(from_four.config.max_position_embeddings == 32768);
  CHECK(from_four.notes.empty());
  CHECK(from_five.notes.empty());
}

TEST_CASE("config: a mixed file is read where it agrees with itself, and refused where not") {
  Json json = five();
  json["rope_theta"] = 1000000;
  json["torch_dtype"] = "torch.bfloat16";
  CHECK(config_error_of(json).empty());
  json["rope_theta"] = 10000.0;
  CHECK_THAT(config_error_of(json),
             ContainsSubstring("rope_theta is 10000 in config.json and 1000000 in config.json: rope_parameters"));
  json.erase("rope_theta");
  json["torch_dtype"] = "float16";
  CHECK_THAT(config_error_of(json), ContainsSubstring("\"dtype\" is bfloat16 and \"torch_dtype\" is float16"));
}

TEST_CASE("config: an absent key has upstream's default and a note; model_type has none") {
  const HuggingFaceConfig parsed = config_of(Json{{"model_type", "qwen2"}});
  const ModelConfig& c = parsed.config;
  CHECK(c.vocab == 151936);
  CHECK(c.hidden == 4096);
  CHECK(c.intermediate == 22016);
  CHECK(c.num_layers == 32);
  CHECK(c.num_q_heads == 32);
  CHECK(c.num_kv_heads == 32);
  CHECK(c.head_dim == 128);
  CHECK(c.max_position_embeddings == 32768);
  CHECK(c.rms_norm_eps == 1e-6);
  CHECK(c.rope_theta == 10000.0);  // not 1e6
  CHECK_FALSE(c.tie_word_embeddings);
  CHECK_FALSE(parsed.dtype.has_value());
  CHECK(parsed.notes.size() == 10);

  Json json = five();
  json.erase("rope_parameters");
  CHECK(config_of(json).config.rope_theta == 10000.0);
  CHECK(config_of(json).notes ==
        std::vector<std::string>{"config.json has no rope_theta; transformers' default is 10000"});
  json.erase("model_type");
  CHECK_THAT(config_error_of(json), ContainsSubstring("\"model_type\" is missing"));
  CHECK_THAT(config_error_of(Json::object()), ContainsSubstring("\"model_type\" is missing"));
  CHECK_THAT(config_error_of(Json::array()), ContainsSubstring("must be an object"));
}

TEST_CASE("config: llama has defaults of its own and no biases, and is written as it is read") {
  const ModelConfig c = config_of(Json{{"model_type", "llama"}}).config;
  CHECK(c.architecture == Architecture::kLlama);
  CHECK_FALSE(c.qkv_bias);
  CHECK(c.vocab == 32000);
  CHECK(c.intermediate == 11008);
  CHECK(c.max_position_embeddings == 2048);
  CHECK(config_of(Json{{"model_type", "llama"}, {"num_attention_heads", 8}}).config.num_kv_heads == 8);
  CHECK(config_of(to_huggingface_config(c)).config == c);
}

TEST_CASE("config: head_dim and key/value heads follow the number of heads where they are null") {
  Json json = five();
  json["head_dim"] = nullptr;
  CHECK(config_of(json).config.head_dim == 64);
  json["head_dim"] = 96;
  CHECK(config_of(json).config.head_dim == 96);
  json["num_key_value_heads"] = nullptr;
  CHECK(config_of(json).config.num_kv_heads == 14);
}

TEST_CASE("config: other architectures, heads and activations are refused") {
  CHECK_THAT(error_with("model_type", "mistral"), ContainsSubstring("only \"qwen2\""));
  CHECK_THAT(error_with("model_type", "llama"), ContainsSubstring("LlamaForCausalLM"));  // five() names Qwen2's
  CHECK_THAT(error_with("attention_bias", true), ContainsSubstring("\"attention_bias\" is true"));
  CHECK_THAT(error_with("mlp_bias", true), ContainsSubstring("\"mlp_bias\" is true"));
  CHECK_THAT(error_with("model_type", "qwen2_moe"), ContainsSubstring("only \"qwen2\""));
  CHECK_THAT(error_with("model_type", 2), ContainsSubstring("must be a string"));
  CHECK_THAT(error_with("architectures", {"Qwen2ForSequenceClassification"}), ContainsSubstring("Qwen2ForCausalLM"));
  CHECK(error_with("architectures", nullptr).empty());
  CHECK_THAT(error_with("hidden_act", "gelu"), ContainsSubstring("only \"silu\""));
  CHECK_THAT(error_with("quantization_config", {{"quant_method", "gptq"}}), ContainsSubstring("quantised"));
  CHECK_THAT(error_with("dtype", "float8_e4m3fn"), ContainsSubstring("bfloat16, float16 or float32"));
  CHECK_THAT(error_with("dtype", "float64"), ContainsSubstring("bfloat16, float16 or float32"));
}

TEST_CASE("config: rope scaling is refused in both dialects, the default type is not") {
  Json json = four();
  json["rope_scaling"] = {{"factor", 4.0}, {"original_max_position_embeddings", 32768}, {"type", "yarn"}};
  CHECK_THAT(config_error_of(json), ContainsSubstring("rope_scaling.type is \"yarn\": rope scaling is not supported"));
  json["rope_scaling"] = {{"rope_type", "default"}};
  CHECK(config_error_of(json).empty());
  json["rope_scaling"] = nullptr;
  CHECK(config_error_of(json).empty());
  const auto with_rope = [](const Json& rope) { return error_with("rope_parameters", rope); };
  CHECK_THAT(with_rope({{"rope_theta", 1e6}, {"rope_type", "linear"}, {"factor", 2.0}}),
             ContainsSubstring("\"linear\""));
  CHECK_THAT(with_rope({{"rope_theta", 1e6}, {"rope_type", "default"}, {"factor", 2.0}}), ContainsSubstring("only 1"));
  CHECK_THAT(with_rope({{"rope_theta", 1e6}, {"partial_rotary_factor", 0.5}}), ContainsSubstring("only 1"));
  CHECK_THAT(with_rope({{"rope_theta", 1e6}, {"mrope_section", {16, 24, 24}}}), ContainsSubstring("not supported"));
  CHECK_THAT(with_rope({{"full_attention", {{"rope_theta", 1e6}}}}), ContainsSubstring("not supported"));
  CHECK_THAT(with_rope("default"), ContainsSubstring("must be an object"));
  CHECK_THAT(with_rope({{"rope_theta", 0}}), ContainsSubstring("must be positive"));
  CHECK_THAT(with_rope({{"rope_theta", -1e6}}), ContainsSubstring("must be a number"));
  CHECK_THAT(with_rope({{"rope_theta", "1e6"}}), ContainsSubstring("must be a number"));
}

TEST_CASE("config: a sliding window is refused where a layer uses it") {
  Json json = four();
  json["use_sliding_window"] = true;
  CHECK(config_error_of(json).empty());  // from layer 24 on: none
  json["max_window_layers"] = 21;
  CHECK_THAT(config_error_of(json), ContainsSubstring("layers 21 to 23 have a sliding window"));
  json["sliding_window"] = nullptr;
  CHECK(config_error_of(json).empty());
  Json types = five();
  types["layer_types"][23] = "sliding_attention";
  CHECK_THAT(config_error_of(types), ContainsSubstring("layer_types[23] is \"sliding_attention\""));
  types["layer_types"].erase(23);
  CHECK_THAT(config_error_of(types), ContainsSubstring("has 23 entries, but there are 24 layers"));
}

TEST_CASE("config: sizes that are no sizes") {
  for (const char* key : {"hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
                          "intermediate_size", "vocab_size", "max_position_embeddings"}) {
    CAPTURE(key);
    for (const Json& value : {Json(0), Json(-1), Json(1.5), Json("14"), Json(1LL << 31), Json(true), Json::array()}) {
      CHECK_THAT(error_with(key, value), ContainsSubstring("must be a whole number from 1 to 2147483647"));
    }
  }
  CHECK_THAT(error_with("hidden_size", nullptr), ContainsSubstring("must be a whole number"));
  CHECK_THAT(error_with("num_key_value_heads", 3), ContainsSubstring("multiple of the number of key/value heads"));
  CHECK_THAT(error_with("head_dim", 63), ContainsSubstring("even"));
  CHECK_THAT(error_with("rms_norm_eps", -1e-6), ContainsSubstring("must be a number"));
  CHECK_THAT(error_with("rms_norm_eps", "1e-6"), ContainsSubstring("must be a number"));
  CHECK_THAT(error_with("tie_word_embeddings", 1), ContainsSubstring("true or false"));
}

TEST_CASE("config: what is written is read back") {
  ModelConfig c = config_of(five()).config;
  c.head_dim = 80;
  c.rope_theta = 12345.5;
  c.tie_word_embeddings = false;
  c.dtype = DType::kF16;
  const HuggingFaceConfig back = config_of(to_huggingface_config(c));
  CHECK(back.config == c);
  CHECK(back.notes.empty());
}
