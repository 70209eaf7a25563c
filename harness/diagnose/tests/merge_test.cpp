// Results of several models as one.
#include <algorithm>

#include "cmake/catch2.h"
#include "harness/diagnose/conclusions.h"
#include "harness/diagnose/run.h"

namespace qdiff::diagnose {
namespace {

using compare::Verdict;
using findings::Finding;
using findings::HypothesisVerdict;
using findings::RunResult;

std::vector<VariantFacts> catalogue() {
  return {{FaultId::kNoHeadStride, "", "", {Op::kKCache}, ""},
          {FaultId::kModulo, "h % K", "", {Op::kAttnOutput}, ""},
          {FaultId::kDivideByKv, "h / K", "", {Op::kAttnOutput}, ""}};
}

RunResult result_of(const std::vector<Finding>& findings, const std::set<FaultId>& shown = {}) {
  Detectability detectability;
  for (FaultId variant : shown) {
    detectability.tried.insert(variant);
    detectability.cases_that_show[variant] = {"case"};
  }
  RunResult result;
  result.catalogue = catalogue();
  result.findings = findings;
  result.hypotheses = judge_hypotheses(findings, result.catalogue, detectability);
  if (!findings.empty()) result.verdict = Verdict::kDiverged;
  return result;
}

Finding finding_of(const std::vector<Variant>& fits) {
  Finding finding;
  finding.tensor = {Op::kAttnOutput, 0};
  finding.explanation = explanation_of(fits, catalogue());
  return finding;
}

TEST_CASE("figures of several models are added up, names listed once, and the nearest to its bound kept", "[merge]") {
  RunResult a = result_of({}), b = result_of({});
  a.model = "A";
  b.model = "B";
  a.config = "small";
  b.config = "large";
  a.planted_executions = 2;
  b.planted_executions = 3;
  a.seconds = 1.0;
  b.seconds = 0.5;
  a.cases.resize(1);
  b.cases.resize(2);
  a.free_runs.resize(1);
  b.free_runs.resize(1);
  a.coverage.tensors_missing = {"model.norm"};
  b.coverage.tensors_missing = {"model.norm", "lm_head"};
  a.coverage.not_compared.resize(1);
  b.coverage.not_compared.resize(1);
  a.closest =
      findings::ClosestToBound{.case_id = "a", .mode = "", .step = 0, .tensor = "", .statistic = "", .ratio = 0.4};
  b.closest =
      findings::ClosestToBound{.case_id = "b", .mode = "", .step = 0, .tensor = "", .statistic = "", .ratio = 0.6};
  for (const RunResult& merged : {merge({a, b}), merge({b, a})}) {
    CHECK(merged.planted_executions == 5);
    CHECK(merged.seconds == 1.5);
    CHECK(merged.cases.size() == 3);
    CHECK(merged.free_runs.size() == 2);
    CHECK(merged.coverage.tensors_missing.size() == 2);
    CHECK(merged.coverage.not_compared.size() == 2);
    CHECK(merged.closest->case_id == "b");
  }
  CHECK(merge({a, b}).model == "A, B");
  CHECK(merge({a, b}).config == "small; large");
  CHECK(merge({}).findings.empty());
  CHECK(merge({a}).model == "A");
}

TEST_CASE("the gravest verdict stands with its reason", "[merge]") {
  RunResult match = result_of({}), doubtful = result_of({}), wrong = result_of({finding_of({})});
  doubtful.verdict = Verdict::kInconclusive;
  doubtful.reason = "lm_head: its input holds NaN";
  for (const auto& order : std::vector<std::vector<RunResult>>{{match, doubtful}, {doubtful, match}}) {
    CHECK(merge(order).verdict == Verdict::kInconclusive);
    CHECK(merge(order).reason == doubtful.reason);
  }
  CHECK(merge({doubtful, wrong}).verdict == Verdict::kDiverged);
  CHECK(merge({wrong, doubtful}).verdict == Verdict::kDiverged);
  CHECK(merge({match, match}).verdict == Verdict::kMatch);
}

const Finding kTie = finding_of({{FaultId::kNoHeadStride, {}}, {FaultId::kModulo, {}}});

TEST_CASE("another model's cases refute a variant that they would have shown, and none that they found too",
          "[merge]") {
  const RunResult tied = result_of({kTie});
  // Shown elsewhere and not found there: out.
  CHECK(merge({tied, result_of({}, {FaultId::kNoHeadStride})}).findings[0].explanation.variant == FaultId::kModulo);
  // Shown and found: both stay.
  CHECK(merge({tied, result_of({kTie}, {FaultId::kNoHeadStride})}).findings[0].explanation.alternatives.size() == 1);
  // Not shown: nothing is said.
  CHECK(merge({tied, result_of({})}).findings[0].explanation.alternatives.size() == 1);
  // Where each would be out, the tie stays as it was.
  const RunResult both = merge({tied, result_of({}, {FaultId::kNoHeadStride, FaultId::kModulo})});
  CHECK(both.findings[0].explanation.variant == FaultId::kNoHeadStride);
  CHECK(both.findings[0].explanation.alternatives.size() == 1);
}

TEST_CASE("what one engine or type rules out another may have", "[merge]") {
  RunResult tied = result_of({kTie}), right = result_of({}, {FaultId::kNoHeadStride});
  tied.engine = "cuda";
  right.engine = "cpu";
  CHECK(merge({tied, right}).findings[0].explanation.alternatives.size() == 1);
  right.engine = "cuda";
  right.precision.weights = DType::kF32;
  CHECK(merge({tied, right}).findings[0].explanation.alternatives.size() == 1);
  right.precision.weights = tied.precision.weights;
  CHECK(merge({tied, right}).findings[0].explanation.alternatives.empty());
}

TEST_CASE("evidence takes the variant that is confirmed elsewhere, of the same engine alone", "[merge]") {
  RunResult confirmed = result_of({finding_of({{FaultId::kModulo, {}}})}), evidence = result_of({finding_of({})});
  confirmed.engine = evidence.engine = "cpu";
  evidence.findings[0].explanation.hypothesis = "H05";
  evidence.findings[0].explanation.evidence = "heads are exchanged";
  for (const auto& results : {std::vector{confirmed, evidence}, std::vector{evidence, confirmed}}) {
    for (const Finding& finding : merge(results).findings) CHECK(finding.explanation.variant == FaultId::kModulo);
  }
  evidence.engine = "cuda";
  CHECK_FALSE(merge({confirmed, evidence}).findings[1].explanation.variant);
}

TEST_CASE("each case says on what it ran, and joined results name each engine and model once", "[merge]") {
  RunResult first = result_of({}), second = result_of({});
  for (RunResult* result : {&first, &second}) {
    result->cases.resize(1);
    result->model = "m";
    result->device = "cpu";
  }
  first.engine = "cpu";
  second.engine = "reference";
  second.precision.activations = DType::kF32;
  const RunResult merged = merge({first, second, first});
  CHECK(merged.model == "m");
  CHECK(merged.engine == "cpu, reference");
  CHECK(merged.device == "cpu");
  REQUIRE(merged.cases.size() == 3);
  CHECK((merged.cases[1].model == "m" && merged.cases[1].engine == "reference" && merged.cases[1].dtype == "float32"));
  CHECK(merged.cases[2].dtype == "bfloat16");
}

TEST_CASE("a variant that was in doubt is so still when the others are out", "[merge]") {
  Finding doubtful = kTie;
  doubtful.explanation.evidence = "the span is long";
  doubtful.explanation.pattern = "head 2";
  doubtful.explanation.layers = {1};
  const findings::Explanation left =
      merge({result_of({doubtful}), result_of({}, {FaultId::kModulo})}).findings[0].explanation;
  CHECK(left.variant == FaultId::kNoHeadStride);
  CHECK(left.verdict == HypothesisVerdict::kConsistent);
  CHECK(left.evidence == "the span is long");
  CHECK(left.pattern == "head 2");
  CHECK(left.layers == std::vector<int>{1});
  // The doubt was of the first variant, not of the one that is left.
  const findings::Explanation other =
      merge({result_of({doubtful}), result_of({}, {FaultId::kNoHeadStride})}).findings[0].explanation;
  CHECK(other.verdict == HypothesisVerdict::kConfirmed);
  CHECK(other.evidence.empty());
}

TEST_CASE("hypotheses are judged again by all findings together", "[merge]") {
  const RunResult merged =
      merge({result_of({}, {FaultId::kModulo}), result_of({finding_of({{FaultId::kDivideByKv, {}}})})});
  for (const findings::HypothesisResult& hypothesis : merged.hypotheses) {
    if (hypothesis.id != "H05") continue;
    CHECK(hypothesis.verdict == HypothesisVerdict::kConfirmed);
    CHECK(hypothesis.variant == FaultId::kDivideByKv);
    CHECK(hypothesis.exercised_variants == std::vector<FaultId>{FaultId::kModulo});
  }
  CHECK(std::find(merged.coverage.blind.begin(), merged.coverage.blind.end(), "H05") == merged.coverage.blind.end());
  CHECK(merged.coverage.blind.size() == 9);
}

}  // namespace
}  // namespace qdiff::diagnose
