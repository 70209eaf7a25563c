#include "harness/formats/strict_json.h"

#include <sys/stat.h>

#include <chrono>
#include <string>
#include <vector>

#include "cmake/catch2.h"
#include "harness/formats/tests/temporary_directory.h"

using namespace qdiff;
using namespace qdiff::formats;
using qdiff::testing::input_error_of;
using qdiff::testing::TemporaryDirectory;

namespace {

std::string json_error_of(const std::string& text, const JsonLimits& limits = kDocumentLimits) {
  const std::string message = input_error_of([&] { parse_json(text, "a.json", limits); });
  CHECK(message.find('\n') == std::string::npos);
  return message;
}

std::string repeated(std::size_t times, const std::string& piece) {
  std::string text;
  for (std::size_t i = 0; i < times; ++i) text += piece;
  return text;
}

}  // namespace

TEST_CASE("a good document reads as nlohmann reads it") {
  const std::string text =
      R"( {"a": [1, -2, 3.5, true, false, null, "x\u00e9\n"], "b": {"c": {}}, "d": 18446744073709551615} )";
  CHECK(parse_json(text, "a.json") == Json::parse(text));
  CHECK(parse_json("3", "a.json") == 3);
  CHECK(parse_json("[]", "a.json") == Json::array());
}

TEST_CASE("J01 depth: at the limit it reads, one beyond it does not, and a million is refused at once") {
  CHECK(json_error_of(std::string(32, '[') + std::string(32, ']')).empty());
  CHECK(json_error_of(std::string(33, '[') + std::string(33, ']')) == "a.json: byte 33: nested deeper than 32");
  CHECK(json_error_of(repeated(32, R"({"a":)") + "1" + std::string(32, '}')).empty());
  CHECK_THAT(json_error_of(repeated(33, R"({"a":)") + "1" + std::string(33, '}')), ContainsSubstring("nested deeper"));
  const auto start = std::chrono::steady_clock::now();
  CHECK_THAT(json_error_of(std::string(1'000'000, '[')), ContainsSubstring("nested deeper"));
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(1));
}

TEST_CASE("J02 size: bytes, nodes and strings at their limits and one beyond") {
  const JsonLimits limits = {100, 4, 5, 10};
  CHECK(json_error_of("[" + std::string(98, ' ') + "]", limits).empty());
  CHECK_THAT(json_error_of("[" + std::string(99, ' ') + "]", limits), ContainsSubstring("has 101 bytes; at most 100"));
  CHECK(json_error_of("[1,2,3,4]", limits).empty());
  CHECK_THAT(json_error_of("[1,2,3,4,5]", limits), ContainsSubstring("more than 5 values"));
  CHECK(json_error_of(R"(["0123456789"])", limits).empty());
  CHECK_THAT(json_error_of(R"(["0123456789x"])", limits), ContainsSubstring("a string of 11 bytes; at most 10"));
  CHECK_THAT(json_error_of(R"({"0123456789x":1})", limits), ContainsSubstring("a key of 11 bytes"));
  CHECK_THAT(json_error_of('"' + std::string(100'000'000, 'a') + '"'), ContainsSubstring("at most 8388608"));
}

TEST_CASE("J03 duplicate keys are refused, compared decoded, in each object by itself") {
  CHECK(json_error_of(R"({"a":1,"a":2})") == R"(a.json: byte 10: the key "a" occurs twice in one object)");
  CHECK_THAT(json_error_of(R"({"a":1,"\u0061":2})"), ContainsSubstring("\"a\" occurs twice"));
  CHECK_THAT(json_error_of(R"({"x":{"a":1,"b":{"a":2},"a":3}})"), ContainsSubstring("occurs twice"));
  CHECK(json_error_of(R"({"a":{"a":{"a":1}},"b":[{"a":1},{"a":2}]})").empty());
}

