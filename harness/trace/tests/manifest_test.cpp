#include "harness/trace/manifest.h"

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "cmake/catch2.h"
#include "harness/contract/error.h"
#include "harness/contract/tests/small_model.h"
#include "harness/formats/strict_json.h"

namespace qdiff::trace {
namespace {

using formats::Json;

// A manifest of two prefill chunks and one decode step, two rows, the first with one pad.
Json valid() {
  return Json::parse(R"({
    "format": "qdiff-trace", "version": 1,
    "engine": {"name": "transformers", "version": "5.17.0", "device": "cpu"},
    "compute": {"weights": "bfloat16", "activations": "bfloat16", "accumulate": "float32",
                "points": {"rms_norm.normalized": "bfloat16", "self_attn.o_proj": "float32"}},
    "model": {"architecture": "qwen2", "config": {
      "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
      "intermediate_size": 64, "vocab_size": 100, "max_position_embeddings": 64, "rms_norm_eps": 1e-06,
      "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"}, "tie_word_embeddings": true,
      "dtype": "bfloat16", "head_dim": null}},
    "steps": [
      {"index": 0, "phase": "prefill", "file": "step-0000.safetensors", "tokens": [[1, 2, 3], [4, 5, 6]],
       "past_length": 0, "left_padding": [1, 0]},
      {"index": 1, "phase": "prefill", "file": "step-0001.safetensors", "tokens": [[7, 8], [9, 10]], "past_length": 3},
      {"index": 2, "phase": "decode", "file": "step-0002.safetensors", "tokens": [[11], [99]], "past_length": 5}
    ]})");
}

Manifest parse(const Json& document) { return parse_manifest(document.dump(), "manifest.json"); }

std::string error_of(const std::string& text) {
  try {
    parse_manifest(text, "manifest.json");
  } catch (const InputError& error) {
    return error.what();
  }
  return "accepted";
}

TEST_CASE("a manifest says who computed, how, and on which tokens") {
  const Manifest manifest = parse(valid());
  CHECK(manifest.engine == EngineInfo{"transformers", "5.17.0", "cpu"});
  CHECK(manifest.precision.weights == DType::kBF16);
  CHECK(manifest.precision.accumulate == DType::kF32);
  CHECK(manifest.precision.at(RoundingPoint::kRmsNormNormalized) == DType::kBF16);
  CHECK(manifest.precision.at(RoundingPoint::kRopeTable) == DType::kF32);
  CHECK(manifest.precision.taken_as.at(Op::kOProj) == DType::kF32);
  CHECK(manifest.config.head_dim == 8);
  CHECK(manifest.config.rope_theta == 1e6);
  CHECK(manifest.config.tie_word_embeddings == true);
  REQUIRE(manifest.steps.size() == 3);
  CHECK(manifest.files[1] == "step-0001.safetensors");
  CHECK(manifest.steps[2].phase == Phase::kDecode);
  CHECK(manifest.steps[2].left_padding == std::vector<std::int64_t>{1, 0});
  CHECK(manifest.steps[0].positions == std::vector<std::vector<std::int64_t>>{{0, 0, 1}, {0, 1, 2}});
  CHECK(manifest.steps[2].positions == std::vector<std::vector<std::int64_t>>{{4}, {5}});
  CHECK(manifest.notes.empty());
}

TEST_CASE("a manifest comes back as it was written") {
  Manifest manifest = parse(valid());
  manifest.precision.quantized = QuantizedInputs::kQ8_0;
  manifest.precision.cache = QuantizedCache::kInt8;
  manifest.weights_sha256["model.norm.weight"] = std::string(64, 'a');
  const Manifest again = parse_manifest(to_json(manifest), "copy");
  CHECK(again.engine == manifest.engine);
  CHECK(again.precision == manifest.precision);
  CHECK(again.precision.quantized == QuantizedInputs::kQ8_0);
  CHECK(again.precision.cache == QuantizedCache::kInt8);
  CHECK(again.config == manifest.config);
  CHECK(again.weights_sha256 == manifest.weights_sha256);
  CHECK(again.files == manifest.files);
  REQUIRE(again.steps.size() == manifest.steps.size());
  for (std::size_t i = 0; i < manifest.steps.size(); ++i) {
    CHECK(again.steps[i].tokens == manifest.steps[i].tokens);
    CHECK(again.steps[i].positions == manifest.steps[i].positions);
    CHECK(again.steps[i].past_length == manifest.steps[i].past_length);
  }
  CHECK(to_json(again) == to_json(manifest));
}

