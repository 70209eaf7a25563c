// The malformed inputs G01 to G39; G40, files that are well-formed and no model of ours, is
// model/tests/gguf_model_test.cpp.
#include <array>
#include <chrono>

#include "cmake/catch2.h"
#include "harness/formats/limits.h"
#include "harness/formats/tests/gguf_builder.h"
#include "harness/formats/tests/temporary_directory.h"

using namespace qdiff;
using namespace qdiff::formats;
using namespace qdiff::testing;

namespace {

GgufHeader gguf_header_of(const std::string& file) {
  return parse_gguf(std::as_bytes(std::span(file)), file.size(), "m.gguf");
}

// What the reader says of it: one line, quickly.
std::string gguf_error_of(const std::string& file) {
  const auto start = std::chrono::steady_clock::now();
  const std::string message = input_error_of([&] { gguf_header_of(file); });
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(1));
  CHECK(message.find('\n') == std::string::npos);
  CHECK((message.empty() || message.starts_with("m.gguf: byte ")));
  return message;
}

std::string start(std::uint64_t num_tensors, std::uint64_t num_keys) {
  return "GGUF" + u32(3) + u64(num_tensors) + u64(num_keys);
}

GgufBuilder good() {
  GgufBuilder builder;
  builder.key("general.architecture", "qwen2").key("qwen2.block_count", 1U);
  builder.tensor("a.weight", {32, 2}, GgmlType::kQ8_0, std::string(68, '\1'));
  builder.tensor("b.weight", {8}, GgmlType::kF32, std::string(32, '\0'));
  return builder;
}

// A file of one tensor whose info is given whole.
std::string one_tensor(std::string_view name, std::uint32_t num_dimensions, const std::vector<std::uint64_t>& ne,
                       std::uint32_t type = 0, std::uint64_t offset = 0) {
  return GgufBuilder().raw_tensor(name, num_dimensions, ne, type, offset).file() + std::string(64, '\0');
}

}  // namespace

TEST_CASE("G01 G02 an empty file and one of three bytes") {
  CHECK_THAT(gguf_error_of(""), ContainsSubstring("too short"));
  CHECK_THAT(gguf_error_of("GGU"), ContainsSubstring("too short"));
}

TEST_CASE("G03 a wrong magic number") {
  GgufBuilder builder = good();
  builder.magic = "FUGG";
  CHECK_THAT(gguf_error_of(builder.file()), ContainsSubstring("does not start with \"GGUF\""));
}

TEST_CASE("G04 versions 0, 1 and of the future") {
  for (std::uint32_t version : {0U, 1U, 4U, 0xFFFFFFFFU}) {
    GgufBuilder builder = good();
    builder.version = version;
    CHECK_THAT(gguf_error_of(builder.file()), ContainsSubstring("the version is " + std::to_string(version)));
  }
  for (std::uint32_t version : {2U, 3U}) {
    GgufBuilder builder = good();
    builder.version = version;
    CHECK(gguf_header_of(builder.file()).version == version);
  }
}

TEST_CASE("G05 a byte-swapped version") {
  GgufBuilder builder = good();
  builder.version = 0x03000000U;
  CHECK_THAT(gguf_error_of(builder.file()), ContainsSubstring("big-endian"));
}

TEST_CASE("G06 G07 counts of tensors and keys at the limit, beyond it, and negative") {
  for (std::uint64_t count : {kMaxGgufTensors + 1, std::uint64_t{1} << 63, UINT64_MAX}) {
    CHECK_THAT(gguf_error_of(start(count, 0)), ContainsSubstring("the number of tensors is " + std::to_string(count)));
    CHECK_THAT(gguf_error_of(start(0, count)), ContainsSubstring("the number of keys is " + std::to_string(count)));
  }
  CHECK_THAT(gguf_error_of(start(kMaxGgufTensors, 0)),
             ContainsSubstring("tensor 0's name"));  // at the limit: none is there
  CHECK_THAT(gguf_error_of(start(0, kMaxGgufKeys)), ContainsSubstring("key 0"));
}

