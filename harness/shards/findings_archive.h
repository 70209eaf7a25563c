// What the diagnosis found, listed for the archive.
#pragma once

#include "harness/contract/config.h"
#include "harness/findings/result.h"
#include "harness/formats/mistake_text.h"
#include "harness/shards/archive.h"

namespace qdiff::shards {

// ---- Types with a text of their own, and how many enumerators the others have ----

template <>
struct TextForm<FaultId> {
  static std::string write(FaultId id) { return std::string(name(id)); }
  static FaultId read(const std::string& text) {
    if (const auto id = parse_fault_id(text)) return *id;
    throw ArchiveError("there is no known bug " + text);
  }
};

template <>
struct TextForm<TensorId> {
  static std::string write(const TensorId& id) { return tensor_name(id); }
  static TensorId read(const std::string& text) {
    if (const auto id = parse_tensor_name(text)) return *id;
    throw ArchiveError("there is no tensor " + text);
  }
};

template <>
struct TextForm<Op> {
  static std::string write(Op op) { return std::string(row(op).name); }
  static Op read(const std::string& text) {
    for (const OperationRow& operation : kOperationTable) {
      if (text == operation.name) return operation.op;
    }
    throw ArchiveError("there is no operation " + text);
  }
};

template <>
struct TextForm<Mistake> {
  static std::string write(const Mistake& mistake) { return to_string(mistake); }
  static Mistake read(const std::string& text) { return formats::parse_mistake(text); }
};

template <>
inline constexpr int kNumEnumerators<compare::Verdict> = 3;
template <>
inline constexpr int kNumEnumerators<compare::Outcome> = 4;
template <>
inline constexpr int kNumEnumerators<findings::HypothesisVerdict> = 6;
template <>
inline constexpr int kNumEnumerators<findings::FindingKind> = 3;
template <>
inline constexpr int kNumEnumerators<Phase> = 2;
template <>
inline constexpr int kNumEnumerators<DType> = 4;
template <>
inline constexpr int kNumEnumerators<QuantizedInputs> = static_cast<int>(kQuantizedInputsNames.size());
template <>
inline constexpr int kNumEnumerators<QuantizedCache> = static_cast<int>(kQuantizedCacheNames.size());
template <>
inline constexpr int kNumEnumerators<RoundingPoint> = static_cast<int>(kNumRoundingPoints);
template <>
inline constexpr int kNumEnumerators<Architecture> = static_cast<int>(Architecture::kLlama) + 1;

template <>
inline constexpr bool kIsRow<compare::Statistics> = true;
template <>
inline constexpr bool kIsRow<findings::JudgedTensor> = true;

// ---- The structs, each listed once ----

QDIFF_ARCHIVED(ModelConfig, architecture, hidden, num_layers, num_q_heads, num_kv_heads, head_dim, intermediate, vocab,
               rms_norm_eps, rope_theta, tie_word_embeddings, qkv_bias, max_position_embeddings, dtype)
// Without the scales of a cache in float8, which no report shows.
QDIFF_ARCHIVED(Precision, weights, activations, accumulate, points, taken_as, quantized, cache)

// Without `normalised`, which no report shows.
QDIFF_ARCHIVED(compare::Statistics, elements_compared, max_excess, rms, worst_slice_rms, worst_slice, bias, slope,
               max_abs_error, relative_rms_error, share_beyond_one_spacing)
QDIFF_ARCHIVED(compare::Judgement, outcome, reason, decisive_statistic, ratio_to_bound, statistics, worst_index, actual,
               expected)

// Of its judgement, what reports show of a tensor that is no finding.
template <typename Io>
void fields(Io& io, findings::JudgedTensor& value) {
  io("case", value.case_id);
  io("mode", value.mode);
  io("step", value.step);
  io("phase", value.phase);
  io("tensor", value.id);
  io("outcome", value.judgement.outcome);
  io("decisive_statistic", value.judgement.decisive_statistic);
  io("ratio_to_bound", value.judgement.ratio_to_bound);
  io("statistics", value.judgement.statistics);
}

QDIFF_ARCHIVED(compare::ErrorProfile::Axis, name, rms, indices_a_bar)
QDIFF_ARCHIVED(compare::ErrorProfile::Element, index, actual, expected, error)
QDIFF_ARCHIVED(compare::ErrorProfile, axes, histogram, worst)
QDIFF_ARCHIVED(findings::WrongAxis, axis, size, runs)
QDIFF_ARCHIVED(findings::Explanation, hypothesis, variant, verdict, value, expected_value, layers, phase, mechanism,
               parameters, scope, sentence, mistakes, pattern, where, evidence, alternatives, alternative_values,
               separated_by, points)
QDIFF_ARCHIVED(findings::Finding, case_id, mode, step, phase, tensor, kind, span_start, operations, judgement, command,
               explanation, profile)
QDIFF_ARCHIVED(findings::BlindVariant, variant, why)
QDIFF_ARCHIVED(findings::HypothesisResult, id, title, verdict, variant, first_divergence, evidence, exercised_variants,
               shown_by, blind_variants, never_judged)
QDIFF_ARCHIVED(findings::NotCompared, case_id, mode, step, tensor, reason)
QDIFF_ARCHIVED(findings::Coverage, tensors_compared, tensors_missing, not_compared, blind)
QDIFF_ARCHIVED(findings::ClosestToBound, case_id, mode, step, tensor, statistic, ratio)
QDIFF_ARCHIVED(findings::FreeRun, case_id, tokens_compared, same_top_token, logits_relative_rms_error,
               residual_relative_rms_error, row, step, expected_tokens, actual_tokens, margin, expected_text,
               actual_text, expected_word, actual_word)
QDIFF_ARCHIVED(findings::CaseSummary, id, title, hypothesis, seed, verdict, tensors_compared)
QDIFF_ARCHIVED(findings::RunResult, verdict, reason, model, config, engine, device, precision, planted_executions,
               cases, findings, hypotheses, judged, coverage, closest, free_runs, notes)

}  // namespace qdiff::shards
