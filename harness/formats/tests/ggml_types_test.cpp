#include "harness/formats/ggml_types.h"

#include <set>
#include <string>
#include <vector>

#include "cmake/catch2.h"
#include "harness/formats/gguf.h"

using namespace qdiff::formats;

namespace {

// Written by scripts/make_gguf_goldens.py with the package gguf: the blocks of each type, and the values that
// gguf.quants.dequantize makes of them.
const GgufReader& goldens() {
  static const GgufReader reader(QDIFF_SOURCE_DIR "/harness/formats/tests/data/ggml-types.gguf");
  return reader;
}

std::vector<std::byte> bytes_of(const std::string& name) {
  const GgufTensor* tensor = goldens().header().find_tensor(name);
  REQUIRE(tensor != nullptr);
  std::vector<std::byte> bytes(static_cast<std::size_t>(tensor->bytes));
  goldens().read(*tensor, 0, bytes);
  return bytes;
}

}  // namespace

TEST_CASE("every readable ggml type gives the bits that the package gguf gives") {
  std::set<std::string> tested;
  for (const GgufTensor& tensor : goldens().header().tensors) {
    if (tensor.name.ends_with(".expected")) continue;
    INFO(tensor.name);
    CHECK(facts(tensor.type).name == tensor.name);
    std::vector<float> values(512);
    dequantize(tensor.type, bytes_of(tensor.name), values);
    const std::vector<std::byte> expected = bytes_of(tensor.name + ".expected");
    REQUIRE(expected.size() == values.size() * sizeof(float));
    const auto actual = std::as_bytes(std::span(values));
    CHECK(std::equal(actual.begin(), actual.end(), expected.begin()));
    tested.insert(tensor.name);
  }
  std::set<std::string> readable;
  for (std::uint32_t number = 0; number < 100; ++number) {
    const auto type = find_ggml_type(number);
    if (type && type->readable()) readable.insert(std::string(type->name));
  }
  CHECK(readable.size() == 15);
  CHECK(tested == readable);
}

TEST_CASE("blocks and values that do not fit each other are a caller's mistake") {
  std::vector<std::byte> block(18);
  std::vector<float> values(32);
  CHECK_NOTHROW(dequantize(GgmlType::kQ4_0, block, values));
  CHECK_NOTHROW(dequantize(GgmlType::kQ4_0, {}, {}));
  CHECK_THROWS_AS(dequantize(GgmlType::kQ4_0, std::span(block).first(17), values), std::invalid_argument);
  CHECK_THROWS_AS(dequantize(GgmlType::kQ4_0, block, std::span(values).first(31)), std::invalid_argument);
  CHECK_THROWS_AS(dequantize(GgmlType::kIQ2_XXS, {}, {}), std::invalid_argument);
}
