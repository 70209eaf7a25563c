// Several recordings of one input: added in another order, a race, a stale buffer.
#include "harness/diagnose/repeats.h"

#include <cmath>

#include "cmake/catch2.h"
#include "harness/contract/error.h"
#include "harness/diagnose/tests/toy_trace.h"
#include "harness/diagnose/trace_run.h"

namespace qdiff::diagnose {
namespace {

using compare::Verdict;
using findings::RunResult;

const TensorKey kAct = key_of(Op::kAct, 1, 0);

void change(ToyTrace& toy, const TensorKey& key, const std::function<double(std::size_t i, double x)>& to) {
  const Tensor tensor = Tensor::copy_of(toy.tensors.get(key));
  std::vector<double> values = to_doubles(tensor.view());
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = to(i, values[i]);
  replace(toy.tensors, key, Tensor::rounded(tensor.dtype(), tensor.shape(), values));
}

RunResult judge(ToyTrace& first, ToyTrace& second) {
  const auto trace = first.write(), repeat = second.write();
  const ToyWeights weights;
  ToyOracle oracle;
  TraceOptions options;
  options.id = "trace";
  options.command = "qdiff diagnose --trace trace --repeat again";
  options.repeats = {repeat.get()};
  return judge_trace(
      {*trace, weights, oracle, [](const Precision& precision) { return std::make_unique<ToyEngine>(precision); }},
      options);
}

TEST_CASE("recordings of the same bits are said to be", "[repeats]") {
  ToyTrace first(ToyEngine{kF32}), second(ToyEngine{kF32});
  const RunResult result = judge(first, second);
  CHECK(result.verdict == Verdict::kMatch);
  CHECK(result.conditions == std::vector<std::string>{"2 recordings of this input hold the same bits"});
}

TEST_CASE("last bits that differ from run to run are sums in another order, and no finding", "[repeats]") {
  ToyTrace first(ToyEngine{kF32}), second(ToyEngine{kF32});
  change(second, kAct, [](std::size_t i, double x) { return i % 3 == 0 ? x * (1.0 + 0x1p-23) : x; });
  const RunResult result = judge(first, second);
  CHECK(result.verdict == Verdict::kMatch);
  REQUIRE(result.conditions.size() == 1);
  CHECK_THAT(result.conditions[0],
             StartsWith("2 recordings of this input differ in 1 tensor, first in model.layers.1."
                        "mlp.act of step 0 (34 % of its elements), each right to within rounding"));
}

TEST_CASE("a value that is wrong in one run is a race, though the judged recording is right", "[repeats]") {
  for (const bool wrong_first : {false, true}) {
    ToyTrace first(ToyEngine{kF32}), second(ToyEngine{kF32});
    change(wrong_first ? first : second, kAct, [](std::size_t i, double x) { return i >= 24 && i < 48 ? x + 0.1 : x; });
    const RunResult result = judge(first, second);
    CHECK(result.verdict == Verdict::kDiverged);
    REQUIRE(result.first_divergence() != nullptr);
    const findings::Finding& finding = *result.first_divergence();
    CHECK(finding.tensor == kAct.id);
    CHECK(finding.kind == findings::FindingKind::kLogic);
    CHECK_FALSE(finding.explanation.hypothesis.has_value());
    CHECK_THAT(finding.explanation.sentence,
               StartsWith("not equal from run to run, a race: recording " + std::string(wrong_first ? "1" : "2")));
    CHECK_THAT(finding.explanation.pattern, ContainsSubstring("token row 1"));
    CHECK_THAT(result.conditions[0], ContainsSubstring("a race"));
  }
}

TEST_CASE("what memory held before is a stale buffer", "[repeats]") {
  ToyTrace first(ToyEngine{kF32}), second(ToyEngine{kF32}), zeros(ToyEngine{kF32});
  const std::vector<double> before = to_doubles(second.tensors.get(key_of(Op::kAct, 0, 0)));
  change(second, kAct, [&](std::size_t i, double x) { return i < 24 ? before[i] : x; });
  const RunResult result = judge(first, second);
  CHECK(result.verdict == Verdict::kDiverged);
  REQUIRE(result.first_divergence() != nullptr);
  CHECK_THAT(result.first_divergence()->explanation.sentence,
             ContainsSubstring("a stale buffer: recording 2 holds what model.layers.0.mlp.act of step 0 held there"));
  change(zeros, kAct, [](std::size_t i, double x) { return i < 24 ? 0.0 : x; });
  CHECK_THAT(judge(first, zeros).first_divergence()->explanation.sentence,
             ContainsSubstring("recording 2 holds zeros, as memory that nobody wrote"));
}

TEST_CASE("a bug before what differs is still explained, and what follows it is not", "[repeats]") {
  ToyTrace first(toy_engine({FaultId::kNoSilu, {}, 0})), second(toy_engine({FaultId::kNoSilu, {}, 0}));
  change(second, key_of(Op::kDownProj, 2, 0), [](std::size_t i, double x) { return i < 8 ? x + 0.5 : x; });
  const RunResult result = judge(first, second);
  REQUIRE(result.first_divergence() != nullptr);
  CHECK(result.first_divergence()->explanation.variant == FaultId::kNoSilu);
  CHECK(std::ranges::any_of(result.findings, [](const findings::Finding& finding) {
    return finding.tensor == TensorId{Op::kDownProj, 2} &&
           finding.explanation.sentence.find("race") != std::string::npos;
  }));
}

TEST_CASE("what was recorded too far behind the last tensor is not called a race", "[repeats]") {
  ToyTrace first(ToyEngine{kF32}), second(ToyEngine{kF32});
  change(second, key_of(Op::kLmHead, kNoLayer, 0), [](std::size_t i, double x) { return i == 3 ? x + 1.0 : x; });
  first.keep({Op::kLmHead});
  second.keep({Op::kLmHead});
  const RunResult result = judge(first, second);
  CHECK(result.verdict == Verdict::kMatch);
  CHECK_THAT(result.conditions[0], ContainsSubstring("what would tell rounding from a race was not recorded"));
}

TEST_CASE("a recording of another input is refused", "[repeats]") {
  ToyTrace first(ToyEngine{kF32}), other(ToyEngine{kF32}, toy_case({5, 1})), shorter(ToyEngine{kF32}, toy_case({6}));
  CHECK_THROWS_WITH(judge(first, other), ContainsSubstring("recording 2 is not of the same input: step 0"));
  CHECK_THROWS_WITH(judge(first, shorter), ContainsSubstring("step 1 is missing"));
}

}  // namespace
}  // namespace qdiff::diagnose
