#include "harness/cli/gemm_table.h"

#include <sstream>

#include "cmake/catch2.h"
#include "harness/contract/tests/small_model.h"

namespace qdiff::cli {
namespace {

const ModelConfig kConfig = testing::small_config(14, 2, 14, 196, 440, false, 1000);

GemmFacts packed() {
  return {.name = "self_attn.q_proj",
          .layers = 2,
          .n = 196,
          .k = 198,
          .x_stride = 198,
          .weight_stride = 198,
          .out_stride = 196,
          .bias_length = 196};
}

std::vector<std::string> lines_of(const std::vector<GemmFacts>& gemms, const std::string& model = "m") {
  std::vector<std::string> lines;
  std::istringstream stream(gemm_table(gemms, kConfig, "cpu", model));
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

TEST_CASE("a packed product has no mark", "[gemms]") {
  GemmFacts head = packed();
  head.name = "lm_head";
  head.layers = 1;
  head.bias_length.reset();
  const auto lines = lines_of({packed(), head});
  REQUIRE(lines.size() == 5);
  CHECK(lines[0] == "GEMMs of the cpu engine on m: out[M,n] = x[M,k] . weight + bias, M tokens of a step");
  CHECK(lines[1] == "  product           layers    n    k            weight  ld x  ld weight  ld out  bias");
  CHECK(lines[2] == "  self_attn.q_proj       2  196  198  [n,k] transposed   198        198     196   196");
  CHECK(lines[3] == "  lm_head                1  196  198  [n,k] transposed   198        198     196  none");
  CHECK(
      lines[4] ==
      "  as read from the model: eps 1e-06, theta 1000000, head dim 14, 14 query and 2 key/value heads; q, k and v are "
      "196, 28 and 28 wide");
}

TEST_CASE("what is not as one expects is marked and named", "[gemms]") {
  const auto marked = [](auto change) {
    GemmFacts gemm = packed();
    change(gemm);
    const std::string line = lines_of({gemm})[2];
    CHECK_THAT(line, StartsWith("! self_attn.q_proj "));
    return line;
  };
  CHECK_THAT(marked([](GemmFacts& g) { g.bias_length = 198; }),
             ContainsSubstring("the bias has 198 entries for 196 columns"));
  CHECK_THAT(marked([](GemmFacts& g) { g.bias_length = 0; }),
             ContainsSubstring("the bias has 0 entries for 196 columns"));
  CHECK_THAT(marked([](GemmFacts& g) { g.x_stride = 208; }), ContainsSubstring("x rows are 208 apart and 198 long"));
  CHECK_THAT(marked([](GemmFacts& g) { g.weight_stride = 199; }),
             ContainsSubstring("weight rows are 199 apart and 198 long"));
  CHECK_THAT(marked([](GemmFacts& g) { g.out_stride = 252; }),
             ContainsSubstring("out rows are 252 apart and 196 long"));
  CHECK_THAT(marked([](GemmFacts& g) { g.weight_is_n_by_k = false; }),
             ContainsSubstring("weight rows are 198 apart and 196 long"));
  CHECK_THAT(marked([](GemmFacts& g) { g.x_stride = 1, g.out_stride = 2; }), ContainsSubstring("long; out rows"));
}

TEST_CASE("an engine that does not tell its products still shows the model's numbers", "[gemms]") {
  const auto lines = lines_of({});
  REQUIRE(lines.size() == 2);
  CHECK(lines[0] == "the cpu engine does not tell its GEMMs");
  CHECK_THAT(lines[1], StartsWith("  as read from the model: eps 1e-06"));
  CHECK(lines_of({packed()}, "a\nb\x1b[31m")[0].find('\x1b') == std::string::npos);
}

}  // namespace
}  // namespace qdiff::cli
