#include "harness/model/gguf_model.h"

#include <limits>
#include <map>

#include "cmake/catch2.h"
#include "harness/formats/tests/gguf_builder.h"
#include "harness/formats/tests/temporary_directory.h"
#include "harness/model/describe.h"
#include "harness/model/gguf_keys.h"
#include "harness/model/model.h"
#include "harness/model/weight_table.h"

using namespace qdiff;
using namespace qdiff::model;
using namespace qdiff::testing;
using formats::GgmlType;
using formats::GgufType;

namespace {

// A small model whose keys and tensors a test may change before it is written.
struct Model {
  struct Weight {
    std::vector<std::uint64_t> ne;  // ggml's order
    GgmlType type;
    std::string data;
  };
  std::string architecture = "qwen2";
  GgufBuilder builder;
  std::map<std::string, Weight> tensors;

  static constexpr std::uint64_t kHidden = 64, kHeads = 4, kKvHeads = 2, kHeadDim = 16, kIntermediate = 96, kVocab = 6;

  explicit Model(const std::string& name = "qwen2") : architecture(name) {
    builder.key("general.architecture", architecture);
    key("block_count", 2U).key("context_length", 128U).key("embedding_length", std::uint32_t{kHidden});
    key("feed_forward_length", std::uint32_t{kIntermediate}).key("attention.head_count", std::uint32_t{kHeads});
    key("attention.head_count_kv", std::uint32_t{kKvHeads}).key("attention.layer_norm_rms_epsilon", 1e-6F);
    key("rope.freq_base", 1e4F);
    add("token_embd.weight", {kHidden, kVocab}, GgmlType::kQ8_0);
    add("output_norm.weight", {kHidden}, GgmlType::kF32);
    for (const std::string layer : {"blk.0.", "blk.1."}) {
      add(layer + "attn_norm.weight", {kHidden}, GgmlType::kF32);
      add(layer + "attn_q.weight", {kHidden, kHeads * kHeadDim}, GgmlType::kQ4_0);
      add(layer + "attn_k.weight", {kHidden, kKvHeads * kHeadDim}, GgmlType::kQ4_0);
      add(layer + "attn_v.weight", {kHidden, kKvHeads * kHeadDim}, GgmlType::kF16);
      if (architecture == "qwen2") {
        add(layer + "attn_q.bias", {kHeads * kHeadDim}, GgmlType::kF32);
        add(layer + "attn_k.bias", {kKvHeads * kHeadDim}, GgmlType::kF32);
        add(layer + "attn_v.bias", {kKvHeads * kHeadDim}, GgmlType::kF32);
      }
      add(layer + "attn_output.weight", {kHeads * kHeadDim, kHidden}, GgmlType::kQ8_0);
      add(layer + "ffn_norm.weight", {kHidden}, GgmlType::kF32);
      add(layer + "ffn_gate.weight", {kHidden, kIntermediate}, GgmlType::kQ5_1);
      add(layer + "ffn_up.weight", {kHidden, kIntermediate}, GgmlType::kBF16);
      add(layer + "ffn_down.weight", {kIntermediate, kHidden}, GgmlType::kIQ4_NL);
    }
  }

  Model& key(const std::string& name, std::uint32_t value) {
    builder.without(architecture + '.' + name).key(architecture + '.' + name, value);
    return *this;
  }
  Model& key(const std::string& name, float value) {
    builder.without(architecture + '.' + name).key(architecture + '.' + name, value);
    return *this;
  }
  Model& key(const std::string& name, const char* value) {
    builder.without(architecture + '.' + name).key(architecture + '.' + name, value);
    return *this;
  }
  Model& without(const std::string& name) {
    builder.without(architecture + '.' + name);
    return *this;
  }

  // Bytes that differ from tensor to tensor and from block to block; float16 scales stay finite.
  void add(const std::string& name, std::vector<std::uint64_t> ne, GgmlType type) {
    std::uint64_t elements = 1;
    for (std::uint64_t extent : ne) elements *= extent;
    const formats::GgmlTypeFacts& t = formats::facts(type);
    std::string data(elements / t.block_elements * t.block_bytes, '\0');
    auto state = static_cast<std::uint32_t>(7 * name.size() + tensors.size());
    for (char& c : data) {
      state = state * 1664525U + 1013904223U;
      c = static_cast<char>(state >> 24 & 0x3F);  // a float of any type has no exponent of all ones
    }
    tensors[name] = {std::move(ne), type, std::move(data)};
  }