TEST_CASE("J03 duplicate keys are seen in large objects too") {
  for (int size : {15, 16, 17, 18, 1000}) {
    for (int repeated_key : {0, size - 1}) {
      std::string text = "{";
      for (int i = 0; i < size; ++i) text += "\"k" + std::to_string(i) + "\":1,";
      CHECK(json_error_of(text + "\"last\":1}").empty());
      CHECK_THAT(json_error_of(text + "\"k" + std::to_string(repeated_key) + "\":1}"),
                 ContainsSubstring("occurs twice"));
    }
  }
}

TEST_CASE("J04 unknown keys, wrong types and missing members name the field and what it must be") {
  const Json json = parse_json(R"({"seed":1,"text":3,"list":{},"flag":"yes","object":[]})", "a.json");
  CHECK(input_error_of([&] {
          refuse_unknown_keys(json, {"sed", "text", "list", "flag", "object"}, "a.json");
        }) == R"(a.json: there is no key "seed"; did you mean "sed"?)");
  CHECK(input_error_of([&] {
          refuse_unknown_keys(json, {"seed", "text", "list", "flag", "owner"}, "a.json");
        }) == R"(a.json: there is no key "object"; the keys are seed, text, list, flag, owner)");
  CHECK(input_error_of([&] { refuse_unknown_keys(json, {"seed", "text", "list", "flag", "object"}, "w"); }).empty());
  CHECK(input_error_of([&] { require_string(json, "text", "a.json"); }) ==
        R"(a.json: "text" is 3, but must be a string)");
  CHECK(input_error_of([&] { require_array(json, "list", "a.json"); }) ==
        R"(a.json: "list" is an object, but must be an array)");
  CHECK(input_error_of([&] { require_bool(json, "flag", "a.json"); }) ==
        R"(a.json: "flag" is "yes", but must be true or false)");
  CHECK(input_error_of([&] { require_object(json, "object", "a.json"); }) ==
        R"(a.json: "object" is an array, but must be an object)");
  CHECK(input_error_of([&] { require_int(json, "batch", 1, 64, "a.json: steps[2]"); }) ==
        R"(a.json: steps[2]: "batch" is missing; it must be a whole number from 1 to 64)");
  CHECK(input_error_of([&] { require_int(Json(3), "batch", 1, 64, "a.json"); }) ==
        "a.json: is 3, but must be an object");
  CHECK_FALSE(optional_int(json, "batch", 1, 64, "a.json").has_value());
  CHECK_FALSE(optional_string(json, "batch", "a.json").has_value());
  CHECK(require_int(json, "seed", 0, 1, "a.json") == 1);
}

TEST_CASE("J04 the format and the version of a file: what they must be, and what to do") {
  const auto read = [](const std::string& text, const std::string& remedy = "") {
    return input_error_of([&] { require_format(parse_json(text, "a.json"), "qdiff-plan", 2, remedy, "a.json"); });
  };
  CHECK(read(R"({"format": "qdiff-plan", "version": 2, "more": 1})").empty());
  const std::string begin = R"(; begin the file with {"format": "qdiff-plan", "version": 2)";
  CHECK(read("[]") == "a.json: is an array, but must be an object" + begin);
  CHECK(read(R"({"version": 2})") == R"(a.json: "format" is missing; it must be "qdiff-plan")" + begin);
  CHECK(read(R"({"format": "qdiff-plan"})") == R"(a.json: "version" is missing; it must be 2)" + begin);
  CHECK(read(R"({"format": "qdiff-case", "version": 2})") ==
        R"(a.json: "format" is "qdiff-case", but must be "qdiff-plan"; name a file of that kind)");
  CHECK(read(R"({"format": 5, "version": 2})", "plan anew") ==
        R"(a.json: "format" is 5, but must be "qdiff-plan"; plan anew)");
  CHECK(read("{}", "plan anew") == R"(a.json: "format" is missing; it must be "qdiff-plan"; plan anew)");
  for (const char* version : {"1", "3", "\"2\"", "true", "null", "[2]"}) {
    CHECK_THAT(read(R"({"format": "qdiff-plan", "version": )" + std::string(version) + '}'),
               Catch::Matchers::EndsWith("but must be 2; this qdiff reads no other"));
  }
}