TEST_CASE("G08 a count of tensors whose infos' size wraps") {
  CHECK_THAT(gguf_error_of(start(UINT64_MAX / 48 + 1, 0)), ContainsSubstring("more than the limit of 65536"));
}

TEST_CASE("G09 a key's name of -1 bytes, at the limit and beyond it") {
  CHECK_THAT(gguf_error_of(start(0, 1) + u64(UINT64_MAX)), ContainsSubstring("18446744073709551615 bytes"));
  const auto named = [](std::size_t length) { return GgufBuilder().key(std::string(length, 'k'), 1U).file(); };
  CHECK(gguf_error_of(named(kMaxGgufKeyBytes)).empty());
  CHECK_THAT(gguf_error_of(named(kMaxGgufKeyBytes + 1)), ContainsSubstring("more than the limit of 65535"));
}

TEST_CASE("G10 an empty key") {
  CHECK_THAT(gguf_error_of(GgufBuilder().key("", 1U).file()), ContainsSubstring("has an empty name"));
}

TEST_CASE("G11 G12 keys with NUL, invalid UTF-8 and other characters") {
  using namespace std::string_view_literals;
  for (std::string_view name : {"general.alignment\0"sv, "a\xFF"sv, "general alignment"sv, "General"sv, "\x1B[31m"sv}) {
    const std::string message = gguf_error_of(GgufBuilder().key(name, 64U).file());
    CHECK_THAT(message, ContainsSubstring("but names have a-z"));
    CHECK(message.find('\0') == std::string::npos);
    CHECK(message.find('\x1B') == std::string::npos);
  }
}

TEST_CASE("G13 a value of unknown type") {
  CHECK_THAT(gguf_error_of(GgufBuilder().key("k", static_cast<GgufType>(13), u32(0)).file()),
             ContainsSubstring("\"k\" has the unknown type 13"));
  CHECK_THAT(gguf_error_of(GgufBuilder().key("k", GgufType::kArray, u32(99) + u64(1) + u64(0)).file()),
             ContainsSubstring("\"k\" has the unknown type 99"));
  CHECK_THAT(gguf_error_of(GgufBuilder().key("k", GgufType::kBool, std::string(1, '\2')).file()),
             ContainsSubstring("must be 0 or 1"));
}

TEST_CASE("G14 a key twice") {
  CHECK_THAT(gguf_error_of(GgufBuilder().key("k", 1U).key("l", 1U).key("k", 2U).file()),
             ContainsSubstring("\"k\" is there twice"));
}

TEST_CASE("G15 a string of 2^40 bytes in a short file, one at the limit and one beyond") {
  const auto with = [](std::uint64_t length, const std::string& text) {
    return GgufBuilder().key("k", GgufType::kString, u64(length) + text).file();
  };
  CHECK_THAT(gguf_error_of(with(std::uint64_t{1} << 40, "text")), ContainsSubstring("1099511627776 bytes"));
  CHECK_THAT(gguf_error_of(with(1000, "text")), ContainsSubstring("would take 1000 bytes, but only"));
  CHECK(gguf_error_of(with(kMaxGgufStringBytes, std::string(kMaxGgufStringBytes, 'x'))).empty());
  CHECK_THAT(gguf_error_of(with(kMaxGgufStringBytes + 1, std::string(kMaxGgufStringBytes + 1, 'x'))),
             ContainsSubstring("more than the limit of 1048576"));
}

TEST_CASE("G16 arrays: a count that wraps, at the limit and beyond it, empty ones") {
  const auto with = [](std::uint32_t type, std::uint64_t count, const std::string& elements) {
    return GgufBuilder().key("k", GgufType::kArray, u32(type) + u64(count) + elements).file();
  };
  CHECK_THAT(gguf_error_of(with(10, std::uint64_t{1} << 61, "")), ContainsSubstring("2305843009213693952"));
  CHECK_THAT(gguf_error_of(with(0, kMaxGgufArrayElements + 1, "")),
             ContainsSubstring("more than the limit of 16777216"));
  CHECK(gguf_error_of(with(0, kMaxGgufArrayElements, std::string(kMaxGgufArrayElements, 'x'))).empty());
  CHECK_THAT(gguf_error_of(with(4, 100, u32(1))), ContainsSubstring("would take 400 bytes"));
  CHECK_THAT(gguf_error_of(with(8, 3, gguf_string("a"))), ContainsSubstring("\"k\""));
  CHECK(gguf_error_of(with(8, 0, "")).empty());
  CHECK(gguf_error_of(with(6, 0, "")).empty());
}