  std::string file() const {
    GgufBuilder whole = builder;
    for (const auto& [name, weight] : tensors) whole.tensor(name, weight.ne, weight.type, weight.data);
    return whole.file();
  }
};

std::string model_error_of(const Model& model) {
  const TemporaryDirectory directory;
  const auto path = directory.write("m.gguf", model.file());
  const std::string message = input_error_of([&] { open_model(path.string()); });
  CHECK(message.find('\n') == std::string::npos);
  return message;
}

std::vector<float> floats(const Tensor& tensor) {
  std::vector<float> values;
  for (double value : to_doubles(tensor.view())) values.push_back(static_cast<float>(value));
  return values;
}

// The tensor's values in the file's order.
std::vector<float> dequantized(const Model::Weight& weight) {
  const formats::GgmlTypeFacts& type = formats::facts(weight.type);
  std::vector<float> values(weight.data.size() / type.block_bytes * type.block_elements);
  dequantize(weight.type, std::as_bytes(std::span(weight.data)), values);
  return values;
}

}  // namespace

TEST_CASE("a GGUF file of qwen2 as a weight source: config, names, shapes and types") {
  const Model model;
  const TemporaryDirectory directory;
  const auto source = open_model(directory.write("m.gguf", model.file()).string());
  const ModelConfig& c = source->config();
  CHECK(c.architecture == Architecture::kQwen2);
  CHECK(c.hidden == 64);
  CHECK(c.num_layers == 2);
  CHECK(c.num_q_heads == 4);
  CHECK(c.num_kv_heads == 2);
  CHECK(c.head_dim == 16);
  CHECK(c.intermediate == 96);
  CHECK(c.vocab == 6);
  CHECK(c.rms_norm_eps == 1e-6);  // the number that was written, not the double nearest to its float32
  CHECK(c.rope_theta == 1e4);
  CHECK(c.tie_word_embeddings);
  CHECK(c.qkv_bias);
  CHECK(c.dtype == DType::kF32);
  CHECK(source->weights().size() == expected_weights(c).size());
  const WeightInfo& gate = source->find("model.layers.1.mlp.gate_proj.weight");
  CHECK(gate.shape == Shape{96, 64});
  CHECK(gate.dtype == DType::kF32);
  CHECK(gate.stored_as == "Q5_1");
  CHECK(source->find("model.layers.0.mlp.up_proj.weight").dtype == DType::kBF16);
  CHECK(source->find("model.layers.0.mlp.up_proj.weight").stored_as.empty());
  for (const auto& [checkpoint, file] :
       std::map<std::string, std::string>{{"model.embed_tokens.weight", "token_embd.weight"},
                                          {"model.norm.weight", "output_norm.weight"},
                                          {"model.layers.0.input_layernorm.weight", "blk.0.attn_norm.weight"},
                                          {"model.layers.1.self_attn.q_proj.weight", "blk.1.attn_q.weight"},
                                          {"model.layers.1.self_attn.k_proj.weight", "blk.1.attn_k.weight"},
                                          {"model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight"},
                                          {"model.layers.1.self_attn.q_proj.bias", "blk.1.attn_q.bias"},
                                          {"model.layers.1.self_attn.k_proj.bias", "blk.1.attn_k.bias"},
                                          {"model.layers.0.self_attn.v_proj.bias", "blk.0.attn_v.bias"},
                                          {"model.layers.0.self_attn.o_proj.weight", "blk.0.attn_output.weight"},
                                          {"model.layers.1.post_attention_layernorm.weight", "blk.1.ffn_norm.weight"},
                                          {"model.layers.1.mlp.gate_proj.weight", "blk.1.ffn_gate.weight"},
                                          {"model.layers.0.mlp.up_proj.weight", "blk.0.ffn_up.weight"},
                                          {"model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight"}}) {
    INFO(checkpoint);
    CHECK(floats(source->read_all(checkpoint)) == dequantized(model.tensors.at(file)));
  }
}

