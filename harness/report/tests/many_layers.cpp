// Results of the size that a run of a 72B model has, filled with figures of the size that such runs show.
#include <string>

#include "harness/contract/number_text.h"
#include "harness/contract/splitmix64.h"
#include "harness/report/tests/results.h"

namespace qdiff::report::tests {
namespace {

constexpr int kLayers = 80, kSteps = 100, kPromptTokens = 512, kHeads = 64;
constexpr std::size_t kWithProfile = 400;  // more than a page draws

findings::RunResult base() {
  findings::RunResult result = match();
  result.command = "qdiff run --model Qwen2.5-72B conversation.json";
  result.model = "Qwen2.5-72B";
  result.config = "qwen2 D=8192 L=80 H=64 K=8 d=128 I=29568 V=152064 eps=1e-06 theta=1e+06 untied bfloat16";
  result.seconds = 12601.0;
  result.cases = {{"conversation", "A prompt and 99 tokens behind it", std::nullopt, 1, compare::Verdict::kMatch, 0}};
  result.free_runs = {{"conversation", kPromptTokens + kSteps - 1, 598, 0.0123, {}}};
  double error = 1e-4;
  for (int layer = 0; layer < kLayers; ++layer)
    result.free_runs[0].residual_relative_rms_error.push_back(error *= 1.06);
  result.judged.clear();
  SplitMix64 random(72);
  for (const char* mode : {"lockstep", "free"}) {
    for (int step = 0; step < kSteps; ++step) {
      const Phase phase = step == 0 ? Phase::kPrefill : Phase::kDecode;
      for (int layer = kNoLayer; layer < kLayers; ++layer) {
        for (const OperationRow& operation : kOperationTable) {
          if ((operation.scope == Scope::kLayer) != (layer != kNoLayer)) continue;
          findings::JudgedTensor tensor{"conversation", mode, step, phase, {operation.op, layer}, {}};
          tensor.judgement.ratio_to_bound = 0.15 + 0.6 * random.uniform();
          tensor.judgement.outcome = compare::outcome_of(tensor.judgement.ratio_to_bound);
          tensor.judgement.decisive_statistic = "rms";
          result.judged.push_back(tensor);
        }
      }
    }
  }
  result.coverage.tensors_compared = static_cast<std::int64_t>(result.judged.size());
  result.cases[0].tensors_compared = result.coverage.tensors_compared;
  return result;
}

compare::ErrorProfile profile_of(SplitMix64& random) {
  compare::ErrorProfile profile;
  profile.axes = {{"token row", {}, kPromptTokens / 128}, {"head", {}, 1}, {"column", {}, 64}};
  for (compare::ErrorProfile::Axis& axis : profile.axes) {
    const int bars = axis.name == "head" ? kHeads : 128;
    for (int bar = 0; bar < bars; ++bar) {
      axis.rms.push_back(bar % 8 == 0 ? random.uniform() : 100.0 + 400.0 * random.uniform());
    }
  }
  for (double& share : profile.histogram) share = random.uniform() / 12.0;
  for (int i = 0; i < 8; ++i) {
    profile.worst.push_back({{0, random.below(kPromptTokens), random.below(8192)},
                             random.uniform(),
                             -random.uniform(),
                             1e4 * random.uniform()});
  }
  return profile;
}

}  // namespace

findings::RunResult many_layers_match() { return base(); }

findings::RunResult many_layers_diverged() {
  findings::RunResult result = base();
  result.verdict = compare::Verdict::kDiverged;
  result.cases[0].verdict = compare::Verdict::kDiverged;
  result.free_runs[0].same_top_token = 17;
  SplitMix64 random(73);
  findings::Explanation heads = diverged().findings.front().explanation, bias = heads;
  heads.layers.clear();
  for (int layer = 0; layer < kLayers; ++layer) heads.layers.push_back(layer);
  bias.layers = heads.layers;
  bias.hypothesis = hypothesis_of(FaultId::kMissingK);
  bias.variant = FaultId::kMissingK;
  bias.phase = "prefill";
  for (findings::JudgedTensor& tensor : result.judged) {
    const bool of_bias = tensor.id.op == Op::kKProj && tensor.phase == Phase::kPrefill;
    if (!of_bias && tensor.id.op != Op::kAttnOutput) continue;
    findings::Finding finding;
    finding.case_id = tensor.case_id;
    finding.mode = tensor.mode;
    finding.step = tensor.step;
    finding.phase = tensor.phase;
    finding.tensor = finding.span_start = tensor.id;
    compare::Judgement& judgement = tensor.judgement;
    judgement.outcome = compare::Outcome::kDiverged;
    judgement.ratio_to_bound = 100.0 + 1e5 * random.uniform();
    judgement.decisive_statistic = "max_excess";
    judgement.worst_index = {0, tensor.step == 0 ? random.below(kPromptTokens) : 0, random.below(8192)};
    judgement.actual = random.uniform() - 0.5;
    judgement.expected = random.uniform() - 0.5;
    judgement.reason = "not explained by rounding: the largest error of an element is " +
                       digits(judgement.ratio_to_bound, 4) + " times its bound; worst element at " +
                       to_string(judgement.worst_index) + ": " + digits(judgement.actual, 6) + " where " +
                       digits(judgement.expected, 6) + " is expected";
    finding.judgement = judgement;
    finding.command = "qdiff run conversation.json --model Qwen2.5-72B --mode " + tensor.mode + " --layers " +
                      std::to_string(tensor.id.layer) + " --steps " + std::to_string(tensor.step);
    finding.explanation = of_bias ? bias : heads;
    finding.explanation.pattern = of_bias
                                      ? "every batch row, every token row, every head"
                                      : "heads 1.." + std::to_string(57 + random.below(7)) + " of 64, every batch row";
    if (of_bias || result.findings.size() < kWithProfile) finding.profile = profile_of(random);
    result.findings.push_back(finding);
  }
  for (const auto& [hypothesis, variant] : {std::pair{4, FaultId::kModulo}, std::pair{5, FaultId::kMissingK}}) {
    findings::HypothesisResult& row = result.hypotheses[static_cast<std::size_t>(hypothesis)];
    row.verdict = findings::HypothesisVerdict::kConfirmed;
    row.variant = variant;
    row.first_divergence = result.findings.front();
  }
  return result;
}

}  // namespace qdiff::report::tests
