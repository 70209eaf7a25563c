// The main job on closed formulas: a candidate engine against the reference, free-running and in lockstep.
#include "harness/diagnose/run.h"

#include <cmath>

#include "cmake/catch2.h"
#include "harness/contract/error.h"
#include "harness/contract/tests/table_counts.h"
#include "harness/diagnose/tests/toy_rows.h"

namespace qdiff::diagnose {
namespace {

using compare::Verdict;
using findings::HypothesisVerdict;
using findings::RunResult;

RunResult run(ToyEngine engine, const RunOptions& options = {},
              const std::vector<CaseInput>& cases = {toy_case({6, 1}, "first"), toy_case({4}, "second")}) {
  ToyEngine reference(gold_precision(DType::kF32));
  ToyOracle oracle;
  const ToyWeights weights;
  return run_cases(cases, {engine, reference, oracle, weights}, options);
}

const findings::HypothesisResult& hypothesis(const RunResult& result, const std::string& id) {
  for (const auto& of : result.hypotheses) {
    if (of.id == id) return of;
  }
  throw std::out_of_range(id);
}

TEST_CASE("an honest engine matches, free-running and in lockstep", "[run]") {
  const RunResult result = run(ToyEngine{kF32});
  CHECK(result.verdict == Verdict::kMatch);
  CHECK(result.findings.empty());
  const auto tensors = static_cast<std::int64_t>(all_tensors(toy_config(), true).size());
  CHECK(result.coverage.tensors_compared == 2 * (2 + 1) * tensors);  // both modes, three steps in all
  CHECK(result.engine == "toy");
  CHECK(result.model == "toy");
  REQUIRE(result.cases.size() == 2);
  CHECK(result.cases[0].tensors_compared == 4 * tensors);
  REQUIRE(result.free_runs.size() == 2);
  CHECK(result.free_runs[0].same_top_token == 7);
  CHECK(hypothesis(result, "H02").verdict == HypothesisVerdict::kRefuted);
  CHECK(hypothesis(result, "H05").verdict == HypothesisVerdict::kNotExercised);
}

TEST_CASE("a planted bug is found in its layer alone, in both modes, and named", "[run]") {
  RunOptions options;
  options.inject = Fault{FaultId::kScale, 1.0, 1};
  options.repeat_arguments = " --dtype float32";
  const RunResult result = run(toy_engine(std::get<Fault>(*options.inject)), options);
  CHECK(result.verdict == Verdict::kDiverged);
  REQUIRE(result.injected.has_value());
  CHECK(to_string(*result.injected) == "H02.scale=1@1");
  REQUIRE(result.findings.size() == 2 * 3);
  std::set<std::string> modes;
  for (const findings::Finding& finding : result.findings) {
    modes.insert(finding.mode);
    CHECK(finding.tensor == TensorId{Op::kScores, 1});
    CHECK(finding.explanation.variant == FaultId::kScale);
    CHECK(finding.explanation.value == 1.0);
    CHECK(finding.explanation.expected_value == 0.3);
    CHECK(finding.explanation.verdict == HypothesisVerdict::kConfirmed);
  }
  CHECK(modes == std::set<std::string>{"free", "lockstep"});
  CHECK_THAT(result.findings[0].command, StartsWith("qdiff run cases/first.json --dtype float32 --mode "));
  CHECK_THAT(result.findings[0].command, ContainsSubstring(" --layers 1 --steps 0"));
  CHECK(hypothesis(result, "H02").verdict == HypothesisVerdict::kConfirmed);
  CHECK(hypothesis(result, "H09").verdict == HypothesisVerdict::kRefuted);
}

TEST_CASE("filters leave out modes, layers and steps", "[run]") {
  RunOptions options;
  options.mode = Mode::kLockstep;
  options.layers = {1};
  options.steps = {1};
  const RunResult result = run(toy_engine({FaultId::kNoSilu}), options);
  REQUIRE(result.findings.size() == 1);  // the second case has no step 1
  CHECK(result.findings[0].mode == "lockstep");
  CHECK(result.findings[0].step == 1);
  CHECK(result.findings[0].tensor == TensorId{Op::kAct, 1});
  CHECK(result.coverage.tensors_compared == kRowsOfALayer);
  CHECK(result.free_runs.empty());
  CHECK(result.cases[1].verdict == Verdict::kInconclusive);

  options.mode = Mode::kFree;
  options.layers.reset();
  CHECK(run(ToyEngine{kF32}, options).coverage.tensors_compared ==
        static_cast<std::int64_t>(all_tensors(toy_config(), true).size()));
}

TEST_CASE("a filter or a case that does not fit the model is an error", "[run]") {
  RunOptions options;
  options.layers = std::set<int>{3};
  CHECK_THROWS_WITH(run(ToyEngine{kF32}, options), ContainsSubstring("no layer 3"));
  options.layers = std::set<int>{-1};
  CHECK_THROWS_AS(run(ToyEngine{kF32}, options), InputError);
  options.layers = std::set<int>{};
  CHECK_THROWS_AS(run(ToyEngine{kF32}, options), InputError);
  CaseInput input = toy_case({3});
  input.steps[0].tokens[0][1] = 1000;
  CHECK_THROWS_WITH(run(ToyEngine{kF32}, {}, {input}), StartsWith("case toy: "));
}

TEST_CASE("a tensor that is written again after it was handed out is a finding", "[run]") {
  ToyEngine engine(kF32);
  engine.overwrites_down_proj = true;
  RunOptions options;
  options.layers = std::set<int>{0};
  const RunResult result = run(std::move(engine), options, {toy_case({3})});
  CHECK(result.verdict == Verdict::kDiverged);
  REQUIRE(result.findings.size() == 2);  // once in each mode
  for (const findings::Finding& finding : result.findings) {
    CHECK(finding.tensor == TensorId{Op::kDownProj, 0});
    CHECK(finding.explanation.hypothesis == "H04");
  }
}

TEST_CASE("an engine that reads what nobody wrote differs from itself", "[run]") {
  ToyEngine engine(kF32);
  engine.reads_unwritten = true;
  const RunResult result = run(std::move(engine), {}, {toy_case({3})});
  CHECK(result.verdict == Verdict::kDiverged);

  // Where the logits themselves are right as far as the judge sees, the difference of two runs is the finding.
  ToyEngine unsteady(kF32);
  unsteady.change = [runs = 0](int, const TensorId& id, Tensor& tensor) mutable {
    if (id.op == Op::kLmHead)
      tensor.set(0, std::nextafter(static_cast<float>(tensor.at(0)), runs++ % 2 == 0 ? 9.F : -9.F));
  };
  const RunResult alone = run(std::move(unsteady), {}, {toy_case({3})});
  CHECK(alone.verdict == Verdict::kDiverged);
  REQUIRE(alone.findings.size() == 1);
  CHECK(alone.findings[0].mode == "free");
  CHECK_THAT(alone.findings[0].judgement.reason, ContainsSubstring("a second run, untapped"));
}

TEST_CASE("what two runs show of each other is no finding beside a wrong tensor of the case", "[run]") {
  ToyEngine engine = toy_engine({FaultId::kNoSilu});
  engine.reads_unwritten = true;
  const RunResult result = run(std::move(engine), {}, {toy_case({3})});
  for (const findings::Finding& finding : result.findings) {
    CHECK_THAT(finding.judgement.reason, !ContainsSubstring("untapped"));
  }
}

TEST_CASE("the run reports what it is doing", "[run]") {
  std::map<std::string, std::vector<std::int64_t>> left;
  RunOptions options;
  options.progress = [&](const std::string& what, std::int64_t done, std::int64_t total) {
    left[what].push_back(total - done);
  };
  run(ToyEngine{kF32}, options);
  std::set<std::string> heard;
  for (const auto& [what, counts] : left) {
    heard.insert(what);
    INFO(what);
    CHECK(std::ranges::is_sorted(counts, std::greater<>()));
    CHECK(counts.back() >= 0);
  }
  CHECK(heard == std::set<std::string>{"candidate, free run", "candidate, lockstep", "judging layers",
                                       "judging the head", "reference"});
  // A model may be so large that each layer takes long: every part of a step counts.
  for (const char* what : {"candidate, free run", "candidate, lockstep"}) {
    CHECK(left.at(what).size() > static_cast<std::size_t>(toy_config().num_layers));
    CHECK(left.at(what).back() == 0);
  }
}

}  // namespace
}  // namespace qdiff::diagnose