TEST_CASE("a GGUF file is known by its first bytes, whatever its name is") {
  const TemporaryDirectory directory;
  const auto source = open_model(directory.write("sha256-3b5e", Model("qwen2").file()).string());
  CHECK(source->config().num_layers == 2);
  CHECK_THAT(input_error_of([&] { open_model(directory.write("text", "GGU").string()); }),
             ContainsSubstring("is not a directory"));
  CHECK(is_gguf(directory / "none.gguf"));  // its reader says that there is none
  CHECK_FALSE(is_gguf(directory.path()));
}

TEST_CASE("a GGUF tensor read by any range gives what reading it whole gives") {
  for (const char* architecture : {"qwen2", "llama"}) {
    const TemporaryDirectory directory;
    const auto source = open_model(directory.write("m.gguf", Model(architecture).file()).string());
    for (const WeightInfo& info : source->weights()) {
      INFO(architecture << ' ' << info.name);
      const Tensor whole = source->read_all(info.name);
      const std::size_t width = size_of(info.dtype);
      for (std::int64_t first : {0, 1, 31, 63, 64, 700}) {
        for (std::int64_t count : {0, 1, 33, 64, 200, 2000}) {
          if (first + count > whole.size()) continue;
          std::vector<std::byte> part(static_cast<std::size_t>(count) * width);
          source->read(info, first, count, part);
          const auto expected = whole.bytes().subspan(static_cast<std::size_t>(first) * width, part.size());
          CHECK(std::equal(part.begin(), part.end(), expected.begin()));
        }
      }
      std::vector<std::byte> two(2 * width);
      CHECK_THROWS_AS(source->read(info, whole.size() - 1, 2, two), std::out_of_range);
    }
  }
}

TEST_CASE("llama: q and k are read in the checkpoint's order of rows, and biases are zeros that no file holds") {
  Model model("llama");
  // Each row of q holds its row number in the checkpoint. permute() of llama.cpp's convert_hf_to_gguf.py is
  // weights.reshape(heads, 2, d / 2, columns).swapaxes(1, 2): row s·d/2 + i of a head becomes row 2i + s.
  Model::Weight& q = model.tensors.at("blk.0.attn_q.weight");
  q.type = GgmlType::kF32;
  q.data.clear();
  constexpr std::uint64_t d = Model::kHeadDim;
  for (std::uint64_t row = 0; row < Model::kHeads * d; ++row) {
    const std::uint64_t head = row / d, pair = row % d / 2, half = row % 2;
    for (std::uint64_t i = 0; i < Model::kHidden; ++i) {
      q.data += f32(static_cast<float>(head * d + half * d / 2 + pair) + static_cast<float>(i) / 128.0F);
    }
  }
  const TemporaryDirectory directory;
  const auto source = open_model(directory.write("m.gguf", model.file()).string());
  const std::vector<float> values = floats(source->read_all("model.layers.0.self_attn.q_proj.weight"));
  for (std::size_t i = 0; i < values.size(); ++i) {
    REQUIRE(values[i] == static_cast<float>(i / 64) + static_cast<float>(i % 64) / 128.0F);
  }
  CHECK_FALSE(source->config().qkv_bias);
  CHECK_THROWS_AS(source->find("model.layers.1.self_attn.k_proj.bias"), InputError);
  const std::vector<float> v = floats(source->read_all("model.layers.0.self_attn.v_proj.weight"));
  CHECK(v == dequantized(model.tensors.at("blk.0.attn_v.weight")));  // not permuted

  const std::string text = describe(*source);
  CHECK_THAT(text, ContainsSubstring("biases on q, k and v              none"));
  CHECK(text.find("_proj.bias") == std::string::npos);
  CHECK(text.find("warning") == std::string::npos);  // what is usual in Qwen2.5 says nothing here
}

