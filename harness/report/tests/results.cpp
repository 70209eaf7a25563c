#include "harness/report/tests/results.h"

#include <limits>

#include "harness/contract/hypothesis.h"

namespace qdiff::report::tests {
namespace {

using compare::Verdict;
using findings::Finding;
using findings::FindingKind;
using findings::HypothesisResult;
using findings::HypothesisVerdict;
using findings::RunResult;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

findings::JudgedTensor judged_tensor(const TensorId& id, double ratio) {
  findings::JudgedTensor tensor{"H05-gqa", "lockstep", 0, Phase::kPrefill, id, {}};
  tensor.judgement.outcome = compare::outcome_of(ratio);
  tensor.judgement.ratio_to_bound = ratio;
  tensor.judgement.decisive_statistic = "rms";
  tensor.judgement.statistics.elements_compared = 12480;
  return tensor;
}

// An error in some heads alone.
compare::ErrorProfile profile() {
  compare::ErrorProfile profile;
  profile.axes = {{"token row", {398.0, 401.5, 12.25}, 1}, {"head", {0.9, 512.0, 498.0, 1.0, kInfinity}, 1}};
  profile.histogram[3] = 0.75;
  profile.histogram[12] = 0.25;
  profile.worst = {{{0, 3, 97}, -0.51953125, 0.238281250001, 3120.5}, {{0, 1, 2}, kNaN, 0.5, kInfinity}};
  return profile;
}

RunResult base() {
  RunResult result;
  result.command = "qdiff run --model synthetic:toy-15x5,profile=qwen";
  result.model = "synthetic:toy-15x5,profile=qwen";
  result.config = "qwen2 D=272 L=3 H=15 K=5 d=32 I=440 V=911 eps=1e-06 theta=1e+06 untied bfloat16";
  result.engine = "cpu";
  result.device = "cpu";
  result.precision = plain_precision(DType::kBF16);
  result.precision.points[RoundingPoint::kAttentionProbs] = DType::kBF16;
  result.precision.taken_as[Op::kOProj] = DType::kF32;
  result.seconds = 3.21;
  result.cases = {
      {"H05-gqa", "Grouped query heads", "H05", 5, Verdict::kMatch, 612},
      {"end-to-end", "A prompt in two chunks, then four decode steps", std::nullopt, 1, Verdict::kMatch, 792}};
  for (const Hypothesis& hypothesis : kHypotheses) {
    HypothesisResult row;
    row.id = hypothesis.id;
    row.title = hypothesis.title;
    row.verdict = HypothesisVerdict::kRefuted;
    for (const VariantFacts& facts : fault_table()) {
      if (hypothesis_of(facts.id) == row.id && row.exercised_variants.size() < 2) {
        row.exercised_variants.push_back(facts.id);
      }
    }
    row.shown_by = {{row.exercised_variants[0], {"H05-gqa", "end-to-end"}},
                    {row.exercised_variants[1], {"end-to-end"}}};
    row.evidence = {"2 variants would have shown on these inputs; the candidate shows none of them"};
    result.hypotheses.push_back(row);
  }
  HypothesisResult& undetectable = result.hypotheses[8];
  undetectable.verdict = HypothesisVerdict::kUndetectable;
  undetectable.exercised_variants.clear();
  undetectable.shown_by.clear();
  undetectable.evidence.clear();
  undetectable.blind_variants = {
      {FaultId::kEps,
       "on these inputs it gives what correct code gives, to within rounding; it shows with: a row of tiny "
       "norm"}};
  HypothesisResult& not_exercised = result.hypotheses[9];
  not_exercised.verdict = HypothesisVerdict::kNotExercised;
  not_exercised.exercised_variants.clear();
  not_exercised.shown_by.clear();
  not_exercised.evidence.clear();
  for (int layer = 0; layer < 3; ++layer) {
    for (const OperationRow& operation : kOperationTable) {
      if (operation.scope != Scope::kLayer) continue;
      result.judged.push_back(judged_tensor({operation.op, layer}, 0.25 * layer + 0.25));
    }
  }
  result.judged.push_back(judged_tensor({Op::kLmHead, kNoLayer}, 0.5));
  result.coverage.tensors_compared = 1404;
  result.coverage.blind = {"H09", "H10"};
  result.free_runs = {{"H05-gqa", 25, 25, 0.0123456789, {0.001, 0.002, 0.0035}}};
  return result;
}

Finding finding_at(Op op, int layer, int step, Phase phase) {
  Finding finding;
  finding.case_id = "H05-gqa";
  finding.mode = "lockstep";
  finding.step = step;
  finding.phase = phase;
  finding.tensor = {op, layer};
  finding.span_start = finding.tensor;
  finding.judgement.outcome = compare::Outcome::kDiverged;
  finding.judgement.reason = "worst_slice_rms is 412 times the largest that honest engines show";
  finding.judgement.decisive_statistic = "worst_slice_rms";
  finding.judgement.ratio_to_bound = 412.123456789;
  finding.judgement.worst_index = {0, 3, 97};
  finding.judgement.actual = -0.51953125;
  finding.judgement.expected = 0.238281250001;
  finding.judgement.statistics.elements_compared = 12480;
  finding.judgement.statistics.rms = 398.123456;
  finding.judgement.statistics.worst_slice = "head 4";
  finding.command = "qdiff run cases/H05-gqa.json --mode lockstep" +
                    (layer == kNoLayer ? std::string() : " --layers " + std::to_string(layer)) + " --steps " +
                    std::to_string(step);
  finding.explanation.pattern = "heads 1, 2 and 4 of 15; every token row; up to 3120 sigma";
  return finding;
}

void explain(Finding& finding, FaultId variant, HypothesisVerdict verdict) {
  finding.explanation.hypothesis = hypothesis_of(variant);
  finding.explanation.variant = variant;
  finding.explanation.verdict = verdict;
  finding.explanation.layers = {0, 1, 2};
  finding.explanation.phase = "both";
}

void confirm(RunResult& result, std::size_t hypothesis, HypothesisVerdict verdict) {
  HypothesisResult& row = result.hypotheses[hypothesis];
  row.verdict = verdict;
  row.variant = result.findings.front().explanation.variant;
  row.first_divergence = result.findings.front();
  row.evidence = {"the reference with " + std::string(name(*row.variant)) +
                  " planted reproduces all wrong tensors to within rounding"};
}

}  // namespace

RunResult match() {
  RunResult result = base();
  result.closest = {"H05-gqa", "lockstep", 0, "model.layers.2.self_attn.attn_output", "worst_slice_rms", 0.8123456};
  return result;
}

RunResult diverged() {
  RunResult result = base();
  result.verdict = Verdict::kDiverged;
  result.cases[0].verdict = Verdict::kDiverged;
  result.injected = Fault{FaultId::kModulo};
  result.planted_executions = 1234;
  for (int layer : {0, 1, 2}) {
    Finding finding = finding_at(Op::kAttnOutput, layer, 0, Phase::kPrefill);
    explain(finding, FaultId::kModulo, HypothesisVerdict::kConfirmed);
    finding.profile = profile();
    result.findings.push_back(finding);
    for (findings::JudgedTensor& tensor : result.judged) {
      if (tensor.id == finding.tensor) tensor.judgement = finding.judgement;
    }
  }
  confirm(result, 4, HypothesisVerdict::kConfirmed);
  result.free_runs[0].same_top_token = 3;
  result.free_runs[0].row = 1;
  result.free_runs[0].step = 2;
  result.free_runs[0].expected_tokens = {12, 9, 7};
  result.free_runs[0].actual_tokens = {12, 9, 8};
  result.free_runs[0].margin = 0.625;
  result.free_runs[0].expected_text = "The sea is";
  result.free_runs[0].actual_text = "The sea was";
  result.free_runs[0].expected_word = " is";
  result.free_runs[0].actual_word = " was";
  return result;
}

RunResult ties() {
  RunResult result = base();
  result.verdict = Verdict::kDiverged;
  result.cases[0].verdict = Verdict::kDiverged;
  Finding finding = finding_at(Op::kQRope, 1, 2, Phase::kDecode);
  finding.span_start = {Op::kInputLayernorm, 1};
  explain(finding, FaultId::kTheta, HypothesisVerdict::kConsistent);
  finding.explanation.value = 10000.0;
  finding.explanation.expected_value = 1e6;
  finding.explanation.layers = {1};
  finding.explanation.phase = "decode";
  finding.explanation.alternatives = {FaultId::kMissingQ, FaultId::kLayerRepeated};
  finding.explanation.separated_by = {"told apart by inputs with only one of: a key bias; a query bias", ""};
  result.findings = {finding};
  confirm(result, 2, HypothesisVerdict::kConsistent);
  confirm(result, 5, HypothesisVerdict::kConsistent);
  return result;
}

RunResult inconclusive() {
  RunResult result = base();
  result.verdict = Verdict::kInconclusive;
  result.reason = "model.layers.1.mlp.act: rms is 1.1 times its bound: too little to be sure";
  result.cases[1].verdict = Verdict::kInconclusive;
  result.coverage.tensors_missing = {"model.layers.0.self_attn.scores", "model.layers.0.self_attn.probs",
                                     "model.layers.1.self_attn.scores", "model.layers.1.self_attn.probs"};
  result.coverage.not_compared = {
      {"end-to-end", "free", 1, "model.layers.1.mlp.act", "rms is 1.1 times its bound: too little to be sure"},
      {"end-to-end", "free", 2, "lm_head", "its recorded input model.norm holds NaN; the cause is upstream"},
      {"end-to-end", "free", 3, "lm_head", "its recorded input model.norm holds NaN; the cause is upstream"}};
  return result;
}

RunResult unexplained() {
  RunResult result = base();
  result.verdict = Verdict::kDiverged;
  result.cases[1].verdict = Verdict::kDiverged;
  Finding precision = finding_at(Op::kProbs, 0, 0, Phase::kPrefill);
  precision.kind = FindingKind::kPrecision;
  precision.case_id = "end-to-end";
  explain(precision, *parse_fault_id("H02.attention_probs_bf16"), HypothesisVerdict::kConfirmed);
  precision.explanation.points = {{"attention.probs", "bfloat16"}, {"rope.table", "float16"}};
  Finding head = finding_at(Op::kLmHead, kNoLayer, 0, Phase::kPrefill);
  head.case_id = "end-to-end";
  head.span_start = {Op::kNorm, kNoLayer};
  head.explanation.pattern = "";
  head.judgement.worst_index = {};
  head.judgement.decisive_statistic = "shape";
  head.judgement.ratio_to_bound = 0.0;
  head.judgement.reason = "its shape is [1, 37, 910], but must be [1, 37, 911]";
  result.findings = {precision, head};
  confirm(result, 1, HypothesisVerdict::kConfirmed);
  return result;
}

RunResult sparse() {
  RunResult result = base();
  result.verdict = Verdict::kDiverged;
  result.of_trace = true;
  result.cases = {{"trace", "A trace of transformers 5", std::nullopt, 0, Verdict::kDiverged, 2}};
  Finding finding = finding_at(Op::kOutput, 3, 1, Phase::kDecode);
  finding.case_id = "trace";
  finding.mode = "trace";
  finding.span_start = {Op::kOutput, 2};
  finding.operations.clear();
  for (const TensorId& id : all_tensors(ModelConfig{.num_layers = 1}, /*optional_too=*/true)) {
    if (id.layer == 0) finding.operations.push_back(id.op);
  }
  explain(finding, FaultId::kTheta, HypothesisVerdict::kConsistent);
  result.findings = {finding};
  confirm(result, 2, HypothesisVerdict::kConsistent);
  return result;
}

RunResult rounding() {
  RunResult result = base();
  result.verdict = Verdict::kDiverged;
  result.cases[0].verdict = Verdict::kDiverged;
  Finding finding = finding_at(Op::kProbs, 0, 0, Phase::kPrefill);
  finding.kind = FindingKind::kPrecision;
  finding.explanation.verdict = HypothesisVerdict::kConfirmed;
  finding.explanation.points = {{"mlp.silu", "bfloat16"}};
  result.findings = {finding, finding};
  result.findings[1].explanation.points = {{"mlp.silu", "bfloat16"}, {"attention.probs", "float16"}};
  return result;
}

RunResult ranked() {
  RunResult result = base();
  result.verdict = Verdict::kDiverged;
  result.cases = {{"trace", "A trace of transformers 5", std::nullopt, 0, Verdict::kDiverged, 2}};
  result.free_runs.clear();
  Finding finding = finding_at(Op::kLmHead, kNoLayer, 0, Phase::kPrefill);
  finding.case_id = "trace";
  finding.mode = "trace";
  explain(finding, FaultId::kTheta, HypothesisVerdict::kConfirmed);
  result.findings = {finding};
  confirm(result, 2, HypothesisVerdict::kConfirmed);
  findings::FreeRanking ranking;
  ranking.case_id = "trace";
  ranking.tensors = {"lm_head"};
  ranking.tokens_compared = 68;
  ranking.rounding = 0.0123456789;
  ranking.explained_up_to = 3.0;
  ranking.right = {std::nullopt, std::nullopt, 41.5, 0.5, 1.25, 30, false};
  ranking.nearest = {{FaultId::kTheta, 10000.0, 1.1, 0.0135, 0.0002, 67, true},
                     {FaultId::kModulo, std::nullopt, 39.0, 0.48, 1.1, 31, false}};
  ranking.variants_tried = 120;
  ranking.record_next = {"model.layers.*.self_attn.q_rope", "model.layers.*.output"};
  result.ranking = ranking;
  return result;
}

RunResult allowed() {
  RunResult result = rounding();
  result.verdict = Verdict::kMatch;
  result.cases[0].verdict = Verdict::kMatch;
  result.precision_allowed = true;
  explain(result.findings[0], *parse_fault_id("H02.attention_probs_bf16"), HypothesisVerdict::kConfirmed);
  confirm(result, 1, HypothesisVerdict::kConfirmed);
  result.inferred_points = std::map<std::string, std::string>{{"mlp.silu", "bfloat16"}, {"rope.table", "float16"}};
  result.notes = {"the trace's rope_theta is 10000, the model's is 1000000"};
  return result;
}

RunResult refused() {
  using findings::FindingState;
  RunResult result = diverged();
  result.fed_tokens = findings::FedTokens{12, 2, 3, 1, 17, 4, " sea", std::nullopt};
  Finding head = finding_at(Op::kLmHead, kNoLayer, 0, Phase::kPrefill);
  Finding rounded = finding_at(Op::kProbs, 0, 0, Phase::kPrefill);
  rounded.kind = FindingKind::kPrecision;
  rounded.explanation.verdict = HypothesisVerdict::kConfirmed;
  rounded.explanation.points = {{"mlp.silu", "bfloat16"}};
  result.findings.push_back(head);
  result.findings.push_back(rounded);
  findings::Acceptance acceptance;
  acceptance.verdict = findings::AcceptanceVerdict::kRefused;
  acceptance.reasons = {"1 new finding: 1 of unexplained", "the waiver for X.layer_repeated expired on 2026-01-31"};
  acceptance.fail_on = {FindingKind::kLogic};
  acceptance.baseline = "reports/main";
  acceptance.states = {FindingState::kUnchanged, FindingState::kUnchanged, FindingState::kWaived, FindingState::kNew,
                       FindingState::kNotCounted};
  acceptance.fixed = {{"H05-gqa", "lockstep", 0, "model.layers.0.mlp.act", FindingKind::kLogic, "H03.theta"},
                      {"H05-gqa", "lockstep", 1, "model.layers.0.mlp.act", FindingKind::kLogic, ""}};
  acceptance.not_judged = {{"other", "free", 0, "lm_head", FindingKind::kPrecision, "mlp.silu"}};
  acceptance.waivers = {{"H05.modulo in case H05-gqa", "the new kernel lands in March", "https://example.org/1",
                         "2027-03-31", findings::WaiverState::kUsed, 1},
                        {"X.layer_repeated", "an old export", "https://example.org/2", "2026-01-31",
                         findings::WaiverState::kExpired, 0, "the waiver for X.layer_repeated expired on 2026-01-31"},
                        {"H10.window", "short prompts alone", "https://example.org/3", "2027-03-31",
                         findings::WaiverState::kNotShown, 0}};
  result.acceptance = acceptance;
  return result;
}

RunResult accepted() {
  RunResult result = refused();
  findings::Acceptance& acceptance = *result.acceptance;
  acceptance.verdict = findings::AcceptanceVerdict::kAccepted;
  acceptance.reasons.clear();
  acceptance.states[3] = findings::FindingState::kUnchanged;
  acceptance.waivers.erase(acceptance.waivers.begin() + 1);
  result.fed_tokens = findings::FedTokens{12, 0};
  return result;
}

RunResult not_numbers() {
  RunResult result = diverged();
  Finding& finding = result.findings.front();
  finding.judgement.actual = kNaN;
  finding.judgement.expected = -kInfinity;
  finding.judgement.ratio_to_bound = kInfinity;
  finding.judgement.statistics.rms = kNaN;
  finding.judgement.statistics.slope = -kInfinity;
  finding.explanation.value = kNaN;
  finding.explanation.expected_value = kInfinity;
  result.hypotheses[4].first_divergence = finding;
  result.closest = {"H05-gqa", "free", 0, "lm_head", "bias", kNaN};
  result.free_runs[0].logits_relative_rms_error = kInfinity;
  result.free_runs[0].residual_relative_rms_error = {kNaN, -kInfinity};
  result.ranking = ranked().ranking;
  result.ranking->nearest[1].times_rounding = kInfinity;
  result.ranking->nearest[1].kl_divergence = kNaN;
  return result;
}

RunResult empty() {
  RunResult result;
  result.verdict = Verdict::kInconclusive;
  result.reason = "nothing was compared";
  return result;
}

RunResult hostile() {
  const std::string text =
      "<script>alert('1')</script> \"]]>&amp; \x1b[31mred\x1b]0;title\x07 \xE2\x80\xAErtl\xE2\x80\xAC \xC2\x9B"
      "31m\r\n\t| `code` \x01\xFF\xC3 \xEF\xBF\xBE end";
  RunResult result = diverged();
  result.reason = text;
  result.command = text;
  result.model = text;
  result.config = text;
  result.engine = text;
  result.device = text;
  for (findings::JudgedTensor& tensor : result.judged) tensor.case_id = tensor.judgement.decisive_statistic = text;
  for (findings::CaseSummary& summary : result.cases) summary.id = summary.title = text;
  for (findings::FreeRun& run : result.free_runs) {  // a vocabulary is a file as well
    run.expected_text = run.actual_text = run.expected_word = run.actual_word = text;
    run.expected_written = run.actual_written = text;
  }
  for (Finding& finding : result.findings) {
    finding.case_id = text;
    finding.command = text;
    finding.judgement.reason = text;
    finding.judgement.decisive_statistic = text;
    finding.judgement.statistics.worst_slice = text;
    finding.explanation.pattern = text;
    finding.explanation.alternatives = {FaultId::kDivideByKv, FaultId::kHeadZero};
    finding.explanation.separated_by = {text};
    finding.explanation.points = {{text, "bfloat16"}};
  }
  result.findings.back().kind = FindingKind::kPrecision;
  for (HypothesisResult& hypothesis : result.hypotheses) {
    hypothesis.title = text;
    hypothesis.evidence = {text};
    hypothesis.shown_by = {{FaultId::kEps, {text}}};
    hypothesis.blind_variants = {{FaultId::kEps, text}};
  }
  result.acceptance = refused().acceptance;
  result.acceptance->states.resize(result.findings.size());
  result.acceptance->baseline = text;
  result.acceptance->reasons = {text};
  for (findings::WaiverOutcome& waiver : result.acceptance->waivers) {
    waiver.what = waiver.reason = waiver.link = waiver.problem = text;
  }
  for (findings::BaselineFinding& finding : result.acceptance->fixed) finding.tensor = finding.cause = text;
  result.fed_tokens = findings::FedTokens{1, 1, 1, 0, 2, 3, text, text};
  result.coverage.tensors_missing = {text};
  result.coverage.not_compared = {{text, "free", 0, text, text}};
  result.closest = {text, "free", 0, text, text, 0.5};
  result.free_runs[0].case_id = text;
  result.notes = {text};
  result.ranking = ranked().ranking;
  result.ranking->case_id = text;
  result.ranking->tensors = result.ranking->record_next = {text};
  return result;
}

std::vector<std::pair<std::string, RunResult>> all() {
  return {{"match", match()},
          {"diverged", diverged()},
          {"ties", ties()},
          {"inconclusive", inconclusive()},
          {"unexplained", unexplained()},
          {"sparse", sparse()},
          {"rounding", rounding()},
          {"ranked", ranked()},
          {"allowed", allowed()},
          {"refused", refused()},
          {"accepted", accepted()},
          {"not_numbers", not_numbers()},
          {"empty", empty()},
          {"hostile", hostile()}};
}

}  // namespace qdiff::report::tests
