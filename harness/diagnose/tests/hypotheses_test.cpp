// From findings and what the inputs could have shown to one verdict for each hypothesis.
#include "harness/diagnose/hypotheses.h"

#include "cmake/catch2.h"
#include "harness/diagnose/conclusions.h"

namespace qdiff::diagnose {
namespace {

using findings::Finding;
using findings::HypothesisResult;
using findings::HypothesisVerdict;

const FaultId kRoundedProbs = *parse_fault_id("H02.attention_probs_bf16");

std::vector<VariantFacts> small_catalogue() {
  std::vector<VariantFacts> all = {{FaultId::kModulo, "h % K", "", {Op::kAttnOutput}, "1 < K < H"},
                                   {FaultId::kDivideByKv, "h / K", "", {Op::kAttnOutput}, "G != K"},
                                   {FaultId::kNoHeadStride, "", "", {Op::kKCache}, ""},
                                   {kRoundedProbs, "", "", {Op::kProbs}, ""}};
  all[3].probed = false;  // a rounding that the table of points gives
  return all;
}

const HypothesisResult& result_of(const std::vector<HypothesisResult>& results, const std::string& id) {
  for (const HypothesisResult& result : results) {
    if (result.id == id) return result;
  }
  throw std::out_of_range(id);
}

Finding finding_of(Op op, const std::vector<Variant>& fits) {
  Finding finding;
  finding.tensor = {op, 0};
  finding.explanation = explanation_of(fits, small_catalogue());
  return finding;
}

std::string blind_reason(const HypothesisResult& result, FaultId variant) {
  for (const findings::BlindVariant& blind : result.blind_variants) {
    if (blind.variant == variant) return blind.why;
  }
  return "";
}

TEST_CASE("a blind variant says why these inputs cannot judge it", "[hypotheses]") {
  Detectability detectability;
  detectability.tried = {FaultId::kModulo};
  detectability.not_evaluable = {{FaultId::kDivideByKv, "model.layers.0.self_attn.k_rope"}};
  const auto results = judge_hypotheses({}, small_catalogue(), detectability);
  CHECK_THAT(blind_reason(result_of(results, "H05"), FaultId::kModulo), ContainsSubstring("it shows with: 1 < K < H"));
  CHECK(blind_reason(result_of(results, "H05"), FaultId::kDivideByKv) ==
        "model.layers.0.self_attn.k_rope, which is not recorded");
  CHECK(blind_reason(result_of(results, "H01"), FaultId::kNoHeadStride) == "no operation that it changes was judged");
  CHECK(result_of(results, "H05").verdict == HypothesisVerdict::kUndetectable);
  CHECK(result_of(results, "H01").verdict == HypothesisVerdict::kNotExercised);
  // Variants that nobody asks for are not blind; without any other the catalogue is.
  CHECK(result_of(results, "H02").blind_variants.empty());
  CHECK_THAT(result_of(results, "H02").evidence.at(0), ContainsSubstring("the catalogue holds no variant"));
  const std::vector<std::string> blind = blind_hypotheses(results);
  CHECK(blind.size() == 10);
}

TEST_CASE("a confirmed hypothesis counts what its variant explains, first or among the alternatives", "[hypotheses]") {
  const std::vector<Finding> findings = {
      finding_of(Op::kKCache, {{FaultId::kNoHeadStride, {}}, {FaultId::kModulo, {}}}),
      finding_of(Op::kAttnOutput, {{FaultId::kModulo, {}}}),
      finding_of(Op::kAct, {}),
  };
  const HypothesisResult h05 = result_of(judge_hypotheses(findings, small_catalogue(), {}), "H05");
  CHECK(h05.verdict == HypothesisVerdict::kConfirmed);
  CHECK(h05.variant == FaultId::kModulo);
  REQUIRE(h05.first_divergence.has_value());
  CHECK(h05.first_divergence->tensor.op == Op::kKCache);
  REQUIRE(h05.evidence.size() == 1);
  CHECK_THAT(h05.evidence[0], ContainsSubstring("H05.modulo planted reproduces 2 of 3 wrong tensors"));
}

TEST_CASE("a tie says that others fit as well, a doubt says which", "[hypotheses]") {
  Finding tie = finding_of(Op::kKCache, {{FaultId::kNoHeadStride, {}}, {FaultId::kModulo, {}}});
  const HypothesisResult tied = result_of(judge_hypotheses({tie}, small_catalogue(), {}), "H01");
  CHECK(tied.verdict == HypothesisVerdict::kConsistent);
  CHECK_THAT(tied.evidence.back(), ContainsSubstring("other hypotheses fit equally well"));

  Finding doubtful = finding_of(Op::kKCache, {{FaultId::kNoHeadStride, {}}});
  doubtful.explanation.verdict = HypothesisVerdict::kConsistent;
  doubtful.explanation.evidence = "its own rounding is coarse";
  const HypothesisResult doubted = result_of(judge_hypotheses({doubtful}, small_catalogue(), {}), "H01");
  CHECK(doubted.verdict == HypothesisVerdict::kConsistent);
  CHECK(doubted.evidence.at(0) == "its own rounding is coarse");
  CHECK(doubted.evidence.size() == 2);
}

TEST_CASE("evidence of a pattern alone names no variant", "[hypotheses]") {
  Finding hint = finding_of(Op::kAttnOutput, {});
  hint.explanation.hypothesis = "H05";
  hint.explanation.verdict = HypothesisVerdict::kConsistent;
  hint.explanation.evidence = "values of another head";
  const HypothesisResult h05 = result_of(judge_hypotheses({hint}, small_catalogue(), {}), "H05");
  CHECK(h05.verdict == HypothesisVerdict::kConsistent);
  CHECK_FALSE(h05.variant.has_value());
  CHECK(h05.evidence == std::vector<std::string>{"values of another head"});

  // A variant of the same strength, found later, is named.
  const Finding tie = finding_of(Op::kAttnOutput, {{FaultId::kModulo, {}}, {FaultId::kNoSilu, {}}});
  CHECK(result_of(judge_hypotheses({hint, tie}, small_catalogue(), {}), "H05").variant == FaultId::kModulo);
}

TEST_CASE("a hypothesis at whose operation something stays unexplained is open, not refuted", "[hypotheses]") {
  Detectability detectability;
  detectability.tried = {FaultId::kModulo};
  detectability.cases_that_show = {{FaultId::kModulo, {"a"}}};
  const auto beside = [&](Op unexplained) {
    Finding finding = finding_of(unexplained, {});
    finding.operations = {unexplained};
    return result_of(judge_hypotheses({finding}, small_catalogue(), detectability), "H05");
  };
  const HypothesisResult open = beside(Op::kAttnOutput), refuted = beside(Op::kAct);
  CHECK(open.verdict == HypothesisVerdict::kOpen);
  REQUIRE(open.evidence.size() == 2);
  CHECK_THAT(open.evidence[1], ContainsSubstring("the hypothesis is not excluded"));
  CHECK(refuted.verdict == HypothesisVerdict::kRefuted);
  REQUIRE(refuted.evidence.size() == 1);
  CHECK_THAT(refuted.evidence[0], ContainsSubstring("1 variants would have shown"));
}

TEST_CASE("a hypothesis is open where a tensor in its reach could be judged in no step", "[hypotheses]") {
  Detectability detectability;
  detectability.tried = {FaultId::kModulo};
  detectability.cases_that_show = {{FaultId::kModulo, {"a"}}};
  CHECK(result_of(judge_hypotheses({}, small_catalogue(), detectability), "H05").verdict ==
        HypothesisVerdict::kRefuted);
  detectability.never_judged = {{Op::kAct, 2}};
  CHECK(result_of(judge_hypotheses({}, small_catalogue(), detectability), "H05").verdict ==
        HypothesisVerdict::kRefuted);
  detectability.never_judged.insert({Op::kAttnOutput, 2});
  std::vector<HypothesisResult> results = judge_hypotheses({}, small_catalogue(), detectability);
  for (const bool again : {false, true}) {
    if (again) judge_again(results, {}, small_catalogue());
    const HypothesisResult open = result_of(results, "H05");
    CHECK(open.verdict == HypothesisVerdict::kOpen);
    CHECK_THAT(open.evidence.back(), ContainsSubstring("model.layers.2.self_attn.attn_output could be judged in no"));
  }
}

TEST_CASE("a hypothesis of which these inputs show less than half is open, not refuted", "[hypotheses]") {
  // One token alone shows one of many variants: of masking, say, hardly any.
  std::vector<VariantFacts> all = small_catalogue();
  all.push_back({FaultId::kGroupOffByOne, "", "", {Op::kAttnOutput}, ""});
  Detectability detectability;
  detectability.tried = {FaultId::kModulo, FaultId::kDivideByKv};
  detectability.cases_that_show = {{FaultId::kModulo, {"a"}}};
  const HypothesisResult blind = result_of(judge_hypotheses({}, all, detectability), "H05");
  CHECK(blind.verdict == HypothesisVerdict::kOpen);
  REQUIRE(blind.evidence.size() == 2);
  CHECK(blind.evidence[1] == "2 of 3 variants could not be seen on these inputs: the hypothesis is not excluded");
  // As many that would have shown as are unseen are enough.
  const HypothesisResult half = result_of(judge_hypotheses({}, small_catalogue(), detectability), "H05");
  CHECK(half.verdict == HypothesisVerdict::kRefuted);
  // A case that shows the others closes it.
  Detectability other;
  other.tried = detectability.tried;
  other.cases_that_show = {{FaultId::kDivideByKv, {"b"}}};
  std::vector<HypothesisResult> joined = {blind};
  join(joined.front(), HypothesisResult(result_of(judge_hypotheses({}, all, other), "H05")));
  judge_again(joined, {}, all);
  CHECK(joined.front().verdict == HypothesisVerdict::kRefuted);
}

TEST_CASE("judged again, a hypothesis keeps what was exercised and forgets what was found", "[hypotheses]") {
  Detectability detectability;
  detectability.tried = {FaultId::kModulo};
  detectability.cases_that_show = {{FaultId::kModulo, {"a"}}};
  auto results =
      judge_hypotheses({finding_of(Op::kAttnOutput, {{FaultId::kModulo, {}}})}, small_catalogue(), detectability);
  REQUIRE(result_of(results, "H05").verdict == HypothesisVerdict::kConfirmed);
  judge_again(results, {}, small_catalogue());
  const HypothesisResult& h05 = result_of(results, "H05");
  CHECK(h05.verdict == HypothesisVerdict::kRefuted);
  CHECK_FALSE(h05.variant.has_value());
  CHECK_FALSE(h05.first_divergence.has_value());
  CHECK(h05.evidence.size() == 1);
  CHECK(h05.exercised_variants == std::vector<FaultId>{FaultId::kModulo});
}

TEST_CASE("together two runs exercise what either does, and are blind to what neither shows", "[hypotheses]") {
  Detectability first, second;
  first.tried = {FaultId::kModulo};
  first.cases_that_show = {{FaultId::kModulo, {"a"}}};
  second.tried = {FaultId::kModulo, FaultId::kNoHeadStride};
  second.cases_that_show = {{FaultId::kModulo, {"b"}}};
  const auto of_first = judge_hypotheses({}, small_catalogue(), first);
  const auto of_second = judge_hypotheses({}, small_catalogue(), second);
  HypothesisResult h05 = result_of(of_first, "H05");
  join(h05, HypothesisResult(result_of(of_second, "H05")));
  CHECK(h05.exercised_variants == std::vector<FaultId>{FaultId::kModulo});
  CHECK(h05.shown_by.at(FaultId::kModulo) == std::set<std::string>{"a", "b"});
  REQUIRE(h05.blind_variants.size() == 1);
  CHECK(h05.blind_variants[0].variant == FaultId::kDivideByKv);
  HypothesisResult h01 = result_of(of_first, "H01");
  join(h01, HypothesisResult(result_of(of_second, "H01")));
  CHECK(h01.verdict == HypothesisVerdict::kUndetectable);
  CHECK(h01.blind_variants.size() == 1);
}

}  // namespace
}  // namespace qdiff::diagnose
