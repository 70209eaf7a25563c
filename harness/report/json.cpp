#include "harness/report/json.h"

#include <algorithm>
#include <cmath>

#include "harness/contract/hypothesis.h"
#include "harness/contract/number_text.h"
#include "harness/report/acceptance.h"
#include "harness/report/advice.h"
#include "harness/report/injection.h"
#include "harness/report/report.h"

namespace qdiff::report {
namespace {

using findings::Explanation;
using findings::Finding;
using findings::RunResult;

Document to_name(FaultId id) { return name(id); }

Document divergence_document(const Finding& finding) {
  const compare::Judgement& judgement = finding.judgement;
  // Where the tensors as a whole could not be laid side by side, no element is the worst one.
  const bool has_worst = !judgement.worst_index.empty();
  return {{"case", finding.case_id},
          {"mode", finding.mode},
          {"step", finding.step},
          {"phase", name(finding.phase)},
          {"layer", layer_document(finding.tensor.layer)},
          {"tensor", tensor_name(finding.tensor)},
          {"kind", findings::name(finding.kind)},
          {"index", judgement.worst_index},
          {"actual", has_worst ? number(judgement.actual, kElementDigits) : Document(nullptr)},
          {"expected", has_worst ? number(judgement.expected, kElementDigits) : Document(nullptr)},
          {"span", {tensor_name(finding.span_start), tensor_name(finding.tensor)}},
          {"command", finding.command},
          {"reason", judgement.reason},
          {"decisive_statistic", judgement.decisive_statistic},
          {"ratio_to_bound", number(judgement.ratio_to_bound)},
          {"statistics", statistics_document(judgement.statistics)}};
}

// One text for each alternative, whatever the diagnosis left out.
std::vector<std::string> separations_of(const Explanation& explanation) {
  std::vector<std::string> separations = explanation.separated_by;
  separations.resize(explanation.alternatives.size());
  return separations;
}

Document where_document(const findings::WrongAxis& where) {
  Document runs = Document::array();
  for (const auto& [first, last] : where.runs) runs.push_back({first, last});
  return {{"axis", where.axis}, {"size", where.size}, {"runs", runs}};
}

Document facts_document(const findings::Facts& facts) {
  Document document = Document::object();
  for (const auto& [name, value] : facts) {
    const double* real = std::get_if<double>(&value);
    document[name] = real != nullptr ? number(*real) : Document(std::get<std::string>(value));
  }
  return document;
}

Document explanation_document(const Explanation& explanation) {
  return {{"hypothesis", or_null(explanation.hypothesis)},
          {"variant", or_null(explanation.variant)},
          {"verdict", or_null(explanation.verdict)},
          {"value", or_null(explanation.value)},
          {"expected_value", or_null(explanation.expected_value)},
          {"layers", explanation.layers},
          {"phase", or_null(explanation.phase)},
          {"pattern", explanation.pattern},
          {"where", list(explanation.where, where_document)},
          {"evidence", explanation.evidence},
          {"alternatives", list(explanation.alternatives, to_name)},
          {"separated_by", separations_of(explanation)},
          {"points", explanation.points},
          {"mechanism", or_null(explanation.mechanism)},
          {"parameters", facts_document(explanation.parameters)},
          {"scope", facts_document(explanation.scope)},
          {"sentence", or_null(explanation.sentence)}};
}

Document finding_document(const Finding& finding) {
  Document document = divergence_document(finding);
  document["explanation"] = explanation_document(finding.explanation);
  const auto mistake = mistake_of(finding);
  document["inject"] = mistake ? Document(to_string(*mistake)) : Document(nullptr);
  return document;
}

Document coverage_document(const findings::Coverage& coverage) {
  const auto not_compared = [](const findings::NotCompared& item) -> Document {
    return {{"case", item.case_id},
            {"mode", item.mode},
            {"step", item.step},
            {"tensor", item.tensor},
            {"reason", item.reason}};
  };
  return {{"tensors_compared", coverage.tensors_compared},
          {"tensors_missing", coverage.tensors_missing},
          {"not_compared", list(coverage.not_compared, not_compared)},
          {"blind", coverage.blind}};
}

Document closest_document(const std::optional<findings::ClosestToBound>& closest) {
  if (!closest) return nullptr;
  return {{"case", closest->case_id},  {"mode", closest->mode},           {"step", closest->step},
          {"tensor", closest->tensor}, {"statistic", closest->statistic}, {"ratio_to_bound", number(closest->ratio)}};
}

Document free_run_document(const findings::FreeRun& run) {
  return {{"case", run.case_id},
          {"tokens_compared", run.tokens_compared},
          {"same_top_token", run.same_top_token},
          {"logits_relative_rms_error", number(run.logits_relative_rms_error)},
          {"residual_relative_rms_error",
           list(run.residual_relative_rms_error, [](double error) { return number(error); })},
          {"greedy", run.greedy},
          {"row", run.row},
          {"step", run.step},
          {"expected_tokens", run.expected_tokens},
          {"actual_tokens", run.actual_tokens},
          {"margin", or_null(run.margin)},
          {"expected_text", or_null(run.expected_text)},
          {"actual_text", or_null(run.actual_text)},
          {"expected_written", or_null(run.expected_written)},
          {"actual_written", or_null(run.actual_written)}};
}

Document fed_tokens_document(const std::optional<findings::FedTokens>& tokens) {
  if (!tokens) return nullptr;
  Document first = nullptr;
  if (tokens->not_chosen > 0) {
    first = {{"step", tokens->step},
             {"row", tokens->row},
             {"fed", tokens->fed},
             {"chosen", tokens->chosen},
             {"fed_text", or_null(tokens->fed_word)},
             {"chosen_text", or_null(tokens->chosen_word)}};
  }
  return {{"compared", tokens->compared}, {"not_chosen", tokens->not_chosen}, {"first", first}};
}

Document case_document(const RunResult& result, const findings::CaseSummary& summary) {
  const bool is_named = !summary.model.empty();
  return {{"id", summary.id},
          {"title", summary.title},
          {"hypothesis", or_null(summary.hypothesis)},
          {"seed", summary.seed},
          {"verdict", compare::name(summary.verdict)},
          {"tensors_compared", summary.tensors_compared},
          {"model", is_named ? summary.model : result.model},
          {"engine", is_named ? summary.engine : result.engine},
          {"dtype", is_named ? summary.dtype : std::string(name(result.precision.activations))}};
}

// As the `compute` block of a trace's manifest.
Document precision_document(const Precision& precision) {
  Document points = Document::object();
  for (const auto& [point, dtype] : declared_points(precision)) points[point] = dtype;
  return {{"weights", name(precision.weights)},
          {"activations", name(precision.activations)},
          {"accumulate", name(precision.accumulate)},
          {"points", points}};
}

Document injected_document(const RunResult& result) {
  if (!result.injected) return nullptr;
  return {{"fault", to_string(*result.injected)}, {"executions", result.planted_executions}};
}

void append_text(const Document& value, const std::string& line_start, std::string& text) {
  if (!value.is_structured() || value.empty()) {
    text += scalar_text(value);
    return;
  }
  const bool one_line =
      value.is_array() && std::ranges::none_of(value, [](const Document& item) { return item.is_structured(); });
  const std::string inner = line_start + "  ";
  text += value.is_array() ? '[' : '{';
  bool first = true;
  for (const auto& [key, item] : value.items()) {
    if (!first) text += one_line ? ", " : ",";
    first = false;
    if (!one_line) text += '\n' + inner;
    if (value.is_object()) text += scalar_text(Document(key)) + ": ";
    append_text(item, inner, text);
  }
  if (!one_line) text += '\n' + line_start;
  text += value.is_array() ? ']' : '}';
}

Document ranked_document(const findings::RankedVariant& variant) {
  return {{"variant", or_null(variant.variant)},
          {"value", or_null(variant.value)},
          {"times_rounding", number(variant.times_rounding)},
          {"relative_rms_error", number(variant.relative_rms_error)},
          {"kl_divergence", number(variant.kl_divergence)},
          {"same_top_token", variant.same_top_token},
          {"reproduces", variant.reproduces}};
}

Document ranking_document(const std::optional<findings::FreeRanking>& ranking) {
  if (!ranking) return nullptr;
  return {{"case", ranking->case_id},
          {"tensors", ranking->tensors},
          {"tokens_compared", ranking->tokens_compared},
          {"rounding", number(ranking->rounding)},
          {"explained_up_to", number(ranking->explained_up_to)},
          {"right", ranked_document(ranking->right)},
          {"nearest", list(ranking->nearest, ranked_document)},
          {"variants_tried", ranking->variants_tried},
          {"record_next", ranking->record_next}};
}

Document advice_document(const std::optional<RecordAdvice>& advice) {
  if (!advice) return nullptr;
  return {{"step", advice->step}, {"tensors", advice->tensors}};
}

Document reference_values_document(const std::optional<findings::ReferenceValues>& values) {
  if (!values) return nullptr;
  return {{"computed", values->computed}, {"from_cache", values->from_cache}};
}

}  // namespace

std::string scalar_text(const Document& value) { return value.dump(-1, ' ', true, Document::error_handler_t::replace); }

Document number(double value, int significant_digits) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return to_digits(value, significant_digits);
}

