#include <algorithm>
#include <string>

#include "cmake/catch2.h"
#include "harness/report/report.h"
#include "harness/report/tests/printed.h"
#include "harness/report/tests/results.h"
#include "harness/report/text.h"

namespace qdiff::report {
namespace {

// From "<testcase" to its end.
std::string test_of(const std::string& xml, const std::string& group, const std::string& name) {
  const std::string start = "<testcase classname=\"" + group + "\" name=\"" + name + '"';
  const std::size_t at = xml.find(start);
  REQUIRE(at != std::string::npos);
  CHECK(xml.find(start, at + 1) == std::string::npos);
  return xml.substr(at, xml.find("<testcase", at + 1) - at);
}

TEST_CASE("R01 R02 text from files stays text in XML", "[report]") {
  const std::string text = junit_xml(tests::hostile());
  CHECK(text.find("<script") == std::string::npos);
  const bool printable =
      std::all_of(text.begin(), text.end(), [](char c) { return c == '\n' || static_cast<unsigned char>(c) >= ' '; });
  CHECK(printable);
  CHECK(text.find("\xEF\xBF\xBE") == std::string::npos);  // U+FFFE is no character of XML
  CHECK(xml_text("a<b>&\"'\x1b\n\x01") == "a&lt;b&gt;&amp;&quot;&apos; ");
}

TEST_CASE("JUnit counts what failed, what cannot be told, what was not exercised", "[report]") {
  // Two cases: the verdict, each cause, the cases, and ten hypotheses in each.
  CHECK_THAT(
      junit_xml(tests::diverged()),
      ContainsSubstring("<testsuite name=\"qdiff\" tests=\"24\" failures=\"1\" errors=\"0\" skipped=\"7\" time="));
  CHECK_THAT(junit_xml(tests::inconclusive()),
             ContainsSubstring("tests=\"23\" failures=\"0\" errors=\"2\" skipped=\"12\""));
  CHECK_THAT(junit_xml(tests::match()), ContainsSubstring("tests=\"23\" failures=\"0\" errors=\"0\" skipped=\"4\""));
  CHECK_THAT(junit_xml(tests::empty()), ContainsSubstring("tests=\"1\" failures=\"0\" errors=\"1\" skipped=\"0\""));
}

TEST_CASE("JUnit: one failure for one cause, and the other tests name it", "[report]") {
  const std::string xml = junit_xml(tests::diverged());
  const std::string failed = test_of(xml, "qdiff.causes", "H05.modulo");
  CHECK_THAT(failed,
             ContainsSubstring("<failure message=\"case H05-gqa, model.layers.0.self_attn.attn_output at step 0 "
                               "(prefill), layer 0, lockstep: worst_slice_rms is 412 times"));
  CHECK_THAT(failed, ContainsSubstring("\nelement [0, 3, 97]: actual -0.51953125, expected 0.23828125\n"));
  CHECK_THAT(failed, ContainsSubstring("\ncause: H05.modulo (confirmed), in layers 0-2, in prefill and decode\n"));
  CHECK_THAT(failed,
             ContainsSubstring("\nrepeat: qdiff run cases/H05-gqa.json --mode lockstep --layers 0 --steps 0\n"));
  CHECK_THAT(failed, ContainsSubstring("\nalso case H05-gqa, model.layers.2.self_attn.attn_output at step 0"));
  CHECK_THAT(failed, ContainsSubstring("\nevidence: the reference with H05.modulo planted"));
  CHECK_THAT(failed, ContainsSubstring("</failure>\n    </testcase>"));
  CHECK(count_of(xml, "<failure") == 1);
  CHECK_THAT(test_of(xml, "H05", "H05-gqa"), ContainsSubstring("<skipped message=\"confirmed: H05.modulo\"/>"));
  CHECK_THAT(test_of(xml, "qdiff.cases", "H05-gqa"), ContainsSubstring("<skipped message=\"diverged: H05.modulo\"/>"));
  CHECK_THAT(test_of(xml, "qdiff.run", "verdict"),
             ContainsSubstring(" time=\"3.210\">\n      <skipped message=\"diverged: H05.modulo\"/>"));
  for (const auto& [group, name] : {std::pair("H05", "end-to-end"), std::pair("H01", "H05-gqa")}) {
    CHECK(test_of(xml, group, name) ==
          "<testcase classname=\"" + std::string(group) + "\" name=\"" + name + "\" time=\"0.000\"/>\n    ");
  }
}

TEST_CASE("JUnit: every hypothesis of a tie is told of, and what would separate them", "[report]") {
  const std::string xml = junit_xml(tests::ties());
  CHECK_THAT(
      test_of(xml, "qdiff.causes", "H03.theta"),
      ContainsSubstring("or else H06.missing_q: told apart by inputs with only one of: a key bias; a query bias"));
  for (const char* hypothesis : {"H03", "H06"}) {
    CHECK_THAT(test_of(xml, hypothesis, "H05-gqa"), ContainsSubstring("<skipped message=\"consistent: H03.theta\"/>"));
  }
  CHECK_THAT(test_of(xml, "H05", "H05-gqa"), !ContainsSubstring("H03"));
}

TEST_CASE("JUnit: unexplained tensors are causes by their place", "[report]") {
  const std::string xml = junit_xml(tests::unexplained());
  CHECK_THAT(test_of(xml, "qdiff.causes", "unexplained: lm_head"), ContainsSubstring("its shape is [1, 37, 910]"));
  CHECK_THAT(test_of(xml, "qdiff.causes", "H02.attention_probs_bf16"), ContainsSubstring("<failure"));
}

TEST_CASE("JUnit: what a pipeline knows is skipped with the reason, and its waivers are tests", "[report]") {
  const std::string xml = junit_xml(tests::refused());
  CHECK(count_of(xml, "<failure") == 2);
  CHECK_THAT(test_of(xml, "qdiff.causes", "H05.modulo"),
             ContainsSubstring("<skipped message=\"2 in the baseline, 1 waived: model.layers.0.self_attn.attn_output"));
  CHECK_THAT(test_of(xml, "qdiff.causes", "mlp.silu"), ContainsSubstring("<skipped message=\"not counted: "));
  CHECK_THAT(test_of(xml, "qdiff.causes", "unexplained: lm_head"), ContainsSubstring("<failure"));
  CHECK_THAT(test_of(xml, "qdiff.waivers", "X.layer_repeated"),
             ContainsSubstring("<failure message=\"the waiver for X.layer_repeated expired on 2026-01-31\">reason: an "
                               "old export\nowner: https://example.org/2\nexpires: 2026-01-31</failure>"));
  CHECK_THAT(test_of(xml, "qdiff.waivers", "H10.window"), ContainsSubstring("<skipped"));
  CHECK(test_of(xml, "qdiff.waivers", "H05.modulo in case H05-gqa").find("<skipped") == std::string::npos);
  const std::string green = junit_xml(tests::accepted());
  CHECK(count_of(green, "<failure") + count_of(green, "<error") == 0);
  findings::RunResult undecided = tests::accepted();
  undecided.acceptance->verdict = findings::AcceptanceVerdict::kUndecided;
  undecided.acceptance->reasons = {"lm_head holds NaN"};
  CHECK_THAT(junit_xml(undecided), ContainsSubstring("<error message=\"undecided: lm_head holds NaN\"/>"));
}

TEST_CASE("JUnit: what was not judged is skipped with its reason, never passed", "[report]") {
  const std::string xml = junit_xml(tests::inconclusive());
  CHECK_THAT(test_of(xml, "H09", "H05-gqa"), ContainsSubstring("<skipped message=\"undetectable: on these inputs"));
  CHECK_THAT(test_of(xml, "H10", "H05-gqa"), ContainsSubstring("<skipped message=\"not exercised: nothing"));
  CHECK_THAT(test_of(xml, "H01", "end-to-end"),
             ContainsSubstring("<skipped message=\"the case is inconclusive: model.layers.1.mlp.act at step 1: rms"));
  CHECK_THAT(test_of(xml, "qdiff.cases", "end-to-end"), ContainsSubstring("too little to be sure"));
  CHECK_THAT(test_of(xml, "qdiff.run", "verdict"), ContainsSubstring("<error message="));
}

TEST_CASE("JUnit: an undeclared rounding carries the points that would declare it", "[report]") {
  const std::string xml = junit_xml(tests::unexplained());
  CHECK_THAT(test_of(xml, "qdiff.causes", "H02.attention_probs_bf16"),
             ContainsSubstring("declare: &quot;points&quot;: {&quot;attention.probs&quot;: &quot;bfloat16&quot;, "));
}

TEST_CASE("JUnit: a hypothesis passes only in a case that would show it", "[report]") {
  findings::RunResult result = tests::match();
  result.hypotheses[0].shown_by = {{FaultId::kNoBatchStride, {"end-to-end"}}};
  const std::string xml = junit_xml(result);
  CHECK(test_of(xml, "H01", "end-to-end") == "<testcase classname=\"H01\" name=\"end-to-end\" time=\"0.000\"/>\n    ");
  CHECK_THAT(test_of(xml, "H01", "H05-gqa"),
             ContainsSubstring("<skipped message=\"this case would show no variant of the hypothesis\"/>"));
}

TEST_CASE("JUnit: a rounding that is allowed is no failure", "[report]") {
  CHECK_THAT(junit_xml(tests::allowed()), ContainsSubstring("failures=\"0\" errors=\"0\""));
  findings::RunResult strict = tests::allowed();
  strict.precision_allowed = false;
  CHECK_THAT(test_of(junit_xml(strict), "qdiff.causes", "H02.attention_probs_bf16"), ContainsSubstring("<failure"));
}

TEST_CASE("JUnit names many findings and counts the rest", "[report]") {
  findings::RunResult result = tests::diverged();
  result.findings.resize(30, result.findings.back());
  const std::string failed = test_of(junit_xml(result), "qdiff.causes", "H05.modulo");
  CHECK(count_of(failed, "\nalso ") == 20);
  CHECK_THAT(failed, ContainsSubstring("\nand 9 more wrong tensors"));
}

}  // namespace
}  // namespace qdiff::report
