// The main job whole, on small models: engine, reference, judge and diagnosis together.
#include <memory>
#include <string>

#include "cmake/catch2.h"
#include "harness/cases/case.h"
#include "harness/contract/tests/table_counts.h"
#include "harness/diagnose/run.h"
#include "harness/model/model.h"
#include "optimized/cpu/engine.h"
#include "reference/reference.h"

namespace qdiff {
namespace {

using compare::Verdict;
using findings::Finding;
using findings::HypothesisVerdict;
using findings::RunResult;

struct Setting {
  std::string case_id = "H05-gqa";
  std::string model = {};  // empty: the case's own
  DType dtype = DType::kBF16;
  std::optional<Fault> inject = {};
  diagnose::RunOptions options = {};
};

RunResult run(const cases::Case& test_case, Setting setting) {
  const auto weights = model::open_model(setting.model.empty() ? test_case.model : setting.model);
  const auto candidate = optimized::cpu::make_engine(*weights, {.dtype = setting.dtype, .num_threads = 2});
  const auto reference = reference::make_engine(*weights, gold_precision(setting.dtype), {});
  const auto oracle = reference::make_oracle(*weights, {});
  if (setting.inject) {
    candidate->plant(*setting.inject);
    setting.options.inject = setting.inject;
  }
  const CaseInput input = cases::input_of(test_case, weights->config());
  return diagnose::run_cases(std::span(&input, 1), {*candidate, *reference, *oracle, *weights}, setting.options);
}

RunResult run(const Setting& setting) { return run(cases::load_case(setting.case_id), setting); }

const findings::HypothesisResult& hypothesis(const RunResult& result, const std::string& id) {
  for (const auto& h : result.hypotheses) {
    if (h.id == id) return h;
  }
  throw std::out_of_range(id);
}

TEST_CASE("a clean engine matches in every dtype, and every variant of H05 would have shown", "[main]") {
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    INFO(name(dtype));
    const RunResult result = run({.dtype = dtype});
    INFO(result.reason);
    if (!result.findings.empty()) INFO(tensor_name(result.findings[0].tensor) << result.findings[0].judgement.reason);
    CHECK(result.verdict == Verdict::kMatch);
    CHECK(result.findings.empty());
    CHECK(result.coverage.not_compared.empty());
    CHECK(result.coverage.tensors_compared > 500);
    CHECK(hypothesis(result, "H05").verdict == HypothesisVerdict::kRefuted);
    CHECK(hypothesis(result, "H05").blind_variants.empty());
    REQUIRE(result.free_runs.size() == 1);
    CHECK(result.free_runs[0].logits_relative_rms_error < 0.1);
  }
}

TEST_CASE("each planted head map is found at layer 0's attention output and named", "[main]") {
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (FaultId id : {FaultId::kModulo, FaultId::kDivideByKv, FaultId::kDecodeOnly, FaultId::kPrefillOnly,
                       FaultId::kHeadZero, FaultId::kGroupOffByOne}) {
      INFO(name(id) << " in " << name(dtype));
      const RunResult result = run({.dtype = dtype, .inject = Fault{id, {}, {}}});
      CHECK(result.verdict == Verdict::kDiverged);
      CHECK(result.planted_executions > 0);
      const Finding* first = result.first_divergence();
      REQUIRE(first != nullptr);
      CHECK(tensor_name(first->tensor) == "model.layers.0.self_attn.attn_output");
      CHECK(first->explanation.hypothesis == "H05");
      CHECK(first->explanation.variant == id);
      CHECK(first->explanation.verdict == HypothesisVerdict::kConfirmed);
      CHECK(hypothesis(result, "H05").verdict == HypothesisVerdict::kConfirmed);
      for (const Finding& finding : result.findings) CHECK(finding.tensor.op == Op::kAttnOutput);
    }
  }
}

TEST_CASE("a fault in one layer is found in that layer alone", "[main]") {
  const RunResult result = run({.inject = Fault{FaultId::kModulo, {}, 1}});
  REQUIRE(result.first_divergence() != nullptr);
  CHECK(result.first_divergence()->tensor == TensorId{Op::kAttnOutput, 1});
  CHECK(result.first_divergence()->explanation.layers == std::vector<int>{1});
}

TEST_CASE("a model on which a wrong head map is right calls it undetectable", "[main]") {
  // One query head for each key/value head: every head map of the catalogue but head_zero is the right one.
  const RunResult result = run({.model = "synthetic:toy-mha"});
  CHECK(result.verdict == Verdict::kMatch);
  const auto& h05 = hypothesis(result, "H05");
  bool modulo_is_blind = false;
  for (const auto& blind : h05.blind_variants) modulo_is_blind = modulo_is_blind || blind.variant == FaultId::kModulo;
  CHECK(modulo_is_blind);
}

