#include "harness/report/injection.h"

#include "cmake/catch2.h"

namespace qdiff::report {
namespace {

findings::Finding solved() {
  findings::Finding finding;
  finding.tensor = {Op::kQProj, 1};
  finding.explanation.mechanism = "bias";
  finding.explanation.parameters = {{"coefficient", 2.0}};
  finding.explanation.scope = {{"phase", std::string("decode")}, {"tokens", std::string("3 and up")}};
  finding.explanation.layers = {1, 0};
  return finding;
}

TEST_CASE("what a report says of a mechanism can be planted", "[report]") {
  const auto mistake = mistake_of(solved());
  REQUIRE(mistake.has_value());
  CHECK(to_string(*mistake) == "bias:coefficient=2@self_attn.q_proj;layers=0, 1;phase=decode;tokens=3 and up");
}

TEST_CASE("a mistake inside a span is planted at its own operation, and several are not planted as one", "[report]") {
  findings::Finding finding = solved();
  finding.tensor = {Op::kOutput, 1};
  finding.explanation.mechanism = "copy.zeros";
  finding.explanation.parameters = {};
  finding.explanation.scope = {};
  finding.explanation.mistakes = {{MistakeKind::kCopyZeros, {}, Op::kUpProj}};
  const auto mistake = mistake_of(finding);
  REQUIRE(mistake.has_value());
  CHECK(to_string(*mistake) == "copy.zeros@mlp.up_proj;layers=0, 1");
  finding.explanation.mistakes.push_back({MistakeKind::kCopyZeros, {}, Op::kGateProj});
  CHECK_FALSE(mistake_of(finding).has_value());
}

TEST_CASE("what no engine plants gives nothing", "[report]") {
  findings::Finding finding = solved();
  finding.explanation.mechanism = std::nullopt;
  CHECK_FALSE(mistake_of(finding).has_value());
  finding.explanation.mechanism = "memory.int8";
  CHECK_FALSE(mistake_of(finding).has_value());
}

}  // namespace
}  // namespace qdiff::report
