#include "harness/formats/safetensors.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <vector>

#include "cmake/catch2.h"
#include "harness/formats/limits.h"
#include "harness/formats/tests/temporary_directory.h"

using namespace qdiff;
using namespace qdiff::formats;
using qdiff::testing::input_error_of;
using qdiff::testing::read_file;
using qdiff::testing::TemporaryDirectory;

namespace {

std::string length_prefix(std::uint64_t length) {
  std::string text;
  for (int i = 0; i < 8; ++i) text += static_cast<char>(length >> (8 * i));
  return text;
}

// A whole file: the length, the header, and so many bytes of data.
std::string file_of(const std::string& header, std::size_t data_bytes = 0) {
  return length_prefix(header.size()) + header + std::string(data_bytes, '\x01');
}

SafetensorsHeader safetensors_header_of(const std::string& file) {
  return parse_safetensors(std::as_bytes(std::span(file)), file.size(), "m.safetensors");
}

std::string safetensors_error_of(const std::string& file) {
  const std::string message = input_error_of([&] { safetensors_header_of(file); });
  CHECK(message.find('\n') == std::string::npos);
  return message;
}

std::string object(std::initializer_list<std::string> members) {
  std::string text = "{";
  for (const std::string& member : members) {
    if (text.size() > 1) text += ',';
    text += member;
  }
  return text += '}';
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape, std::uint64_t begin,
                  std::uint64_t end) {
  return std::string("\"") + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":[" +
         std::to_string(begin) + "," + std::to_string(end) + "]}";
}

std::string one(const std::string& dtype, const std::string& shape, std::uint64_t begin, std::uint64_t end) {
  return object({entry("a", dtype, shape, begin, end)});
}

}  // namespace

TEST_CASE("a good file: entries come in order of their data") {
  const std::string header = object(
      {entry("late", "BF16", "[2,3]", 8, 20), R"("__metadata__":{"format":"pt"})", entry("early", "F32", "[2]", 0, 8)});
  const SafetensorsHeader parsed = safetensors_header_of(file_of(header, 20));
  REQUIRE(parsed.entries.size() == 2);
  CHECK(parsed.data_start == 8 + header.size());
  CHECK(parsed.entries[0].name == "early");
  CHECK(parsed.entries[0].dtype == DType::kF32);
  CHECK(parsed.entries[1].shape == Shape{2, 3});
  CHECK(parsed.find("late")->begin == 8);
  CHECK(parsed.find("none") == nullptr);
  CHECK(parsed.metadata.at("format") == "pt");
}

TEST_CASE("S01 fewer than 8 bytes") {
  for (std::size_t bytes = 0; bytes < 8; ++bytes) {
    CHECK_THAT(safetensors_error_of(std::string(bytes, '\0')), ContainsSubstring("starts with 8 bytes"));
  }
}
TEST_CASE("S02 a header of no bytes") {
  CHECK_THAT(safetensors_error_of(file_of("")), ContainsSubstring("must start with '{'"));
}

