#include "harness/model/huggingface.h"

#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "cmake/catch2.h"
#include "harness/contract/operation_table.h"
#include "harness/contract/tests/small_model.h"
#include "harness/formats/safetensors.h"
#include "harness/formats/strict_json.h"
#include "harness/formats/tests/temporary_directory.h"
#include "harness/model/describe.h"
#include "harness/model/huggingface_config.h"
#include "harness/model/model.h"
#include "harness/model/weight_table.h"

using namespace qdiff;
using namespace qdiff::model;
using formats::Json;
using qdiff::testing::input_error_of;
using qdiff::testing::read_file;
using qdiff::testing::TemporaryDirectory;

namespace {

namespace fs = std::filesystem;

const fs::path kCheckpoints = fs::path(QDIFF_SOURCE_DIR) / "harness/model/tests/data";

std::string checkpoint_error_of(const fs::path& path) {
  const std::string message = input_error_of([&] { open_model(path.string()); });
  CHECK(message.find('\n') == std::string::npos);
  return message;
}

ModelConfig tiny_config(bool tied) {
  ModelConfig c = testing::small_config(2, 1, 4, 8, 6, tied, 10);
  c.num_layers = 1;
  c.max_position_embeddings = 32;
  c.dtype = DType::kF32;
  return c;
}

// A checkpoint whose tensors a test may change before they are written, one file each.
struct Checkpoint {
  ModelConfig config;
  std::map<std::string, Tensor> tensors;

  explicit Checkpoint(bool tied = false) : config(tiny_config(tied)) {
    for (const WeightInfo& info : expected_weights(config)) {
      Tensor tensor(info.dtype, info.shape);
      for (std::int64_t i = 0; i < tensor.size(); ++i) tensor.set(i, 0.01 * static_cast<double>(i + 1));
      tensors[info.name] = std::move(tensor);
    }
  }

  void write_config(const fs::path& directory) const {
    std::ofstream(directory / "config.json") << to_huggingface_config(config).dump();
  }
  static void write_tensors(const fs::path& path, const std::map<std::string, Tensor>& tensors) {
    std::vector<formats::SafetensorsTensor> list;
    for (const auto& [name, tensor] : tensors) list.push_back({name, tensor.dtype(), tensor.shape()});
    formats::SafetensorsWriter writer(path, list);
    for (const auto& [name, tensor] : tensors) writer.append(name, tensor.bytes());
    writer.finish();
  }
  void write(const fs::path& directory) const {
    write_config(directory);
    write_tensors(directory / "model.safetensors", tensors);
  }
};

// A checkpoint in two shards, with an index that a test may change.
struct ShardedCheckpoint {
  Checkpoint checkpoint;
  Json index;

  explicit ShardedCheckpoint(const fs::path& directory) {
    std::map<std::string, Tensor> first, second;
    std::uint64_t bytes = 0;
    for (const auto& [name, tensor] : checkpoint.tensors) {
      (name < "model.layers.0.mlp" ? first : second)[name] = tensor;
      index["weight_map"][name] = name < "model.layers.0.mlp" ? "one.safetensors" : "two.safetensors";
      bytes += tensor.bytes().size();
    }
    index["metadata"]["total_size"] = bytes;
    checkpoint.write_config(directory);
    Checkpoint::write_tensors(directory / "one.safetensors", first);
    Checkpoint::write_tensors(directory / "two.safetensors", second);
    write_index(directory);
  }
  void write_index(const fs::path& directory) const {
    std::ofstream(directory / "model.safetensors.index.json") << index.dump();
  }
};

}  // namespace

