#include "harness/acceptance/acceptance.h"

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cmake/catch2.h"
#include "harness/contract/error.h"

namespace qdiff::acceptance {
namespace {

using compare::Verdict;
using findings::Acceptance;
using findings::AcceptanceVerdict;
using findings::Finding;
using findings::FindingKind;
using findings::FindingState;
using findings::RunResult;
using findings::WaiverState;
using nlohmann::json;

constexpr Date kToday = std::chrono::year(2027) / 1 / 31;

Finding finding_at(Op op, int layer, std::optional<FaultId> variant = FaultId::kModulo) {
  Finding finding;
  finding.case_id = "a";
  finding.mode = "lockstep";
  finding.tensor = {op, layer};
  finding.explanation.variant = variant;
  return finding;
}

// A run of case "a" in which act is right in layers 0 and 1, and what is given is wrong.
RunResult run_with(std::vector<Finding> found) {
  RunResult result;
  result.verdict = found.empty() ? Verdict::kMatch : Verdict::kDiverged;
  result.cases = {{"a", "A case", std::nullopt, 1, result.verdict, 4}};
  result.coverage.tensors_compared = 4;
  for (const int layer : {0, 1}) result.judged.push_back({"a", "lockstep", 0, Phase::kPrefill, {Op::kAct, layer}, {}});
  for (const Finding& finding : found) {
    result.judged.push_back({finding.case_id, finding.mode, finding.step, finding.phase, finding.tensor, {}});
  }
  findings::HypothesisResult heads;
  heads.id = "H05";
  heads.exercised_variants = {FaultId::kModulo};
  heads.shown_by = {{FaultId::kModulo, {"a"}}};
  result.hypotheses = {heads};
  result.findings = std::move(found);
  return result;
}

json finding_json(const std::string& tensor, const json& variant = "H05.modulo", const std::string& kind = "logic") {
  return {{"case", "a"},      {"mode", "lockstep"}, {"step", 0},
          {"tensor", tensor}, {"kind", kind},       {"explanation", {{"variant", variant}}}};
}

json report_json(const std::vector<json>& found) {
  return {{"format", "qdiff-report"}, {"version", 1},
          {"command", "qdiff run"},   {"cases", json::array({{{"id", "a"}}})},
          {"findings", found},        {"coverage", {{"not_compared", json::array()}}}};
}

const std::vector<FindingKind> kUsual = {FindingKind::kLogic, FindingKind::kPrecision};

Terms terms_with(const json& report) {
  return {.fail_on = kUsual, .baseline_folder = "old", .baseline = parse_baseline(report.dump(), "old/report.json")};
}

Terms terms_waiving(const std::string& waiver) {
  Terms terms{.fail_on = kUsual, .waivers_file = "w.json"};
  terms.waivers = parse_waivers(
      R"({"format": "qdiff-waivers", "version": 1, "waivers": [{"reason": "r", "link": "https://example.org/1", )" +
          waiver + "}]}",
      "w.json");
  return terms;
}

TEST_CASE("acceptance: only what the baseline does not have is refused", "[acceptance]") {
  const Terms terms = terms_with(report_json({finding_json("model.layers.0.self_attn.attn_output")}));
  const Acceptance same = accept(run_with({finding_at(Op::kAttnOutput, 0)}), terms, kToday);
  CHECK(same.verdict == AcceptanceVerdict::kAccepted);
  CHECK(same.states == std::vector{FindingState::kUnchanged});
  CHECK(same.reasons.empty());

  const Acceptance one_more =
      accept(run_with({finding_at(Op::kAttnOutput, 0), finding_at(Op::kAttnOutput, 1)}), terms, kToday);
  CHECK(one_more.verdict == AcceptanceVerdict::kRefused);
  CHECK(one_more.states == std::vector{FindingState::kUnchanged, FindingState::kNew});
  CHECK(one_more.reasons == std::vector<std::string>{"1 new finding: 1 of H05.modulo"});

  // At the same place, and something else: a bug behind a known one must not pass for it.
  const Acceptance other = accept(run_with({finding_at(Op::kAttnOutput, 0, std::nullopt)}), terms, kToday);
  CHECK(other.verdict == AcceptanceVerdict::kRefused);
  CHECK(other.reasons == std::vector<std::string>{"1 new finding: 1 of unexplained"});
}

TEST_CASE("acceptance: what is gone was fixed only where it was judged again", "[acceptance]") {
  const Terms terms = terms_with(report_json({finding_json("model.layers.1.mlp.act"), finding_json("lm_head")}));
  RunResult run = run_with({});
  const Acceptance acceptance = accept(run, terms, kToday);
  CHECK(acceptance.verdict == AcceptanceVerdict::kAccepted);
  REQUIRE(acceptance.fixed.size() == 1);
  CHECK(acceptance.fixed[0].tensor == "model.layers.1.mlp.act");
  CHECK(acceptance.fixed[0].cause == "H05.modulo");
  REQUIRE(acceptance.not_judged.size() == 1);
  CHECK(acceptance.not_judged[0].tensor == "lm_head");

  run.coverage.not_compared = {{"a", "lockstep", 0, "model.layers.1.mlp.act", "its input holds NaN"}};
  run.verdict = Verdict::kInconclusive;
  const Acceptance in_doubt = accept(run, terms, kToday);
  CHECK(in_doubt.verdict == AcceptanceVerdict::kUndecided);
  CHECK(in_doubt.fixed.empty());
  CHECK(in_doubt.reasons == std::vector<std::string>{"model.layers.1.mlp.act in case a, step 0: its input holds NaN"});
}

TEST_CASE("acceptance: what could not be judged before decides nothing", "[acceptance]") {
  json report = report_json({});
  report["coverage"]["not_compared"] =
      json::array({{{"case", "a"}, {"mode", "lockstep"}, {"step", 0}, {"tensor", "lm_head"}, {"reason", "NaN"}}});
  RunResult run = run_with({});
  run.verdict = Verdict::kInconclusive;
  run.coverage.not_compared = {{"a", "lockstep", 0, "lm_head", "NaN"}};
  CHECK(accept(run, terms_with(report), kToday).verdict == AcceptanceVerdict::kAccepted);
  CHECK(accept(run, {.fail_on = kUsual}, kToday).verdict == AcceptanceVerdict::kUndecided);
  run.coverage.tensors_compared = 0;  // nothing at all is never right
  CHECK(accept(run, terms_with(report), kToday).verdict == AcceptanceVerdict::kUndecided);
  run = run_with({});
  run.verdict = Verdict::kInconclusive;
  run.reason = "the planted fault never ran";
  CHECK(accept(run, terms_with(report), kToday).reasons == std::vector<std::string>{"the planted fault never ran"});
}

TEST_CASE("acceptance: a trace's folder may have another name than the baseline's", "[acceptance]") {
  json report = report_json({finding_json("model.layers.0.mlp.act")});
  report["command"] = "qdiff diagnose --model m --trace nightly-17";
  report["findings"][0]["case"] = "nightly-17";
  report["findings"][0]["mode"] = "trace";
  Finding finding = finding_at(Op::kAct, 0);
  finding.case_id = "nightly-18";
  finding.mode = "trace";
  RunResult run = run_with({finding});
  run.of_trace = true;
  CHECK(accept(run, terms_with(report), kToday).verdict == AcceptanceVerdict::kAccepted);
}

TEST_CASE("acceptance: a baseline of something else is refused", "[acceptance]") {
  json report = report_json({});
  report["cases"][0]["id"] = "b";
  CHECK_THROWS_WITH(
      check_baseline(terms_with(report), false, {"a"}),
      "--baseline 'old': the report has none of this run's cases; take the report of a run like this one");
  report = report_json({});
  report["command"] = "qdiff diagnose --model m --trace t";
  CHECK_THROWS_WITH(check_baseline(terms_with(report), false, {"a"}), ContainsSubstring("the report is of a trace"));
  CHECK_NOTHROW(check_baseline(terms_with(report), true, {"t"}));
  report = report_json({});
  CHECK_THROWS_WITH(check_baseline(terms_with(report), true, {"t"}), ContainsSubstring("the report is of cases"));
  CHECK_NOTHROW(check_baseline(terms_with(report), false, {"b", "a"}));
  CHECK_THROWS_WITH(parse_baseline("{}", "r.json"),
                    ContainsSubstring("r.json: \"format\" is missing; it must be \"qdiff-report\"; --baseline takes"));
  report = report_json({finding_json("lm_head", nullptr, "spelling")});
  CHECK_THROWS_WITH(parse_baseline(report.dump(), "r.json"),
                    ContainsSubstring("r.json: findings[0]: \"kind\" is \"spelling\""));
  report = report_json(std::vector<json>{json::object()});
  CHECK_THROWS_WITH(parse_baseline(report.dump(), "r.json"), ContainsSubstring("findings[0]: \"case\" is missing"));
}

TEST_CASE("acceptance: kinds that do not fail a run", "[acceptance]") {
  Finding rounding = finding_at(Op::kAct, 0, std::nullopt);
  rounding.kind = FindingKind::kPrecision;
  rounding.explanation.points = {{"mlp.silu", "bfloat16"}};
  const RunResult run = run_with({rounding});
  const Acceptance lenient = accept(run, {.fail_on = {FindingKind::kLogic}}, kToday);
  CHECK(lenient.verdict == AcceptanceVerdict::kAccepted);
  CHECK(lenient.states == std::vector{FindingState::kNotCounted});
  const Acceptance strict = accept(run, {.fail_on = kUsual}, kToday);
  CHECK(strict.verdict == AcceptanceVerdict::kRefused);
  CHECK(strict.reasons == std::vector<std::string>{"1 new finding: 1 of mlp.silu"});

  json known = finding_json("model.layers.0.mlp.act", nullptr, "precision");
  known["explanation"]["points"] = {{"mlp.silu", "bfloat16"}};
  CHECK(accept(run, terms_with(report_json({known})), kToday).verdict == AcceptanceVerdict::kAccepted);
  CHECK(accept(run, terms_with(report_json({finding_json("model.layers.0.mlp.act", nullptr)})), kToday).verdict ==
        AcceptanceVerdict::kRefused);
}

TEST_CASE("acceptance: a waiver excuses what it fits up to its last day", "[acceptance]") {
  const RunResult run = run_with({finding_at(Op::kAttnOutput, 0), finding_at(Op::kAttnOutput, 1)});
  const Acceptance last_day = accept(run, terms_waiving(R"("variant": "H05.modulo", "expires": "2027-01-31")"), kToday);
  CHECK(last_day.verdict == AcceptanceVerdict::kAccepted);
  CHECK(last_day.states == std::vector{FindingState::kWaived, FindingState::kWaived});
  REQUIRE(last_day.waivers.size() == 1);
  CHECK(last_day.waivers[0].state == WaiverState::kUsed);
  CHECK(last_day.waivers[0].findings == 2);

  const Acceptance day_after =
      accept(run, terms_waiving(R"("variant": "H05.modulo", "expires": "2027-01-30")"), kToday);
  CHECK(day_after.verdict == AcceptanceVerdict::kRefused);
  CHECK(day_after.states == std::vector{FindingState::kNew, FindingState::kNew});
  CHECK(day_after.waivers[0].state == WaiverState::kExpired);
  REQUIRE(day_after.reasons.size() == 2);
  CHECK(day_after.reasons[0] == "2 new findings: 2 of H05.modulo");
  CHECK(day_after.reasons[1] ==
        "the waiver for H05.modulo expired on 2027-01-30, and it still occurs; mend it, or agree "
        "on another day (https://example.org/1)");
}

TEST_CASE("acceptance: a waiver for what no longer occurs is refused", "[acceptance]") {
  const std::string until = R"("expires": "2027-12-31")";
  const auto judged = [&](const std::string& waiver) {
    return accept(run_with({}), terms_waiving(waiver + ", " + until), kToday);
  };
  const Acceptance gone = judged(R"("variant": "H05.modulo")");
  CHECK(gone.verdict == AcceptanceVerdict::kRefused);
  CHECK(gone.reasons ==
        std::vector<std::string>{"the waiver for H05.modulo is for what no longer occurs; take it out of "
                                 "w.json (https://example.org/1)"});
  CHECK(judged(R"("tensor": "model.layers.*.mlp.act")").verdict == AcceptanceVerdict::kRefused);
  CHECK(judged(R"("mechanism": "copy.zeros")").verdict == AcceptanceVerdict::kRefused);
  CHECK(judged(R"("variant": "X.gate_up_swapped")").verdict == AcceptanceVerdict::kRefused);
  // What these inputs would not show may be there all the same.
  for (const char* waiver : {R"("tensor": "lm_head")", R"("tensor": "model.layers.7.mlp.act")",
                             R"("variant": "H05.head_zero")", R"("variant": "H05.modulo", "case": "b")"}) {
    INFO(waiver);
    const Acceptance unknown = judged(waiver);
    CHECK(unknown.verdict == AcceptanceVerdict::kAccepted);
    CHECK(unknown.waivers[0].state == WaiverState::kNotShown);
  }
  const Acceptance stale =
      accept(run_with({}), terms_waiving(R"("variant": "H05.modulo", "expires": "2026-01-01")"), kToday);
  CHECK(stale.reasons ==
        std::vector<std::string>{"the waiver for H05.modulo expired on 2026-01-01, and fits no finding of "
                                 "this run; take it out of w.json"});
}

}  // namespace
}  // namespace qdiff::acceptance
