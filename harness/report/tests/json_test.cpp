#include "harness/report/json.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cmake/catch2.h"
#include "harness/report/report.h"
#include "harness/report/tests/results.h"
#include "harness/report/text.h"

namespace qdiff::report {
namespace {

using nlohmann::json;

json parsed(const findings::RunResult& result) { return json::parse(report_json(result)); }

std::vector<std::string> keys_of(const std::string& text) {
  std::vector<std::string> keys;
  const Document document = Document::parse(text);
  for (const auto& [key, value] : document.items()) keys.push_back(key);
  return keys;
}

std::string file_text(const std::string& path_in_tree) {
  std::ifstream file(std::string(QDIFF_SOURCE_DIR) + '/' + path_in_tree);
  REQUIRE(file);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST_CASE("the ten hypotheses are the result's own, and one that it lacks was not exercised", "[report]") {
  findings::RunResult result = tests::match();
  result.hypotheses.erase(result.hypotheses.begin() + 4);
  const auto all = all_hypotheses(result);
  REQUIRE(all.size() == 10);
  CHECK(&all[0].get() == &result.hypotheses[0]);
  CHECK(&all[9].get() == &result.hypotheses[8]);
  CHECK(all[4].get().id == "H05");
  CHECK(all[4].get().verdict == findings::HypothesisVerdict::kNotExercised);
}

TEST_CASE("numbers carry six digits, and what is no number is a string", "[report]") {
  CHECK(number(412.123456789).dump() == "412.123");
  CHECK(number(1.23456789e-7).dump() == "1.23457e-07");
  CHECK(number(10000.0).dump() == "10000.0");
  CHECK(number(0.1 + 0.2).dump() == "0.3");
  CHECK(number(1.00000012, 9).dump() == "1.00000012");
  CHECK(number(std::nan("")) == "NaN");
  CHECK(number(HUGE_VAL) == "Infinity");
  CHECK(number(-HUGE_VAL) == "-Infinity");
  CHECK(number(std::numeric_limits<double>::max()).is_number());
}

TEST_CASE("report.json holds the fields that other programs rely on", "[report]") {
  const json report = parsed(tests::diverged());
  CHECK(report["format"] == "qdiff-report");
  CHECK(report["version"] == 1);
  CHECK(report["verdict"] == "diverged");
  const json& first = report["first_divergence"];
  CHECK(first["case"] == "H05-gqa");
  CHECK(first["step"] == 0);
  CHECK(first["phase"] == "prefill");
  CHECK(first["layer"] == 0);
  CHECK(first["tensor"] == "model.layers.0.self_attn.attn_output");
  CHECK(first["kind"] == "logic");
  CHECK(first["index"] == json({0, 3, 97}));
  CHECK(first["actual"] == -0.51953125);
  CHECK(first["expected"] == 0.23828125);
  CHECK(first["span"] == json({"model.layers.0.self_attn.attn_output", "model.layers.0.self_attn.attn_output"}));
  CHECK(first["command"] == "qdiff run cases/H05-gqa.json --mode lockstep --layers 0 --steps 0");
  CHECK(first["ratio_to_bound"] == 412.123);
  CHECK(first["statistics"]["rms"] == 398.123);
  CHECK(report["explanation"]["hypothesis"] == "H05");
  CHECK(report["explanation"]["variant"] == "H05.modulo");
  CHECK(report["explanation"]["verdict"] == "confirmed");
  CHECK(report["explanation"]["value"].is_null());
  CHECK(report["explanation"]["layers"] == json({0, 1, 2}));
  CHECK(report["explanation"]["phase"] == "both");
  REQUIRE(report["findings"].size() == 3);
  CHECK(report["findings"][2]["layer"] == 2);
  CHECK(report["findings"][2]["explanation"]["variant"] == "H05.modulo");
  CHECK(report["hypotheses"].size() == 10);
  CHECK(report["hypotheses"][4]["verdict"] == "confirmed");
  CHECK(report["hypotheses"][4]["first_divergence"]["tensor"] == first["tensor"]);
  CHECK(report["coverage"]["tensors_compared"] == 1404);
  CHECK(report["coverage"]["blind"] == json({"H09", "H10"}));
  CHECK(report["cases"][0]["seed"] == 5);
  CHECK(report["engine"]["compute"]["points"] ==
        json({{"attention.probs", "bfloat16"}, {"self_attn.o_proj", "float32"}}));
  CHECK(report["injected"] == json({{"fault", "H05.modulo"}, {"executions", 1234}}));
  CHECK(report["free_runs"][0]["same_top_token"] == 3);
  CHECK(report["free_runs"][0]["expected_tokens"] == json({12, 9, 7}));
  CHECK(report["free_runs"][0]["actual_tokens"] == json({12, 9, 8}));
  CHECK(report["free_runs"][0]["margin"] == 0.625);
  CHECK(report["free_runs"][0]["row"] == 1);
  CHECK(report["free_runs"][0]["step"] == 2);
  CHECK(report["free_runs"][0]["greedy"] == false);
  CHECK(report["free_runs"][0]["actual_text"] == "The sea was");
}

TEST_CASE("a match has nulls where a divergence has its first finding", "[report]") {
  const json report = parsed(tests::match());
  CHECK(report["verdict"] == "match");
  CHECK(report["first_divergence"].is_null());
  CHECK(report["explanation"].is_null());
  CHECK(report["findings"].empty());
  CHECK(report["injected"].is_null());
  CHECK(report["closest_to_bound"]["ratio_to_bound"] == 0.812346);
  CHECK(report["hypotheses"][8]["verdict"] == "undetectable");
  CHECK_THAT(report["hypotheses"][8]["blind_variants"][0]["why"].get<std::string>(), ContainsSubstring("tiny norm"));
  CHECK(report["hypotheses"][9]["verdict"] == "not_exercised");
  CHECK(report["hypotheses"][0]["shown_by"] == json({{"H01.no_batch_stride", {"H05-gqa", "end-to-end"}},
                                                     {"H01.no_head_stride", json::array({"end-to-end"})}}));
  CHECK(report["hypotheses"][9]["shown_by"] == json::object());
}

TEST_CASE("a fitted value, a span and a tie are told", "[report]") {
  const json report = parsed(tests::ties());
  CHECK(report["explanation"]["verdict"] == "consistent");
  CHECK(report["explanation"]["value"] == 10000.0);
  CHECK(report["explanation"]["expected_value"] == 1e6);
  CHECK(report["explanation"]["alternatives"] == json({"H06.missing_q", "X.layer_repeated"}));
  CHECK(report["explanation"]["separated_by"] ==
        json({"told apart by inputs with only one of: a key bias; a query bias", ""}));
  CHECK(report["explanation"]["points"] == json::object());
  CHECK(report["first_divergence"]["phase"] == "decode");
  CHECK(report["first_divergence"]["span"] ==
        json({"model.layers.1.input_layernorm", "model.layers.1.self_attn.q_rope"}));
}

TEST_CASE("an unexplained divergence: logic before precision, nulls for what is unknown", "[report]") {
  const json report = parsed(tests::unexplained());
  const json& first = report["first_divergence"];
  CHECK(first["tensor"] == "lm_head");  // the finding before it is of kind precision
  CHECK(first["layer"].is_null());
  CHECK(first["index"] == json::array());
  CHECK(first["actual"].is_null());
  CHECK(first["expected"].is_null());
  CHECK(report["explanation"]["hypothesis"].is_null());
  CHECK(report["explanation"]["variant"].is_null());
  CHECK(report["explanation"]["verdict"].is_null());
  CHECK(report["findings"][0]["kind"] == "precision");
}

TEST_CASE("what was solved for is told with its parameters, its scope and its sentence", "[report]") {
  findings::RunResult result = tests::unexplained();
  findings::Explanation& explanation = result.findings[1].explanation;
  explanation.mechanism = "sum";
  explanation.parameters = {{"resid_mid", 2.0}, {"law", std::string("h % 5")}};
  explanation.scope = {{"phase", std::string("decode")}};
  explanation.sentence = "output is 2 * resid_mid + mlp.down_proj, in decode alone";
  const json report = parsed(result);
  CHECK(report["explanation"]["mechanism"] == "sum");
  CHECK(report["explanation"]["variant"].is_null());
  CHECK(report["explanation"]["parameters"] == json({{"resid_mid", 2.0}, {"law", "h % 5"}}));
  CHECK(report["explanation"]["scope"] == json({{"phase", "decode"}}));
  CHECK(report["explanation"]["sentence"] == explanation.sentence);
}

TEST_CASE("a rounding is told with the points that would declare it", "[report]") {
  const json report = parsed(tests::unexplained());
  CHECK(report["findings"][0]["explanation"]["points"] ==
        json({{"attention.probs", "bfloat16"}, {"rope.table", "float16"}}));
  CHECK(parsed(tests::rounding())["explanation"]["points"] == json({{"mlp.silu", "bfloat16"}}));
  CHECK(parsed(tests::diverged())["explanation"]["points"] == json::object());
}

TEST_CASE("each alternative has its entry in separated_by, even where the diagnosis gave fewer", "[report]") {
  findings::RunResult result = tests::ties();
  result.findings[0].explanation.separated_by.clear();
  CHECK(parsed(result)["explanation"]["separated_by"] == json({"", ""}));
}

TEST_CASE("R05 NaN and infinities are strings wherever they stand", "[report]") {
  const json report = parsed(tests::not_numbers());
  CHECK(report["first_divergence"]["actual"] == "NaN");
  CHECK(report["first_divergence"]["expected"] == "-Infinity");
  CHECK(report["first_divergence"]["ratio_to_bound"] == "Infinity");
  CHECK(report["first_divergence"]["statistics"]["rms"] == "NaN");
  CHECK(report["explanation"]["value"] == "NaN");
  CHECK(report["closest_to_bound"]["ratio_to_bound"] == "NaN");
  CHECK(report["free_runs"][0]["residual_relative_rms_error"] == json({"NaN", "-Infinity"}));
}

TEST_CASE("a trace's ranking, points and notes", "[report]") {
  const json ranking = parsed(tests::ranked())["ranking"];
  CHECK(ranking["right"]["variant"].is_null());
  CHECK(ranking["right"]["times_rounding"] == 41.5);
  CHECK(ranking["nearest"][0]["variant"] == "H03.theta");
  CHECK(ranking["nearest"][0]["value"] == 10000.0);
  CHECK(ranking["nearest"][0]["reproduces"] == true);
  CHECK(ranking["nearest"][1]["value"].is_null());
  CHECK(ranking["record_next"].size() == 2);
  CHECK(ranking["rounding"] == 0.0123457);
  const json allowed = parsed(tests::allowed());
  CHECK(allowed["verdict"] == "match");
  CHECK(allowed["precision_allowed"] == true);
  CHECK(allowed["inferred_points"] == json({{"mlp.silu", "bfloat16"}, {"rope.table", "float16"}}));
  CHECK(allowed["notes"].size() == 1);
  const json run = parsed(tests::match());
  CHECK(run["ranking"].is_null());
  CHECK(run["inferred_points"].is_null());
  CHECK(run["precision_allowed"] == false);
  CHECK(json::parse(points_json({{"rope.table", "float16"}})) == json({{"points", {{"rope.table", "float16"}}}}));
}

TEST_CASE("keys stand in a fixed order", "[report]") {
  const std::vector<std::string> wanted = {"format",           "version",
                                           "verdict",          "reason",
                                           "first_divergence", "explanation",
                                           "findings",         "hypotheses",
                                           "coverage",         "closest_to_bound",
                                           "free_runs",        "ranking",
                                           "record_next",      "fed_tokens",
                                           "inferred_points",  "precision_allowed",
                                           "acceptance",       "notes",
                                           "conditions",       "cases",
                                           "command",          "model",
                                           "engine",           "injected",
                                           "reference_values", "seconds"};
  for (const auto& [name, result] : tests::all()) {
    INFO(name);
    CHECK(keys_of(report_json(result)) == wanted);
  }
}

TEST_CASE("equal results give equal bytes, apart from the time", "[report]") {
  for (const auto& [name, result] : tests::all()) {
    INFO(name);
    CHECK(report_json(result) == report_json(result));
    findings::RunResult later = result;
    later.seconds += 1.5;
    std::istringstream a(report_json(result)), b(report_json(later));
    std::string line_a, line_b;
    int different = 0;
    while (std::getline(a, line_a) && std::getline(b, line_b)) {
      if (line_a == line_b) continue;
      ++different;
      CHECK_THAT(line_a, StartsWith("  \"seconds\": "));
    }
    CHECK(different == 1);
  }
}

TEST_CASE("R01 text from files stays text in JSON", "[report]") {
  const findings::RunResult result = tests::hostile();
  const std::string text = report_json(result);
  const bool plain = std::all_of(text.begin(), text.end(), [](char c) { return c == '\n' || (c >= ' ' && c <= '~'); });
  CHECK(plain);
  const json report = json::parse(text);
  CHECK(keys_of(text).size() == 26);
  CHECK_THAT(report["model"]["argument"].get<std::string>(),
             StartsWith("<script>alert('1')</script> \"]]>&amp; \x1b[31mred"));
}

TEST_CASE("both schemas describe a hypothesis, a finding and its parts alike", "[report]") {
  const json report = json::parse(file_text("harness/report/schema/report.schema.json"));
  const json hypothesis = json::parse(file_text("harness/report/schema/hypothesis.schema.json"));
  for (const char* part : {"number", "hypothesis_id", "statistics", "explanation", "finding", "points"}) {
    INFO(part);
    CHECK(report["$defs"].at(part) == hypothesis["$defs"].at(part));
  }
  CHECK(report["$defs"]["hypothesis"]["properties"] == hypothesis["properties"]);
  CHECK(report["$defs"]["hypothesis"]["required"] == hypothesis["required"]);
}

}  // namespace
}  // namespace qdiff::report
