// What is said of two traces of the toy engine.
#include "harness/diagnose/reconcile/reconcile.h"

#include <cmath>

#include "cmake/catch2.h"
#include "harness/diagnose/reconcile/bounds.h"
#include "harness/diagnose/tests/toy_trace.h"

namespace qdiff::diagnose {
namespace {

using compare::Verdict;
using findings::Reconciliation;

Reconciliation judge(ToyTrace& a, ToyTrace& b, bool allow_precision = false) {
  const auto trace_a = a.write(), trace_b = b.write();
  const ToyWeights weights;
  ToyOracle oracle;
  const auto options_of = [&](const std::string& name) {
    TraceOptions options;
    options.id = name;
    options.command = "qdiff diagnose --trace " + name;
    options.allow_precision = allow_precision;
    options.probing = false;
    return options;
  };
  return reconcile({weights, oracle, [](const Precision& precision) { return std::make_unique<ToyEngine>(precision); }},
                   {{{*trace_a, options_of("a")}, {*trace_b, options_of("b")}}});
}

TEST_CASE("what two right engines differ by is explained by what they declare", "[reconcile]") {
  ToyTrace a(ToyEngine{kF32}), b(ToyEngine{plain_precision(DType::kBF16)});
  b.about.precision = plain_precision(DType::kBF16);
  const Reconciliation result = judge(a, b);
  CHECK(result.verdict == Verdict::kMatch);
  CHECK_THAT(result.reason, StartsWith("not a bug"));
  CHECK(result.tokens.size() == 6);
  CHECK(result.share_explained() == 1.0);
  CHECK(result.mean_difference() > 0.0);
  CHECK_FALSE(result.logits_alone);
  CHECK(result.streams.size() == 3);
  CHECK(result.parting() == nullptr);
  for (const findings::ReconciledToken& token : result.tokens) CHECK(token.rounding[1] > 10.0 * token.rounding[0]);
}

TEST_CASE("a bug of one is that one's, with its tensor", "[reconcile]") {
  ToyTrace a(ToyEngine{kF32}), b(toy_engine({FaultId::kNoSilu, {}, 1}));
  const Reconciliation result = judge(a, b);
  CHECK(result.verdict == Verdict::kDiverged);
  CHECK(result.reason == "a bug in B, first at model.layers.1.mlp.act");
  CHECK(result.share_explained() < 0.1);
  CHECK(result.sides[0].diagnosis.verdict == Verdict::kMatch);
  CHECK(result.sides[0].within());
  REQUIRE(result.streams.size() == 3);
  REQUIRE(result.parting() != nullptr);
  CHECK(result.parting()->layer == 1);
  CHECK_FALSE(result.sides[1].within());
  CHECK(result.sides[1].diagnosis.first_divergence()->explanation.variant == FaultId::kNoSilu);
  CHECK(result.by_difference().front()->difference() >= result.by_difference().back()->difference());
}

TEST_CASE("an undeclared rounding is told, and explains as if it were declared", "[reconcile]") {
  ToyTrace a(ToyEngine{kF32}), b(honest_engine(rounding_at(RoundingPoint::kAttentionScores, DType::kBF16)));
  const Reconciliation result = judge(a, b);
  CHECK(result.verdict == Verdict::kDiverged);
  CHECK_THAT(result.reason, StartsWith("B rounds where it does not declare to, first at model.layers.0."));
  CHECK(result.sides[1].undeclared == std::map<std::string, std::string>{{"attention.scores", "bfloat16"}});
  CHECK(result.sides[1].within());
  CHECK(result.share_explained() == 1.0);
  CHECK(judge(a, b, /*allow_precision=*/true).verdict == Verdict::kMatch);
}

TEST_CASE("logits alone are weaker, and without logits nothing can be said", "[reconcile]") {
  ToyTrace a(ToyEngine{kF32}), b(toy_engine({FaultId::kNoSilu, {}, 1}));
  a.keep({Op::kLmHead});
  b.keep({Op::kLmHead});
  const Reconciliation found = judge(a, b);
  CHECK(found.logits_alone);
  CHECK(found.streams.empty());
  CHECK(found.verdict == Verdict::kDiverged);
  CHECK_THAT(found.reason, StartsWith("a bug in B"));
  ToyTrace none(ToyEngine{kF32});
  none.keep({Op::kEmbedTokens, Op::kOutput});
  const Reconciliation nothing = judge(a, none);
  CHECK(nothing.verdict == Verdict::kInconclusive);
  CHECK(nothing.tokens.empty());
  CHECK_THAT(nothing.reason, ContainsSubstring("no token in common"));
}

TEST_CASE("a log-probability that is no number is explained by nothing", "[reconcile]") {
  ToyTrace a(ToyEngine{kF32}), b(ToyEngine{kF32});
  const TensorKey key{0, {Op::kLmHead}};
  std::vector<double> values = to_doubles(b.tensors.get(key));
  values[3] = std::nan("");
  replace(b.tensors, key, Tensor::rounded(DType::kF32, Shape(b.tensors.get(key).shape), values));
  const Reconciliation result = judge(a, b);
  CHECK(result.verdict == Verdict::kDiverged);
  CHECK(std::isnan(result.by_difference().front()->difference()));
  CHECK_FALSE(result.sides[1].worst.within());
  CHECK(result.share_explained() == 0.0);
}

TEST_CASE("points that a diagnosis found are declared", "[reconcile]") {
  const Precision found =
      declaring(kF32, std::map<std::string, std::string>{{"mlp.silu", "bfloat16"}, {"no.such", "float16"}});
  CHECK(found == rounding_at(RoundingPoint::kMlpSilu, DType::kBF16));
}

TEST_CASE("what honest log-probabilities may have grows with no precision's rounding alone", "[reconcile]") {
  for (const Precision& precision : {kF32, plain_precision(DType::kBF16), plain_precision(DType::kF16)}) {
    const WorstHonestLogProbabilities bounds = log_probability_bounds(precision);
    CHECK(bounds.all > 1.0);
    CHECK(bounds.worst >= bounds.all);
  }
}

TEST_CASE("the mean over few tokens may hold the worst of all", "[reconcile]") {
  const WorstHonestLogProbabilities bounds{.all = 2.0, .worst = 12.0};
  CHECK(bound_of_mean(bounds, 1) == 12.0);
  CHECK(bound_of_mean(bounds, 16) == 3.0);
  CHECK(bound_of_mean(bounds, 36) == 2.0);
  CHECK(bound_of_mean(bounds, 1000) == 2.0);
}

}  // namespace
}  // namespace qdiff::diagnose