Document statistics_document(const compare::Statistics& statistics) {
  return {{"elements_compared", statistics.elements_compared},
          {"max_excess", number(statistics.max_excess)},
          {"rms", number(statistics.rms)},
          {"worst_slice_rms", number(statistics.worst_slice_rms)},
          {"worst_slice", statistics.worst_slice},
          {"bias", number(statistics.bias)},
          {"slope", number(statistics.slope)},
          {"max_abs_error", number(statistics.max_abs_error)},
          {"relative_rms_error", number(statistics.relative_rms_error)},
          {"share_beyond_one_spacing", number(statistics.share_beyond_one_spacing)}};
}

namespace {

const std::vector<findings::HypothesisResult>& not_exercised() {
  static const std::vector<findings::HypothesisResult> kAll = [] {
    std::vector<findings::HypothesisResult> all;
    for (const Hypothesis& hypothesis : kHypotheses) {
      findings::HypothesisResult absent;
      absent.id = hypothesis.id;
      absent.title = hypothesis.title;
      all.push_back(std::move(absent));
    }
    return all;
  }();
  return kAll;
}

}  // namespace

std::vector<HypothesisRef> all_hypotheses(const RunResult& result) {
  std::vector<HypothesisRef> all;
  for (const findings::HypothesisResult& absent : not_exercised()) {
    const auto found = std::ranges::find(result.hypotheses, absent.id, &findings::HypothesisResult::id);
    all.emplace_back(found != result.hypotheses.end() ? *found : absent);
  }
  return all;
}