TEST_CASE("a cache in float8 is declared with its scales or without") {
  Json document = valid();
  Json& compute = document["compute"];
  for (const QuantizedCache cache : {QuantizedCache::kInt8, QuantizedCache::kE4M3, QuantizedCache::kE5M2}) {
    compute["points"]["kv_cache"] = name(cache);
    CHECK(parse(document).precision.cache == cache);
    CHECK(parse(document).precision.scales_of({Op::kKCache, 1}).empty());
  }
  compute["kv_cache_scales"] = {{"model.layers.1.self_attn.k_cache", 0.25},
                                {"model.layers.0.self_attn.v_cache", {0.5, 0.75}}};
  const Manifest manifest = parse(document);
  CHECK(manifest.precision.scales_of({Op::kKCache, 1}) == std::vector<double>{0.25});
  CHECK(manifest.precision.scales_of({Op::kVCache, 0}) == std::vector<double>{0.5, 0.75});
  CHECK(parse_manifest(to_json(manifest), "again").precision == manifest.precision);

  compute["kv_cache_scales"] = {{"model.layers.1.self_attn.k_cache", 0.0}};
  CHECK_THAT(error_of(document.dump()), ContainsSubstring("a scale must be a positive number"));
  compute["kv_cache_scales"] = {{"model.layers.1.self_attn.k_proj", 1.0}};
  CHECK_THAT(error_of(document.dump()), ContainsSubstring("is no cache; give \"model.layers.0.self_attn.k_cache\""));
  compute["points"]["kv_cache"] = "int8";
  CHECK_THAT(error_of(document.dump()), ContainsSubstring("is for a cache of a float8 type"));
  compute["points"]["kv_cache"] = "float8_e4m3";
  CHECK_THAT(error_of(document.dump()), ContainsSubstring("did you mean \"float8_e4m3fn\""));
}

TEST_CASE("the older dialect of config.json and an engine that knows little of its model") {
  Json document = valid();
  Json& config = document["model"]["config"];
  config.erase("rope_parameters");
  config["rope_theta"] = 10000;
  config.erase("dtype");
  config["torch_dtype"] = "float16";
  CHECK(parse(document).config.rope_theta == 1e4);
  CHECK(parse(document).config.dtype == DType::kF16);

  config = Json::object();
  CHECK(parse(document).config == DeclaredConfig{});
}

TEST_CASE("further recordings of the same input are named by folder") {
  Json document = valid();
  CHECK(parse(document).repeats.empty());
  document["repeats"] = {"second", "../third"};
  const Manifest manifest = parse(document);
  CHECK(manifest.repeats == std::vector<std::string>{"second", "../third"});
  CHECK(parse_manifest(to_json(manifest), "again").repeats == manifest.repeats);
  document["repeats"] = {"second", 3};
  CHECK_THAT(error_of(document.dump()), ContainsSubstring("\"repeats\" holds 3, but must hold folders"));
  document["repeats"] = "second";
  CHECK_THAT(error_of(document.dump()), ContainsSubstring("repeats"));
}