TEST_CASE("checkpoints that transformers 5 saved are read value by value") {
  for (const std::string name : {"sharded-bfloat16", "tied-float16", "untied-float32"}) {
    CAPTURE(name);
    const auto source = open_model((kCheckpoints / name).string());
    const Json expected = formats::read_json_file(kCheckpoints / name / "expected.json");
    CHECK(source->weights().size() == expected.size());
    for (const WeightInfo& info : source->weights()) {
      CAPTURE(info.name);
      const Json& facts = expected.at(info.name);
      CHECK(facts.at("dtype") == std::string(qdiff::name(info.dtype)));
      CHECK(facts.at("shape") == info.shape);
      const std::vector<double> values = to_doubles(source->read_all(info.name).view());
      double sum = 0.0;
      for (double value : values) sum += value;
      CHECK(facts.at("first") == values.front());
      CHECK(facts.at("last") == values.back());
      CHECK(std::fabs(facts.at("sum").get<double>() - sum) <= 1e-9 * static_cast<double>(values.size()));
    }
  }
  CHECK(to_string(open_model((kCheckpoints / "sharded-bfloat16").string())->config()) ==
        "qwen2 D=32 L=2 H=4 K=2 d=16 I=40 V=64 eps=1e-06 theta=1e+06 untied bfloat16");
  CHECK(to_string(open_model((kCheckpoints / "tied-float16").string())->config()) ==
        "qwen2 D=32 L=2 H=4 K=2 d=8 I=40 V=64 eps=1e-06 theta=10000 tied float16");
  CHECK(to_string(open_model((kCheckpoints / "untied-float32").string())->config()) ==
        "qwen2 D=32 L=1 H=4 K=2 d=8 I=40 V=64 eps=1e-05 theta=10000 untied float32");
}

TEST_CASE("ranges equal the same part of the whole, in every shard") {
  const auto source = open_model((kCheckpoints / "sharded-bfloat16").string());
  for (const WeightInfo& info : source->weights()) {
    const Tensor whole = source->read_all(info.name);
    for (std::int64_t first = 0; first < whole.size(); first += 13) {
      const std::int64_t count = std::min<std::int64_t>(13, whole.size() - first);
      std::vector<std::byte> part(static_cast<std::size_t>(count) * 2);
      source->read(info, first, count, part);
      REQUIRE(std::equal(part.begin(), part.end(), whole.bytes().begin() + first * 2));
    }
    std::vector<std::byte> two(4);
    CHECK_THROWS_AS(source->read(info, whole.size() - 1, 2, two), std::out_of_range);
    CHECK_THROWS_AS(source->read(info, -1, 2, two), std::out_of_range);
  }
}

TEST_CASE("an exported synthetic model reads back with equal bits, in one file and in shards") {
  const auto source = open_model("synthetic:toy-mha,profile=qwen,dtype=float16");
  for (const auto& [shard_bytes, files] :
       std::vector<std::pair<std::uint64_t, int>>{{1'000'000'000, 2}, {300'000, 7}}) {
    const TemporaryDirectory directory;
    export_huggingface(*source, directory / "out", shard_bytes);
    const auto back = open_model((directory / "out").string());
    CHECK(back->config() == source->config());
    REQUIRE(back->weights().size() == source->weights().size());
    for (const WeightInfo& info : source->weights()) {
      const Tensor a = source->read_all(info.name), b = back->read_all(info.name);
      REQUIRE(std::equal(a.bytes().begin(), a.bytes().end(), b.bytes().begin(), b.bytes().end()));
    }
    CHECK(std::distance(fs::directory_iterator(directory / "out"), fs::directory_iterator()) >= files);
    CHECK_THAT(input_error_of([&] { export_huggingface(*source, directory / "out"); }), ContainsSubstring("not empty"));
  }
}

TEST_CASE("a llama checkpoint has no biases, and is refused with them") {
  Checkpoint checkpoint;
  checkpoint.config.architecture = Architecture::kLlama;
  checkpoint.config.qkv_bias = false;
  std::map<std::string, Tensor> biases;
  for (const auto& [name, tensor] : checkpoint.tensors) {
    if (name.ends_with("_proj.bias")) biases[name] = tensor;
  }
  const TemporaryDirectory directory;
  checkpoint.write(directory.path());
  CHECK_THAT(checkpoint_error_of(directory.path()),
             ContainsSubstring("_proj.bias\" is stored, but config.json says \"llama\""));
  for (const auto& [name, tensor] : biases) checkpoint.tensors.erase(name);
  checkpoint.write(directory.path());
  const auto source = open_model(directory.path().string());
  CHECK(source->config() == checkpoint.config);
  REQUIRE(biases.size() == 3);
  for (const auto& [name, tensor] : biases) CHECK_THROWS_AS(source->find(name), InputError);
  CHECK_THAT(describe(*source), ContainsSubstring("biases on q, k and v"));
  export_huggingface(*source, directory / "out");
  CHECK(open_model((directory / "out").string())->weights().size() == source->weights().size());
}

