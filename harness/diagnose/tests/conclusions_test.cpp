// From wrong tensors and what fits them to findings, each with its explanation, and to a verdict.
#include "harness/diagnose/conclusions.h"

#include "cmake/catch2.h"
#include "harness/diagnose/tests/toy_rows.h"

namespace qdiff::diagnose {
namespace {

using compare::Verdict;
using findings::Finding;
using findings::FindingKind;
using findings::HypothesisVerdict;

const Variant kModulo{FaultId::kModulo, {}}, kDivide{FaultId::kDivideByKv, {}}, kStride{FaultId::kNoHeadStride, {}},
    kOutsider{FaultId::kNoSilu, {}}, kInPlace{FaultId::kWoRows, {}}, kRounds{FaultId::kSumFp16, {}};
const FaultId kProbsBf16 = *parse_fault_id("H02.attention_probs_bf16");
const DeclarablePoint kProbs16{RoundingPoint::kAttentionProbs, DType::kBF16};

std::vector<VariantFacts> catalogue() {
  std::vector<VariantFacts> all = {{FaultId::kNoHeadStride, "", "", {Op::kKCache}, ""},
                                   {FaultId::kSumFp16, "", "", {Op::kProbs}, ""},
                                   {kProbsBf16, "", "", {Op::kProbs}, ""},
                                   {FaultId::kWoRows, "", "", {Op::kOProj}, ""},
                                   {FaultId::kModulo, "", "", {Op::kScores, Op::kAttnOutput}, "1 < K < H"},
                                   {FaultId::kDivideByKv, "", "", {Op::kAttnOutput}, "G != K"},
                                   {FaultId::kNoSilu, "", "", {Op::kAct}, ""}};
  all[1].only_rounds = true;
  all[2].declares = kProbs16;
  all[3].overwrites = true;
  return all;
}

// A recording of two steps, and findings made of it by hand.
struct Concluded {
  std::vector<CaseInput> cases = {toy_case({6, 1}, "first"), toy_case({6, 1}, "second")};
  ToyEngine engine{kF32};
  trace::Recording tensors = toy_recording(engine, cases[0]);
  std::vector<Subject> subjects;
  Judged judged;
  Extent extent{{0, 1}, true};
  findings::RunResult result;

  Concluded() {
    for (const CaseInput& input : cases) subjects.push_back({&input, "free", &tensors, &tensors, {0, 1}, 0.0});
    judged.compared = {10, 10};
  }
  Concluded(const Concluded&) = delete;
  Concluded& operator=(const Concluded&) = delete;