TEST_CASE("positions that nobody is said to have chosen are those that slots and padding give") {
  Json document = valid();
  document["steps"][0]["positions"] = {{-7, 0, 1}, {0, 1, 5}};  // the pad's counts for nothing
  const Manifest manifest = parse(document);
  CHECK_FALSE(manifest.positions_requested);
  CHECK(manifest.steps[0].positions == std::vector<std::vector<std::int64_t>>{{0, 0, 1}, {0, 1, 2}});
  REQUIRE(manifest.notes.size() == 1);
  CHECK_THAT(manifest.notes[0], ContainsSubstring("positions[1][2] = 5"));
  CHECK_THAT(manifest.notes[0], ContainsSubstring("\"positions_are\": \"requested\""));
  REQUIRE(manifest.conditions.size() == 1);
  CHECK_THAT(manifest.conditions[0], ContainsSubstring("not those of the manifest"));
}

TEST_CASE("positions that a caller chose are kept, and every verdict depends on them") {
  Json document = valid();
  document["positions_are"] = "requested";
  CHECK(parse(document).conditions.empty());  // they are the usual ones
  document["steps"][0]["positions"] = {{-7, 0, 1}, {0, 1, 5}};
  const Manifest some = parse(document);
  CHECK(some.positions_requested);
  CHECK(some.steps[0].positions == std::vector<std::vector<std::int64_t>>{{0, 0, 1}, {0, 1, 5}});
  REQUIRE(some.conditions.size() == 1);
  CHECK_THAT(some.conditions[0], ContainsSubstring("requests, which are not those that slots and padding give"));
  const Manifest again = parse_manifest(to_json(some), "again");
  CHECK(again.positions_requested);
  CHECK(again.steps[0].positions == some.steps[0].positions);

  for (std::size_t i = 0; i < document["steps"].size(); ++i) {
    const Manifest usual = parse(valid());
    Json rows = usual.steps[i].positions;
    for (std::size_t b = 0; b < rows.size(); ++b) {
      for (auto& position : rows[b]) position = position.get<std::int64_t>() + 7;
    }
    document["steps"][i]["positions"] = rows;
  }
  const Manifest all = parse(document);
  REQUIRE(all.conditions.size() == 1);
  CHECK_THAT(all.conditions[0], ContainsSubstring("all 7 above those"));

  document["positions_are"] = "guessed";
  CHECK_THROWS_WITH(parse(document), ContainsSubstring("must be \"requested\""));
}

TEST_CASE("an unknown rounding point is noted, with the one that was meant") {
  Json document = valid();
  document["compute"]["points"]["attention.prob"] = "bfloat16";
  const Manifest manifest = parse(document);
  REQUIRE(manifest.notes.size() == 1);
  CHECK_THAT(manifest.notes[0], ContainsSubstring("attention.probs"));
}

TEST_CASE("differences from the checkpoint, shapes apart from the rest") {
  ModelConfig truth = testing::small_config(4, 2, 8, 32, 64, true, 100);
  truth.max_position_embeddings = 64;
  CHECK(parse(valid()).config == declare(truth));
  CHECK(differences(declare(truth), truth).shapes.empty());
  CHECK(differences(declare(truth), truth).others.empty());

  ModelConfig other = truth;
  other.num_kv_heads = 4;
  other.rope_theta = 1e4;
  const ConfigDifferences found = differences(declare(truth), other);
  REQUIRE(found.shapes.size() == 1);
  CHECK_THAT(found.shapes[0], ContainsSubstring("num_key_value_heads is 2"));
  REQUIRE(found.others.size() == 1);
  CHECK_THAT(found.others[0], ContainsSubstring("rope_theta is 1000000, the model's is 10000"));
  CHECK(differences(DeclaredConfig{}, truth).shapes.empty());
  other = truth;
  other.architecture = Architecture::kLlama;
  REQUIRE(differences(declare(truth), other).shapes.size() == 1);
  CHECK_THAT(differences(declare(truth), other).shapes[0], ContainsSubstring("architecture is qwen2"));
}