TEST_CASE("llama with biases: those of q and k are permuted too") {
  Model model("llama");
  for (const std::string layer : {"blk.0.", "blk.1."}) {
    model.add(layer + "attn_q.bias", {64}, GgmlType::kF32);
    model.add(layer + "attn_k.bias", {32}, GgmlType::kF32);
    model.add(layer + "attn_v.bias", {32}, GgmlType::kF32);
  }
  const TemporaryDirectory directory;
  const auto source = open_model(directory.write("m.gguf", model.file()).string());
  CHECK(source->config().qkv_bias);
  const std::vector<float> stored = dequantized(model.tensors.at("blk.1.attn_q.bias"));
  const std::vector<float> read = floats(source->read_all("model.layers.1.self_attn.q_proj.bias"));
  for (std::size_t row = 0; row < 64; ++row) {
    CHECK(read[row] == stored[row / 16 * 16 + 2 * (row % 8) + row % 16 / 8]);
  }
}

TEST_CASE("inspect lists a GGUF file's keys beside what Qwen2.5 has, and each type that it holds") {
  Model model;
  model.builder.key("tokenizer.ggml.pre", "deepseek-r1-qwen");
  model.add("extra.weight", {8}, GgmlType::kI32);
  const TemporaryDirectory directory;
  const auto source = open_model(directory.write("m.gguf", model.file()).string());
  const std::string text = describe(*source);
  CHECK_THAT(text, ContainsSubstring("warning: rope theta is 10000; Qwen2.5 has 1e+06"));
  CHECK_THAT(text,
             ContainsSubstring("warning: tokenizer.ggml.pre is \"deepseek-r1-qwen\"; Qwen2.5 usually has \"qwen2\""));
  CHECK_THAT(text, ContainsSubstring("qwen2.rope.freq_base                         10000                    1000000"));
  CHECK_THAT(text, ContainsSubstring("  Q5_1                            12,288 elements in 2 weights"));
  CHECK_THAT(text, ContainsSubstring("  2 x [96, 64] Q5_1"));
  CHECK_THAT(text, ContainsSubstring("note: 1 tensors are stored and not used: extra.weight"));
  CHECK_THAT(text, ContainsSubstring("storage                           GGUF version 3"));
}

TEST_CASE("a published size whose head counts differ is warned of") {
  Model model;
  model.key("embedding_length", 896U).key("block_count", 24U).key("attention.head_count", 7U);
  const std::string file = model.file();
  const formats::GgufHeader header = formats::parse_gguf(std::as_bytes(std::span(file)), file.size(), "m.gguf");
  // The keys alone: weights of that size would take a gigabyte.
  ModelConfig config;
  config.hidden = 896;
  config.num_layers = 24;
  std::map<std::string, FileKey> keys;
  for (const FileKey& key : compare_keys(header, config)) keys[key.name] = key;
  CHECK(keys.at("qwen2.attention.head_count").differs);
  CHECK(keys.at("qwen2.attention.head_count").usual == "14");
  CHECK_FALSE(keys.at("qwen2.attention.head_count_kv").differs);
}

TEST_CASE("split GGUF files are one model; a missing, foreign or misnamed part is refused") {
  const Model whole;
  const auto part = [&](std::uint32_t number, std::uint32_t count, std::uint32_t tensors = 25) {
    GgufBuilder builder = number == 0 ? whole.builder : GgufBuilder();
    builder.key("split.no", GgufType::kUint16, little_endian(number, 2));
    builder.key("split.count", GgufType::kUint16, little_endian(count, 2));
    builder.key("split.tensors.count", GgufType::kInt32, u32(tensors));
    std::size_t i = 0;
    for (const auto& [name, weight] : whole.tensors) {
      if (i++ % 2 == number % 2) builder.tensor(name, weight.ne, weight.type, weight.data);
    }
    return builder.file();
  };
  const auto tensors = static_cast<std::uint32_t>(whole.tensors.size());
  const TemporaryDirectory directory;
  const std::string first = directory.write("m-00001-of-00002.gguf", part(0, 2, tensors)).string();
  CHECK_THAT(input_error_of([&] { open_model(first); }),
             ContainsSubstring("m-00002-of-00002.gguf is not beside it; fetch the model again"));
  const std::string second = directory.write("m-00002-of-00002.gguf", part(1, 2)).string();
  const auto source = open_model(first);
  CHECK_THAT(describe(*source), ContainsSubstring("GGUF version 3, 2 files"));
  const auto single = open_model(directory.write("m.gguf", whole.file()).string());
  for (const WeightInfo& info : single->weights()) {
    CHECK(floats(source->read_all(info.name)) == floats(single->read_all(info.name)));
  }
  CHECK_THAT(input_error_of([&] { open_model(second); }), ContainsSubstring("is file 2 of 2; give the first one"));
  const std::string renamed = directory.write("n.gguf", part(0, 2, tensors)).string();
  CHECK_THAT(input_error_of([&] { open_model(renamed); }), ContainsSubstring("NAME-00001-of-00002.gguf"));
  directory.write("m-00001-of-00002.gguf", part(0, 2, tensors + 1));
  CHECK_THAT(input_error_of([&] { open_model(first); }), ContainsSubstring("split.tensors.count is"));
  directory.write("m-00001-of-00002.gguf", part(0, 2, tensors));
  directory.write("m-00002-of-00002.gguf", part(1, 3));
  CHECK_THAT(input_error_of([&] { open_model(first); }), ContainsSubstring("do not say that it is file 2 of 2"));
  directory.write("m-00002-of-00002.gguf", part(0, 2));
  CHECK_THAT(input_error_of([&] { open_model(first); }), ContainsSubstring("which one is meant cannot be told"));
  const auto first_of = [&](const std::string& name, std::uint32_t count) {
    const std::string path = directory.write(name, part(0, count)).string();
    return input_error_of([&] { open_model(path); });
  };
  CHECK_THAT(first_of("l-00001-of-01000.gguf", 1000), ContainsSubstring("l-00002-of-01000.gguf is not beside it"));
  CHECK_THAT(first_of("l-00001-of-01001.gguf", 1001), ContainsSubstring("more than the limit of 1000"));
}

