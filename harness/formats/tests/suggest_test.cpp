#include "harness/formats/suggest.h"

#include <string>
#include <vector>

#include "cmake/catch2.h"
#include "harness/formats/utf8.h"

using namespace qdiff::formats;

TEST_CASE("edit distance counts insertions, deletions, substitutions and swaps") {
  CHECK(edit_distance("", "") == 0);
  CHECK(edit_distance("seed", "seed") == 0);
  CHECK(edit_distance("", "abc") == 3);
  CHECK(edit_distance("sed", "seed") == 1);
  CHECK(edit_distance("seeed", "seed") == 1);
  CHECK(edit_distance("sead", "seed") == 1);
  CHECK(edit_distance("esed", "seed") == 1);
  CHECK(edit_distance("kitten", "sitting") == 3);
}

TEST_CASE("the nearest name is found only where it is near") {
  const std::vector<std::string> names = {"seed", "profile", "dtype"};
  CHECK(nearest_name("sed", names) == "seed");
  CHECK(nearest_name("profil", names) == "profile");
  CHECK_FALSE(nearest_name("left_padding", names).has_value());
  CHECK(suggestion("dtyp", names) == "; did you mean \"dtype\"?");
  CHECK(suggestion("zzzzzzzz", names).empty());
}

TEST_CASE("a name that was cut short is completed, by the shortest where several begin so") {
  const std::vector<std::string> names = {"--trace-capacity", "--trace-file", "--infer-points", "--baseline"};
  CHECK(nearest_name("--infer", names) == "--infer-points");
  CHECK(nearest_name("--trace", names) == "--trace-file");
  CHECK_FALSE(nearest_name("--b", names).has_value());
  CHECK_FALSE(nearest_name("", names).has_value());
}

TEST_CASE("a beginning stands for its name before what is two letters away, and capitals are no slip") {
  const std::vector<std::string> commands = {"compare", "run", "completion", "reduce"};
  CHECK(nearest_name("comple", commands) == "completion");
  CHECK(nearest_name("compar", commands) == "compare");
  CHECK(nearest_name("RUN", commands) == "run");
  CHECK(nearest_name("Reduse", commands) == "reduce");
  CHECK_FALSE(nearest_name("COMPILE-ALL", commands).has_value());
  const std::vector<std::string> types = {"float32", "bfloat16", "float16"};
  CHECK(nearest_name("Half", types) == "float16");
}

TEST_CASE("a part of one name alone stands for it") {
  const std::vector<std::string> names = {"H05-gqa", "H04-square", "H07-square", "end-to-end"};
  CHECK(nearest_name("gqa", names) == "H05-gqa");
  CHECK_FALSE(nearest_name("square", names).has_value());
  CHECK_FALSE(nearest_name("qa", names).has_value());
}

TEST_CASE("short names of element types are known where the long ones are asked for") {
  const std::vector<std::string> types = {"float32", "bfloat16", "float16"};
  CHECK(nearest_name("bf16", types) == "bfloat16");
  CHECK(nearest_name("half", types) == "float16");
  CHECK(nearest_name("F32", types) == "float32");
  CHECK(nearest_name("float61", types) == "float16");
  CHECK_FALSE(nearest_name("int8", types).has_value());
  const std::vector<std::string> others = {"lockstep", "free", "both"};
  CHECK_FALSE(nearest_name("bf16", others).has_value());
}

TEST_CASE("what others call a device or a bug is no misspelling of another one", "[suggest]") {
  const std::vector<std::string> backends = {"cpu", "cuda", "reference"};
  CHECK(nearest_name("gpu", backends) == "cuda");  // one letter from cpu
  const std::vector<std::string> places = {"host", "gpu", "auto"};
  CHECK(nearest_name("gpu", places) == "gpu");
  const std::vector<std::string> lists = {"mechanisms", "faults", "cases"};
  CHECK(nearest_name("bugs", lists) == "faults");
}

TEST_CASE("printable text holds no control sequence") {
  CHECK(printable("plain \"text\"") == "plain \"text\"");
  CHECK(printable("a\x1B[31mb\n") == "a\\x1B[31mb\\x0A");
  CHECK(printable(std::string("a\0b", 3)) == "a\\x00b");
  CHECK(printable("\xFF") == "\\xFF");
  CHECK(printable("\xE2\x80\xAE") == "\\xE2\\x80\\xAE");  // right-to-left override
  CHECK(printable("\xC2\x9B") == "\\xC2\\x9B");           // the one-character form of ESC [
  CHECK(printable("\xC3\xA9\xE2\x82\xAC") == "\xC3\xA9\xE2\x82\xAC");
  CHECK(printable(std::string(500, 'a')) == std::string(120, 'a') + "...");
}

TEST_CASE("UTF-8 is well-formed by table 3-7") {
  CHECK(find_invalid_utf8("plain") == 5);
  CHECK(find_invalid_utf8("\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80") == 9);
  CHECK(find_invalid_utf8("ab\x80") == 2);
  CHECK(find_invalid_utf8("ab\xC3") == 2);            // cut short
  CHECK(find_invalid_utf8("\xC0\xAF") == 0);          // overlong
  CHECK(find_invalid_utf8("\xE0\x80\xAF") == 0);      // overlong
  CHECK(find_invalid_utf8("x\xED\xA0\x80") == 1);     // surrogate
  CHECK(find_invalid_utf8("\xF4\x90\x80\x80") == 0);  // beyond U+10FFFF
  CHECK(find_invalid_utf8("\xF0\x8F\xBF\xBF") == 0);  // overlong
}
