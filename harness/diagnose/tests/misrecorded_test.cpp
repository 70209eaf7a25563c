// What a recorder got wrong, told from what an engine did.
#include "harness/diagnose/misrecorded.h"

#include <cmath>

#include "cmake/catch2.h"
#include "harness/diagnose/tests/toy_trace.h"
#include "harness/diagnose/trace_run.h"

namespace qdiff::diagnose {
namespace {

using compare::Verdict;
using findings::FindingKind;
using findings::RunResult;

RunResult judge(ToyTrace& toy) {
  const auto trace = toy.write();
  const ToyWeights weights;
  ToyOracle oracle;
  return judge_trace(
      {*trace, weights, oracle, [](const Precision& precision) { return std::make_unique<ToyEngine>(precision); }},
      {.id = "trace", .command = "qdiff diagnose --trace trace", .probing = false});
}

// The last layer's output stands where that of layer 0 should.
void misrecord(ToyTrace& toy) {
  replace(toy.tensors, key_of(Op::kOutput, 0), Tensor::copy_of(toy.tensors.get(key_of(Op::kOutput, 2))));
}

TEST_CASE("a tensor whose readers follow from the right value was recorded wrongly", "[misrecorded]") {
  ToyTrace toy(ToyEngine{kF32});
  misrecord(toy);
  const RunResult result = judge(toy);
  CHECK(result.verdict == Verdict::kInconclusive);
  REQUIRE(result.findings.size() == 1);
  CHECK(result.findings[0].kind == FindingKind::kRecording);
  CHECK(result.findings[0].tensor == TensorId{Op::kOutput, 0});
  CHECK(result.findings[0].step == 0);
  CHECK_THAT(result.findings[0].explanation.sentence, ContainsSubstring("it holds output of layer 2 to the bit"));
  CHECK_FALSE(result.findings[0].explanation.hypothesis.has_value());
  CHECK(result.first_divergence() == nullptr);
  CHECK_THAT(result.reason, ContainsSubstring("model.layers.0.output of step 0 was recorded too late"));
  CHECK(result.cases[0].verdict == Verdict::kInconclusive);
  // It was recorded, so it is not missing.
  CHECK(result.coverage.tensors_missing.empty());
}

TEST_CASE("a tensor whose readers follow from what it holds is the engine's own", "[misrecorded]") {
  ToyEngine engine{kF32};
  engine.change = [](int step, const TensorId& id, Tensor& tensor) {
    for (std::int64_t i = 0; step == 0 && id == TensorId{Op::kOutput, 0} && i < tensor.size(); ++i) {
      tensor.set(i, 2.0 * tensor.at(i));
    }
  };
  ToyTrace toy(std::move(engine));
  const RunResult result = judge(toy);
  CHECK(result.verdict == Verdict::kDiverged);
  REQUIRE(result.findings.size() == 1);
  CHECK(result.findings[0].kind == FindingKind::kLogic);
}

// What a norm makes of an infinity is NaN.
TEST_CASE("an infinity that no later tensor shows was recorded wrongly", "[misrecorded]") {
  for (const double held : {HUGE_VAL, -HUGE_VAL}) {
    ToyTrace toy(ToyEngine{kF32});
    const TensorKey output = key_of(Op::kOutput, 0);
    Tensor tensor = Tensor::copy_of(toy.tensors.get(output));
    tensor.set(3, held);
    replace(toy.tensors, output, std::move(tensor));
    const RunResult result = judge(toy);
    CHECK(result.verdict == Verdict::kInconclusive);
    REQUIRE(result.findings.size() == 1);
    CHECK(result.findings[0].kind == FindingKind::kRecording);
    CHECK(result.findings[0].tensor == output.id);
  }
}

// What one small element makes of the sums that read it is lost in their rounding.
TEST_CASE("a step in which nothing shows a recorder's mistake is like the others", "[misrecorded]") {
  const TensorId act{Op::kAct, 0};
  const auto spoil = [&](ToyTrace& toy, int step, bool smallest) {
    Tensor tensor = Tensor::copy_of(toy.tensors.get({step, act}));
    std::int64_t at = 0;
    for (std::int64_t i = 1; i < tensor.size(); ++i) {
      const double here = std::fabs(tensor.at(i)), there = std::fabs(tensor.at(at));
      if (smallest ? here < there : here > there) at = i;
    }
    tensor.set(at, tensor.at(at) * (smallest ? 1.05 : 1.5));
    replace(toy.tensors, {step, act}, std::move(tensor));
  };
  ToyTrace everywhere(ToyEngine{plain_precision(DType::kBF16)});
  spoil(everywhere, 0, false);
  spoil(everywhere, 1, true);
  const RunResult recorders = judge(everywhere);
  CHECK(recorders.verdict == Verdict::kInconclusive);
  CHECK(recorders.findings.size() == 2);
  for (const auto& finding : recorders.findings) CHECK(finding.kind == FindingKind::kRecording);
  ToyTrace alone(ToyEngine{plain_precision(DType::kBF16)});
  spoil(alone, 1, true);
  CHECK(judge(alone).verdict == Verdict::kDiverged);
}

// One element of a tensor is another: in the recording alone, or in the engine, which goes on with it.
RunResult judge_with_element(const TensorId& id, std::int64_t element, double value, bool engine_has_it,
                             const Precision& precision = plain_precision(DType::kBF16)) {
  ToyEngine engine{precision};
  const auto spoil = [=](Tensor& tensor) { tensor.set(element, value); };
  if (engine_has_it) {
    engine.change = [=](int step, const TensorId& of, Tensor& tensor) {
      if (step == 0 && of == id) spoil(tensor);
    };
  }
  ToyTrace toy(std::move(engine));
  if (!engine_has_it) {
    Tensor tensor = Tensor::copy_of(toy.tensors.get({0, id}));
    spoil(tensor);
    replace(toy.tensors, {0, id}, std::move(tensor));
  }
  return judge(toy);
}

TEST_CASE("one wrong element is the recorder's where its readers follow from the right one", "[misrecorded]") {
  for (const OperationRow& operation : kOperationTable) {
    const bool is_read = operation.op != Op::kLmHead;
    if (!is_read || operation.arithmetic == Arithmetic::kAppend) continue;
    const TensorId id{operation.op, operation.scope == Scope::kLayer ? 0 : kNoLayer};
    for (const double value : {std::nan(""), HUGE_VAL, 40.0}) {
      INFO(tensor_name(id) << " holds " << value);
      const RunResult recorders = judge_with_element(id, 1, value, false);
      INFO(recorders.reason);
      CHECK(recorders.verdict == Verdict::kInconclusive);
      REQUIRE(recorders.findings.size() == 1);
      CHECK(recorders.findings[0].kind == FindingKind::kRecording);
      CHECK(recorders.findings[0].tensor == id);
      const RunResult engines = judge_with_element(id, 1, value, true);
      CHECK(engines.verdict == Verdict::kDiverged);
      for (const auto& finding : engines.findings) CHECK(finding.kind == FindingKind::kLogic);
    }
  }
}

TEST_CASE("a report says which elements the recorder got wrong", "[misrecorded]") {
  const RunResult result = judge_with_element({Op::kOutput, 0}, 17, std::nan(""), false);
  REQUIRE(result.findings.size() == 1);
  CHECK_THAT(result.findings[0].explanation.sentence,
             ContainsSubstring("recorded wrongly in 1 element of ") && ContainsSubstring("it holds nan where"));
}

TEST_CASE("nothing speaks for the engine where no reader was recorded", "[misrecorded]") {
  ToyTrace toy(ToyEngine{kF32});
  misrecord(toy);
  for (const TensorKey& key : toy.tensors.keys()) {
    if (key.id.layer > 0 || key.id.op == Op::kNorm || key.id.op == Op::kLmHead) toy.tensors.erase(key);
  }
  const RunResult result = judge(toy);
  CHECK(result.verdict == Verdict::kDiverged);
  for (const auto& finding : result.findings) CHECK(finding.kind == FindingKind::kLogic);
}

TEST_CASE("a bug beside a recorder's mistake is found and named", "[misrecorded]") {
  ToyTrace toy(toy_engine({FaultId::kNoSilu, {}, 1}));
  misrecord(toy);
  const RunResult result = judge(toy);
  CHECK(result.verdict == Verdict::kDiverged);
  REQUIRE(result.findings.size() == 3);
  CHECK(result.first_divergence()->explanation.variant == FaultId::kNoSilu);
  CHECK(std::ranges::count(result.findings, FindingKind::kRecording, &findings::Finding::kind) == 1);
}

}  // namespace
}  // namespace qdiff::diagnose