TEST_CASE("a trace of a llama model says so, and is written as it is read") {
  Json document = valid();
  document["model"]["architecture"] = "llama";
  const Manifest manifest = parse(document);
  CHECK(manifest.config.architecture == Architecture::kLlama);
  const Json written = Json::parse(to_json(manifest));
  CHECK(written["model"]["architecture"] == "llama");
  CHECK(written["model"]["config"]["model_type"] == "llama");
  document["model"]["architecture"] = "gemma";
  CHECK_THAT(error_of(document.dump()), ContainsSubstring("is \"gemma\", but qdiff judges \"qwen2\""));
}

TEST_CASE("J01 J02 J03 J06 J07 J10 J11: text that is no strict JSON is refused") {
  const std::string text = valid().dump();
  const std::vector<std::string> hostile = {
      std::string(1'000'000, '['),
      "{\"format\": \"" + std::string(1'000'000, 'x') + "\"}",
      R"({"format": "qdiff-trace", "format": "qdiff-trace"})",
      R"({"version": NaN})",
      R"({"version": Infinity})",
      R"({"format": "\ud800"})",
      "{\"format\": \"\xFF\"}",
      "\xEF\xBB\xBF" + text,
      R"({"format": "a\u0000b"})",
      "",
      " \n ",
      R"({"format": "qdiff-trace",})",
      text + text,
      "/* trace */" + text,
      "[]",
      "null",
      "3",
  };
  for (const std::string& bad : hostile) {
    const std::string error = error_of(bad);
    INFO(bad.substr(0, 60));
    CHECK_THAT(error, StartsWith("manifest.json: "));
    CHECK(error.size() < 500);
  }
}

TEST_CASE("J04: unknown keys are ignored, missing ones and wrong types are refused") {
  Json grown = valid();
  grown["recorded_at"] = "today";
  grown["engine"]["commit"] = "abc";
  grown["steps"][0]["seconds"] = 1.5;
  CHECK(parse(grown).steps.size() == 3);

  const std::vector<std::pair<const char*, std::string>> required = {{"/format", "format"},
                                                                     {"/version", "version"},
                                                                     {"/engine", "engine"},
                                                                     {"/compute", "compute"},
                                                                     {"/model", "model"},
                                                                     {"/steps", "steps"},
                                                                     {"/engine/name", "name"},
                                                                     {"/compute/weights", "weights"},
                                                                     {"/compute/activations", "activations"},
                                                                     {"/compute/accumulate", "accumulate"},
                                                                     {"/model/architecture", "architecture"},
                                                                     {"/model/config", "config"},
                                                                     {"/steps/1/index", "index"},
                                                                     {"/steps/1/phase", "phase"},
                                                                     {"/steps/1/file", "file"},
                                                                     {"/steps/1/tokens", "tokens"},
                                                                     {"/steps/1/past_length", "past_length"}};
  for (const auto& [pointer, key] : required) {
    const Json::json_pointer place{pointer};
    Json missing = valid();
    missing[place.parent_pointer()].erase(key);
    INFO(pointer);
    CHECK_THAT(error_of(missing.dump()), ContainsSubstring('"' + key + "\" is missing"));
    for (const Json& wrong : {Json(true), Json(nullptr), Json("what"), Json(1.5), Json::array({Json::array({"x"})})}) {
      Json document = valid();
      document[place] = wrong;
      if (key == "name" && wrong.is_string()) continue;
      if (key == "file" && wrong.is_string()) continue;
      CHECK_THAT(error_of(document.dump()), ContainsSubstring(key));
      CHECK_THAT(error_of(document.dump()), StartsWith("manifest.json: "));
    }
  }
}

TEST_CASE("J04: a manifest without its format is told which, and how it begins") {
  Json document = valid();
  document.erase("format");
  CHECK(error_of(document.dump()) == R"(manifest.json: "format" is missing; it must be "qdiff-trace"; )"
                                     R"(begin the file with {"format": "qdiff-trace", "version": 1)");
}