Document to_document(const findings::HypothesisResult& hypothesis) {
  const auto blind = [](const findings::BlindVariant& variant) -> Document {
    return {{"variant", name(variant.variant)}, {"why", variant.why}};
  };
  std::map<std::string_view, const std::set<std::string>*> shown_by;  // by name
  for (const auto& [variant, cases] : hypothesis.shown_by) shown_by[name(variant)] = &cases;
  Document document = {{"format", "qdiff-hypothesis"},
                       {"version", 1},
                       {"id", hypothesis.id},
                       {"title", hypothesis.title},
                       {"verdict", findings::name(hypothesis.verdict)},
                       {"variant", or_null(hypothesis.variant)},
                       {"first_divergence", hypothesis.first_divergence ? finding_document(*hypothesis.first_divergence)
                                                                        : Document(nullptr)},
                       {"evidence", hypothesis.evidence},
                       {"exercised_variants", list(hypothesis.exercised_variants, to_name)},
                       {"shown_by", Document::object()},
                       {"blind_variants", list(hypothesis.blind_variants, blind)}};
  // Put in afterwards, for a list in braces is copied.
  for (const auto& [variant, cases] : shown_by) document["shown_by"][std::string(variant)] = *cases;
  return document;
}

Document document_without_findings(const RunResult& result) {
  const Finding* first = result.first_divergence();
  Document document = {
      {"format", "qdiff-report"},
      {"version", 1},
      {"verdict", compare::name(result.verdict)},
      {"reason", or_null(result.reason)},
      {"first_divergence", first == nullptr ? Document(nullptr) : divergence_document(*first)},
      {"explanation", first == nullptr ? Document(nullptr) : explanation_document(first->explanation)},
      {"findings", nullptr},
      {"hypotheses", nullptr},
      {"coverage", coverage_document(result.coverage)},
      {"closest_to_bound", closest_document(result.closest)},
      {"free_runs", list(result.free_runs, free_run_document)},
      {"ranking", ranking_document(result.ranking)},
      {"record_next", advice_document(what_to_record(result))},
      {"fed_tokens", fed_tokens_document(result.fed_tokens)},
      {"inferred_points", or_null(result.inferred_points)},
      {"precision_allowed", result.precision_allowed},
      {"acceptance", acceptance_document(result.acceptance)},
      {"notes", result.notes},
      {"conditions", result.conditions},
      {"cases", nullptr},
      {"command", result.command},
      {"model", {{"argument", result.model}, {"config", result.config}}},
      {"engine",
       {{"name", result.engine}, {"device", result.device}, {"compute", precision_document(result.precision)}}},
      {"injected", injected_document(result)},
      {"reference_values", reference_values_document(result.reference_values)},
      {"seconds", number(result.seconds)}};
  // Put in afterwards, for a list in braces is copied, and these may be long.
  document["hypotheses"] = Document::array();
  for (const findings::HypothesisResult& hypothesis : all_hypotheses(result)) {
    document["hypotheses"].push_back(to_document(hypothesis));
  }
  document["cases"] =
      list(result.cases, [&](const findings::CaseSummary& summary) { return case_document(result, summary); });
  return document;
}

Document to_document(const RunResult& result) {
  Document document = document_without_findings(result);
  document["findings"] = list(result.findings, finding_document);
  return document;
}

std::string to_text(const Document& document) {
  std::string text;
  append_text(document, "", text);
  return text + '\n';
}

std::string points_json(const std::map<std::string, std::string>& points) { return to_text({{"points", points}}); }
std::string report_json(const RunResult& result) { return to_text(to_document(result)); }
std::string hypothesis_json(const findings::HypothesisResult& hypothesis) { return to_text(to_document(hypothesis)); }

}  // namespace qdiff::report