TEST_CASE("G40 well-formed GGUF that is no model of ours: architecture, keys") {
  CHECK_THAT(model_error_of(Model("gemma2")), ContainsSubstring("general.architecture is \"gemma2\""));
  Model unnamed;
  unnamed.builder.without("general.architecture");
  CHECK_THAT(model_error_of(unnamed), ContainsSubstring("the key general.architecture is missing"));
  for (const char* name : {"block_count", "context_length", "embedding_length", "feed_forward_length",
                           "attention.head_count", "attention.layer_norm_rms_epsilon"}) {
    CHECK_THAT(model_error_of(Model().without(name)), ContainsSubstring(std::string("qwen2.") + name + " is missing"));
  }
  for (const char* name : {"block_count", "embedding_length", "attention.head_count", "attention.head_count_kv"}) {
    CHECK_THAT(model_error_of(Model().key(name, 0U)), ContainsSubstring("must be a whole number from 1"));
    CHECK_THAT(model_error_of(Model().key(name, 0x80000000U)), ContainsSubstring("must be a whole number from 1"));
    CHECK_THAT(model_error_of(Model().key(name, "4")), ContainsSubstring("must be a whole number from 1"));
    CHECK_THAT(model_error_of(Model().key(name, 4.0F)), ContainsSubstring("must be a whole number from 1"));
  }
  CHECK_THAT(model_error_of(Model().key("attention.head_count_kv", 3U)), ContainsSubstring("must be a multiple"));
  CHECK_THAT(model_error_of(Model().key("attention.key_length", 15U)), ContainsSubstring("even"));
  CHECK_THAT(model_error_of(Model().key("block_count", 1000000U)), ContainsSubstring("tensors are stored"));
  for (float theta : {0.0F, -1.0F, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    CHECK_THAT(model_error_of(Model().key("rope.freq_base", theta)), ContainsSubstring("must be finite and positive"));
  }
  for (float eps : {-1e-6F, std::numeric_limits<float>::quiet_NaN()}) {
    CHECK_THAT(model_error_of(Model().key("attention.layer_norm_rms_epsilon", eps)),
               ContainsSubstring("must be finite"));
  }
  CHECK_THAT(model_error_of(Model().key("rope.freq_base", 10000U)), ContainsSubstring("must be a float32"));
}

TEST_CASE("G40 keys that would change the forward pass are refused, their harmless values are not") {
  CHECK_THAT(model_error_of(Model().key("rope.scaling.type", "yarn")), ContainsSubstring("rope scaling"));
  CHECK_THAT(model_error_of(Model().key("rope.scaling.factor", 4.0F)), ContainsSubstring("rope scaling"));
  CHECK_THAT(model_error_of(Model().key("rope.scaling.attn_factor", 2.0F)), ContainsSubstring("rope scaling"));
  CHECK_THAT(model_error_of(Model().key("rope.dimension_count", 8U)), ContainsSubstring("a part of each head"));
  CHECK_THAT(model_error_of(Model().key("attention.value_length", 8U)), ContainsSubstring("head dimension"));
  CHECK_THAT(model_error_of(Model().key("attention.sliding_window", 4096U)), ContainsSubstring("sliding window"));
  CHECK_THAT(model_error_of(Model().key("expert_count", 8U)), ContainsSubstring("experts"));
  Model harmless;
  harmless.key("rope.scaling.type", "none").key("rope.dimension_count", 16U).key("attention.value_length", 16U);
  harmless.key("expert_count", 0U).key("attention.sliding_window", 0U).key("attention.key_length", 16U);
  CHECK(model_error_of(harmless).empty());
}

TEST_CASE("G40 tensors: missing, of another shape or type, of an operation that is not known; another vocabulary") {
  Model model;
  model.tensors.erase("blk.1.ffn_up.weight");
  CHECK_THAT(model_error_of(model), ContainsSubstring("there is no tensor blk.1.ffn_up.weight"));
  model = Model();
  model.tensors.erase("blk.0.attn_q.bias");
  CHECK_THAT(model_error_of(model), ContainsSubstring("Qwen2 has biases on q, k and v"));
  model = Model();
  model.tensors.erase("token_embd.weight");
  CHECK_THAT(model_error_of(model), ContainsSubstring("no tensor token_embd.weight"));
  model = Model();
  model.add("blk.1.attn_k.weight", {64, 64}, GgmlType::kF32);
  CHECK_THAT(model_error_of(model), ContainsSubstring("has the shape [64, 64], but the file's keys ask for [32, 64]"));
  model = Model();
  model.add("blk.1.attn_norm.weight", {64}, GgmlType::kQ8_0);
  CHECK_THAT(model_error_of(model), ContainsSubstring("vectors must be F32"));
  model = Model();
  model.add("blk.1.ffn_up.weight", {64, 96}, GgmlType::kMXFP4);
  CHECK_THAT(model_error_of(model), ContainsSubstring("has the type MXFP4, which is not read"));
  model = Model();
  model.add("blk.1.attn_q_norm.weight", {16}, GgmlType::kF32);
  CHECK_THAT(model_error_of(model), ContainsSubstring("would change the forward pass"));
  for (const char* name : {"rope_freqs.weight", "output.bias", "output_norm.bias", "token_embd_norm.weight"}) {
    model = Model();
    model.add(name, {8}, GgmlType::kF32);
    CHECK_THAT(model_error_of(model), ContainsSubstring(std::string("tensor ") + name + " belongs to no operation"));
  }
  model = Model();
  model.builder.key("tokenizer.ggml.tokens", std::vector<std::string>{"a", "b"});
  CHECK_THAT(model_error_of(model), ContainsSubstring("token_embd.weight has 6 rows"));
  model = Model();
  model.key("vocab_size", 7U);
  CHECK_THAT(model_error_of(model), ContainsSubstring("token_embd.weight has 6 rows"));
}

TEST_CASE("an untied GGUF model of one type has that type") {
  Model model;
  for (auto& [name, weight] : model.tensors) {
    if (weight.ne.size() == 2) model.add(name, weight.ne, GgmlType::kF16);
  }
  model.add("output.weight", {64, 6}, GgmlType::kF16);
  const TemporaryDirectory directory;
  const auto source = open_model(directory.write("m.gguf", model.file()).string());
  CHECK_FALSE(source->config().tie_word_embeddings);
  CHECK(source->config().dtype == DType::kF16);
  CHECK(source->find("lm_head.weight").shape == Shape{6, 64});
}

TEST_CASE("paths that end in .gguf and are none") {
  const TemporaryDirectory directory;
  CHECK_THAT(input_error_of([&] { open_model((directory / "absent.gguf").string()); }),
             ContainsSubstring("cannot be opened"));
  CHECK_THAT(input_error_of([&] { open_model(directory.write("text.gguf", "Hello, World").string()); }),
             ContainsSubstring("does not start with \"GGUF\""));
}