  WrongTensor& add(const TensorKey& key, std::vector<Fit> fits, std::size_t subject = 0) {
    WrongTensor tensor;
    tensor.subject = &subjects[subject];
    tensor.key = key;
    tensor.span = {key};
    tensor.span_start = key.id;
    tensor.judgement.outcome = compare::Outcome::kDiverged;
    tensor.fits = std::move(fits);
    judged.wrong.push_back(std::move(tensor));
    return judged.wrong.back();
  }
  const findings::RunResult& conclude() {
    diagnose::conclude(
        judged, subjects, cases, extent, catalogue(),
        [](const Subject& subject, const TensorKey& key) {
          return "repeat " + subject.input->id + ' ' + tensor_name(key.id);
        },
        result);
    return result;
  }
  const findings::Explanation& explanation(std::size_t finding = 0) const {
    return result.findings.at(finding).explanation;
  }
};

TEST_CASE("nothing wrong is a match, and each case says how much was compared", "[conclusions]") {
  Concluded concluded;
  concluded.judged.compared = {7, 5};
  const findings::RunResult& result = concluded.conclude();
  CHECK(result.verdict == Verdict::kMatch);
  CHECK(result.findings.empty());
  CHECK(result.coverage.tensors_compared == 12);
  CHECK(result.hypotheses.size() == 10);
  REQUIRE(result.cases.size() == 2);
  CHECK(result.cases[0].id == "first");
  CHECK(result.cases[0].tensors_compared == 7);
  CHECK(result.cases[1].verdict == Verdict::kMatch);
}

TEST_CASE("where nothing or not everything was compared there is no match", "[conclusions]") {
  Concluded nothing;
  nothing.judged.compared = {0, 0};
  CHECK(nothing.conclude().verdict == Verdict::kInconclusive);
  CHECK_THAT(nothing.result.reason, ContainsSubstring("no tensor of the judged layers and steps was recorded"));
  CHECK(nothing.result.cases[0].verdict == Verdict::kInconclusive);

  Concluded partly;
  partly.judged.not_compared = {{"second", "free", 1, "lm_head", "its input holds NaN"}};
  CHECK(partly.conclude().verdict == Verdict::kInconclusive);
  CHECK(partly.result.reason == "lm_head: its input holds NaN");
  CHECK(partly.result.cases[0].verdict == Verdict::kMatch);
  CHECK(partly.result.cases[1].verdict == Verdict::kInconclusive);

  partly.result = {};
  partly.judged.compared = {0, 0};
  CHECK_THAT(partly.conclude().reason, ContainsSubstring("nothing was compared: lm_head: its input holds NaN"));
}

TEST_CASE("a wrong tensor is a finding with all that is known of it", "[conclusions]") {
  Concluded concluded;
  WrongTensor& wrong = concluded.add(key_of(Op::kAttnOutput, 1, 1), {{kModulo, {}}});
  wrong.span_start = {Op::kVCache, 1};
  wrong.pattern.text = "heads 1 and 2 of 4";
  wrong.pattern.axes = {{"head", {1, 2}, 4, false}, {"column", {0, 2, 3}, 9, false}, {"token row", {}, 6, true}};
  const findings::RunResult& result = concluded.conclude();
  CHECK(result.verdict == Verdict::kDiverged);
  CHECK(result.cases[0].verdict == Verdict::kDiverged);
  CHECK(result.cases[1].verdict == Verdict::kMatch);
  REQUIRE(result.findings.size() == 1);
  const Finding& finding = result.findings[0];
  CHECK(finding.case_id == "first");
  CHECK(finding.mode == "free");
  CHECK(finding.step == 1);
  CHECK(finding.phase == Phase::kDecode);
  CHECK(finding.tensor == TensorId{Op::kAttnOutput, 1});
  CHECK(finding.span_start == TensorId{Op::kVCache, 1});
  CHECK(finding.kind == FindingKind::kLogic);
  CHECK(finding.command == "repeat first model.layers.1.self_attn.attn_output");
  CHECK(finding.explanation.variant == FaultId::kModulo);
  CHECK(finding.explanation.verdict == HypothesisVerdict::kConfirmed);
  CHECK(finding.explanation.pattern == "heads 1 and 2 of 4");
  REQUIRE(finding.explanation.where.size() == 2);
  using Runs = std::vector<std::array<std::int64_t, 2>>;
  CHECK(finding.explanation.where[0].runs == Runs{{1, 2}});
  CHECK(finding.explanation.where[1].runs == Runs{{0, 0}, {2, 3}});
}

TEST_CASE("findings come by case, step and execution order, whatever was judged first", "[conclusions]") {
  Concluded concluded;
  concluded.add(key_of(Op::kAct, 0, 0), {}, 1);
  concluded.add(key_of(Op::kScores, 1, 1), {});
  concluded.add(key_of(Op::kOutput, 1, 0), {});
  concluded.add(key_of(Op::kOutput, 0, 0), {});
  concluded.conclude();
  std::vector<std::string> commands;
  for (const Finding& finding : concluded.result.findings) commands.push_back(finding.command);
  CHECK(commands == std::vector<std::string>{"repeat first model.layers.0.output", "repeat first model.layers.1.output",
                                             "repeat first model.layers.1.self_attn.scores",
                                             "repeat second model.layers.0.mlp.act"});
}

TEST_CASE("a variant that explains less than another of the same tensor is no explanation of its own",
          "[conclusions]") {
  Concluded concluded;
  concluded.add(key_of(Op::kScores), {{kModulo, {}}});
  concluded.add(key_of(Op::kAttnOutput), {{kDivide, {}}, {kStride, {}}, {kModulo, {}}});
  concluded.conclude();
  CHECK(concluded.explanation(1).variant == FaultId::kModulo);
  CHECK(concluded.explanation(1).alternatives.empty());
  CHECK(concluded.explanation(1).verdict == HypothesisVerdict::kConfirmed);
}

TEST_CASE("of variants that explain as much, the one that changes fewer rows comes first, a fitted value last",
          "[conclusions]") {
  Concluded concluded;
  concluded.add(key_of(Op::kAttnOutput), {{kModulo, {}}, {kDivide, {}}});
  concluded.conclude();
  CHECK(concluded.explanation().variant == FaultId::kDivideByKv);
  CHECK(concluded.explanation().alternatives == std::vector<FaultId>{FaultId::kModulo});
  CHECK(concluded.explanation().verdict == HypothesisVerdict::kConfirmed);
  CHECK_THAT(concluded.explanation().separated_by.at(0), ContainsSubstring("G != K; 1 < K < H"));

  Concluded fitted;
  fitted.add(key_of(Op::kKCache), {{kStride, {}, true}, {Variant{FaultId::kNoHeadStride, 2.0}, {}}});
  fitted.conclude();
  CHECK(fitted.explanation().value == 2.0);
}

TEST_CASE("hypotheses that explain the same are a tie, outsiders last", "[conclusions]") {
  Concluded concluded;
  concluded.add(key_of(Op::kAttnOutput), {{kOutsider, {}}, {kDivide, {}}, {kStride, {}}});
  concluded.conclude();
  CHECK(concluded.explanation().variant == FaultId::kNoHeadStride);
  CHECK(concluded.explanation().alternatives == std::vector<FaultId>{FaultId::kDivideByKv, FaultId::kNoSilu});
  CHECK(concluded.explanation().verdict == HypothesisVerdict::kConsistent);
}

TEST_CASE("what is in doubt is consistent, with the reason", "[conclusions]") {
  Concluded concluded;
  concluded.add(key_of(Op::kAct), {{kOutsider, {}, false, 0.0, "it covers anything"}});
  concluded.conclude();
  CHECK(concluded.explanation().variant == FaultId::kNoSilu);
  CHECK(concluded.explanation().verdict == HypothesisVerdict::kConsistent);
  CHECK(concluded.explanation().evidence == "it covers anything");
}

TEST_CASE("where no variant fits, a pattern that only one kind of bug makes speaks for its hypothesis",
          "[conclusions]") {
  pattern::Pattern pattern;
  pattern.text = "head 3 holds head 1's values";
  pattern.hypothesis = "H05";
  pattern.evidence = "values of another head";
  Concluded concluded;
  concluded.add(key_of(Op::kAttnOutput), {}).pattern = pattern;
  concluded.add(key_of(Op::kAct), {{kOutsider, {}}}).pattern = pattern;
  concluded.conclude();
  CHECK(concluded.explanation(0).hypothesis == "H05");
  CHECK(concluded.explanation(0).verdict == HypothesisVerdict::kConsistent);
  CHECK(concluded.explanation(0).evidence == "values of another head");
  CHECK_FALSE(concluded.explanation(1).hypothesis.has_value());
  CHECK(concluded.explanation(1).variant == FaultId::kNoSilu);
}

TEST_CASE("an undeclared rounding is a finding of kind precision, and beside a bug a second one", "[conclusions]") {
  Concluded alone;
  alone.add(key_of(Op::kProbs), {{std::nullopt, {kProbs16}}});
  CHECK(alone.conclude().verdict == Verdict::kDiverged);
  REQUIRE(alone.result.findings.size() == 1);
  CHECK(alone.result.findings[0].kind == FindingKind::kPrecision);
  CHECK(alone.explanation().points == std::map<std::string, std::string>{{"attention.probs", "bfloat16"}});
  CHECK(alone.explanation().variant == kProbsBf16);
  CHECK(alone.explanation().hypothesis == "H02");
  CHECK(alone.explanation().verdict == HypothesisVerdict::kConfirmed);

  Concluded beside;
  beside.add(key_of(Op::kProbs), {{kDivide, {kProbs16}}});
  beside.conclude();
  REQUIRE(beside.result.findings.size() == 2);
  CHECK(beside.result.findings[0].kind == FindingKind::kLogic);
  CHECK(beside.explanation(0).variant == FaultId::kDivideByKv);
  CHECK(beside.result.findings[1].kind == FindingKind::kPrecision);

  Concluded unlisted;
  unlisted.add(key_of(Op::kAct), {{std::nullopt, {{RoundingPoint::kMlpSilu, DType::kBF16}}}});
  unlisted.conclude();
  CHECK_FALSE(unlisted.explanation().variant.has_value());
}

TEST_CASE("roundings that are allowed leave the verdict as it is", "[conclusions]") {
  Concluded allowed;
  allowed.add(key_of(Op::kProbs), {{std::nullopt, {kProbs16}}});
  allowed.result.precision_allowed = true;
  CHECK(allowed.conclude().verdict == Verdict::kMatch);
  CHECK(allowed.result.findings.size() == 1);
  CHECK(allowed.result.cases[0].verdict == Verdict::kMatch);
  Concluded with_bug;
  with_bug.add(key_of(Op::kProbs), {{kDivide, {kProbs16}}});
  with_bug.result.precision_allowed = true;
  CHECK(with_bug.conclude().verdict == Verdict::kDiverged);
}

TEST_CASE("of a bug that only rounds and a rounding that can be declared, the first stands where it explains more",
          "[conclusions]") {
  Concluded same;
  same.add(key_of(Op::kProbs), {{kRounds, {}}, {std::nullopt, {kProbs16}}});
  same.conclude();
  REQUIRE(same.result.findings.size() == 1);
  CHECK(same.result.findings[0].kind == FindingKind::kPrecision);

  Concluded more;
  more.add(key_of(Op::kProbs), {{kRounds, {}}, {std::nullopt, {kProbs16}}});
  more.add(key_of(Op::kProbs, 1), {{kRounds, {}}});
  more.conclude();
  REQUIRE(more.result.findings.size() == 2);
  for (const Finding& finding : more.result.findings) CHECK(finding.kind == FindingKind::kLogic);
  CHECK(more.explanation(0).variant == FaultId::kSumFp16);
}

TEST_CASE("a tensor that was written again speaks for H04, unless its reader shows a bug of that kind",
          "[conclusions]") {
  Concluded alone;
  alone.add(key_of(Op::kAttnOutput), {}).seen_by = SeenBy::kLaterWrite;
  alone.conclude();
  REQUIRE(alone.result.findings.size() == 1);
  CHECK(alone.explanation().hypothesis == "H04");
  CHECK(alone.explanation().verdict == HypothesisVerdict::kConsistent);
  CHECK_THAT(alone.explanation().pattern, ContainsSubstring("self_attn.attn_output was written again"));

  Concluded read;
  read.add(key_of(Op::kAttnOutput), {}).seen_by = SeenBy::kLaterWrite;
  read.add(key_of(Op::kOProj), {{kInPlace, {}}});
  read.conclude();
  REQUIRE(read.result.findings.size() == 1);
  CHECK(read.result.findings[0].tensor.op == Op::kOProj);

  Concluded elsewhere;
  elsewhere.add(key_of(Op::kAttnOutput), {}).seen_by = SeenBy::kLaterWrite;
  elsewhere.add(key_of(Op::kOProj, 1), {{kInPlace, {}}});
  elsewhere.conclude();
  CHECK(elsewhere.result.findings.size() == 2);
}

TEST_CASE("a finding tells in which layers and phases the same is found", "[conclusions]") {
  Concluded concluded;
  concluded.add(key_of(Op::kAttnOutput, 0, 0), {{kDivide, {}}});
  concluded.add(key_of(Op::kAttnOutput, 1, 1), {{kDivide, {}}});
  concluded.add(key_of(Op::kAct, 1, 0), {});
  concluded.add(key_of(Op::kOutput, 0, 0), {});
  concluded.conclude();
  CHECK(concluded.explanation(0).layers == std::vector<int>{0, 1});
  CHECK(concluded.explanation(0).phase == "both");
  CHECK(concluded.explanation(1).layers == std::vector<int>{0});  // mlp.act is another unexplained tensor
  CHECK(concluded.explanation(1).phase == "prefill");
  // The same operation was judged in both phases and is wrong in one.
  CHECK(concluded.explanation(1).pattern == "prefill alone");
  CHECK(concluded.explanation(2).layers == std::vector<int>{1});

  Concluded one_phase;
  one_phase.add(key_of(Op::kAct, 1, 0), {});
  for (Subject& subject : one_phase.subjects) subject.steps = {0};
  one_phase.conclude();
  CHECK(one_phase.explanation().pattern.empty());
}

TEST_CASE("what no judged layer handed out is one name for all of them", "[conclusions]") {
  Concluded concluded;
  concluded.judged.missing = {{Op::kAct, 0}, {Op::kAct, 1}, {Op::kScores, 1}, {Op::kNorm, kNoLayer}};
  CHECK(concluded.conclude().coverage.tensors_missing ==
        std::vector<std::string>{"model.layers.1.self_attn.scores", "model.layers.*.mlp.act", "model.norm"});
}

}  // namespace
}  // namespace qdiff::diagnose
