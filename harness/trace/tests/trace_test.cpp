#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>

#include "cmake/catch2.h"
#include "harness/contract/error.h"
#include "harness/contract/tests/small_model.h"
#include "harness/formats/atomic_file.h"
#include "harness/formats/input_file.h"
#include "harness/formats/safetensors.h"
#include "harness/trace/trace_reader.h"
#include "harness/trace/trace_writer.h"

namespace qdiff::trace {
namespace {

namespace fs = std::filesystem;

class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "qdiff-trace-test-XXXXXX").string();
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

const ModelConfig kConfig = testing::small_config(4, 2, 2, 8, 6, true, 10);

std::vector<Step> two_steps() {
  std::vector<Step> steps(2);
  steps[0].tokens = {{1, 2, 3}};
  steps[1].tokens = {{4}};
  steps[1].phase = Phase::kDecode;
  steps[1].index = 1;
  steps[1].past_length = 3;
  for (Step& step : steps) {
    step.left_padding = {0};
    set_default_positions(step);
  }
  return steps;
}

// Distinct numbers everywhere, so that a mix-up of tensors, steps or offsets shows.
Recording recording_of(const std::vector<Step>& steps) {
  Recording recording;
  int salt = 0;
  for (const Step& step : steps) {
    for (const TensorId& id : all_tensors(kConfig, true)) {
      const DType dtype = id.op == Op::kOutput ? DType::kF32 : DType::kBF16;
      Tensor tensor(dtype, output_shape(id.op, kConfig, step.batch(), step.num_tokens(), step.valid_length()));
      ++salt;
      for (std::int64_t i = 0; i < tensor.size(); ++i) tensor.set(i, salt + 0.001 * static_cast<double>(i));
      if (id.op == Op::kScores) tensor.set(0, std::numeric_limits<double>::quiet_NaN());
      recording.put({step.index, id}, std::move(tensor));
    }
  }
  return recording;
}

Manifest about() {
  Manifest manifest;
  manifest.engine = {"cpu", "0.1.0", "cpu"};
  manifest.precision = plain_precision(DType::kBF16);
  manifest.config = declare(kConfig);
  return manifest;
}

bool same_bits(const TensorView& a, const TensorView& b) {
  return a.dtype == b.dtype && a.shape == b.shape && std::memcmp(a.data, b.data, a.bytes()) == 0;
}

TEST_CASE("a trace comes back bit for bit") {
  const Folder folder;
  const std::vector<Step> steps = two_steps();
  const Recording recording = recording_of(steps);
  write_trace(folder / "trace", about(), steps, recording);
  CHECK(folder.entries() == 1);

  const auto trace = read_trace(folder / "trace");
  CHECK(trace->manifest().config == declare(kConfig));
  CHECK(trace->manifest().precision == plain_precision(DType::kBF16));
  CHECK(trace->keys() == recording.keys());
  CHECK(trace->bytes() == recording.bytes());
  CHECK(trace->unknown().empty());
  CHECK_NOTHROW(check_shapes(*trace, trace->manifest().config));
  for (const TensorKey& key : recording.keys()) {
    INFO(tensor_name(key.id) << " of step " << key.step);
    CHECK(same_bits(trace->get(key), recording.get(key)));
  }
  trace->forget();
  CHECK(same_bits(trace->get(recording.keys().back()), recording.get(recording.keys().back())));
  CHECK_FALSE(trace->has({2, {Op::kNorm, kNoLayer}}));
  CHECK_THROWS_AS(trace->get({2, {Op::kNorm, kNoLayer}}), std::out_of_range);
}

TEST_CASE("an older trace is replaced whole, anything else is not touched") {
  const Folder folder;
  std::vector<Step> steps = two_steps();
  write_trace(folder / "trace", about(), steps, recording_of(steps));
  steps.pop_back();
  write_trace(folder / "trace", about(), steps, recording_of(steps));
  CHECK(read_trace(folder / "trace")->manifest().steps.size() == 1);
  CHECK_FALSE(fs::exists(folder / "trace" / "step-0001.safetensors"));
  CHECK(folder.entries() == 1);

  fs::create_directory(folder / "empty");
  write_trace(folder / "empty", about(), steps, recording_of(steps));
  CHECK(read_trace(folder / "empty")->keys().size() == recording_of(steps).size());

  fs::create_directory(folder / "thesis");
  formats::write_file(folder / "thesis" / "manifest.json", "{\"format\": \"qdiff-trace\"}");
  formats::write_file(folder / "thesis" / "chapter.txt", "years of work");
  CHECK_THROWS_AS(TraceWriter(folder / "thesis"), InputError);
  fs::remove(folder / "thesis" / "chapter.txt");
  formats::write_file(folder / "thesis" / "manifest.json", "{\"format\": \"web-extension\"}");
  CHECK_THROWS_AS(TraceWriter(folder / "thesis"), InputError);
  CHECK(formats::read_text_file(folder / "thesis" / "manifest.json", 100) == "{\"format\": \"web-extension\"}");

  formats::write_file(folder / "file", "text");
  CHECK_THROWS_AS(TraceWriter(folder / "file"), InputError);
  fs::create_directory_symlink(folder / "trace", folder / "link");
  CHECK_THROWS_AS(TraceWriter(folder / "link"), InputError);
  CHECK_THROWS_AS(TraceWriter(folder / "file" / "inside"), InputError);
  CHECK_THROWS_AS(TraceWriter("/"), InputError);
  CHECK_THROWS_AS(TraceWriter(""), InputError);
}

TEST_CASE("a trace that is not committed leaves nothing behind and the older one whole") {
  const Folder folder;
  const std::vector<Step> steps = two_steps();
  const Recording recording = recording_of(steps);
  write_trace(folder / "trace", about(), steps, recording);
  {
    TraceWriter writer(folder / "trace/");
    writer.write_step(steps[0], recording);
    CHECK(folder.entries() == 2);
  }
  CHECK(folder.entries() == 1);
  CHECK(read_trace(folder / "trace")->manifest().steps.size() == 2);
}

TEST_CASE("a trace of few tensors, with names of its own, is read") {
  const Folder folder;
  const std::vector<Step> steps = two_steps();
  Recording recording;
  recording.put({1, {Op::kLmHead, kNoLayer}}, Tensor(DType::kF32, {1, 1, 10}));
  write_trace(folder / "trace", about(), steps, recording);
  formats::SafetensorsWriter writer(
      folder / "trace" / "step-0000.safetensors",
      {{"lm_head", DType::kF16, {1, 1, 10}}, {"model.layers.0.kv_head_count", DType::kF64, {}}});
  writer.append("lm_head", Tensor(DType::kF16, {1, 1, 10}).bytes());
  writer.append("model.layers.0.kv_head_count", Tensor(DType::kF64, {}).bytes());
  writer.finish();

  const auto trace = read_trace(folder / "trace");
  CHECK(trace->keys().size() == 2);
  REQUIRE(trace->unknown().size() == 1);
  CHECK(trace->unknown()[0].name == "model.layers.0.kv_head_count");
  CHECK_NOTHROW(check_shapes(*trace, trace->manifest().config));  // step 0 hands out the last row's logits
}

TEST_CASE("a tensor that was stored wider than the engine held it comes in the engine's type") {
  const Folder folder;
  const TensorKey norm{0, {Op::kNorm, kNoLayer}};
  const auto stored = [&](DType dtype, DType held, std::initializer_list<double> values) {
    Recording recording;
    Tensor tensor(dtype, {1, 3, 8});
    std::int64_t i = 0;
    for (double value : values) tensor.set(i++, value);
    recording.put(norm, std::move(tensor));
    Manifest manifest = about();
    manifest.precision = plain_precision(held);
    write_trace(folder / "trace", manifest, two_steps(), recording);
    const auto trace = read_trace(folder / "trace");
    const TensorView view = trace->get(norm);
    for (i = 0; i < std::ssize(values); ++i) {
      const double here = load_element(view.data, view.dtype, static_cast<std::size_t>(i)), there = values.begin()[i];
      CHECK((here == there || (std::isnan(here) && std::isnan(there))));
    }
    CHECK(trace->dtype(norm) == dtype);
    CHECK(trace->widened().contains(norm) == (view.dtype != dtype));
    return view.dtype;
  };
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN(), kInfinity = HUGE_VAL;
  CHECK(stored(DType::kF32, DType::kBF16, {1.0, -2.5, kNaN, kInfinity, -0.0}) == DType::kBF16);
  CHECK(stored(DType::kF32, DType::kBF16, {1.0, 1.0 + 0x1p-8}) == DType::kF32);
  CHECK(stored(DType::kF32, DType::kF16, {1.0, 1.0 + 0x1p-8}) == DType::kF16);
  CHECK(stored(DType::kF32, DType::kF16, {65536.0}) == DType::kF32);  // that overflows
  CHECK(stored(DType::kF16, DType::kBF16, {1.0, 0.75}) == DType::kBF16);
  CHECK(stored(DType::kF16, DType::kF32, {1.0}) == DType::kF16);
  CHECK(stored(DType::kBF16, DType::kF16, {1.0}) == DType::kBF16);  // of fewer digits
}

TEST_CASE("tensors of another dtype, shape or layer are refused") {
  const Folder folder;
  const std::vector<Step> steps = two_steps();
  const auto with = [&](const TensorId& id, DType dtype, const Shape& shape) {
    Recording recording;
    recording.put({0, id}, Tensor(dtype, shape));
    write_trace(folder / "trace", about(), steps, recording);
    check_shapes(*read_trace(folder / "trace"), declare(kConfig));
  };
  CHECK_NOTHROW(with({Op::kNorm, kNoLayer}, DType::kF16, {1, 3, 8}));
  CHECK_NOTHROW(with({Op::kKCache, 1}, DType::kF16, {1, 3, 2, 2}));
  CHECK_THROWS_AS(with({Op::kNorm, kNoLayer}, DType::kF64, {1, 3, 8}), InputError);
  CHECK_THROWS_AS(with({Op::kNorm, kNoLayer}, DType::kF16, {1, 3, 9}), InputError);
  CHECK_THROWS_AS(with({Op::kNorm, kNoLayer}, DType::kF16, {3, 8}), InputError);
  CHECK_THROWS_AS(with({Op::kNorm, kNoLayer}, DType::kF16, {1, 1, 8}), InputError);
  CHECK_THROWS_AS(with({Op::kKCache, 2}, DType::kF16, {1, 3, 2, 2}), InputError);
  const std::string file = (folder / "trace/step-0000.safetensors").string();
  CHECK_THROWS_WITH(with({Op::kNorm, kNoLayer}, DType::kF16, {1, 3, 9}), StartsWith(file + ": model.norm has shape "));
  CHECK_THROWS_WITH(with({Op::kKCache, 2}, DType::kF16, {1, 3, 2, 2}), StartsWith(file + ": model.layers.2."));
  // Nothing is known of the hidden size, but the number of tokens is.
  CHECK_NOTHROW(check_shapes(*read_trace(folder / "trace"), DeclaredConfig{}));
}

TEST_CASE("J12: files of a trace that are missing, no files, or cut") {
  const Folder folder;
  const std::vector<Step> steps = two_steps();
  const Recording recording = recording_of(steps);
  const fs::path file = folder / "trace" / "step-0001.safetensors";
  write_trace(folder / "trace", about(), steps, recording);

  const auto opened = read_trace(folder / "trace");
  fs::resize_file(file, fs::file_size(file) - 1);
  CHECK_THROWS_AS(opened->get({1, {Op::kNorm, kNoLayer}}), InputError);
  CHECK_THROWS_AS(read_trace(folder / "trace"), InputError);

  fs::remove(file);
  CHECK_THROWS_AS(read_trace(folder / "trace"), InputError);
  REQUIRE(::mkfifo(file.c_str(), 0600) == 0);
  CHECK_THROWS_AS(read_trace(folder / "trace"), InputError);
  fs::remove(file);
  fs::create_directory(file);
  CHECK_THROWS_AS(read_trace(folder / "trace"), InputError);

  fs::remove(folder / "trace" / "manifest.json");
  const auto error_of = [&](const char* name) {
    try {
      read_trace(folder / name);
    } catch (const InputError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK_THAT(error_of("trace"), Catch::Matchers::EndsWith("trace: is no trace, for it holds no manifest.json"));
  CHECK_THAT(error_of("nowhere"), Catch::Matchers::EndsWith("nowhere: there is no such folder"));
  CHECK_THAT(error_of("trace/step-0000.safetensors"),
             ContainsSubstring("step-0000.safetensors: is a file; a trace is a folder"));
  formats::write_file(folder / "trace" / "config.json", "{}");  // --model and --trace exchanged
  CHECK_THAT(error_of("trace"), Catch::Matchers::EndsWith("its config.json says that it is a model, for --model"));
}

}  // namespace
}  // namespace qdiff::trace