TEST_CASE("a path that is no model says what was looked for") {
  const TemporaryDirectory directory;
  CHECK_THAT(checkpoint_error_of(directory / "none"), ContainsSubstring("no such file or directory"));
  CHECK_THAT(checkpoint_error_of(directory.path()),
             ContainsSubstring("has no config.json; a Hugging Face model directory has"));
  CHECK_THAT(checkpoint_error_of(""), ContainsSubstring("synthetic:NAME"));
  CHECK_THAT(checkpoint_error_of(directory.write("model.safetensors", "")), ContainsSubstring("is not a directory"));
  CHECK_THAT(checkpoint_error_of(directory.write("m.gguf", "GGUF")), ContainsSubstring("cut short"));
  fs::remove(directory / "model.safetensors");
  Checkpoint().write_config(directory.path());
  CHECK_THAT(checkpoint_error_of(directory.path()), ContainsSubstring("neither model.safetensors nor"));
  directory.write("pytorch_model.bin", "x");
  CHECK_THAT(checkpoint_error_of(directory.path()), ContainsSubstring("save it with safetensors"));
  REQUIRE(::mkfifo((directory / "model.safetensors").c_str(), 0600) == 0);
  CHECK_THAT(checkpoint_error_of(directory.path()), ContainsSubstring("not a regular file"));
}

TEST_CASE("a config.json that is broken is refused with its place") {
  const TemporaryDirectory directory;
  Checkpoint().write(directory.path());
  directory.write("config.json", "{\"model_type\": \"qwen2\",}");
  CHECK_THAT(checkpoint_error_of(directory.path()), ContainsSubstring("config.json: byte "));
  directory.write("config.json", "");
  CHECK_THAT(checkpoint_error_of(directory.path()), ContainsSubstring("config.json: is empty"));
  directory.write("config.json", std::string(1'000'000, '['));
  CHECK_THAT(checkpoint_error_of(directory.path()), ContainsSubstring("nested deeper"));
}

TEST_CASE("links are followed: the hub's cache is made of them") {
  const TemporaryDirectory directory;
  fs::create_directory(directory / "blobs");
  fs::create_directory(directory / "snapshot");
  Checkpoint().write(directory / "blobs");
  for (const char* file : {"config.json", "model.safetensors"}) {
    fs::create_symlink(directory / "blobs" / file, directory / "snapshot" / file);
  }
  CHECK(checkpoint_error_of(directory / "snapshot").empty());
}

TEST_CASE("every weight of the table must be there") {
  const Checkpoint whole;
  for (const auto& [name, tensor] : whole.tensors) {
    const TemporaryDirectory directory;
    Checkpoint lacking = whole;
    lacking.tensors.erase(name);
    lacking.write(directory.path());
    CHECK_THAT(checkpoint_error_of(directory.path()), ContainsSubstring("has no tensor \"" + name + "\""));
  }
}

TEST_CASE("missing weights with a usual reason name it") {
  const TemporaryDirectory directory;
  Checkpoint checkpoint;
  checkpoint.tensors.erase("lm_head.weight");
  checkpoint.write(directory.path());
  CHECK_THAT(checkpoint_error_of(directory.path()), ContainsSubstring("\"tie_word_embeddings\": true"));

  Checkpoint no_bias;
  no_bias.tensors.erase("model.layers.0.self_attn.k_proj.bias");
  no_bias.write(directory.path());
  CHECK_THAT(checkpoint_error_of(directory.path()), ContainsSubstring("biases on q, k and v"));

  Checkpoint bare;
  std::map<std::string, Tensor> renamed;
  for (auto& [name, tensor] : bare.tensors) renamed[name.starts_with("model.") ? name.substr(6) : name] = tensor;
  bare.tensors = renamed;
  bare.write(directory.path());
  CHECK_THAT(checkpoint_error_of(directory.path()), ContainsSubstring("save it as Qwen2ForCausalLM"));
}