TEST_CASE("J05 whole numbers: range, floats, strings, huge ones") {
  const auto read = [](const std::string& value, std::int64_t min = 0, std::int64_t max = 100) {
    return input_error_of([&] { require_int(parse_json("{\"n\":" + value + "}", "a.json"), "n", min, max, "a.json"); });
  };
  CHECK(read("0").empty());
  CHECK(read("100").empty());
  CHECK(read("101") == "a.json: \"n\" is 101, but must be a whole number from 0 to 100");
  for (const std::string value : {"-1", "2147483648", "9223372036854775808", "18446744073709551616", "1.5", "3.0",
                                  "1e2", "\"3\"", "true", "null", "[3]"}) {
    CAPTURE(value);
    CHECK_THAT(read(value), ContainsSubstring("but must be a whole number from 0 to 100"));
  }
  CHECK_THAT(read("9223372036854775808", INT64_MIN, INT64_MAX), ContainsSubstring("whole number"));
  CHECK(read("-9223372036854775808", INT64_MIN, INT64_MAX).empty());
  CHECK_THAT(read("1e400"), ContainsSubstring("byte"));  // no float64: the text itself is refused
  CHECK(input_error_of([&] { as_int(Json(-1), "tokens[0][3]", 0, 9, "a.json"); }) ==
        "a.json: tokens[0][3] is -1, but must be a whole number from 0 to 9");
}

TEST_CASE("J05 numbers: a range keeps out what is not in it") {
  const auto read = [](const std::string& value) {
    return input_error_of(
        [&] { require_number(parse_json("{\"x\":" + value + "}", "a.json"), "x", 0.0, 1.0, "a.json"); });
  };
  CHECK(read("0").empty());
  CHECK(read("1").empty());
  CHECK(read("1e-300").empty());
  CHECK(read("1.5") == "a.json: \"x\" is 1.5, but must be a number from 0 to 1");
  CHECK_THAT(read("-1e-9"), ContainsSubstring("must be a number"));
  CHECK_THAT(read("\"0.5\""), ContainsSubstring("must be a number"));
  const Json nan = {{"x", std::numeric_limits<double>::quiet_NaN()}};
  CHECK_THAT(input_error_of([&] { require_number(nan, "x", 0.0, 1.0, "a.json"); }), ContainsSubstring("number from"));
}

TEST_CASE("J06 NaN and Infinity are no JSON") {
  for (const std::string text : {"NaN", "[NaN]", "{\"a\":Infinity}", "[-Infinity]", "nan", "[inf]"}) {
    CAPTURE(text);
    CHECK_THAT(json_error_of(text), StartsWith("a.json: byte "));
  }
  CHECK_THAT(json_error_of("[NaN]"), ContainsSubstring("NaN and Infinity are not numbers there"));
}

TEST_CASE("J07 text: lone surrogates, invalid UTF-8, byte order mark, NUL") {
  CHECK_THAT(json_error_of(R"(["\ud800"])"), ContainsSubstring("not JSON"));
  CHECK_THAT(json_error_of(R"(["\udc00x"])"), ContainsSubstring("not JSON"));
  CHECK(json_error_of("[\"a\xFF\"]") == "a.json: byte 3: is not UTF-8");
  CHECK_THAT(json_error_of("[\"\xED\xA0\x80\"]"), ContainsSubstring("is not UTF-8"));
  CHECK_THAT(json_error_of("\xEF\xBB\xBF{}"), ContainsSubstring("byte order mark"));
  CHECK_THAT(json_error_of(R"(["a\u0000b"])"), ContainsSubstring("holds a NUL"));
  CHECK_THAT(json_error_of(R"({"a\u0000":1})"), ContainsSubstring("holds a NUL"));
  CHECK(json_error_of(std::string("{}\0garbage", 10)) == "a.json: byte 2: holds a NUL byte");
  CHECK_THAT(json_error_of("[\"a\nb\"]"), ContainsSubstring("not JSON"));
  CHECK(json_error_of(R"(["\ud83d\ude00"])").empty());
}

