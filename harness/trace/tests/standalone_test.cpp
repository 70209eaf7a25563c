// What the one-file writers of other people's engines write is read by our reader: the C++ header, its example, and
// traces in tests/data that the Python writer made.
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "cmake/catch2.h"
#include "harness/formats/input_file.h"
#include "harness/trace/standalone/trace_writer.h"
#include "harness/trace/trace_reader.h"

namespace qdiff {
namespace {

namespace fs = std::filesystem;

class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "qdiff-standalone-test-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~Folder() { fs::remove_all(path_); }
  fs::path operator/(const char* name) const { return path_ / name; }
  std::size_t entries() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(path_), fs::directory_iterator()));
  }

 private:
  fs::path path_;
};

// H*d = 8 is D, K = 2, d = 2.
constexpr const char* kConfig =
    R"({"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 2,
        "intermediate_size": 6, "vocab_size": 10, "rms_norm_eps": 1e-6, "rope_parameters": {"rope_theta": 1e4}})";

TraceAbout about() {
  TraceAbout about;
  about.engine_name = "an \"engine\" of \\ ours";
  about.engine_version = "1.2";
  about.points = {{"attention.probs", "bfloat16"}, {"self_attn.o_proj", "float32"}};
  about.config_json = kConfig;
  return about;
}

template <typename T>
std::vector<T> counted(std::size_t size, int first) {
  std::vector<T> values;
  for (std::size_t i = 0; i < size; ++i) values.push_back(static_cast<T>(first + static_cast<int>(i)));
  return values;
}

template <typename T>
bool holds(const trace::Trace& read, const trace::Trace::Unknown& at, const std::vector<T>& values) {
  const TensorView view = read.get({at.step, *parse_tensor_name(at.name)});
  return view.bytes() == values.size() * sizeof(T) && std::memcmp(view.data, values.data(), view.bytes()) == 0;
}

// Two rows, one of them padded; a step of mixed element types, whose offsets must not get mixed.
TEST_CASE("the standalone writer's trace comes back bit for bit") {
  const Folder folder;
  const auto odd = counted<std::uint16_t>(2 * 3 * 8, 100);
  auto wide = counted<float>(2 * 3 * 8, 1);
  for (float& value : wide) value /= 3.0F;  // no bfloat16, which would come as one
  const auto cache = counted<std::uint16_t>(2 * 4 * 2 * 2, 500);
  const auto logits = counted<std::uint16_t>(2 * 1 * 10, 900);
  {
    TraceWriter writer(folder / "trace", about());
    writer.begin_step("prefill", {{0, 2, 3}, {4, 5, 6}}, {1, 0}, {{0, 0, 1}, {0, 1, 2}});
    writer.tensor("model.layers.1.self_attn.q_proj", TraceDType::kBFloat16, {2, 3, 8}, odd.data());
    writer.tensor("model.layers.1.output", TraceDType::kFloat32, {2, 3, 8}, wide.data());
    writer.begin_step("decode", {{7}, {8}});
    writer.begin_tensor("model.layers.0.self_attn.k_cache", TraceDType::kFloat16, {2, 4, 2, 2});
    for (std::size_t piece = 0; piece < cache.size(); piece += 4) writer.append(&cache[piece], 4);
    writer.tensor("lm_head", TraceDType::kBFloat16, {2, 1, 10}, logits.data());
    CHECK_FALSE(fs::exists(folder / "trace"));
    writer.commit();
  }
  CHECK(folder.entries() == 1);

  const auto read = trace::read_trace(folder / "trace");
  const trace::Manifest& manifest = read->manifest();
  CHECK(manifest.engine.name == "an \"engine\" of \\ ours");
  CHECK(manifest.engine.version == "1.2");
  CHECK(manifest.precision.activations == DType::kBF16);
  CHECK(manifest.precision.at(RoundingPoint::kAttentionProbs) == DType::kBF16);
  CHECK(manifest.precision.taken_as.at(Op::kOProj) == DType::kF32);
  CHECK(manifest.config.rope_theta == 1e4);
  REQUIRE(manifest.steps.size() == 2);
  CHECK(manifest.steps[1].past_length == 3);
  CHECK(manifest.steps[1].left_padding == std::vector<std::int64_t>{1, 0});
  CHECK(manifest.steps[1].tokens == std::vector<std::vector<std::int32_t>>{{7}, {8}});
  CHECK(manifest.notes.empty());
  CHECK(read->keys().size() == 4);
  CHECK(read->unknown().empty());
  CHECK_NOTHROW(trace::check_shapes(*read, manifest.config));
  CHECK(holds(*read, {0, "model.layers.1.self_attn.q_proj"}, odd));
  CHECK(holds(*read, {0, "model.layers.1.output"}, wide));
  CHECK(holds(*read, {1, "model.layers.0.self_attn.k_cache"}, cache));
  CHECK(holds(*read, {1, "lm_head"}, logits));
}

