// What an engine holds in the place of a file's weights is told from its values.
#include "harness/diagnose/held_weights.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "cmake/catch2.h"
#include "harness/contract/error.h"
#include "harness/contract/number_text.h"
#include "harness/contract/operation_table.h"
#include "harness/contract/splitmix64.h"
#include "harness/contract/tests/small_model.h"
#include "harness/formats/safetensors.h"
#include "harness/formats/tests/temporary_directory.h"

namespace qdiff::diagnose {
namespace {

constexpr const char* kQuery = "model.layers.1.self_attn.q_proj.weight";  // [64, 64]
constexpr const char* kGate = "model.layers.1.mlp.gate_proj.weight";      // [96, 64]
constexpr const char* kUp = "model.layers.1.mlp.up_proj.weight";
constexpr const char* kNorm = "model.layers.0.input_layernorm.weight";

// Weights that float32 holds and no 16-bit type does.
class FileOfWeights : public WeightSource {
 public:
  FileOfWeights() {
    std::uint64_t seed = 1;
    for (const ModelWeight& weight : weights_of(config_)) {
      names_.push_back({weight.name, DType::kF32, weight.shape, {}});
      Tensor tensor(DType::kF32, weight.shape);
      for (std::int64_t i = 0; i < tensor.size(); ++i) {
        const auto random = static_cast<double>(splitmix64(seed++) >> 11) * 0x1p-53;
        tensor.set(i, round_to(DType::kF32, std::sin(40.0 * random) * random));
      }
      values_.emplace(weight.name, std::move(tensor));
    }
  }

  const ModelConfig& config() const override { return config_; }
  const std::string& description() const override { return description_; }
  const std::vector<WeightInfo>& weights() const override { return names_; }
  void read(const WeightInfo& info, std::int64_t first, std::int64_t count,
            std::span<std::byte> destination) const override {
    const auto from =
        values_.at(info.name).bytes().subspan(static_cast<std::size_t>(first) * 4, static_cast<std::size_t>(count) * 4);
    std::ranges::copy(from, destination.begin());
  }
  const Tensor& of(const std::string& name) const { return values_.at(name); }