TEST_CASE("a weight of a wrong shape is refused") {
  const Checkpoint whole;
  for (const auto& [name, tensor] : whole.tensors) {
    const TemporaryDirectory directory;
    Checkpoint wrong = whole;
    Shape shape = tensor.shape();
    shape.back() += 1;
    wrong.tensors[name] = Tensor(DType::kF32, shape);
    wrong.write(directory.path());
    CHECK_THAT(checkpoint_error_of(directory.path()),
               ContainsSubstring("tensor \"" + name + "\" has the shape " + to_string(shape)));
  }
  // Transposed: the same number of elements.
  const TemporaryDirectory directory;
  Checkpoint transposed = whole;
  transposed.tensors["model.layers.0.mlp.down_proj.weight"] = Tensor(DType::kF32, {6, 8});
  transposed.write(directory.path());
  CHECK_THAT(checkpoint_error_of(directory.path()),
             ContainsSubstring("has the shape [6, 8], but config.json asks for [8, 6]"));
}

TEST_CASE("weights may be F32, F16 or BF16, mixed; nothing else") {
  const TemporaryDirectory directory;
  Checkpoint mixed;
  const std::string name = "model.layers.0.mlp.up_proj.weight";
  mixed.tensors[name] = Tensor(DType::kBF16, {6, 8});
  mixed.write(directory.path());
  CHECK(open_model(directory.path().string())->find(name).dtype == DType::kBF16);
  mixed.tensors[name] = Tensor(DType::kF64, {6, 8});
  mixed.write(directory.path());
  CHECK_THAT(checkpoint_error_of(directory.path()),
             ContainsSubstring("is stored as F64, but must be F32, F16 or BF16"));
}

TEST_CASE("without a dtype in config.json the embedding's counts") {
  const TemporaryDirectory directory;
  Checkpoint().write(directory.path());
  Json config = to_huggingface_config(tiny_config(false));
  config.erase("dtype");
  directory.write("config.json", config.dump());
  CHECK(open_model(directory.path().string())->config().dtype == DType::kF32);
}

TEST_CASE("tensors that are not needed are left aside, of any dtype, and noted") {
  const TemporaryDirectory directory;
  Checkpoint checkpoint;
  checkpoint.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = Tensor(DType::kF64, {2});
  checkpoint.write(directory.path());
  const auto source = open_model(directory.path().string());
  CHECK(source->weights().size() == checkpoint.tensors.size() - 1);
  CHECK_THAT(describe(*source), ContainsSubstring("1 tensors are stored and not used"));
}

TEST_CASE("a tied model that stores lm_head too: the embedding is the truth") {
  const TemporaryDirectory directory;
  Checkpoint tied(true);
  tied.tensors["lm_head.weight"] = tied.tensors["model.embed_tokens.weight"];
  tied.write(directory.path());
  const auto source = open_model(directory.path().string());
  CHECK_THROWS_AS(source->find("lm_head.weight"), InputError);
  CHECK(weight_name({Op::kLmHead, kNoLayer}, 0, source->config()) == "model.embed_tokens.weight");
  CHECK_THAT(describe(*source), ContainsSubstring("(they are equal)"));
  tied.tensors["lm_head.weight"].set(79, -1.0);
  tied.write(directory.path());
  CHECK_THAT(describe(*open_model(directory.path().string())), ContainsSubstring("DIFFER"));
}

TEST_CASE("more layers than tensors is refused before anything of that size is made") {
  const TemporaryDirectory directory;
  Checkpoint checkpoint;
  checkpoint.write(directory.path());
  checkpoint.config.num_layers = 1;
  Json config = to_huggingface_config(checkpoint.config);
  config["num_hidden_layers"] = 2147483647;
  config.erase("layer_types");
  directory.write("config.json", config.dump());
  CHECK_THAT(checkpoint_error_of(directory.path()),
             ContainsSubstring("asks for 2147483647 layers, but only 15 tensors"));
}