TEST_CASE("the standalone writer refuses what would not be read") {
  const Folder folder;
  const std::vector<float> zeros(1000);
  TraceWriter writer(folder / "trace", about());
  const auto tensor = [&](const char* name, const std::vector<std::int64_t>& shape) {
    writer.tensor(name, TraceDType::kFloat32, shape, zeros.data());
  };
  CHECK_THROWS_WITH(tensor("model.norm", {1, 2, 8}), ContainsSubstring("no step has begun"));
  CHECK_THROWS_WITH(writer.append(zeros.data(), 1), ContainsSubstring("begin_tensor"));
  CHECK_THROWS_WITH(writer.begin_step("warm-up", {{1, 2}}), ContainsSubstring("warm-up"));
  CHECK_THROWS_WITH(writer.begin_step("prefill", {{1, 2}, {3}}), ContainsSubstring("equally long"));
  CHECK_THROWS_WITH(writer.begin_step("prefill", {{}}), ContainsSubstring("[B][T]"));
  CHECK_THROWS_WITH(writer.commit(), ContainsSubstring("at least one step"));
  writer.begin_step("prefill", {{1, 2}});
  for (const char* name : {"model.layers.0.mlp.gate", "model.layers.x.output", "model.layers.0.model.norm", "output",
                           "model.layers.", "model.layers.0"}) {
    INFO(name);
    CHECK_THROWS_WITH(tensor(name, {1, 2, 8}), ContainsSubstring("is no tensor of"));
  }
  CHECK_THROWS_WITH(tensor("model.norm", {2, 8}), ContainsSubstring("2 dimensions, but must have 3"));
  CHECK_THROWS_WITH(tensor("model.norm", {1, 3, 8}), ContainsSubstring("dimension T is 3, but must be 2"));
  tensor("model.norm", {1, 2, 8});
  CHECK_THROWS_WITH(tensor("model.norm", {1, 2, 8}), ContainsSubstring("twice"));
  CHECK_THROWS_WITH(tensor("model.embed_tokens", {1, 2, 9}), ContainsSubstring("dimension D is 9, but must be 8"));
  writer.begin_tensor("model.embed_tokens", TraceDType::kFloat32, {1, 2, 8});
  CHECK_THROWS_WITH(writer.append(zeros.data(), 17), ContainsSubstring("more elements"));
  writer.append(zeros.data(), 15);
  CHECK_THROWS_WITH(writer.commit(), ContainsSubstring("15 elements were written of 16"));
  CHECK_THROWS_WITH(writer.begin_step("decode", {{1}}), ContainsSubstring("15 elements"));
  writer.append(zeros.data(), 1);
  CHECK_THROWS_WITH(writer.begin_step("decode", {{1}, {2}}), ContainsSubstring("as many rows"));
  writer.commit();
  CHECK_THROWS_WITH(writer.commit(), ContainsSubstring("committed already"));
  CHECK_NOTHROW(trace::check_shapes(*trace::read_trace(folder / "trace"), trace::DeclaredConfig{}));

  TraceAbout empty = about();
  empty.config_json = "config.json";
  CHECK_THROWS_WITH(TraceWriter(folder / "other", empty), ContainsSubstring("not the text of a config.json"));
}