TEST_CASE("J05 J08: what a manifest must not say") {
  struct Bad {
    const char* pointer;
    Json value;
  };
  const std::vector<Bad> cases = {
      {"/format", "qdiff-report"},
      {"/version", 2},
      {"/version", 0},
      {"/model/architecture", "qwen3"},
      {"/model/config/hidden_size", 0},
      {"/model/config/hidden_size", "32"},
      {"/model/config/rms_norm_eps", -1e-6},
      {"/model/config/rope_parameters/rope_theta", 0.0},
      {"/model/weights_sha256", Json{{"model.norm.weight", "abc"}}},
      {"/compute/weights", "bf17"},
      {"/compute/points/rope.table", "int8"},
      {"/compute/points/activations.quantized", "q4_0"},
      {"/steps", Json::array()},
      {"/steps/0/index", 1},
      {"/steps/0/phase", "warmup"},
      // J05, J08: numbers out of range
      {"/steps/0/tokens/0/0", -1},
      {"/steps/0/tokens/0/0", 100},
      {"/steps/0/tokens/0/0", std::int64_t{1} << 31},
      {"/steps/0/tokens/0/0", std::uint64_t{1} << 63},
      {"/steps/0/tokens/0/0", 1e300},
      {"/steps/0/tokens/0/0", 1.5},
      {"/steps/0/tokens/0/0", "3"},
      {"/steps/0/tokens", Json::array()},
      {"/steps/0/tokens", Json::array({Json::array()})},
      {"/steps/0/tokens/0", Json::array({1, 2})},
      {"/steps/1/tokens", Json::array({Json::array({1, 2})})},
      {"/steps/1/past_length", 2},
      {"/steps/1/past_length", -3},
      {"/steps/0/past_length", 4},
      {"/steps/0/positions", Json::array({Json::array({0, 0, 64}), Json::array({0, 1, 2})})},
      {"/steps/0/positions", Json::array({Json::array({0, 0, 1}), Json::array({0, -1, 2})})},
      {"/steps/0/positions", Json::array({Json::array({0, 1, 2})})},
      {"/steps/0/left_padding", Json::array({1})},
      {"/steps/0/left_padding", Json::array({-1, 0})},
      {"/steps/0/left_padding", Json::array({6, 0})},
      {"/steps/1/left_padding", Json::array({0, 0})},
      // J12: names that are paths, here or on another system
      {"/steps/0/file", ""},
      {"/steps/0/file", "../step-0000.safetensors"},
      {"/steps/0/file", "/etc/passwd"},
      {"/steps/0/file", "a/b.safetensors"},
      {"/steps/0/file", "C:\\step.safetensors"},
      {"/steps/0/file", ".."},
      {"/steps/0/file", ".hidden"},
      {"/steps/0/file", "step-0000.safetensors."},
      {"/steps/0/file", "manifest.json"},
      {"/steps/0/file", "step\u001b[2J.safetensors"},
      {"/steps/0/file", std::string(256, 'x')},
      {"/steps/0/file", "step-0001.safetensors"},
  };
  for (const Bad& bad : cases) {
    Json document = valid();
    document[Json::json_pointer(bad.pointer)] = bad.value;
    INFO(bad.pointer << " = " << bad.value.dump());
    const std::string error = error_of(document.dump());
    CHECK_THAT(error, StartsWith("manifest.json: "));
    CHECK(error.find('\x1b') == std::string::npos);
  }
}

TEST_CASE("limits: a file name of 255 bytes is read, and more tokens than other documents may have values") {
  Json document = valid();
  document["steps"][0]["file"] = std::string(255, 'x');
  CHECK(parse(document).files[0].size() == 255);

  document = valid();
  document["model"]["config"].erase("max_position_embeddings");
  document["steps"] = Json::array({Json{{"index", 0},
                                        {"phase", "prefill"},
                                        {"file", "s"},
                                        {"past_length", 0},
                                        {"tokens", Json::array({std::vector<int>(200'000, 7)})}}});
  CHECK(parse(document).steps[0].num_tokens() == 200'000);
}

}  // namespace
}  // namespace qdiff::trace
