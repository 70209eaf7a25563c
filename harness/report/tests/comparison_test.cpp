#include "harness/report/comparison.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cmake/catch2.h"
#include "harness/contract/error.h"
#include "harness/formats/tests/temporary_directory.h"
#include "harness/report/tests/comparisons.h"
#include "harness/report/tests/printed.h"
#include "harness/report/text.h"

namespace qdiff::report {
namespace {

using nlohmann::json;

const ComparedNames kNames{"ours", "theirs"};

std::string shown(const compare::PairwiseResult& result, const ComparedNames& names = kNames) {
  return format_comparison(result, names, {.color = false, .width = 100, .reports = ""});
}

TEST_CASE("equal traces are one line", "[comparison]") {
  CHECK(shown(tests::equal_traces()) == "MATCH  ours against theirs: 2 tensors in common, all bits equal\n");
  CHECK(shown(tests::in_common_nothing()) ==
        "INCONCLUSIVE  ours against theirs: no tensor in common\n"
        "  only in A 1 tensor: lm_head\n");
}

TEST_CASE("traces far apart: the first tensor, the jump, and a table of at most twenty", "[comparison]") {
  const std::string text = shown(tests::far_apart());
  CHECK_THAT(text, StartsWith("DIVERGED  ours against theirs: 49 tensors in common, 48 differ\n"
                              "  first at  model.layers.0.self_attn.attn_output, step 0\n"
                              "  element   [0, 4, 17]  1.5 against 1.25\n"
                              "  jump      the relative error grows 125 times from model.layers.4.output (0.004) to\n"
                              "            model.layers.5.output (0.5), step 0\n"));
  CHECK_THAT(text, ContainsSubstring("\n  step  tensor "));
  CHECK_THAT(text, ContainsSubstring("(20 of 48 that differ: the first, and those that differ most)\n"));
  std::vector<std::string> rows;
  for (const std::string& line : lines_of(text)) {
    if (line.starts_with("     0  model.")) rows.push_back(line);
  }
  REQUIRE(rows.size() == kMostTableLines);
  CHECK_THAT(rows[0], ContainsSubstring("model.layers.0.self_attn.attn_output"));
  CHECK_THAT(rows[0], ContainsSubstring("12.3%      0.008      0.002"));
  CHECK_THAT(rows[1], ContainsSubstring("model.layers.4.output"));  // where the jump starts
  CHECK_THAT(rows[2], ContainsSubstring("model.layers.5.output"));  // the worst, in execution order
  CHECK_THAT(rows[19], ContainsSubstring("model.layers.22.output"));
}

TEST_CASE("what differs by more than its values is said", "[comparison]") {
  const std::string text = shown(tests::of_all_sorts());
  for (const char* words :
       {"5 tensors in common, 3 differ by more than 0.01\n", "first at  model.layers.0.self_attn.q_proj, step 0\n",
        "type      float32 against bfloat16: values are compared, 123 of 1000 are equal\n",
        "only in A 3 tensors: self_attn.probs in 2 layers\n", "only in B 1 tensor: self_attn.k_cache in 1 layer\n",
        "NaN       on both sides, of equal bits, in 1 tensor\n", "note      the traces have 2 and 1 steps\n",
        "  float32/bfloat16\n", "  3 NaN, 1 inf\n", "-  other shape\n", "  within\n"}) {
    INFO(words);
    CHECK_THAT(text, ContainsSubstring(words));
  }
  compare::PairwiseResult near = tests::of_all_sorts();
  near.tensors.resize(1);
  near.verdict = compare::Verdict::kMatch;
  CHECK_THAT(shown(near), StartsWith("MATCH  ours against theirs: 1 tensor in common, none differs by more than 0.01, "
                                     "1 by some bits\n"));
}

TEST_CASE("one wrong element of many is not shown as none", "[comparison]") {
  compare::PairwiseResult result = tests::far_apart();
  result.tensors[1].elements_compared = 1000000;
  result.tensors[1].bits_equal = 999999;
  CHECK_THAT(shown(result), ContainsSubstring(" 99.9% "));
}

TEST_CASE("names of traces stay text", "[comparison]") {
  const ComparedNames loud{"\x1b[31mred\n", "\xE2\x80\xAErtl\xFF"};
  const std::string text = shown(tests::far_apart(), loud);
  CHECK(text.find('\x1b') == std::string::npos);
  CHECK(text.find("\xE2\x80\xAE") == std::string::npos);
  CHECK_THAT(text, StartsWith("DIVERGED  [31mred  against rtl"));
  CHECK(json::parse(comparison_json(tests::far_apart(), loud))["actual"] == "\x1b[31mred\n");
}

TEST_CASE("compare.json", "[comparison]") {
  const json apart = json::parse(comparison_json(tests::far_apart(), kNames));
  CHECK(apart["verdict"] == "diverged");
  CHECK(apart["within"].is_null());
  CHECK(apart["first_difference"]["tensor"] == "model.layers.0.self_attn.attn_output");
  CHECK(apart["first_difference"]["index"] == json({0, 4, 17}));
  CHECK(apart["jump"]["to"] == json({{"step", 0}, {"tensor", "model.layers.5.output"}}));
  CHECK(apart["tensors"].size() == 49);
  CHECK(apart["coverage"]["differing"] == 48);
  const json sorts = json::parse(comparison_json(tests::of_all_sorts(), kNames));
  CHECK(sorts["tensors"][2]["actual"] == "NaN");
  CHECK(sorts["tensors"][2]["expected"] == "-Infinity");
  CHECK(sorts["tensors"][4]["actual"].is_null());
  CHECK(sorts["coverage"]["only_in_expected"] ==
        json::array({{{"step", 0}, {"tensor", "model.layers.0.self_attn.k_cache"}}}));
  CHECK(sorts["within"] == 0.01);
}

TEST_CASE("compare.json is written where it may be", "[comparison]") {
  const testing::TemporaryDirectory folder;
  write_comparison(tests::far_apart(), kNames, folder / "a/b");
  write_comparison(tests::equal_traces(), kNames, folder / "a/b");
  std::ifstream file(folder / "a/b/compare.json");
  std::stringstream text;
  text << file.rdbuf();
  CHECK(text.str() == comparison_json(tests::equal_traces(), kNames));
  folder.write("compare.json", "mine");
  CHECK_THROWS_WITH(write_comparison(tests::equal_traces(), kNames, folder.path()),
                    ContainsSubstring("not written by qdiff"));
}

}  // namespace
}  // namespace qdiff::report