TEST_CASE("G17 arrays of arrays, ten thousand deep") {
  std::string nested;
  for (int i = 0; i < 10'000; ++i) nested += u32(9) + u64(1);
  CHECK_THAT(gguf_error_of(GgufBuilder().key("k", GgufType::kArray, nested).file()),
             ContainsSubstring("array of arrays"));
}

TEST_CASE("G18 an array of another element type than its reader wants") {
  const TemporaryDirectory directory;
  const GgufReader reader(
      directory.write("m.gguf", GgufBuilder()
                                    .key("bytes", GgufType::kArray, u32(0) + u64(2) + "ab")
                                    .key("signed", GgufType::kArray, u32(1) + u64(2) + "\xFF\x01")
                                    .key("large", GgufType::kArray, u32(10) + u64(1) + u64(UINT64_MAX))
                                    .key("floats", GgufType::kArray, u32(6) + u64(1) + f32(1.0F))
                                    .key("words", std::vector<std::string>{"x", ""})
                                    .key("scalar", 1U)
                                    .file()));
  const auto key = [&](const char* name) -> const GgufKey& { return *reader.header().find_key(name); };
  CHECK(reader.strings(key("words")) == std::vector<std::string>{"x", ""});
  CHECK(reader.integers(key("bytes")) == std::vector<std::int64_t>{'a', 'b'});
  CHECK(reader.integers(key("signed")) == std::vector<std::int64_t>{-1, 1});
  for (const char* name : {"bytes", "floats", "scalar"}) {
    CHECK_THAT(input_error_of([&] { reader.strings(key(name)); }), ContainsSubstring("strings"));
  }
  for (const char* name : {"words", "floats", "scalar"}) {
    CHECK_THAT(input_error_of([&] { reader.integers(key(name)); }), ContainsSubstring("whole numbers"));
  }
  CHECK_THAT(input_error_of([&] { reader.integers(key("large")); }), ContainsSubstring("beyond 63 bits"));
}

TEST_CASE("G19 G20 an alignment of the wrong type or of a value that is none") {
  CHECK_THAT(gguf_error_of(GgufBuilder().key("general.alignment", GgufType::kUint64, u64(32)).file()),
             ContainsSubstring("general.alignment is of type uint64"));
  CHECK_THAT(gguf_error_of(GgufBuilder().key("general.alignment", "32").file()), ContainsSubstring("of type string"));
  for (std::uint32_t alignment : {0U, 1U, 4U, 13U, 24U, 8192U, 0x80000000U}) {
    CHECK_THAT(gguf_error_of(GgufBuilder().key("general.alignment", alignment).file()),
               ContainsSubstring("general.alignment is " + std::to_string(alignment)));
  }
  for (std::uint32_t alignment : {8U, 64U, 4096U}) {
    GgufBuilder builder;
    builder.alignment = alignment;
    builder.key("general.alignment", alignment);
    builder.tensor("a", {1}, GgmlType::kF32, f32(1)).tensor("b", {1}, GgmlType::kF32, f32(2));
    const GgufHeader header = gguf_header_of(builder.file());
    CHECK(header.alignment == alignment);
    CHECK(header.tensors[1].begin == header.data_start + alignment);
  }
}

TEST_CASE("G21 names of tensors: length") {
  CHECK_THAT(gguf_error_of(start(1, 0) + u64(UINT64_MAX)), ContainsSubstring("more than the limit of 63"));
  CHECK_THAT(gguf_error_of(one_tensor("", 1, {8})), ContainsSubstring("has an empty name"));
  CHECK(gguf_error_of(one_tensor(std::string(63, 't'), 1, {8})).empty());
  CHECK_THAT(gguf_error_of(one_tensor(std::string(64, 't'), 1, {8})), ContainsSubstring("more than the limit of 63"));
}

TEST_CASE("G22 names of tensors: NUL, paths, control sequences, markup") {
  using namespace std::string_view_literals;
  for (std::string_view name :
       {"a\0b"sv, "../a"sv, "/etc/passwd"sv, "\x1B[31mred"sv, "<script>"sv, "a\xFF"sv, "a b"sv}) {
    const std::string message = gguf_error_of(one_tensor(name, 1, {8}));
    CHECK_THAT(message, ContainsSubstring("but names have A-Z"));
    CHECK(message.find('\x1B') == std::string::npos);
    CHECK(message.find('\0') == std::string::npos);
  }
}

TEST_CASE("G23 a tensor twice") {
  GgufBuilder builder = good();
  builder.tensor("a.weight", {8}, GgmlType::kF32, std::string(32, '\0'));
  CHECK_THAT(gguf_error_of(builder.file()), ContainsSubstring("tensor \"a.weight\" is there twice"));
}

TEST_CASE("G24 numbers of dimensions") {
  CHECK(gguf_error_of(one_tensor("t", 4, {1, 1, 1, 1})).empty());
  CHECK_THAT(gguf_error_of(one_tensor("t", 5, {1, 1, 1, 1, 1})), ContainsSubstring("has 5 dimensions"));
  CHECK_THAT(gguf_error_of(one_tensor("t", 0, {})), ContainsSubstring("has 0 dimensions"));
  CHECK_THAT(gguf_error_of(one_tensor("t", 0xFFFFFFFFU, {1})), ContainsSubstring("has 4294967295 dimensions"));
}

TEST_CASE("G25 G26 dimensions that are negative or 0") {
  CHECK_THAT(gguf_error_of(one_tensor("t", 2, {4, UINT64_MAX})), ContainsSubstring("a dimension of -1"));
  CHECK_THAT(gguf_error_of(one_tensor("t", 2, {0, 4})), ContainsSubstring("a dimension of 0"));
  CHECK_THAT(gguf_error_of(one_tensor("t", 2, {4, 0})), ContainsSubstring("a dimension of 0"));
}

TEST_CASE("G27 G28 G29 more elements or bytes than 64 bits count") {
  const std::uint64_t large = std::uint64_t{1} << 62;
  CHECK_THAT(gguf_error_of(one_tensor("t", 2, {std::uint64_t{1} << 32, std::uint64_t{1} << 32})),
             ContainsSubstring("more elements"));
  CHECK_THAT(gguf_error_of(one_tensor("t", 2, {std::uint64_t{1} << 31, std::uint64_t{1} << 33})),
             ContainsSubstring("more elements"));
  CHECK_THAT(gguf_error_of(one_tensor("t", 1, {large})), ContainsSubstring("does not fit in 64 bits"));  // times 4
  CHECK_THAT(gguf_error_of(one_tensor("t", 1, {large}, 1)), ContainsSubstring("but the file ends"));     // times 2
  CHECK_THAT(gguf_error_of(one_tensor("t", 4, {large, 4, 4, 4})), ContainsSubstring("more elements"));
}

TEST_CASE("G30 G35 sizes whose padding or sum wraps") {
  const std::uint64_t half = std::uint64_t{1} << 62;  // of F16: 2^63 bytes
  CHECK_THAT(gguf_error_of(one_tensor("t", 1, {INT64_MAX}, 24)), ContainsSubstring("but the file ends"));  // I8
  GgufBuilder two;
  two.raw_tensor("t", 1, {half}, 1, 0).raw_tensor("u", 1, {half}, 1, std::uint64_t{1} << 63);
  CHECK_THAT(gguf_error_of(two.file()), ContainsSubstring("tensor \"t\" would take 9223372036854775808 bytes"));
}

TEST_CASE("G31 types that ggml does not know or has removed") {
  for (std::uint32_t type : {4U, 5U, 31U, 32U, 33U, 36U, 37U, 38U, 42U, 0xFFFFFFFFU}) {
    CHECK_THAT(gguf_error_of(one_tensor("t", 1, {256}, type)),
               ContainsSubstring("has the type " + std::to_string(type)));
  }
}

TEST_CASE("G32 a row that is no whole number of blocks") {
  CHECK_THAT(gguf_error_of(one_tensor("t", 2, {48, 2}, 8)), ContainsSubstring("Q8_0 comes in blocks of 32"));
  CHECK_THAT(gguf_error_of(one_tensor("t", 1, {128}, 12)), ContainsSubstring("Q4_K comes in blocks of 256"));
  CHECK_THAT(gguf_error_of(one_tensor("t", 2, {16, 16}, 12)), ContainsSubstring("rows of 16"));
}

TEST_CASE("G33 G34 offsets that are wrong, unaligned, beyond the file, or another tensor's") {
  for (std::uint64_t offset : {std::uint64_t{1}, std::uint64_t{32}, std::uint64_t{1} << 40, UINT64_MAX}) {
    CHECK_THAT(gguf_error_of(one_tensor("t", 1, {8}, 0, offset)),
               ContainsSubstring("start at byte " + std::to_string(offset)));
  }
  for (std::uint64_t second : {0, 16, 33, 64}) {  // the first one takes 32 bytes
    GgufBuilder builder;
    builder.raw_tensor("t", 1, {8}, 0, 0).raw_tensor("u", 1, {8}, 0, second);
    CHECK_THAT(gguf_error_of(builder.file() + std::string(128, '\0')),
               ContainsSubstring("tensor \"u\" is said to start"));
  }
}

TEST_CASE("G36 G38 data that lacks one byte, and bytes behind it") {
  const std::string whole = good().file();
  CHECK(gguf_error_of(whole).empty());
  CHECK(gguf_error_of(whole + "behind").empty());
  CHECK_THAT(gguf_error_of(whole.substr(0, whole.size() - 1)), ContainsSubstring("cut short"));
}

TEST_CASE("G37 a file cut at every byte of its header") {
  GgufBuilder builder = good();
  builder.key("words", std::vector<std::string>{"one", "two"});
  const std::string whole = builder.file();
  for (std::size_t length = 0; length < gguf_header_of(whole).data_start; ++length) {
    CHECK_FALSE(gguf_error_of(whole.substr(0, length)).empty());
  }
  // A header that is not there whole, of a file that is.
  const auto part = std::as_bytes(std::span(whole)).first(40);
  CHECK_THAT(input_error_of([&] { parse_gguf(part, whole.size(), "m.gguf"); }), ContainsSubstring("not there whole"));
}

TEST_CASE("G39 data laid out for another alignment than the one stated") {
  GgufBuilder builder;
  builder.alignment = 32;
  builder.key("general.alignment", 64U);
  builder.tensor("a", {8}, GgmlType::kF32, std::string(32, '\0'))
      .tensor("b", {8}, GgmlType::kF32, std::string(32, '\0'));
  CHECK_THAT(gguf_error_of(builder.file() + std::string(64, '\0')), ContainsSubstring("padding to 64"));
}

TEST_CASE("all before the data: at the limit and beyond it") {
  // Strings of 1 MiB fill it; files with holes have the size without the bytes.
  const auto with = [](std::size_t strings) {
    const std::string text = u64(kMaxGgufStringBytes) + std::string(kMaxGgufStringBytes, 'x');
    std::string array = u32(8) + u64(strings);
    for (std::size_t i = 0; i < strings; ++i) array += text;
    return GgufBuilder().key("k", GgufType::kArray, array).header();
  };
  CHECK(gguf_error_of(with(127)).empty());
  CHECK_THAT(gguf_error_of(with(128)), ContainsSubstring("beyond the first 134217728 bytes"));
}
