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

QDIFF_REPORTED(findings::WrongAxis, axis, size, runs)
QDIFF_REPORTED(findings::BlindVariant, variant, why)
QDIFF_REPORTED(findings::NotCompared, case_id, mode, step, tensor, reason)
QDIFF_REPORTED(findings::Coverage, tensors_compared, tensors_missing, not_compared, blind)
QDIFF_REPORTED(findings::FreeRun, case_id, tokens_compared, same_top_token, logits_relative_rms_error,
               residual_relative_rms_error, greedy, row, step, expected_tokens, actual_tokens, margin, expected_text,
               actual_text, expected_written, actual_written)
QDIFF_REPORTED(findings::RankedVariant, variant, value, times_rounding, relative_rms_error, kl_divergence,
               same_top_token, reproduces)
QDIFF_REPORTED(findings::FreeRanking, case_id, tensors, tokens_compared, rounding, explained_up_to, right, nearest,
               variants_tried, record_next)
QDIFF_REPORTED(RecordAdvice, step, tensors)
QDIFF_REPORTED(findings::ReferenceValues, computed, from_cache)

namespace {

using findings::Explanation;
using findings::Finding;
using findings::RunResult;

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
          {"statistics", document_of(judgement.statistics)}};
}

// One text for each alternative, whatever the diagnosis left out.
std::vector<std::string> separations_of(const Explanation& explanation) {
  std::vector<std::string> separations = explanation.separated_by;
  separations.resize(explanation.alternatives.size());
  return separations;
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
  return {{"hypothesis", document_of(explanation.hypothesis)},
          {"variant", document_of(explanation.variant)},
          {"verdict", document_of(explanation.verdict)},
          {"value", document_of(explanation.value)},
          {"expected_value", document_of(explanation.expected_value)},
          {"layers", explanation.layers},
          {"phase", or_null(explanation.phase)},
          {"pattern", explanation.pattern},
          {"where", document_of(explanation.where)},
          {"evidence", explanation.evidence},
          {"alternatives", document_of(explanation.alternatives)},
          {"separated_by", separations_of(explanation)},
          {"points", explanation.points},
          {"mechanism", document_of(explanation.mechanism)},
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

Document closest_document(const std::optional<findings::ClosestToBound>& closest) {
  if (!closest) return nullptr;
  return {{"case", closest->case_id},  {"mode", closest->mode},           {"step", closest->step},
          {"tensor", closest->tensor}, {"statistic", closest->statistic}, {"ratio_to_bound", number(closest->ratio)}};
}

Document fed_tokens_document(const std::optional<findings::FedTokens>& tokens) {
  if (!tokens) return nullptr;
  Document first = nullptr;
  if (tokens->not_chosen > 0) {
    first = {{"step", tokens->step},
             {"row", tokens->row},
             {"fed", tokens->fed},
             {"chosen", tokens->chosen},
             {"fed_text", document_of(tokens->fed_word)},
             {"chosen_text", document_of(tokens->chosen_word)}};
  }
  return {{"compared", tokens->compared}, {"not_chosen", tokens->not_chosen}, {"first", first}};
}

Document case_document(const RunResult& result, const findings::CaseSummary& summary) {
  const bool is_named = !summary.model.empty();
  return {{"id", summary.id},
          {"title", summary.title},
          {"hypothesis", document_of(summary.hypothesis)},
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

}  // namespace

std::string scalar_text(const Document& value) { return value.dump(-1, ' ', true, Document::error_handler_t::replace); }

Document number(double value, int significant_digits) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return to_digits(value, significant_digits);
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

// `shown_by` is empty: of many cases it is the longest of all.
Document document_without_cases(const findings::HypothesisResult& hypothesis) {
  return {{"format", "qdiff-hypothesis"},
          {"version", 1},
          {"id", hypothesis.id},
          {"title", hypothesis.title},
          {"verdict", findings::name(hypothesis.verdict)},
          {"variant", document_of(hypothesis.variant)},
          {"first_divergence",
           hypothesis.first_divergence ? finding_document(*hypothesis.first_divergence) : Document(nullptr)},
          {"evidence", hypothesis.evidence},
          {"exercised_variants", document_of(hypothesis.exercised_variants)},
          {"shown_by", Document::object()},
          {"blind_variants", document_of(hypothesis.blind_variants)}};
}

void put_cases(const findings::HypothesisResult& hypothesis, Document& document) {
  std::map<std::string_view, const std::set<std::string>*> shown_by;  // by name
  for (const auto& [variant, cases] : hypothesis.shown_by) shown_by[name(variant)] = &cases;
  for (const auto& [variant, cases] : shown_by) document["shown_by"][std::string(variant)] = *cases;
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
  Document document = document_without_cases(hypothesis);
  put_cases(hypothesis, document);
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
      {"coverage", document_of(result.coverage)},
      {"closest_to_bound", closest_document(result.closest)},
      {"free_runs", document_of(result.free_runs)},
      {"ranking", document_of(result.ranking)},
      {"record_next", document_of(what_to_record(result))},
      {"fed_tokens", fed_tokens_document(result.fed_tokens)},
      {"inferred_points", document_of(result.inferred_points)},
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
      {"reference_values", document_of(result.reference_values)},
      {"seconds", number(result.seconds)}};
  // Put in afterwards, for a list in braces is copied, and these may be long.
  document["hypotheses"] = Document::array();
  for (const findings::HypothesisResult& hypothesis : all_hypotheses(result)) {
    document["hypotheses"].push_back(document_without_cases(hypothesis));
  }
  document["cases"] =
      list(result.cases, [&](const findings::CaseSummary& summary) { return case_document(result, summary); });
  return document;
}

Document to_document(const RunResult& result) {
  Document document = document_without_findings(result);
  std::size_t place = 0;
  for (const findings::HypothesisResult& hypothesis : all_hypotheses(result)) {
    put_cases(hypothesis, document["hypotheses"][place++]);
  }
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
