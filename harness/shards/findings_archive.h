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
  static constexpr bool kExists = true;
  static std::string write(FaultId id) { return std::string(name(id)); }
  static FaultId read(const std::string& text) {
    if (const auto id = parse_fault_id(text)) return *id;
    throw ArchiveError("there is no known bug " + text);
  }
};

template <>
struct TextForm<TensorId> {
  static constexpr bool kExists = true;
  static std::string write(const TensorId& id) { return tensor_name(id); }
  static TensorId read(const std::string& text) {
    if (const auto id = parse_tensor_name(text)) return *id;
    throw ArchiveError("there is no tensor " + text);
  }
};

template <>
struct TextForm<Op> {
  static constexpr bool kExists = true;
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
  static constexpr bool kExists = true;
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

template <typename Io>
void fields(Io& io, ModelConfig& value) {
  io("architecture", value.architecture);
  io("hidden", value.hidden);
  io("num_layers", value.num_layers);
  io("num_q_heads", value.num_q_heads);
  io("num_kv_heads", value.num_kv_heads);
  io("head_dim", value.head_dim);
  io("intermediate", value.intermediate);
  io("vocab", value.vocab);
  io("rms_norm_eps", value.rms_norm_eps);
  io("rope_theta", value.rope_theta);
  io("tie_word_embeddings", value.tie_word_embeddings);
  io("qkv_bias", value.qkv_bias);
  io("max_position_embeddings", value.max_position_embeddings);
  io("dtype", value.dtype);
}

template <typename Io>
void fields(Io& io, Precision& value) {
  io("weights", value.weights);
  io("activations", value.activations);
  io("accumulate", value.accumulate);
  io("points", value.points);
  io("taken_as", value.taken_as);
  io("quantized", value.quantized);
  io("cache", value.cache);
}

// Without `normalised`, which no report shows.
template <typename Io>
void fields(Io& io, compare::Statistics& value) {
  io("elements_compared", value.elements_compared);
  io("max_excess", value.max_excess);
  io("rms", value.rms);
  io("worst_slice_rms", value.worst_slice_rms);
  io("worst_slice", value.worst_slice);
  io("bias", value.bias);
  io("slope", value.slope);
  io("max_abs_error", value.max_abs_error);
  io("relative_rms_error", value.relative_rms_error);
  io("share_beyond_one_spacing", value.share_beyond_one_spacing);
}

template <typename Io>
void fields(Io& io, compare::Judgement& value) {
  io("outcome", value.outcome);
  io("reason", value.reason);
  io("decisive_statistic", value.decisive_statistic);
  io("ratio_to_bound", value.ratio_to_bound);
  io("statistics", value.statistics);
  io("worst_index", value.worst_index);
  io("actual", value.actual);
  io("expected", value.expected);
}

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

template <typename Io>
void fields(Io& io, compare::ErrorProfile::Axis& value) {
  io("name", value.name);
  io("rms", value.rms);
  io("indices_a_bar", value.indices_a_bar);
}

template <typename Io>
void fields(Io& io, compare::ErrorProfile::Element& value) {
  io("index", value.index);
  io("actual", value.actual);
  io("expected", value.expected);
  io("error", value.error);
}

template <typename Io>
void fields(Io& io, compare::ErrorProfile& value) {
  io("axes", value.axes);
  io("histogram", value.histogram);
  io("worst", value.worst);
}

template <typename Io>
void fields(Io& io, findings::WrongAxis& value) {
  io("axis", value.axis);
  io("size", value.size);
  io("runs", value.runs);
}

template <typename Io>
void fields(Io& io, findings::Explanation& value) {
  io("hypothesis", value.hypothesis);
  io("variant", value.variant);
  io("verdict", value.verdict);
  io("value", value.value);
  io("expected_value", value.expected_value);
  io("layers", value.layers);
  io("phase", value.phase);
  io("mechanism", value.mechanism);
  io("parameters", value.parameters);
  io("scope", value.scope);
  io("sentence", value.sentence);
  io("mistakes", value.mistakes);
  io("pattern", value.pattern);
  io("where", value.where);
  io("evidence", value.evidence);
  io("alternatives", value.alternatives);
  io("alternative_values", value.alternative_values);
  io("separated_by", value.separated_by);
  io("points", value.points);
}

template <typename Io>
void fields(Io& io, findings::Finding& value) {
  io("case", value.case_id);
  io("mode", value.mode);
  io("step", value.step);
  io("phase", value.phase);
  io("tensor", value.tensor);
  io("kind", value.kind);
  io("span_start", value.span_start);
  io("operations", value.operations);
  io("judgement", value.judgement);
  io("command", value.command);
  io("explanation", value.explanation);
  io("profile", value.profile);
}

template <typename Io>
void fields(Io& io, findings::BlindVariant& value) {
  io("variant", value.variant);
  io("why", value.why);
}

template <typename Io>
void fields(Io& io, findings::HypothesisResult& value) {
  io("id", value.id);
  io("title", value.title);
  io("verdict", value.verdict);
  io("variant", value.variant);
  io("first_divergence", value.first_divergence);
  io("evidence", value.evidence);
  io("exercised_variants", value.exercised_variants);
  io("shown_by", value.shown_by);
  io("blind_variants", value.blind_variants);
}

template <typename Io>
void fields(Io& io, findings::NotCompared& value) {
  io("case", value.case_id);
  io("mode", value.mode);
  io("step", value.step);
  io("tensor", value.tensor);
  io("reason", value.reason);
}

template <typename Io>
void fields(Io& io, findings::Coverage& value) {
  io("tensors_compared", value.tensors_compared);
  io("tensors_missing", value.tensors_missing);
  io("not_compared", value.not_compared);
  io("blind", value.blind);
}

template <typename Io>
void fields(Io& io, findings::ClosestToBound& value) {
  io("case", value.case_id);
  io("mode", value.mode);
  io("step", value.step);
  io("tensor", value.tensor);
  io("statistic", value.statistic);
  io("ratio", value.ratio);
}

template <typename Io>
void fields(Io& io, findings::FreeRun& value) {
  io("case", value.case_id);
  io("tokens_compared", value.tokens_compared);
  io("same_top_token", value.same_top_token);
  io("logits_relative_rms_error", value.logits_relative_rms_error);
  io("residual_relative_rms_error", value.residual_relative_rms_error);
  io("row", value.row);
  io("step", value.step);
  io("expected_tokens", value.expected_tokens);
  io("actual_tokens", value.actual_tokens);
  io("margin", value.margin);
  io("expected_text", value.expected_text);
  io("actual_text", value.actual_text);
  io("expected_word", value.expected_word);
  io("actual_word", value.actual_word);
}

template <typename Io>
void fields(Io& io, findings::CaseSummary& value) {
  io("id", value.id);
  io("title", value.title);
  io("hypothesis", value.hypothesis);
  io("seed", value.seed);
  io("verdict", value.verdict);
  io("tensors_compared", value.tensors_compared);
}

template <typename Io>
void fields(Io& io, findings::RunResult& value) {
  io("verdict", value.verdict);
  io("reason", value.reason);
  io("model", value.model);
  io("config", value.config);
  io("engine", value.engine);
  io("device", value.device);
  io("precision", value.precision);
  io("planted_executions", value.planted_executions);
  io("cases", value.cases);
  io("findings", value.findings);
  io("hypotheses", value.hypotheses);
  io("judged", value.judged);
  io("coverage", value.coverage);
  io("closest", value.closest);
  io("free_runs", value.free_runs);
  io("notes", value.notes);
}

}  // namespace qdiff::shards