TEST_CASE("J10 empty, blank, cut short, trailing comma, two documents") {
  CHECK_THAT(json_error_of(""), ContainsSubstring("is empty"));
  CHECK_THAT(json_error_of(" \n\t "), ContainsSubstring("is empty"));
  for (const std::string text : {"{", "[1", "{\"a\"", "{\"a\":", "\"abc", "[1,]", "{\"a\":1,}", "{} {}", "[1] 2", "1 2",
                                 "tru", "01", "+1", ".5", "1.", "'a'", "{a:1}"}) {
    CAPTURE(text);
    CHECK_THAT(json_error_of(text), StartsWith("a.json: byte "));
  }
}

TEST_CASE("J11 comments are refused") {
  CHECK_THAT(json_error_of("[1, // one\n 2]"), ContainsSubstring("comments are not allowed"));
  CHECK_THAT(json_error_of("/* none */ 1"), ContainsSubstring("comments are not allowed"));
}

TEST_CASE("messages hold no control characters of the text") {
  const std::string message = json_error_of("{\"a\x7F\":1,\"a\x7F\":2}");
  CHECK_THAT(message, ContainsSubstring("\\x7F"));
  CHECK(input_error_of([] {
          refuse_unknown_keys(Json{{"\x1B[31m", 1}}, {"a"}, "w");
        }).find('\x1B') == std::string::npos);
  CHECK(show(Json("\x1B[31m")).find('\x1B') == std::string::npos);
  CHECK(show(Json(std::string(1000, 'a'))).size() < 100);
}

TEST_CASE("J14 binary relatives of JSON are not read") {
  const Json document = {{"a", {1, 2.5, "text", nullptr}}};
  const auto refused = [](const std::vector<std::uint8_t>& bytes) {
    const std::string text(bytes.begin(), bytes.end());
    return !input_error_of([&] { parse_json(text, "x"); }).empty();
  };
  CHECK(refused(Json::to_cbor(document)));
  CHECK(refused(Json::to_msgpack(document)));
  CHECK(refused(Json::to_ubjson(document)));
  CHECK(refused(Json::to_bson(document)));
}

TEST_CASE("J12 files: directories, FIFOs and devices are no files; links are followed") {
  const TemporaryDirectory directory;
  directory.write("good.json", "{\"a\": 1}");
  std::filesystem::create_symlink("good.json", directory / "link.json");
  CHECK(read_json_file(directory / "good.json")["a"] == 1);
  CHECK(read_json_file(directory / "link.json")["a"] == 1);
  REQUIRE(::mkfifo((directory / "fifo").c_str(), 0600) == 0);
  CHECK_THAT(input_error_of([&] { read_json_file(directory / "fifo"); }), ContainsSubstring("not a regular file"));
  CHECK_THAT(input_error_of([&] { read_json_file(directory.path()); }), ContainsSubstring("not a regular file"));
  CHECK_THAT(input_error_of([&] { read_json_file("/dev/zero"); }), ContainsSubstring("not a regular file"));
  CHECK_THAT(input_error_of([&] { read_json_file(directory / "none"); }), ContainsSubstring("No such file"));
  CHECK_THAT(input_error_of([&] { read_json_file(std::string("a\0b", 3)); }), ContainsSubstring("NUL"));
  CHECK_THAT(input_error_of([&] { read_json_file(directory / std::string(300, 'x')); }),
             ContainsSubstring("cannot be opened"));
  directory.write("large.json", std::string(101, ' '));
  CHECK_THAT(input_error_of([&] {
               read_json_file(directory / "large.json", JsonLimits{100, 4, 4, 4});
             }),
             ContainsSubstring("at most 100"));
}