TEST_CASE("S03 header length at the limit and one beyond") {
  std::string header = "{}";
  header.append(kMaxSafetensorsHeaderBytes - header.size(), ' ');
  CHECK(safetensors_error_of(file_of(header)).empty());
  CHECK_THAT(safetensors_error_of(file_of(header + ' ')), ContainsSubstring("more than the limit of 16777216"));
}
TEST_CASE("S04 header length that wraps when 8 is added") {
  CHECK_THAT(safetensors_error_of(length_prefix(UINT64_MAX) + "{}"), ContainsSubstring("more than the limit"));
  CHECK_THAT(safetensors_error_of(length_prefix(UINT64_MAX - 7) + "{}"), ContainsSubstring("more than the limit"));
}
TEST_CASE("S05 header longer than the file") {
  CHECK_THAT(safetensors_error_of(length_prefix(3) + "{}"), ContainsSubstring("cut short"));
  CHECK(safetensors_error_of(length_prefix(2) + "{}").empty());
}
TEST_CASE("S06 header that is not UTF-8") {
  CHECK_THAT(safetensors_error_of(file_of("{\"\xFF\":1}")), ContainsSubstring("is not UTF-8"));
}
TEST_CASE("S07 header that is not JSON, or no object of objects") {
  CHECK_THAT(safetensors_error_of(file_of("{oops")), ContainsSubstring("not JSON"));
  CHECK_THAT(safetensors_error_of(file_of("{\"a\":3}")), ContainsSubstring("must be an object"));
  CHECK_THAT(safetensors_error_of(file_of("{\"a\":null}")), ContainsSubstring("must be an object"));
  CHECK_THAT(safetensors_error_of(file_of("{\"a\":[]}")), ContainsSubstring("must be an object"));
  CHECK_THAT(safetensors_error_of(file_of("{\"a\":{\"dtype\":{}}}")), ContainsSubstring("must be a string"));
  CHECK_THAT(safetensors_error_of(file_of("{\"a\":{\"shape\":{}}}")), ContainsSubstring("an array of whole numbers"));
}
TEST_CASE("S08 first byte is not a brace") {
  CHECK_THAT(safetensors_error_of(file_of(" {}")), ContainsSubstring("must start with '{'"));
  CHECK_THAT(safetensors_error_of(file_of("[]")), ContainsSubstring("must start with '{'"));
}
TEST_CASE("S09 trailing spaces are allowed, trailing garbage is not") {
  CHECK(safetensors_error_of(file_of("{}   ")).empty());
  CHECK_THAT(safetensors_error_of(file_of("{} x")), ContainsSubstring("not JSON"));
  CHECK_THAT(safetensors_error_of(file_of("{}{}")), ContainsSubstring("not JSON"));
  CHECK_THAT(safetensors_error_of(file_of(std::string("{}\0", 3))), ContainsSubstring("NUL"));
}
TEST_CASE("S10 a tensor twice") {
  const std::string twice = object({entry("a", "U8", "[1]", 0, 1), entry("a", "U8", "[1]", 1, 2)});
  CHECK_THAT(safetensors_error_of(file_of(twice, 2)), ContainsSubstring("\"a\" occurs twice"));
  const std::string escaped = object({entry("a", "U8", "[1]", 0, 1), entry("\\u0061", "U8", "[1]", 1, 2)});
  CHECK_THAT(safetensors_error_of(file_of(escaped, 2)), ContainsSubstring("\"a\" occurs twice"));
}
TEST_CASE("S11 a key twice within a tensor") {
  CHECK_THAT(
      safetensors_error_of(file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"data_offsets":[0,1]}})", 1)),
      ContainsSubstring("occurs twice"));
  CHECK_THAT(safetensors_error_of(
                 file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"d\u0061ta_offsets":[0,1]}})", 1)),
             ContainsSubstring("occurs twice"));
}
TEST_CASE("S12 metadata: may be absent, and holds strings only") {
  CHECK(safetensors_error_of(file_of(one("U8", "[1]", 0, 1), 1)).empty());
  CHECK(safetensors_error_of(file_of(R"({"__metadata__":{}})")).empty());
  CHECK_THAT(safetensors_error_of(file_of(R"({"__metadata__":{"a":1}})")), ContainsSubstring("must be a string"));
  CHECK_THAT(safetensors_error_of(file_of(R"({"__metadata__":{"a":{}}})")), ContainsSubstring("must be a string"));
  CHECK_THAT(safetensors_error_of(file_of(R"({"__metadata__":"a"})")), ContainsSubstring("must be an object"));
}
TEST_CASE("S13 unknown dtype; every known one can be listed, four can be read") {
  CHECK_THAT(safetensors_error_of(file_of(one("F128", "[1]", 0, 16), 16)), ContainsSubstring("unknown dtype \"F128\""));
  CHECK_THAT(safetensors_error_of(file_of(one("", "[1]", 0, 1), 1)), ContainsSubstring("has no dtype"));
  CHECK_THAT(safetensors_error_of(file_of(one("f32", "[1]", 0, 4), 4)), ContainsSubstring("unknown dtype"));
  for (const char* dtype : {"BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}) {
    CHECK_FALSE(safetensors_header_of(file_of(one(dtype, "[3]", 0, 3), 3)).entries[0].dtype.has_value());
  }
  for (const char* dtype : {"I16", "U16"}) CHECK(safetensors_error_of(file_of(one(dtype, "[3]", 0, 6), 6)).empty());
  for (const char* dtype : {"I32", "U32"}) CHECK(safetensors_error_of(file_of(one(dtype, "[3]", 0, 12), 12)).empty());
  for (const char* dtype : {"I64", "U64", "C64"})
    CHECK(safetensors_error_of(file_of(one(dtype, "[3]", 0, 24), 24)).empty());
  CHECK(safetensors_header_of(file_of(one("F64", "[3]", 0, 24), 24)).entries[0].dtype == DType::kF64);
  CHECK(safetensors_header_of(file_of(one("F16", "[3]", 0, 6), 6)).entries[0].dtype == DType::kF16);
  CHECK(safetensors_header_of(file_of(one("BF16", "[3]", 0, 6), 6)).entries[0].dtype == DType::kBF16);
}
TEST_CASE("S14 numbers that are negative, fractional, huge or strings") {
  for (const char* shape :
       {"[-1]", "[1.0]", "[1e30]", "[\"1\"]", "[true]", "[null]", "[[1]]", "[{}]", "1", "[18446744073709551616]"}) {
    CAPTURE(shape);
    CHECK_FALSE(safetensors_error_of(file_of(one("U8", shape, 0, 1), 1)).empty());
  }
  for (const char* offsets : {"[-1,1]", "[0,1.0]", "[0,1e30]", "[\"0\",1]", "[0,18446744073709551616]", "[0,null]"}) {
    CAPTURE(offsets);
    CHECK_FALSE(safetensors_error_of(
                    file_of(std::string(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":)") + offsets + "}}", 1))
                    .empty());
  }
}
TEST_CASE("S15 data_offsets of none, one or three; members missing or unknown") {
  for (const char* offsets : {"[]", "[0]", "[0,1,1]"}) {
    CHECK_THAT(safetensors_error_of(
                   file_of(std::string(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":)") + offsets + "}}", 1)),
               ContainsSubstring("2 data_offsets"));
  }
  CHECK_THAT(safetensors_error_of(file_of(R"({"a":{"dtype":"U8","shape":[1]}})", 1)),
             ContainsSubstring("2 data_offsets"));
  CHECK_THAT(safetensors_error_of(file_of(R"({"a":{"dtype":"U8","data_offsets":[0,1]}})", 1)),
             ContainsSubstring("no shape"));
  CHECK_THAT(safetensors_error_of(file_of(R"({"a":{"shape":[1],"data_offsets":[0,1]}})", 1)),
             ContainsSubstring("no dtype"));
  CHECK_THAT(safetensors_error_of(file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}})", 1)),
             ContainsSubstring("unknown key \"x\""));
  // Members of one tensor are not taken for those of the next.
  CHECK_THAT(
      safetensors_error_of(file_of(object({entry("a", "U8", "[1]", 0, 1), R"("b":{"dtype":"U8","shape":[1]})"}), 1)),
      ContainsSubstring("\"b\" must have 2 data_offsets"));
}
TEST_CASE("S16 offsets that run backwards") {
  CHECK_THAT(safetensors_error_of(file_of(one("U8", "[1]", 2, 1), 2)), ContainsSubstring("run backwards"));
}
TEST_CASE("S17 holes: before, between and after") {
  CHECK_THAT(safetensors_error_of(file_of(one("U8", "[1]", 1, 2), 2)), ContainsSubstring("there is a hole"));
  const std::string two = object({entry("a", "U8", "[1]", 0, 1), entry("b", "U8", "[1]", 2, 3)});
  CHECK_THAT(safetensors_error_of(file_of(two, 3)), ContainsSubstring("there is a hole"));
}
TEST_CASE("S18 overlaps, a hundred thousand on one range too") {
  const std::string two = object({entry("a", "U8", "[2]", 0, 2), entry("b", "U8", "[2]", 1, 3)});
  CHECK_THAT(safetensors_error_of(file_of(two, 3)), ContainsSubstring("they overlap"));
  std::string many = "{";
  for (int i = 0; i < 100'000; ++i) {
    many += (i == 0 ? "" : ",") + entry("t" + std::to_string(i), "U8", "[4]", 0, 4);
  }
  many += "}";
  const auto start = std::chrono::steady_clock::now();
  CHECK_THAT(safetensors_error_of(file_of(many, 4)), ContainsSubstring("they overlap"));
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(10));  // sanitizers are slow
}
TEST_CASE("S19 a size other than shape times dtype") {
  CHECK_THAT(safetensors_error_of(file_of(one("F32", "[2]", 0, 4), 4)),
             ContainsSubstring("span 4 bytes, but shape and dtype ask for 8"));
  CHECK_THAT(safetensors_error_of(file_of(one("F32", "[2]", 0, 12), 12)), ContainsSubstring("ask for 8"));
}
TEST_CASE("S20 a shape whose product overflows") {
  CHECK_THAT(safetensors_error_of(file_of(one("U8", "[4294967296,4294967297]", 0, 4), 4)),
             ContainsSubstring("more elements"));
  CHECK_THAT(safetensors_error_of(file_of(one("U8", "[18446744073709551615]", 0, 4), 4)),
             ContainsSubstring("more elements"));
  CHECK_THAT(safetensors_error_of(file_of(one("F32", "[4611686018427387904]", 0, 4), 4)),
             ContainsSubstring("does not fit"));
}
TEST_CASE("S21 a product that wraps to exactly 0") {
  CHECK_THAT(safetensors_error_of(file_of(one("U8", "[4294967296,4294967296]", 0, 0), 0)),
             ContainsSubstring("more elements"));
  CHECK_THAT(safetensors_error_of(file_of(one("F64", "[1152921504606846976]", 0, 0), 0)),
             ContainsSubstring("does not fit"));
}
TEST_CASE("S22 data shorter or longer than the header says") {
  const std::string header = one("U8", "[4]", 0, 4);
  CHECK(safetensors_error_of(file_of(header, 4)).empty());
  CHECK_THAT(safetensors_error_of(file_of(header, 3)), ContainsSubstring("cut short"));
  CHECK_THAT(safetensors_error_of(file_of(header, 5)), ContainsSubstring("belongs to nothing"));
  CHECK_THAT(safetensors_error_of(file_of("{}", 1)), ContainsSubstring("belongs to nothing"));
}
TEST_CASE("S23 tensors of no elements share an offset with a neighbour") {
  const std::string header = object({entry("a", "U8", "[2]", 0, 2), entry("none", "F32", "[0,5]", 2, 2),
                                     entry("nil", "F32", "[0]", 2, 2), entry("b", "U8", "[1]", 2, 3)});
  CHECK(safetensors_header_of(file_of(header, 3)).find("none")->bytes() == 0);
}
TEST_CASE("S24 a scalar has the shape []") {
  CHECK(safetensors_header_of(file_of(one("F32", "[]", 0, 4), 4)).entries[0].shape.empty());
}
TEST_CASE("S25 elements of less than a byte fill whole bytes") {
  CHECK(safetensors_error_of(file_of(one("F4", "[2]", 0, 1), 1)).empty());
  CHECK(safetensors_error_of(file_of(one("F6_E2M3", "[4]", 0, 3), 3)).empty());
  CHECK_THAT(safetensors_error_of(file_of(one("F4", "[3]", 0, 1), 1)), ContainsSubstring("whole number of bytes"));
  CHECK_THAT(safetensors_error_of(file_of(one("F6_E3M2", "[1]", 0, 1), 1)), ContainsSubstring("whole number of bytes"));
}
TEST_CASE("S26 dimensions at the limit and one beyond, and ten thousand") {
  const auto ones = [](std::size_t count) {
    std::string shape = "[1";
    for (std::size_t i = 1; i < count; ++i) shape += ",1";
    return shape + "]";
  };
  CHECK(safetensors_error_of(file_of(one("U8", ones(kMaxTensorRank), 0, 1), 1)).empty());
  CHECK_THAT(safetensors_error_of(file_of(one("U8", ones(kMaxTensorRank + 1), 0, 1), 1)),
             ContainsSubstring("more than 64 dimensions"));
  CHECK_THAT(safetensors_error_of(file_of(one("U8", ones(10'000), 0, 1), 1)),
             ContainsSubstring("more than 64 dimensions"));
}
TEST_CASE("S28 as many entries as the header may hold") {
  std::string header = "{";
  for (int i = 0;; ++i) {
    const std::string next = (i == 0 ? "" : ",") + entry(std::to_string(i), "U8", "[0]", 0, 0);
    if (header.size() + next.size() + 1 > kMaxSafetensorsHeaderBytes) break;
    header += next;
  }
  header += "}";
  const std::string file = file_of(header);
  const auto start = std::chrono::steady_clock::now();
  CHECK(safetensors_header_of(file).entries.size() > 250'000);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  CHECK(took < std::chrono::seconds(30));  // about 1 s of processor time; sanitizers and a busy machine take longer
}
TEST_CASE("S29 a file cut while it is being read gives an error, no signal") {
  const TemporaryDirectory directory;
  const auto path = directory.write("m.safetensors", file_of(one("U8", "[100000]", 0, 100'000), 100'000));
  const SafetensorsReader reader(path);
  std::vector<std::byte> bytes(100'000);
  reader.read(reader.header().entries[0], 0, bytes);
  std::filesystem::resize_file(path, 50'000);
  CHECK_THAT(input_error_of([&] { reader.read(reader.header().entries[0], 0, bytes); }),
             ContainsSubstring("was it cut while being read?"));
}

TEST_CASE("every cut of a good file is refused") {
  const std::string file = file_of(object({entry("a", "F32", "[2]", 0, 8), entry("b", "U8", "[3]", 8, 11)}), 11);
  REQUIRE(safetensors_error_of(file).empty());
  for (std::size_t bytes = 0; bytes < file.size(); ++bytes) {
    CAPTURE(bytes);
    CHECK_FALSE(safetensors_error_of(file.substr(0, bytes)).empty());
  }
}

TEST_CASE("no single changed byte of a header does worse than an error") {
  const std::string file = file_of(object({entry("a", "F32", "[2]", 0, 8), R"("__metadata__":{"x":"y"})"}), 8);
  int refused = 0;
  for (std::size_t at = 0; at < file.size() - 8; ++at) {
    for (int value = 0; value < 256; value += 3) {
      std::string changed = file;
      changed[at] = static_cast<char>(value);
      try {
        safetensors_header_of(changed);
      } catch (const InputError&) {
        ++refused;
      }
    }
  }
  CHECK(refused > 1000);
}

TEST_CASE("the reader wants files, and refuses what is none") {
  const TemporaryDirectory directory;
  CHECK_THAT(input_error_of([&] { SafetensorsReader(directory.path()); }), ContainsSubstring("not a regular file"));
  CHECK_THAT(input_error_of([&] { SafetensorsReader(directory / "none"); }), ContainsSubstring("No such file"));
  const auto empty = directory.write("empty", "");
  CHECK_THAT(input_error_of([&] { SafetensorsReader{empty}; }), ContainsSubstring("has 0 bytes"));
  const auto lying = directory.write("lying", length_prefix(1 << 20) + "{}");
  CHECK_THAT(input_error_of([&] { SafetensorsReader{lying}; }), ContainsSubstring("cut short"));
}

TEST_CASE("what the writer writes, piece by piece, the reader reads by range") {
  const TemporaryDirectory directory;
  const auto path = directory / "out.safetensors";
  std::vector<std::byte> halves(14), words(12);
  for (std::size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<std::byte>(i);
  for (std::size_t i = 0; i < words.size(); ++i) words[i] = static_cast<std::byte>(100 + i);
  SafetensorsWriter writer(
      path, {{"halves", DType::kBF16, {7}}, {"words", DType::kF32, {3, 1}}, {"none", DType::kF16, {0, 4}}},
      {{"format", "pt"}});
  writer.append("halves", std::span(halves).first(5));
  writer.append("words", words);
  CHECK_FALSE(std::filesystem::exists(path));
  CHECK_THROWS_AS(writer.finish(), std::logic_error);
  CHECK_THROWS_AS(writer.append("words", std::span(words).first(1)), std::invalid_argument);
  CHECK_THROWS_AS(writer.append("other", words), std::invalid_argument);
  writer.append("halves", std::span(halves).subspan(5));
  writer.finish();

  const SafetensorsReader reader(path);
  REQUIRE(reader.header().entries.size() == 3);
  CHECK(reader.header().data_start % 8 == 0);
  CHECK(reader.header().find("words")->begin == 0);  // larger elements first: all are aligned
  CHECK(reader.header().metadata.at("format") == "pt");
  std::vector<std::byte> part(6);
  reader.read(*reader.header().find("halves"), 4, part);
  CHECK(std::equal(part.begin(), part.end(), halves.begin() + 4));
  CHECK_THROWS_AS(reader.read(*reader.header().find("halves"), 10, part), std::out_of_range);
}

TEST_CASE("the writer leaves nothing behind when it is given up, and refuses a name twice") {
  const TemporaryDirectory directory;
  {
    SafetensorsWriter writer(directory / "out.safetensors", {{"a", DType::kF32, {2}}});
    CHECK_FALSE(std::filesystem::is_empty(directory.path()));
  }
  CHECK(std::filesystem::is_empty(directory.path()));
  CHECK_THROWS_AS(SafetensorsWriter(directory / "x", {{"a", DType::kF32, {2}}, {"a", DType::kF32, {2}}}),
                  std::invalid_argument);
  CHECK(std::filesystem::is_empty(directory.path()));
}