TEST_CASE("small doses are found", "[main][doses]") {
  struct Dose {
    FaultId id;
    std::optional<double> value;
    DType dtype;
    const char* model;
    Op op;
  };
  const char* const kOwnModel = "";
  const Dose doses[] = {
      {FaultId::kTheta, 1.001e6, DType::kF32, kOwnModel, Op::kQRope},
      {FaultId::kTheta, 1.001e6, DType::kBF16, kOwnModel, Op::kQRope},
      {FaultId::kTheta, 1.001e6, DType::kF16, kOwnModel, Op::kQRope},
      {FaultId::kScale, 1.01, DType::kF32, kOwnModel, Op::kAttnOutput},
      {FaultId::kScale, 1.01, DType::kBF16, kOwnModel, Op::kAttnOutput},
      {FaultId::kScale, 1.01, DType::kF16, kOwnModel, Op::kAttnOutput},
      {FaultId::kBiasBf16, {}, DType::kF32, "synthetic:toy-15x5,profile=qwen,dtype=float32", Op::kQProj},
  };
  for (const Dose& dose : doses) {
    INFO(name(dose.id) << " in " << name(dose.dtype));
    const RunResult result = run({.model = dose.model, .dtype = dose.dtype, .inject = Fault{dose.id, dose.value, {}}});
    CHECK(result.verdict == Verdict::kDiverged);
    REQUIRE(result.first_divergence() != nullptr);
    CHECK(result.first_divergence()->tensor == TensorId{dose.op, 0});
    const findings::Explanation& explanation = result.first_divergence()->explanation;
    CHECK(explanation.variant == dose.id);
    if (dose.value) {
      REQUIRE(explanation.value.has_value());
      CHECK(*explanation.value == Approx(*dose.value).epsilon(2e-4));
      CHECK(explanation.expected_value.has_value());
    }
  }
}

TEST_CASE("an epsilon ten per cent off shows in rows of tiny norm", "[main][doses]") {
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    INFO(name(dtype));
    const RunResult result =
        run({.case_id = "H09-tiny-norm", .dtype = dtype, .inject = Fault{FaultId::kEps, 1.1e-6, {}}});
    CHECK(result.verdict == Verdict::kDiverged);
    REQUIRE(result.first_divergence() != nullptr);
    CHECK(result.first_divergence()->tensor == TensorId{Op::kInputLayernorm, 0});
  }
}

TEST_CASE("layer and step filters judge what they name and nothing else", "[main]") {
  diagnose::RunOptions options = {};
  options.layers = std::set<int>{1};
  options.steps = std::set<int>{2};
  const RunResult result = run({.options = options});
  CHECK(result.verdict == Verdict::kMatch);
  CHECK(result.coverage.tensors_compared == 2 * kFusedRowsOfALayer);  // in two modes

  options.steps = std::set<int>{77};
  const RunResult nothing = run({.options = options});
  CHECK(nothing.verdict == Verdict::kInconclusive);
  CHECK(nothing.coverage.tensors_compared == 0);

  options.layers = std::set<int>{9};
  CHECK_THROWS_WITH(run({.options = options}), ContainsSubstring("no layer 9"));
}

TEST_CASE("a chunk of padding alone takes nothing from a match", "[main]") {
  const cases::Case test_case = cases::parse_case(R"({
    "format": "qdiff-case", "version": 1, "id": "padding-alone", "title": "Padding alone", "hypothesis": null,
    "stresses": "The first chunk of the only row.", "model": "synthetic:toy-d64", "batch": 1, "left_padding": [4],
    "capacity": 12, "seed": 1, "steps": [{"phase": "prefill", "tokens": 4}, {"phase": "prefill", "tokens": 5}]})",
                                                  "padding-alone");
  const RunResult result = run(test_case, {});
  INFO(result.reason);
  CHECK(result.verdict == Verdict::kMatch);
  CHECK(result.coverage.not_compared.empty());
}

TEST_CASE("bugs are named where scores are far from zero, and where the cache ends", "[main]") {
  struct Planted {
    const char* case_id;
    FaultId fault;
  };
  for (const Planted& planted : {Planted{"H02-loud-scores", FaultId::kTailZero},
                                 {"H02-loud-scores", FaultId::kQkFp16},
                                 {"H08-tile-edge", FaultId::kReadPlusOne},
                                 {"H08-tile-edge", FaultId::kLengthCountsCurrent}}) {
    INFO(planted.case_id << " with " << name(planted.fault));
    const RunResult result = run({.case_id = planted.case_id, .inject = Fault{planted.fault, {}, {}}});
    CHECK(result.verdict == Verdict::kDiverged);
    CHECK(result.findings.size() > 3);
    for (const Finding& finding : result.findings) {
      INFO(tensor_name(finding.tensor) << " step " << finding.step);
      CHECK(finding.explanation.variant == planted.fault);
    }
  }
}

// In this model's layer 2 one element that o_proj stores over its input lies so near the middle between two float16
// numbers that the engine's sum and gold's fall to different sides, and what is computed from it differs far more than
// sums do.
TEST_CASE("an overwrite is named where gold stores another neighbour than the engine", "[main]") {
  const RunResult result = run({.case_id = "H04-square",
                                .model = "synthetic:toy-14x2,seed=6,profile=plain,dtype=float16",
                                .dtype = DType::kF16,
                                .inject = Fault{FaultId::kWoCols, 64.0, 2}});
  REQUIRE(!result.findings.empty());
  for (const Finding& finding : result.findings) {
    CHECK(finding.tensor == TensorId{Op::kOProj, 2});
    CHECK(finding.explanation.variant == FaultId::kWoCols);
    CHECK(finding.explanation.value == 64.0);
  }
}

TEST_CASE("equal runs give equal findings", "[main]") {
  const Fault fault{FaultId::kModulo, {}, {}};
  const RunResult a = run({.inject = fault});
  const RunResult b = run({.inject = fault});
  REQUIRE(a.findings.size() == b.findings.size());
  for (std::size_t i = 0; i < a.findings.size(); ++i) {
    CHECK(a.findings[i].judgement.reason == b.findings[i].judgement.reason);
    CHECK(a.findings[i].command == b.findings[i].command);
  }
}

}  // namespace
}  // namespace qdiff
