#include <algorithm>
#include <cmath>
#include <limits>

#include "cmake/catch2.h"
#include "harness/contract/tests/small_model.h"
#include "harness/diagnose/conclusions.h"
#include "harness/diagnose/hypotheses.h"
#include "harness/diagnose/record.h"
#include "harness/diagnose/run.h"
#include "harness/diagnose/span_evidence.h"
#include "harness/pattern/pattern.h"

namespace qdiff::diagnose {
namespace {

using compare::Verdict;
using findings::Finding;
using findings::HypothesisVerdict;

ModelConfig config_of_six_heads() { return testing::small_config(6, 3, 4, 12, 8, false, 10); }

Step step_of(std::int64_t batch, std::int64_t num_tokens, std::vector<std::int64_t> padding) {
  Step step;
  step.tokens.assign(static_cast<std::size_t>(batch),
                     std::vector<std::int32_t>(static_cast<std::size_t>(num_tokens), 1));
  step.left_padding = std::move(padding);
  set_default_positions(step);
  return step;
}

Expectation flat_expectation(const Shape& shape, double value) {
  Expectation e;
  e.shape = shape;
  const auto n = static_cast<std::size_t>(num_elements(shape));
  e.value.assign(n, value);
  e.sigma_independent.assign(n, 1e-7F);
  e.sigma_shared.assign(n, 0.0F);
  return e;
}

TEST_CASE("a pattern names the heads, rows and columns that are wrong", "[pattern]") {
  const ModelConfig config = config_of_six_heads();
  const Step step = step_of(1, 3, {0});
  const Shape shape = {1, 3, 24};  // six heads of four dimensions side by side
  const Expectation expected = flat_expectation(shape, 1.0);
  Tensor actual = Tensor::rounded(DType::kF32, shape, expected.value);
  CHECK(pattern::describe_pattern(Op::kAttnOutput, actual.view(), expected, step, config).empty());
  for (std::int64_t t : {1, 2}) {
    for (std::int64_t head : {1, 2, 4}) {
      for (std::int64_t d = 0; d < 4; ++d) actual.set(t * 24 + head * 4 + d, 2.0);
    }
  }
  CHECK(pattern::describe_pattern(Op::kAttnOutput, actual.view(), expected, step, config) ==
        "heads 1, 2 and 4 of 6, token rows 1 and 2 of 3, every dimension");
}

TEST_CASE("a pattern leaves padding aside and takes NaN as wrong", "[pattern]") {
  const ModelConfig config = config_of_six_heads();
  const Step step = step_of(2, 3, {2, 0});
  const Shape shape = {2, 3, 12};
  const Expectation expected = flat_expectation(shape, 1.0);
  Tensor actual = Tensor::rounded(DType::kF32, shape, expected.value);
  actual.set(0, 5.0);  // row 0's tokens 0 and 1 are padding
  CHECK(pattern::describe_pattern(Op::kOProj, actual.view(), expected, step, config).empty());
  actual.set(12 * 2 + 7, std::numeric_limits<double>::quiet_NaN());
  CHECK(pattern::describe_pattern(Op::kOProj, actual.view(), expected, step, config) ==
        "NaN only, batch row 0 of 2, token row 2 of 3, column 7 of 12");
}

TEST_CASE("one hypothesis that fits is confirmed, several are a tie, none is unexplained", "[attribution]") {
  const findings::Explanation none = explanation_of({}, {});
  CHECK_FALSE(none.verdict.has_value());
  CHECK_FALSE(none.hypothesis.has_value());

  const findings::Explanation one = explanation_of({{FaultId::kDivideByKv, {}}, {FaultId::kModulo, {}}}, {});
  CHECK(one.verdict == HypothesisVerdict::kConfirmed);
  CHECK(one.hypothesis == "H05");
  CHECK(one.variant == FaultId::kDivideByKv);
  CHECK(one.alternatives == std::vector<FaultId>{FaultId::kModulo});

  const findings::Explanation tie = explanation_of({{FaultId::kNoHeadStride, {}}, {FaultId::kHeadZero, {}}}, {});
  CHECK(tie.verdict == HypothesisVerdict::kConsistent);
  CHECK(tie.hypothesis == "H01");

  const findings::Explanation outsider = explanation_of({{FaultId::kNoSilu, {}}}, {});
  CHECK(outsider.verdict == HypothesisVerdict::kConfirmed);
  CHECK_FALSE(outsider.hypothesis.has_value());
  CHECK(outsider.variant == FaultId::kNoSilu);
}

const std::vector<VariantFacts> kCatalogue = {
    {FaultId::kModulo, "h % K", "", {Op::kAttnOutput}, "1 < K < H"},
    {FaultId::kDivideByKv, "h / K", "", {Op::kAttnOutput}, "G != K"},
    {FaultId::kNoHeadStride, "", "", {Op::kKCache}, "K > 1"},
};

TensorKey in_layer(Op op, int layer) { return {0, {op, layer}}; }

WrongTensor wrong_tensor(std::vector<TensorKey> span, std::vector<Fit> fits) {
  WrongTensor tensor;
  tensor.key = span.back();
  tensor.span = std::move(span);
  tensor.fits = std::move(fits);
  return tensor;
}

// A layer of which the output alone is recorded.
std::vector<TensorKey> whole_layer(int layer) {
  return {in_layer(Op::kQProj, layer), in_layer(Op::kQRope, layer), in_layer(Op::kScores, layer),
          in_layer(Op::kOutput, layer)};
}

TEST_CASE("a value searched for over spans alone is in doubt, and none beside an unexplained bug of the span's",
          "[attribution]") {
  const Fit searched{Variant{FaultId::kScale, 0.15}, {}, true};
  const Fit listed{Variant{FaultId::kNoScale, {}}, {}};

  std::vector<WrongTensor> alone = {wrong_tensor(whole_layer(1), {searched, listed})};
  weigh_span_evidence(alone);
  REQUIRE(alone[0].fits.size() == 2);
  CHECK_FALSE(alone[0].fits[0].doubt.empty());
  CHECK(alone[0].fits[1].doubt.empty());

  std::vector<WrongTensor> contradicted = {wrong_tensor({in_layer(Op::kQRope, 0)}, {}),
                                           wrong_tensor(whole_layer(1), {searched, listed})};
  weigh_span_evidence(contradicted);
  CHECK(contradicted[1].fits.empty());

  std::vector<WrongTensor> both = {wrong_tensor({in_layer(Op::kQRope, 0)}, {}),
                                   wrong_tensor({in_layer(Op::kScores, 0)}, {listed}),
                                   wrong_tensor(whole_layer(1), {searched, listed})};
  weigh_span_evidence(both);
  REQUIRE(both[2].fits.size() == 1);
  CHECK(both[2].fits[0].variant->id == FaultId::kNoScale);
  CHECK_THAT(both[2].fits[0].doubt, ContainsSubstring("model.layers.0.self_attn.q_rope"));

  std::vector<WrongTensor> spans = {wrong_tensor(whole_layer(0), {}), wrong_tensor(whole_layer(1), {searched, listed})};
  weigh_span_evidence(spans);
  REQUIRE(spans[1].fits.size() == 1);
  CHECK(spans[1].fits[0].variant->id == FaultId::kNoScale);
  CHECK_THAT(spans[1].fits[0].doubt, ContainsSubstring("model.layers.0.output"));

  std::vector<WrongTensor> elsewhere = {wrong_tensor({in_layer(Op::kOProj, 0)}, {}),
                                        wrong_tensor(whole_layer(1), {listed})};
  weigh_span_evidence(elsewhere);
  CHECK(elsewhere[1].fits[0].doubt.empty());

  std::vector<WrongTensor> supported = {wrong_tensor({in_layer(Op::kScores, 0)}, {searched}),
                                        wrong_tensor(whole_layer(1), {searched})};
  weigh_span_evidence(supported);
  CHECK(supported[0].fits[0].doubt.empty());
  REQUIRE(supported[1].fits.size() == 1);
  CHECK(supported[1].fits[0].doubt.empty());
}

TEST_CASE("a span of which nothing is left but NaN confirms no bug, beside a number or one operation it does",
          "[attribution]") {
  const Fit fit{Variant{FaultId::kNoMax, {}}, {}};
  WrongTensor without = wrong_tensor(whole_layer(0), {fit});
  without.pattern.holds_no_number = true;
  const WrongTensor with_numbers = wrong_tensor(whole_layer(1), {fit});
  WrongTensor one_operation = wrong_tensor({in_layer(Op::kScores, 1)}, {fit});
  one_operation.pattern.holds_no_number = true;

  std::vector<WrongTensor> spans = {without, without};
  weigh_span_evidence(spans);
  for (const WrongTensor& tensor : spans) {
    REQUIRE(tensor.fits.size() == 1);
    CHECK(tensor.fits[0].doubt == kNoNumberInSpan);
  }
  for (const WrongTensor& other : {with_numbers, one_operation}) {
    std::vector<WrongTensor> both = {without, other};
    weigh_span_evidence(both);
    for (const WrongTensor& tensor : both) CHECK(tensor.fits[0].doubt.empty());
  }
  std::vector<WrongTensor> alone = {one_operation};
  weigh_span_evidence(alone);
  CHECK(alone[0].fits[0].doubt.empty());
}

const findings::HypothesisResult& find(const std::vector<findings::HypothesisResult>& results, const std::string& id) {
  for (const auto& result : results) {
    if (result.id == id) return result;
  }
  throw std::out_of_range(id);
}

TEST_CASE("each hypothesis is refuted, undetectable or not exercised by what the inputs could show", "[hypotheses]") {
  Detectability detectability;
  detectability.tried = {FaultId::kModulo, FaultId::kDivideByKv, FaultId::kNoHeadStride};
  detectability.cases_that_show = {{FaultId::kModulo, {"H05-gqa"}}};
  const auto results = judge_hypotheses({}, kCatalogue, detectability);
  REQUIRE(results.size() == 10);
  CHECK(find(results, "H05").verdict == HypothesisVerdict::kRefuted);
  CHECK(find(results, "H05").exercised_variants == std::vector<FaultId>{FaultId::kModulo});
  REQUIRE(find(results, "H05").blind_variants.size() == 1);
  CHECK_THAT(find(results, "H05").blind_variants[0].why, ContainsSubstring("G != K"));
  CHECK(find(results, "H01").verdict == HypothesisVerdict::kUndetectable);
  CHECK(find(results, "H02").verdict == HypothesisVerdict::kNotExercised);
  CHECK(blind_hypotheses(results).size() == 9);
}

TEST_CASE("a hypothesis is open where it acts in the span of what nothing explains", "[hypotheses]") {
  Detectability detectability;
  detectability.tried = {FaultId::kModulo, FaultId::kDivideByKv};
  detectability.cases_that_show = {{FaultId::kModulo, {"a"}}};
  const auto verdict_of = [&](const Finding& finding) {
    return find(judge_hypotheses({finding}, kCatalogue, detectability), "H05").verdict;
  };
  Finding span;
  span.tensor = {Op::kOutput, 0};
  span.operations = {Op::kQProj, Op::kScores, Op::kAttnOutput, Op::kOutput};
  CHECK(verdict_of(span) == HypothesisVerdict::kOpen);
  Finding elsewhere = span;
  elsewhere.operations = {Op::kAct, Op::kDownProj, Op::kOutput};
  CHECK(verdict_of(elsewhere) == HypothesisVerdict::kRefuted);
  Finding solved = span;
  solved.explanation.mechanism = "sum";
  CHECK(verdict_of(solved) == HypothesisVerdict::kRefuted);
  Finding rounded = span;
  rounded.explanation.points = {{"attention.probs", "bfloat16"}};
  CHECK(verdict_of(rounded) == HypothesisVerdict::kRefuted);
  Finding doubtful = span;
  doubtful.explanation = explanation_of({{FaultId::kNoHeadStride, {}}}, kCatalogue);
  CHECK(verdict_of(doubtful) == HypothesisVerdict::kRefuted);
  doubtful.explanation.evidence = "its value was searched for over a span";
  CHECK(verdict_of(doubtful) == HypothesisVerdict::kOpen);

  auto results = judge_hypotheses({span}, kCatalogue, detectability);
  CHECK_THAT(find(results, "H05").evidence.back(), ContainsSubstring("not excluded"));
  const std::vector<std::string> blind = blind_hypotheses(results);
  CHECK(std::find(blind.begin(), blind.end(), "H05") == blind.end());
}

TEST_CASE("a theory stands where no variant does, and its hypothesis is confirmed by it", "[conclusions]") {
  Finding finding;
  finding.tensor = {Op::kResidMid, 0};
  finding.explanation.mechanism = "sum";
  finding.explanation.hypothesis = "H04";
  finding.explanation.verdict = HypothesisVerdict::kConfirmed;
  finding.explanation.evidence = finding.explanation.sentence = "resid_mid is 2 * output + self_attn.o_proj";
  const auto results = judge_hypotheses({finding}, kCatalogue, {});
  CHECK(find(results, "H04").verdict == HypothesisVerdict::kConfirmed);
  CHECK_FALSE(find(results, "H04").variant.has_value());
  REQUIRE(find(results, "H04").evidence.size() == 1);
  CHECK(find(results, "H04").evidence[0] == finding.explanation.sentence);
}

TEST_CASE("a tie makes every hypothesis in it consistent, and a later confirmation outranks it", "[hypotheses]") {
  Finding tie;
  tie.explanation = explanation_of({{FaultId::kNoHeadStride, {}}, {FaultId::kModulo, {}}}, {});
  auto results = judge_hypotheses({tie}, kCatalogue, {});
  CHECK(find(results, "H01").verdict == HypothesisVerdict::kConsistent);
  CHECK(find(results, "H05").verdict == HypothesisVerdict::kConsistent);
  CHECK(find(results, "H05").variant == FaultId::kModulo);

  Finding sure;
  sure.explanation = explanation_of({{FaultId::kDivideByKv, {}}}, {});
  results = judge_hypotheses({tie, sure}, kCatalogue, {});
  CHECK(find(results, "H05").verdict == HypothesisVerdict::kConfirmed);
  CHECK(find(results, "H05").variant == FaultId::kDivideByKv);
  CHECK(find(results, "H01").verdict == HypothesisVerdict::kConsistent);
}

TEST_CASE("joining two models' results keeps the strongest verdict and the union of what was exercised", "[merge]") {
  Detectability shows_modulo;
  shows_modulo.tried = {FaultId::kModulo, FaultId::kDivideByKv};
  shows_modulo.cases_that_show = {{FaultId::kModulo, {"a"}}};
  Detectability shows_divide;
  shows_divide.tried = shows_modulo.tried;
  shows_divide.cases_that_show = {{FaultId::kDivideByKv, {"b"}}};
  findings::RunResult clean, wrong;
  clean.hypotheses = judge_hypotheses({}, kCatalogue, shows_modulo);
  clean.coverage.tensors_compared = 5;
  Finding finding;
  finding.explanation = explanation_of({{FaultId::kDivideByKv, {}}}, {});
  wrong.hypotheses = judge_hypotheses({finding}, kCatalogue, shows_divide);
  wrong.findings = {finding};
  wrong.verdict = Verdict::kDiverged;
  wrong.coverage.tensors_compared = 7;
  const findings::RunResult merged = merge({clean, wrong});
  CHECK(merged.verdict == Verdict::kDiverged);
  CHECK(merged.coverage.tensors_compared == 12);
  CHECK(merged.findings.size() == 1);
  const auto& h05 = find(merged.hypotheses, "H05");
  CHECK(h05.verdict == HypothesisVerdict::kConfirmed);
  CHECK(h05.exercised_variants == std::vector<FaultId>{FaultId::kDivideByKv, FaultId::kModulo});
  CHECK(h05.shown_by ==
        std::map<FaultId, std::set<std::string>>{{FaultId::kDivideByKv, {"b"}}, {FaultId::kModulo, {"a"}}});
  CHECK(h05.blind_variants.empty());

  findings::RunResult doubtful;
  doubtful.verdict = Verdict::kInconclusive;
  doubtful.hypotheses = judge_hypotheses({}, kCatalogue, {});
  CHECK(merge({clean, doubtful}).verdict == Verdict::kInconclusive);
  CHECK(merge({wrong, doubtful}).verdict == Verdict::kDiverged);
}

findings::RunResult diverged_by(const std::vector<VariantFacts>& catalogue, const Detectability& detectability,
                                const std::vector<Finding>& findings) {
  findings::RunResult result;
  result.catalogue = catalogue;
  result.findings = findings;
  result.hypotheses = judge_hypotheses(findings, catalogue, detectability);
  if (!findings.empty()) result.verdict = Verdict::kDiverged;
  return result;
}

TEST_CASE("another model's cases break a tie, and the variant left keeps its value and its own model's right one",
          "[merge]") {
  const auto catalogue_with = [](double right_eps) {
    VariantFacts modulo{FaultId::kModulo, "h % K", "", {Op::kAttnOutput}, "1 < K < H"};
    VariantFacts eps{FaultId::kEps, "another epsilon", "", {Op::kNorm}, "a row of tiny norm", {1e-5}};
    eps.right_value = right_eps;
    return std::vector<VariantFacts>{modulo, eps};
  };
  Finding tie;
  tie.explanation = explanation_of({{FaultId::kModulo, {}}, {FaultId::kEps, 3e-5}}, catalogue_with(2e-6));
  CHECK(tie.explanation.verdict == HypothesisVerdict::kConsistent);
  CHECK(tie.explanation.separated_by ==
        std::vector<std::string>{"told apart by inputs with only one of: 1 < K < H; a row of tiny norm"});
  tie.explanation.pattern = "every column";
  Detectability shows_modulo;
  shows_modulo.tried = {FaultId::kModulo};
  shows_modulo.cases_that_show = {{FaultId::kModulo, {"a"}}};
  // The first model's cases would have shown H05.modulo, and did not.
  const findings::RunResult merged = merge(
      {diverged_by(catalogue_with(1e-6), shows_modulo, {}), diverged_by(catalogue_with(2e-6), shows_modulo, {tie})});
  REQUIRE(merged.findings.size() == 1);
  const findings::Explanation& left = merged.findings[0].explanation;
  CHECK(left.variant == FaultId::kEps);
  CHECK(left.verdict == HypothesisVerdict::kConfirmed);
  CHECK(left.value == 3e-5);
  CHECK(left.expected_value == 2e-6);
  CHECK(left.alternatives.empty());
  CHECK(left.pattern == "every column");
  // Alone there is nobody to break it.
  CHECK(merge({diverged_by(catalogue_with(2e-6), shows_modulo, {tie})}).findings[0].explanation.variant ==
        FaultId::kModulo);
}

TEST_CASE("evidence without a variant takes on the variant that is confirmed of its hypothesis", "[merge]") {
  Finding sure, hint, doubtful;
  sure.explanation = explanation_of({{FaultId::kDivideByKv, {}}}, {});
  hint.explanation.hypothesis = "H05";
  hint.explanation.verdict = HypothesisVerdict::kConsistent;
  hint.explanation.pattern = "head 3 of 6";
  hint.explanation.evidence = "why";
  doubtful = sure;
  doubtful.explanation.verdict = HypothesisVerdict::kConsistent;
  const findings::RunResult merged = merge({diverged_by(kCatalogue, {}, {hint}), diverged_by(kCatalogue, {}, {sure})});
  CHECK(merged.findings[0].explanation.variant == FaultId::kDivideByKv);
  CHECK(merged.findings[0].explanation.verdict == HypothesisVerdict::kConfirmed);
  CHECK(merged.findings[0].explanation.pattern == "head 3 of 6");
  const findings::RunResult unsure =
      merge({diverged_by(kCatalogue, {}, {hint}), diverged_by(kCatalogue, {}, {doubtful})});
  CHECK_FALSE(unsure.findings[0].explanation.variant.has_value());
}

TEST_CASE("two runs are compared bit for bit outside the padding", "[record]") {
  const Step step = step_of(2, 2, {1, 0});
  const std::vector<double> values = {1, 2, 3, 4, 5, 6, 7, 8};
  const Tensor tapped = Tensor::rounded(DType::kF32, {2, 2, 2}, values);
  Tensor untapped = tapped;
  CHECK_FALSE(first_difference(tapped.view(), untapped.view(), step).has_value());
  untapped.set(1, 9.0);  // token 0 of row 0 is padding
  CHECK_FALSE(first_difference(tapped.view(), untapped.view(), step).has_value());
  untapped.set(5, std::nextafter(6.0F, 7.0F));
  const auto difference = first_difference(tapped.view(), untapped.view(), step);
  REQUIRE(difference.has_value());
  CHECK(difference->worst_index == std::vector<std::int64_t>{1, 0, 1});
  untapped.set(5, std::numeric_limits<double>::quiet_NaN());
  CHECK(first_difference(tapped.view(), untapped.view(), step).has_value());
  CHECK(first_difference(tapped.view(), Tensor(DType::kF32, {2, 2, 1}).view(), step).has_value());
}

TEST_CASE("in lockstep a layer's input is the forced one", "[record]") {
  ReferenceChain chain;
  chain.residual = {{Tensor::rounded(DType::kF32, {1}, std::vector<double>{10}),
                     Tensor::rounded(DType::kF32, {1}, std::vector<double>{11})}};
  trace::Recording candidate;
  candidate.put({0, {Op::kOutput, 0}}, Tensor::rounded(DType::kF32, {1}, std::vector<double>{1}));
  candidate.put({0, {Op::kOutput, 1}}, Tensor::rounded(DType::kF32, {1}, std::vector<double>{2}));
  const LockstepInputs inputs(candidate, chain);
  CHECK(to_doubles(inputs.get({0, {Op::kEmbedTokens}})) == std::vector<double>{10});
  CHECK(to_doubles(inputs.get({0, {Op::kOutput, 0}})) == std::vector<double>{11});
  CHECK(inputs.has({0, {Op::kEmbedTokens}}));  // which the candidate did not hand out
  // Beyond the chain there is nothing to force: the candidate's own tensor stands.
  CHECK(to_doubles(inputs.get({0, {Op::kOutput, 1}})) == std::vector<double>{2});
  CHECK_FALSE(inputs.has({0, {Op::kQProj, 0}}));
}

}  // namespace
}  // namespace qdiff::diagnose
