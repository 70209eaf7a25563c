// The page as text; tests/check_page.py opens it in a browser.
#include "harness/report/page.h"

#include <nlohmann/json.hpp>

#include "cmake/catch2.h"
#include "harness/report/causes.h"
#include "harness/report/tensors.h"
#include "harness/report/tests/results.h"

namespace qdiff::report {
namespace {

nlohmann::json data_of(const std::string& page) {
  const std::string mark = "<script type=\"application/json\" id=\"data\">";
  const std::size_t start = page.find(mark) + mark.size();
  REQUIRE(page.find(mark) != std::string::npos);
  return nlohmann::json::parse(page.substr(start, page.find("</script>", start) - start));
}

TEST_CASE("the page of every report is whole, and its data are the report's", "[page]") {
  for (const auto& [name, result] : tests::all()) {
    CAPTURE(name);
    const std::string page = report_page(result);
    CHECK(page.starts_with("<!DOCTYPE html>"));
    CHECK(page.ends_with("</html>\n"));
    for (const char* place : {"@STYLE", "@SCRIPT", "@DATA"}) CHECK(page.find(place) == std::string::npos);
    const nlohmann::json data = data_of(page);
    CHECK(data["findings"]["rows"].size() == result.findings.size());
    CHECK(data["profiles"].size() == result.findings.size());
    CHECK(data["sentence"] == verdict_sentence(result));
  }
}

TEST_CASE("the page of a model of 72B's shape stays small, whatever was found", "[page]") {
  // 80 layers, all 25 tensors of the table, 100 steps, both modes; 5 MB are what a person waits for without a thought.
  for (const findings::RunResult& result : {tests::many_layers_match(), tests::many_layers_diverged()}) {
    const std::string page = report_page(result);
    CAPTURE(result.judged.size(), result.findings.size());
    CHECK(page.size() < 5'000'000);
    CHECK(page.size() > 1'000'000);
  }
}

TEST_CASE("the page says where to look next, as the terminal does", "[page]") {
  findings::RunResult trace = tests::match();
  CHECK(data_of(report_page(trace))["elsewhere"] == nlohmann::json::array());
  trace.of_trace = true;
  const nlohmann::json right = data_of(report_page(trace));
  REQUIRE(right["elsewhere"].size() == 1);
  CHECK_THAT(right["elsewhere"][0].get<std::string>(), StartsWith("the forward pass is right on these inputs"));
  CHECK((right["to_record"].is_null() && right["declaration"] == ""));
  const nlohmann::json sparse = data_of(report_page(tests::sparse()));
  CHECK_THAT(sparse["to_record"].get<std::string>(), ContainsSubstring("to see which operation is wrong"));
  const nlohmann::json rounding = data_of(report_page(tests::rounding()));
  CHECK_THAT(rounding["declaration"].get<std::string>(), StartsWith("\"points\": {"));
}

TEST_CASE("no text of a file ends the page's data or starts a script", "[page]") {
  const std::string page = report_page(tests::hostile());
  std::size_t scripts = 0;
  for (std::size_t at = page.find("<script"); at != std::string::npos; at = page.find("<script", at + 1)) ++scripts;
  CHECK(scripts == 2);  // the data and the page's own
  CHECK(page.find("<script>alert") == std::string::npos);
}

TEST_CASE("the map tells what was not judged, a gate and a ratio apart", "[page]") {
  findings::RunResult result = tests::diverged();
  result.judged.resize(3);
  result.judged[0].judgement.outcome = compare::Outcome::kUnjudged;
  result.judged[1].judgement.outcome = compare::Outcome::kDiverged;
  result.judged[1].judgement.ratio_to_bound = 0.0;
  result.judged[2].judgement.outcome = compare::Outcome::kMatch;
  result.judged[2].judgement.ratio_to_bound = 1.0;
  const nlohmann::json grid = data_of(report_page(result))["grid"];
  REQUIRE(grid["layers"] == nlohmann::json::array({0}));
  const std::string cells = grid["runs"][0]["steps"][0]["cells"];
  // The rows before the layer's first are not judged: 16-bit codes, low byte first, in base64.
  CHECK(cells.substr(0, 12) == "AAAAAAEAAIAA");
}

TEST_CASE("findings with one cause are one line with all their layers", "[causes]") {
  const std::vector<Cause> causes = causes_of(tests::diverged());
  REQUIRE(causes.size() == 1);
  CHECK(causes[0].what == "H05.modulo (confirmed)");
  CHECK(causes[0].tensor == "self_attn.attn_output");
  CHECK(causes[0].where() == "layers 0-2, prefill");
  CHECK(causes[0].findings == std::vector<std::size_t>{0, 1, 2});
}

TEST_CASE("an unexplained finding is a cause of its own, and the gravest finding stands for a cause", "[causes]") {
  findings::RunResult result = tests::diverged();
  result.findings[1].explanation = {};
  result.findings[2].judgement.ratio_to_bound = 1e9;
  const std::vector<Cause> causes = causes_of(result);
  REQUIRE(causes.size() == 2);
  CHECK(causes[0].worst == 2);
  CHECK_THAT(causes[1].what, StartsWith("unexplained"));
  CHECK(causes[1].findings == std::vector<std::size_t>{1});
}

TEST_CASE("the verdict is one sentence for a newcomer", "[causes]") {
  CHECK_THAT(verdict_sentence(tests::match()), ContainsSubstring("all of 1404 tensors agree"));
  CHECK_THAT(verdict_sentence(tests::diverged()),
             StartsWith("The first wrong tensor is self_attn.attn_output of layer 0 in prefill"));
  CHECK_THAT(verdict_sentence(tests::rounding()), ContainsSubstring("did not declare"));
  CHECK_THAT(verdict_sentence(tests::empty()), ContainsSubstring("nothing was compared"));
}

TEST_CASE("the sentence names a second cause where there is one, and counts the others", "[causes]") {
  CHECK_THAT(verdict_sentence(tests::diverged()), !ContainsSubstring("Another"));
  findings::RunResult result = tests::diverged();
  result.findings[1].explanation = {};  // of layer 1
  CHECK_THAT(verdict_sentence(result),
             Catch::Matchers::EndsWith(" because of H05.modulo (confirmed). Another one is "
                                       "self_attn.attn_output of layer 1 in prefill; no known bug "
                                       "reproduces it."));
  result.findings[2].explanation.variant = FaultId::kMissingK;
  CHECK_THAT(verdict_sentence(result),
             ContainsSubstring("Another one is self_attn.attn_output of layer 2 in prefill, because of H06.missing_k "
                               "(confirmed). "));
  CHECK_THAT(verdict_sentence(result), Catch::Matchers::EndsWith("missing_k (confirmed). There is 1 more cause."));
  result.findings[2].kind = findings::FindingKind::kRecording;  // says nothing of the engine
  CHECK_THAT(verdict_sentence(result), Catch::Matchers::EndsWith("layer 1 in prefill; no known bug reproduces it."));
  result = tests::many_layers_diverged();
  CHECK_THAT(verdict_sentence(result), ContainsSubstring("(confirmed). Another one is self_attn.attn_output of "));
  // In a run, the bugs have their meanings beside them.
  result.catalogue = std::vector<VariantFacts>(fault_table().begin(), fault_table().end());
  CHECK_THAT(verdict_sentence(result), ContainsSubstring("H06.missing_k (confirmed): "));
  CHECK_THAT(verdict_sentence(result),
             Catch::Matchers::EndsWith("H05.modulo (confirmed): query head h reads key/value head h % K."));
}

TEST_CASE("the page opens at the first divergence, and has the first and the worst of each cause", "[page]") {
  findings::RunResult result = tests::diverged();
  result.findings[2].judgement.ratio_to_bound = 1e9;
  const nlohmann::json data = data_of(report_page(result));
  CHECK(data["first"] == 0);
  CHECK(data["causes"][0]["first"] == 0);
  CHECK(data["causes"][0]["worst_finding"] == 2);
  CHECK(data_of(report_page(tests::unexplained()))["first"] == 1);  // of kind logic
  CHECK(data_of(report_page(tests::match()))["first"].is_null());
  CHECK(data_of(report_page(tests::match()))["closest"] ==
        "the root mean square error of the worst slice at 0.812 of its bound, in model.layers.2.self_attn.attn_output "
        "(case H05-gqa, step 0)");
  // The sample has more profiles than a page draws.
  const findings::RunResult large = tests::many_layers_diverged();
  const nlohmann::json profiles = data_of(report_page(large))["profiles"];
  for (const Cause& cause : causes_of(large)) {
    CHECK(profiles[cause.findings.front()].is_null() == !large.findings[cause.findings.front()].profile.has_value());
    CHECK(profiles[cause.worst].is_null() == !large.findings[cause.worst].profile.has_value());
  }
}

TEST_CASE("tensors.jsonl has a line for each judged tensor", "[page]") {
  const findings::RunResult result = tests::diverged();
  const std::string text = tensors_jsonl(result);
  CHECK(static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n')) == result.judged.size());
  const nlohmann::json first = nlohmann::json::parse(text.substr(0, text.find('\n')));
  CHECK(first["tensor"] == "model.layers.0.input_layernorm");
  CHECK(first["outcome"] == "match");
}

}  // namespace
}  // namespace qdiff::report
