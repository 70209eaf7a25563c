#include "harness/formats/gguf.h"

#include "cmake/catch2.h"
#include "harness/formats/tests/gguf_builder.h"
#include "harness/formats/tests/temporary_directory.h"

using namespace qdiff;
using namespace qdiff::formats;
using namespace qdiff::testing;

TEST_CASE("a GGUF file's keys of every type, and its tensors") {
  GgufBuilder builder;
  builder.key("u8", GgufType::kUint8, "\xFF").key("i8", GgufType::kInt8, "\xFF");
  builder.key("u16", GgufType::kUint16, little_endian(65535, 2)).key("i16", GgufType::kInt16, little_endian(65535, 2));
  builder.key("u32", 0xFFFFFFFFU).key("i32", GgufType::kInt32, u32(0xFFFFFFFEU));
  builder.key("u64", GgufType::kUint64, u64(UINT64_MAX)).key("i64", GgufType::kInt64, u64(UINT64_MAX));
  builder.key("f32", 1e-6F).key("f64", GgufType::kFloat64, u64(std::bit_cast<std::uint64_t>(0.1)));
  builder.key("yes", GgufType::kBool, "\1").key("no", GgufType::kBool, std::string(1, '\0'));
  builder.key("text", "qwen2").key("words", std::vector<std::string>{"a", "bc"});
  builder.tensor("norm.weight", {3}, GgmlType::kF32, f32(1) + f32(2) + f32(3));
  builder.tensor("blk.0.attn_q.weight", {32, 2}, GgmlType::kQ8_0, std::string(34, '\1') + std::string(34, '\2'));
  const std::string file = builder.file();
  const GgufHeader header = parse_gguf(std::as_bytes(std::span(file)), file.size(), "m.gguf");

  const auto value = [&](const char* name) { return header.find_key(name)->value; };
  CHECK(std::get<std::uint64_t>(value("u8")) == 255);
  CHECK(std::get<std::int64_t>(value("i8")) == -1);
  CHECK(std::get<std::uint64_t>(value("u16")) == 65535);
  CHECK(std::get<std::int64_t>(value("i16")) == -1);
  CHECK(std::get<std::uint64_t>(value("u32")) == 0xFFFFFFFFU);
  CHECK(std::get<std::int64_t>(value("i32")) == -2);
  CHECK(std::get<std::uint64_t>(value("u64")) == UINT64_MAX);
  CHECK(std::get<std::int64_t>(value("i64")) == -1);
  CHECK(std::get<double>(value("f32")) == static_cast<double>(1e-6F));
  CHECK(std::get<double>(value("f64")) == 0.1);
  CHECK(std::get<bool>(value("yes")));
  CHECK_FALSE(std::get<bool>(value("no")));
  CHECK(std::get<std::string>(value("text")) == "qwen2");
  CHECK(describe_value(*header.find_key("f32")) == "1e-06");
  CHECK(describe_value(*header.find_key("words")) == "2 strings");
  CHECK(header.find_key("other") == nullptr);

  REQUIRE(header.tensors.size() == 2);
  const GgufTensor& q = *header.find_tensor("blk.0.attn_q.weight");
  CHECK(q.shape == Shape{2, 32});  // row-major: ggml's ne[0] last
  CHECK(q.type == GgmlType::kQ8_0);
  CHECK(q.bytes == 68);
  CHECK(header.data_start % 32 == 0);
  CHECK(q.begin == header.data_start + 32);

  const TemporaryDirectory directory;
  const GgufReader reader(directory.write("m.gguf", file));
  std::vector<std::byte> bytes(34);
  reader.read(*reader.header().find_tensor(q.name), 34, bytes);
  CHECK(bytes == std::vector<std::byte>(34, std::byte{2}));
  CHECK_THROWS_AS(reader.read(q, 35, bytes), std::out_of_range);
  CHECK_THROWS_AS(reader.read(q, UINT64_MAX, bytes), std::out_of_range);
}

TEST_CASE("a GGUF file cut after it was opened gives an error at the read") {
  GgufBuilder builder;
  builder.key("words", std::vector<std::string>{"a", "bc"});
  builder.tensor("a", {8}, GgmlType::kF32, std::string(32, '\1'));
  const TemporaryDirectory directory;
  const auto path = directory.write("m.gguf", builder.file());
  const GgufReader reader(path);
  std::filesystem::resize_file(path, 40);
  std::vector<std::byte> bytes(32);
  CHECK_THAT(input_error_of([&] { reader.read(reader.header().tensors[0], 0, bytes); }), ContainsSubstring("ends at"));
  CHECK_THAT(input_error_of([&] { reader.strings(reader.header().keys[0]); }), ContainsSubstring("ends at"));
  directory.write("m.gguf", std::string(builder.file().size(), '\xFF'));
  CHECK_THAT(input_error_of([&] { reader.strings(reader.header().keys[0]); }), ContainsSubstring("has changed"));
}
