// The judgement of a trace: row by row where replay reaches, against whole forward passes where it does not.
#include "harness/diagnose/trace_run.h"

#include <cmath>

#include "cmake/catch2.h"
#include "harness/contract/error.h"
#include "harness/contract/tests/table_counts.h"
#include "harness/diagnose/tests/toy_trace.h"

namespace qdiff::diagnose {
namespace {

using compare::Verdict;
using findings::FindingKind;
using findings::RunResult;

RunResult judge(ToyTrace& toy, TraceOptions options = {}) {
  const auto trace = toy.write();
  const ToyWeights weights;
  ToyOracle oracle;
  options.id = "trace";
  options.command = "qdiff diagnose --trace trace";
  return judge_trace(
      {*trace, weights, oracle, [](const Precision& precision) { return std::make_unique<ToyEngine>(precision); }},
      options);
}

const auto kTensors = static_cast<std::int64_t>(all_tensors(toy_config(), true).size());

TEST_CASE("a whole trace of an honest engine matches", "[trace_run]") {
  ToyTrace toy(ToyEngine{kF32});
  bool fits = false;
  TraceOptions options;
  options.before_judging = [&] { fits = true; };
  const RunResult result = judge(toy, options);
  CHECK(fits);
  CHECK(result.verdict == Verdict::kMatch);
  CHECK(result.of_trace);
  CHECK(result.engine == "other");
  CHECK(result.coverage.tensors_compared == 2 * kTensors);
  CHECK_FALSE(result.ranking.has_value());
  REQUIRE(result.cases.size() == 1);
  CHECK(result.cases[0].id == "trace");
}

TEST_CASE("a match of tensors that are stored in another type than the declared one says so", "[trace_run]") {
  const auto notes_of = [](DType stored, const Precision& declared) {
    ToyTrace toy(ToyEngine{plain_precision(stored)});
    toy.about.precision = declared;
    RunResult result = judge(toy, {.probing = false});
    INFO(result.reason);
    CHECK(result.verdict == Verdict::kMatch);
    std::erase_if(result.notes, [](const std::string& note) { return !note.starts_with("stored in "); });
    return result.notes;
  };
  for (const DType declared : {DType::kF32, DType::kF16}) {
    Precision precision = plain_precision(declared);
    precision.weights = DType::kBF16;
    INFO("declared " << name(declared));
    const std::vector<std::string> notes = notes_of(DType::kBF16, precision);
    REQUIRE(notes.size() == 1);
    CHECK_THAT(notes[0], StartsWith("stored in bfloat16 where the manifest declares " + std::string(name(declared))));
    CHECK_THAT(notes[0], ContainsSubstring("embed_tokens") && ContainsSubstring("operations more"));
    // The next operations are said to have taken something else.
    for (const OperationRow& operation : kOperationTable) precision.taken_as[operation.op] = DType::kBF16;
    CHECK(notes_of(DType::kBF16, precision).empty());
  }
  CHECK(notes_of(DType::kBF16, plain_precision(DType::kBF16)).empty());
  CHECK(notes_of(DType::kF32, plain_precision(DType::kF32)).empty());
}

TEST_CASE("a bug in a trace is found and named, and its command repeats it", "[trace_run]") {
  ToyTrace toy(toy_engine({FaultId::kNoSilu, {}, 1}));
  const RunResult result = judge(toy);
  CHECK(result.verdict == Verdict::kDiverged);
  REQUIRE(result.findings.size() == 2);
  CHECK(result.findings[0].mode == "trace");
  CHECK(result.findings[0].tensor == TensorId{Op::kAct, 1});
  CHECK(result.findings[0].explanation.variant == FaultId::kNoSilu);
  CHECK(result.findings[0].command == "qdiff diagnose --trace trace --layers 1 --steps 0");
  CHECK(result.findings[1].command == "qdiff diagnose --trace trace --layers 1 --steps 1");

  TraceOptions options;
  options.layers = std::set<int>{0};
  CHECK(judge(toy, options).verdict == Verdict::kMatch);
  options.layers = std::set<int>{1};
  options.steps = std::set<int>{1};
  const RunResult one = judge(toy, options);
  CHECK(one.findings.size() == 1);
  CHECK(one.coverage.tensors_compared == kRowsOfALayer);
  options.layers = std::set<int>{7};
  CHECK_THROWS_WITH(judge(toy, options), ContainsSubstring("no layer 7"));
}

TEST_CASE("a trace of another model is refused", "[trace_run]") {
  ToyTrace toy(ToyEngine{kF32});
  toy.about.config.hidden = 17;
  bool judged = false;
  TraceOptions options;
  options.before_judging = [&] { judged = true; };
  CHECK_THROWS_AS(judge(toy, options), InputError);
  CHECK_FALSE(judged);
}

// Neither embedding is the model's; what the first engine makes of its own has the model's weights in it.
TEST_CASE("a wrong embedding is a divergence where later products follow from the weights", "[trace_run]") {
  const auto strange = [](bool in_products) {
    ToyEngine engine{kF32};
    engine.change = [in_products](int, const TensorId& id, Tensor& tensor) {
      const bool product = arithmetic_of(id.op) == Arithmetic::kProduct;
      for (std::int64_t i = 0; (id.op == Op::kEmbedTokens || (in_products && product)) && i < tensor.size(); ++i) {
        tensor.set(i, 0.25 + std::cos(0.5 * static_cast<double>(i)));
      }
    };
    return ToyTrace(std::move(engine));
  };
  ToyTrace wrong_embedding = strange(false);
  const RunResult result = judge(wrong_embedding);
  CHECK(result.verdict == Verdict::kDiverged);
  REQUIRE(result.findings.size() == 2);
  for (const auto& finding : result.findings) {
    CHECK(finding.tensor == TensorId{Op::kEmbedTokens});
    CHECK(finding.kind == FindingKind::kLogic);
  }
  ToyTrace other_weights = strange(true);
  CHECK_THROWS_WITH(judge(other_weights), ContainsSubstring("other weights"));
}

TEST_CASE("tensors beyond the reach of replay are held against whole passes", "[trace_run]") {
  ToyTrace honest(ToyEngine{kF32});
  const RunResult right = judge(honest.keep({Op::kLmHead}));
  CHECK(right.verdict == Verdict::kMatch);
  CHECK(right.coverage.tensors_compared == 2);
  REQUIRE(right.ranking.has_value());
  CHECK(right.ranking->right.reproduces);

  ToyTrace wrong(toy_engine({FaultId::kScale, 1.0, {}}));
  const RunResult named = judge(wrong.keep({Op::kLmHead}));
  CHECK(named.verdict == Verdict::kDiverged);
  REQUIRE(named.findings.size() == 2);
  CHECK(named.findings[0].tensor == TensorId{Op::kLmHead});
  CHECK(named.findings[0].explanation.variant == FaultId::kScale);
  REQUIRE(named.hypotheses[1].id == "H02");
  CHECK_THAT(named.hypotheses[1].evidence.back(), ContainsSubstring("H02.scale comes nearest"));
  // What is recorded though far is not missing.
  const auto& missing = named.coverage.tensors_missing;
  CHECK(std::find(missing.begin(), missing.end(), "lm_head") == missing.end());
  CHECK(std::find(missing.begin(), missing.end(), "model.norm") != missing.end());
}

TEST_CASE("replay reaches over two layers", "[trace_run]") {
  CHECK_FALSE(is_far({key_of(Op::kAct, 0), key_of(Op::kOutput, 0), key_of(Op::kAct, 1), {0, {Op::kNorm}}}));
  CHECK(is_far({key_of(Op::kAct, 0), key_of(Op::kAct, 1), key_of(Op::kAct, 2)}));
  const auto keep_outputs_of = [](ToyEngine engine, int layer) {
    ToyTrace toy(std::move(engine));
    toy.keep({Op::kEmbedTokens, Op::kOutput, Op::kLmHead});
    for (const TensorKey& key : toy.tensors.keys()) {
      if (key.id.op == Op::kOutput && key.id.layer != layer) toy.tensors.erase(key);
    }
    return judge(toy);
  };
  CHECK_FALSE(keep_outputs_of(ToyEngine{kF32}, 0).ranking.has_value());
  CHECK_FALSE(keep_outputs_of(ToyEngine{kF32}, 1).ranking.has_value());
  CHECK(keep_outputs_of(ToyEngine{kF32}, 7).ranking.has_value());
}

TEST_CASE("what is wrong before a far tensor reaches it, so that it is not compared", "[trace_run]") {
  ToyTrace toy(toy_engine({FaultId::kNoSilu, {}, 0}));
  toy.keep({Op::kUpProj, Op::kGateProj, Op::kAct, Op::kLmHead});
  for (const TensorKey& key : toy.tensors.keys()) {
    if (key.id.layer > 0) toy.tensors.erase(key);
  }
  const RunResult result = judge(toy);
  CHECK(result.verdict == Verdict::kDiverged);
  CHECK_FALSE(result.ranking.has_value());
  const auto& left_out = result.coverage.not_compared;
  CHECK(std::any_of(left_out.begin(), left_out.end(), [](const findings::NotCompared& entry) {
    return entry.tensor == "lm_head" && entry.reason.find("what is wrong before it") != std::string::npos;
  }));
}

TEST_CASE("undeclared roundings are proposed as points where that is asked for", "[trace_run]") {
  const Precision rounds = rounding_at(RoundingPoint::kMlpSilu, DType::kBF16);
  ToyTrace toy(ToyEngine(kF32, rounds));
  const RunResult plain = judge(toy);
  CHECK(plain.verdict == Verdict::kDiverged);
  CHECK_FALSE(plain.inferred_points.has_value());
  for (const findings::Finding& finding : plain.findings) CHECK(finding.kind == FindingKind::kPrecision);

  TraceOptions options;
  options.infer_points = true;
  options.allow_precision = true;
  const RunResult inferred = judge(toy, options);
  CHECK(inferred.verdict == Verdict::kMatch);
  CHECK(inferred.inferred_points == std::map<std::string, std::string>{{"mlp.silu", "bfloat16"}});
}

TEST_CASE("a trace's logits are laid beside the reference's where that is asked for", "[trace_run]") {
  ToyTrace toy(ToyEngine{kF32});
  CHECK(judge(toy).free_runs.empty());
  TraceOptions options;
  options.beside_reference = true;
  const RunResult result = judge(toy, options);
  REQUIRE(result.free_runs.size() == 1);
  CHECK(result.free_runs[0].expected_tokens == result.free_runs[0].actual_tokens);
  CHECK(result.free_runs[0].expected_tokens.size() == 2);
  options.layers = std::set<int>{0};
  CHECK(judge(toy, options).free_runs.empty());
}

}  // namespace
}  // namespace qdiff::diagnose