TEST_CASE("S27 shards: good, and every lie of an index") {
  const TemporaryDirectory directory;
  ShardedCheckpoint good(directory.path());
  CHECK(checkpoint_error_of(directory.path()).empty());

  const auto with_shard = [&](const std::string& name) {
    ShardedCheckpoint changed = good;
    changed.index["weight_map"]["lm_head.weight"] = name;
    changed.write_index(directory.path());
    return checkpoint_error_of(directory.path());
  };
  for (const std::string name : {"../../etc/passwd", "/etc/passwd", "../two.safetensors", "./two.safetensors",
                                 "sub/two.safetensors", "C:\\two.safetensors", "sub\\two.safetensors", "..", ".", "",
                                 "two.safetensors.", ".two.safetensors", "two.bin", "a\x1B[31m.safetensors"}) {
    CAPTURE(name);
    CHECK_THAT(with_shard(name), ContainsSubstring("must be the plain name of a .safetensors file"));
    CHECK(with_shard(name).find('\x1B') == std::string::npos);
  }
  CHECK_THAT(with_shard(std::string(300, 'a') + ".safetensors"), ContainsSubstring("plain name"));
  CHECK_THAT(with_shard("three.safetensors"), ContainsSubstring("\"three.safetensors\", which is not there"));
  CHECK_THAT(with_shard("two.safetensors"), ContainsSubstring("is not in the shard \"two.safetensors\""));

  ShardedCheckpoint wrong = good;
  wrong.index["metadata"]["total_size"] = 1;
  wrong.write_index(directory.path());
  CHECK_THAT(checkpoint_error_of(directory.path()), ContainsSubstring("total_size is 1, but the shards hold"));
  for (const Json& total : {Json(-1), Json("1"), Json(1e30)}) {
    wrong.index["metadata"]["total_size"] = total;
    wrong.write_index(directory.path());
    CHECK_THAT(checkpoint_error_of(directory.path()), ContainsSubstring("\"total_size\" is"));
  }
  wrong.index.erase("metadata");
  wrong.write_index(directory.path());
  CHECK(checkpoint_error_of(directory.path()).empty());

  wrong.index["weight_map"]["lm_head.weight"] = 3;
  wrong.write_index(directory.path());
  CHECK_THAT(checkpoint_error_of(directory.path()), ContainsSubstring("must be a string"));
  for (const char* text : {"{}", "[]", "{\"weight_map\":[]}", "{\"weight_map\":{}}", "3"}) {
    directory.write("model.safetensors.index.json", text);
    CHECK_FALSE(checkpoint_error_of(directory.path()).empty());
  }
  directory.write("model.safetensors.index.json", R"({"weight_map":{"a":"one.safetensors","a":"two.safetensors"}})");
  CHECK_THAT(checkpoint_error_of(directory.path()), ContainsSubstring("occurs twice"));
}

TEST_CASE("S27 a tensor in two shards is refused") {
  const TemporaryDirectory directory;
  const ShardedCheckpoint good(directory.path());
  std::map<std::string, Tensor> second;
  for (const auto& [name, tensor] : good.checkpoint.tensors) {
    if (name >= "model.layers.0.mlp" || name == "lm_head.weight") second[name] = tensor;
  }
  Checkpoint::write_tensors(directory / "two.safetensors", second);
  CHECK_THAT(checkpoint_error_of(directory.path()), ContainsSubstring("which one is meant cannot be told"));
}

TEST_CASE("S29 a checkpoint cut after it was opened gives an error at the read") {
  const TemporaryDirectory directory;
  Checkpoint().write(directory.path());
  const auto source = open_model(directory.path().string());
  fs::resize_file(directory / "model.safetensors", fs::file_size(directory / "model.safetensors") - 4);
  std::string message;
  for (const WeightInfo& info : source->weights()) {
    const std::string now = input_error_of([&] { source->read_all(info.name); });
    if (!now.empty()) message = now;
  }
  CHECK_THAT(message, ContainsSubstring("was it cut while being read?"));
}

TEST_CASE("a description says what the model is and what is unusual") {
  const std::string text = describe(*open_model((kCheckpoints / "untied-float32").string()));
  CHECK_THAT(text, ContainsSubstring("parameters                        11,168 in 15 weights"));
  CHECK_THAT(text, ContainsSubstring("bytes                             44,672"));
  CHECK_THAT(text, ContainsSubstring("1 x [40, 32] float32"));
  CHECK_THAT(text, ContainsSubstring("warning: rms_norm_eps is 1e-05"));
  CHECK_THAT(text, ContainsSubstring("warning: rope theta is 10000"));
  const std::string usual = describe(*open_model("synthetic:qwen2.5-0.5b"));
  CHECK(usual.find("warning") == std::string::npos);
  CHECK_THAT(usual, ContainsSubstring("24 x [4864, 896] bfloat16"));
}