 private:
  ModelConfig config_ = testing::small_config(4, 2, 16, 64, 96);
  std::string description_ = "small";
  std::vector<WeightInfo> names_;
  std::map<std::string, Tensor> values_;
};

// Each element from its place in the file's weight; of another shape where one is given.
using Law = std::function<double(const Tensor& file, std::int64_t index)>;
Tensor made(const Tensor& file, const Law& law, DType dtype = DType::kF32, Shape shape = {}) {
  Tensor tensor(dtype, shape.empty() ? file.shape() : shape);
  for (std::int64_t i = 0; i < tensor.size(); ++i) tensor.set(i, round_to(dtype, law(file, i)));
  return tensor;
}

using Saved = std::map<std::string, Tensor>;
void save(const std::filesystem::path& path, const Saved& saved) {
  std::vector<formats::SafetensorsTensor> tensors;
  for (const auto& [name, tensor] : saved) tensors.push_back({name, tensor.dtype(), tensor.shape()});
  formats::SafetensorsWriter writer(path, tensors);
  for (const auto& [name, tensor] : saved) writer.append(name, tensor.bytes());
  writer.finish();
}

WeightComparison compared(const FileOfWeights& file, const Saved& saved) {
  const testing::TemporaryDirectory folder;
  save(folder / "held.safetensors", saved);
  return compare_weights(file, folder.path());
}

// How the one weight that was saved differs.
std::string how(const std::string& name, const Law& law, DType dtype = DType::kF32, Shape shape = {}) {
  const FileOfWeights file;
  const WeightComparison result = compared(file, {{name, made(file.of(name), law, dtype, shape)}});
  REQUIRE(result.different.size() == 1);
  CHECK(result.different[0].name == name);
  return result.different[0].how;
}

TEST_CASE("weights with the file's values are equal, in whatever type they are kept", "[held_weights]") {
  const FileOfWeights file;
  const Law same = [](const Tensor& of, std::int64_t i) { return of.at(i); };
  const WeightComparison result =
      compared(file, {{kQuery, made(file.of(kQuery), same, DType::kF64)}, {kNorm, made(file.of(kNorm), same)}});
  CHECK(result.equal == 2);
  CHECK(result.different.empty());
  CHECK(result.absent == std::ssize(file.weights()) - 2);
}

TEST_CASE("roundings of held weights are told, of types and of levels", "[held_weights]") {
  const Law same = [](const Tensor& of, std::int64_t i) { return of.at(i); };
  CHECK(how(kQuery, same, DType::kBF16) == "rounded to bfloat16");
  CHECK(how(kQuery, [](const Tensor& of, std::int64_t i) { return round_to(DType::kBF16, of.at(i)); }) ==
        "rounded to bfloat16");
  CHECK(how(kNorm, same, DType::kF16) == "rounded to float16");
  const auto largest = [](const Tensor& of, std::int64_t first, std::int64_t count) {
    double most = 0.0;
    for (std::int64_t k = first; k < first + count; ++k) most = std::max(most, std::fabs(of.at(k)));
    return most;
  };
  const auto by_rows = [&](const Tensor& of, std::int64_t i) {
    const double scale = round_to(DType::kF32, largest(of, i / 64 * 64, 64) / 127.0);
    return std::nearbyint(of.at(i) / scale) * scale;
  };
  CHECK(how(kGate, by_rows) == "rounded to 8-bit levels with a scale for each output");
  CHECK(how(kGate, by_rows, DType::kBF16) == "rounded to 8-bit levels with a scale for each output");
  const auto by_groups = [&](const Tensor& of, std::int64_t i) {
    const double scale = round_to(DType::kF16, largest(of, i / 32 * 32, 32) / 7.0);
    return std::clamp(std::nearbyint(of.at(i) / scale), -8.0, 7.0) * scale;
  };
  CHECK(how(kGate, by_groups) == "rounded to 4-bit levels with a scale in float16 for each 32 inputs");
}

TEST_CASE("elements of other places are told by the places", "[held_weights]") {
  const Law turned = [](const Tensor& of, std::int64_t i) { return of.at(i % 64 * 64 + i / 64); };
  CHECK(how(kQuery, turned) == "transposed");
  CHECK(how(kGate, [](const Tensor& of, std::int64_t i) { return of.at(i % 96 * 64 + i / 96); }, DType::kF32,
            {64, 96}) == "transposed");
  CHECK(how(kGate, [](const Tensor& of, std::int64_t i) { return of.at(i); }, DType::kF32, {64, 96}) ==
        "of shape [64, 96] where the file has [96, 64]");
  // Each head's first half between its second, as of interleaved pairs.
  const Law paired = [](const Tensor& of, std::int64_t i) {
    const std::int64_t row = i / 64, at = row % 16;
    return of.at((row / 16 * 16 + at / 2 + at % 2 * 8) * 64 + i % 64);
  };
  CHECK(how(kQuery, paired) == "rows in another order (56 of 64: row 1 is the file's row 8)");
  CHECK(how(kGate, [](const Tensor& of, std::int64_t i) { return of.at(i / 64 * 64 + (i + 1) % 64); }) ==
        "columns in another order (64 of 64: column 0 is the file's column 1)");
  const FileOfWeights file;
  const Law same = [](const Tensor& of, std::int64_t i) { return of.at(i); };
  const WeightComparison exchanged =
      compared(file, {{kGate, made(file.of(kUp), same)}, {kUp, made(file.of(kGate), same)}});
  REQUIRE(exchanged.different.size() == 2);
  CHECK(exchanged.different[0].how == std::string("the file's ") + kUp);
  CHECK(exchanged.different[1].how == std::string("the file's ") + kGate);
}

TEST_CASE("values that follow from the file's are told by the law, others by where they begin", "[held_weights]") {
  CHECK(how(kNorm, [](const Tensor& of, std::int64_t i) { return 1.0 + of.at(i); }) == "the file's values plus 1");
  CHECK(how(
            kQuery, [](const Tensor& of, std::int64_t i) { return of.at(i) / 8.0; }, DType::kBF16) ==
        "the file's values times 0.125");
  CHECK(how(kQuery, [](const Tensor&, std::int64_t) { return 0.0; }) == "zeros");
  CHECK(how(kNorm, [](const Tensor&, std::int64_t) { return 1.0; }) == "all 1");
  CHECK(how(kQuery, [](const Tensor& of, std::int64_t i) { return i == 131 ? 2.5 : of.at(i); }) ==
        "other values in 1 of 4096 elements, first at [2, 3]: 2.5 where the file has " +
            digits(FileOfWeights().of(kQuery).at(131), 9));
  CHECK_THAT(how(kNorm, [](const Tensor& of, std::int64_t i) { return i < 2 ? NAN : of.at(i); }),
             ContainsSubstring("2 of 64 elements (2 of them not finite), first at [0]: nan"));
}

// A sample of the rows would pass them over, and call what is held the file's times 1.
TEST_CASE("one wrong element or row among many is what is said, whichever it is", "[held_weights]") {
  for (const std::int64_t wrong : {0, 1, 63, 64, 131, 95 * 64 + 63}) {
    CHECK_THAT(how(kGate, [&](const Tensor& of, std::int64_t i) { return i == wrong ? 2.5 : of.at(i); }),
               ContainsSubstring("other values in 1 of 6144 elements, first at [" + std::to_string(wrong / 64) + ", " +
                                 std::to_string(wrong % 64) + "]: 2.5"));
  }
  CHECK_THAT(how(kGate, [](const Tensor& of, std::int64_t i) { return (i / 64 == 7 ? 2.0 : 1.0) * of.at(i); }),
             ContainsSubstring("other values in 64 of 6144 elements, first at [7, 0]"));
  CHECK_THAT(how(kGate, [](const Tensor& of,
                           std::int64_t i) { return i / 64 == 7 ? of.at(i) : round_to(DType::kBF16, of.at(i)); }),
             ContainsSubstring("other values in"));
  CHECK(how(kGate, [](const Tensor& of, std::int64_t i) { return of.at(i / 64 == 7 ? i - 64 : i); }) ==
        "rows of other places, some lost (1 of 96: row 7 is the file's row 6)");
}

TEST_CASE("what cannot be compared is refused, with what to do", "[held_weights]") {
  const FileOfWeights file;
  const testing::TemporaryDirectory folder;
  const auto refused = [&] { return testing::input_error_of([&] { compare_weights(file, folder.path()); }); };
  CHECK_THAT(refused(), ContainsSubstring("no .safetensors file"));
  const Tensor tensor(DType::kF32, {2});
  save(folder / "a.safetensors", {{"model.layers.1.self_attn.q_proj.wieght", tensor}});
  CHECK_THAT(refused(), ContainsSubstring("none of the tensors") && ContainsSubstring(kQuery));
  save(folder / "b.safetensors", {{kNorm, tensor}});
  const WeightComparison result = compare_weights(file, folder.path());
  CHECK(result.unknown == std::vector<std::string>{"model.layers.1.self_attn.q_proj.wieght"});
  REQUIRE(result.different.size() == 1);
  CHECK(result.different[0].how == "of shape [2] where the file has [64]");
  save(folder / "c.safetensors", {{kNorm, tensor}});
  CHECK_THAT(refused(), ContainsSubstring("b.safetensors too"));
}

}  // namespace
}  // namespace qdiff::diagnose