TEST_CASE("the standalone writer replaces a trace, whole, and nothing else") {
  const Folder folder;
  const auto write = [&](int num_steps, bool commit) {
    TraceWriter writer(folder / "trace", about());
    for (int step = 0; step < num_steps; ++step) writer.begin_step("decode", {{step}});
    if (commit) writer.commit();
  };
  write(3, true);
  write(1, false);
  CHECK(trace::read_trace(folder / "trace")->manifest().steps.size() == 3);
  write(2, true);
  CHECK(trace::read_trace(folder / "trace")->manifest().steps.size() == 2);
  CHECK(folder.entries() == 1);
  CHECK_FALSE(fs::exists(folder / "trace" / "step-0002.safetensors"));

  std::ofstream(folder / "trace" / "chapter.txt") << "years of work";
  CHECK_THROWS_WITH(write(1, true), ContainsSubstring("chapter.txt"));
  fs::create_directory(folder / "extension");
  std::ofstream(folder / "extension" / "manifest.json") << "{}";
  CHECK_THROWS_WITH(TraceWriter(folder / "extension", about()), ContainsSubstring("is no trace"));
  fs::create_directory_symlink(folder / "trace", folder / "link");
  CHECK_THROWS_WITH(TraceWriter(folder / "link", about()), ContainsSubstring("no folder"));
}

TEST_CASE("the standalone writer's example runs, and its trace is read") {
  const Folder folder;
  const fs::path config = fs::path(QDIFF_SOURCE_DIR) / "harness/model/tests/data/tied-float16/config.json";
  const std::string command =
      std::string(QDIFF_RECORD_TRACE) + " '" + config.string() + "' '" + (folder / "trace").string() + "'";
  REQUIRE(std::system(command.c_str()) == 0);
  const auto read = trace::read_trace(folder / "trace");
  CHECK(read->keys().size() == 2);
  CHECK(read->manifest().config.vocab == 64);
  CHECK_NOTHROW(trace::check_shapes(*read, read->manifest().config));
}

// Made by scripts/make_trace_data.py: transformers and the NumPy engine, both through python/qdiff/trace_writer.py.
TEST_CASE("traces that the Python writer made are read") {
  const fs::path traces = fs::path(QDIFF_SOURCE_DIR) / "harness/trace/tests/data/traces";
  const auto read = [&](const char* name) {
    INFO(name);
    auto found = trace::read_trace(traces / name);
    CHECK(found->unknown().empty());
    CHECK(found->manifest().notes.empty());
    CHECK(found->manifest().config.vocab == 96);
    CHECK_NOTHROW(trace::check_shapes(*found, found->manifest().config));
    return found;
  };
  std::size_t num_traces = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(traces)) {
    ++num_traces;
    read(entry.path().filename().c_str());
  }
  CHECK(num_traces == 9);

  // Two layers of all rows but the three *.matmul, two prefill steps and two decode steps.
  const auto eager = read("transformers-eager-bfloat16");
  CHECK(eager->keys().size() == 4 * (3 + 2 * 19));
  CHECK(eager->manifest().precision.at(RoundingPoint::kAttentionScores) == DType::kBF16);
  CHECK(eager->manifest().precision.points.size() == 7);
  CHECK(eager->manifest().steps[2].phase == Phase::kDecode);
  CHECK(eager->manifest().steps[2].left_padding == std::vector<std::int64_t>{0, 3});
  const auto sdpa = read("transformers-sdpa-float32");
  CHECK(sdpa->manifest().precision == plain_precision(DType::kF32));
  CHECK_FALSE(sdpa->has({0, {Op::kScores, 0}}));
  const auto numpy = read("numpy-bfloat16");
  CHECK(numpy->dtype({0, {Op::kScores, 1}}) == DType::kF32);
  CHECK(numpy->dtype({0, {Op::kKCache, 1}}) == DType::kBF16);
  CHECK(read("transformers-sdpa-bfloat16-logits")->keys().size() == 4);
  // The embedding's rows are the same in every engine.
  const TensorKey embedding{0, {Op::kEmbedTokens, kNoLayer}};
  const TensorView a = eager->get(embedding), b = numpy->get(embedding);
  CHECK((a.bytes() == b.bytes() && std::memcmp(a.data, b.data, a.bytes()) == 0));
}

}  // namespace
}  // namespace qdiff
