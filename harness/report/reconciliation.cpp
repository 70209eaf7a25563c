#include "harness/report/reconciliation.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "harness/contract/number_text.h"
#include "harness/formats/duration.h"
#include "harness/report/causes.h"
#include "harness/report/json.h"
#include "harness/report/sentences.h"
#include "harness/report/terminal_writer.h"
#include "harness/report/text.h"

namespace qdiff::report {

QDIFF_REPORTED(findings::BoundedFigure, value, bound)

namespace {

using findings::Finding;
using findings::kNumSides;
using findings::ReconciledSide;
using findings::ReconciledToken;
using findings::Reconciliation;

// ---- JSON ----------------------------------------------------------------------------------------------------------

Document numbers(const std::array<double, kNumSides>& values) {
  return {{"a", number(values[0], kElementDigits)}, {"b", number(values[1], kElementDigits)}};
}

Document token_document(const ReconciledToken& token) {
  return {{"row", token.batch_row},
          {"index", token.index},
          {"token", token.token},
          {"log_probability", numbers(token.log_probability)},
          {"expected", numbers(token.expected)},
          {"rounding", numbers(token.rounding)},
          {"difference", number(token.difference())},
          {"explained", number(token.explained())}};
}

Document side_document(const ReconciledSide& side) {
  const Finding* first = side.diagnosis.first_divergence();
  Document finding = nullptr;
  if (first != nullptr) {
    finding = {{"step", first->step},
               {"tensor", tensor_name(first->tensor)},
               {"kind", findings::name(first->kind)},
               {"cause", cause_of(first->explanation)},
               {"command", first->command}};
  }
  return {{"trace", side.trace},
          {"engine", side.diagnosis.engine},
          {"device", side.diagnosis.device},
          {"verdict", compare::name(side.diagnosis.verdict)},
          {"tensors_compared", side.diagnosis.coverage.tensors_compared},
          {"first_divergence", finding},
          {"undeclared", side.undeclared},
          {"all_tokens", document_of(side.all)},
          {"worst_token", document_of(side.worst)}};
}

Document stream_document(const findings::StreamDifference& stream) {
  return {{"tensor", tensor_name({Op::kOutput, stream.layer})},
          {"difference", number(stream.difference.value)},
          {"explained_up_to", number(stream.difference.bound)}};
}

Document reconciliation_document(const Reconciliation& result) {
  const auto sorted = result.by_difference();
  return {{"format", "qdiff-reconcile"},
          {"version", 1},
          {"verdict", compare::name(result.verdict)},
          {"reason", result.reason},
          {"command", result.command},
          {"model", result.model},
          {"mean_difference", number(result.mean_difference())},
          {"worst_difference", number(sorted.empty() ? 0.0 : sorted.front()->difference())},
          {"share_explained", number(result.share_explained())},
          {"logits_alone", result.logits_alone},
          {"false_alarms", {{"honest_pairs", result.honest_verified}, {"accused", result.honest_accused}}},
          {"a", side_document(result.sides[0])},
          {"b", side_document(result.sides[1])},
          {"notes", result.notes},
          {"streams", list(result.streams, stream_document)},
          {"tokens", list(result.tokens, token_document)},
          {"seconds", number(result.seconds)}};
}

// ---- Terminal ------------------------------------------------------------------------------------------------------

// Rounded down: 100 % means all.
std::string percent(double share) { return decimals(std::floor(share * 1000.0) / 10.0, 1) + " %"; }

std::string text_of(const ReconciledToken& token) {
  return "token " + std::to_string(token.token) + " at index " + std::to_string(token.index) + " of row " +
         std::to_string(token.batch_row);
}

std::string engine_of(const ReconciledSide& side) {
  const findings::RunResult& diagnosis = side.diagnosis;
  return side.trace + ", " + diagnosis.engine + (diagnosis.device.empty() ? "" : " (" + diagnosis.device + ")") +
         " in " + dtypes_of(diagnosis);
}

std::string errors_of(const Reconciliation& result, const ReconciledSide& side) {
  if (result.tokens.empty()) return "";
  return "its log-probabilities err by " + digits(side.all.value, 3) +
         " times what its roundings do (right code up to " + digits(side.all.bound, 3) + "), by " +
         digits(side.worst.value, 3) + " times at " + text_of(result.tokens[side.worst_token]) + " (up to " +
         digits(side.worst.bound, 3) + ")";
}

void write_side(const Reconciliation& result, std::size_t s, Writer& out) {
  const ReconciledSide& side = result.sides[s];
  out.blank();
  const Finding* first = side.diagnosis.first_divergence();
  out.field(std::string(findings::kSideNames[s]), engine_of(side) + ": " +
                                                      std::string(compare::name(side.diagnosis.verdict)) + " in " +
                                                      counted(side.diagnosis.coverage.tensors_compared, "tensor"));
  out.field("", errors_of(result, side));
  if (first == nullptr) return;
  out.whole_field("first at", tensor_name(first->tensor), kBold);
  out.field("where",
            place_of(*first) + (first->kind == findings::FindingKind::kPrecision ? ", an undeclared rounding" : ""));
  out.field("cause", cause_of(first->explanation));
  out.field("meaning", meaning_of(side.diagnosis, first->explanation));
  out.whole_field("declare", points_entry(side.undeclared));
  out.whole_field("repeat", first->command);
}

void write_tokens(const Reconciliation& result, bool all, Writer& out) {
  constexpr std::size_t kMostLines = 10, kShort = 6, kNumber = 12;
  std::vector<const ReconciledToken*> sorted = result.by_difference();
  if (sorted.empty()) return;
  const std::size_t shown = all ? sorted.size() : std::min(sorted.size(), kMostLines);
  out.blank();
  out.line(out.painted(kFaint, at_right("row", kShort) + at_right("index", kShort) + at_right("token", 2 + kShort) +
                                   at_right("log p A", kNumber) + at_right("log p B", kNumber) +
                                   at_right("difference", kNumber) + at_right("rounding A", kNumber) +
                                   at_right("rounding B", kNumber) + at_right("explained", kNumber)));
  for (std::size_t i = 0; i < shown; ++i) {
    const ReconciledToken& token = *sorted[i];
    const double difference = token.difference();
    const double share = difference > 0.0 ? token.explained() / difference : 1.0;
    out.line(at_right(std::to_string(token.batch_row), kShort) + at_right(std::to_string(token.index), kShort) +
             at_right(std::to_string(token.token), 2 + kShort) +
             at_right(digits(token.log_probability[0], 6), kNumber) +
             at_right(digits(token.log_probability[1], 6), kNumber) + at_right(digits(difference, 3), kNumber) +
             at_right(digits(token.rounding[0], 3), kNumber) + at_right(digits(token.rounding[1], 3), kNumber) +
             at_right(std::isnan(difference) ? "-" : percent(share), kNumber));
  }
  if (shown < sorted.size()) {
    out.line(out.painted(kFaint, "  (" + std::to_string(shown) + " of " + std::to_string(sorted.size()) +
                                     " tokens: those that differ most)"));
  }
}

// Behind which layer the residual streams part.
std::string streams_of(const Reconciliation& result) {
  if (result.streams.empty()) return "";
  if (const findings::StreamDifference* first = result.parting()) {
    return "the residual streams part at " + tensor_name({Op::kOutput, first->layer}) + ": " +
           digits(first->difference.value, 3) + " apart, relative to their size, where roundings explain up to " +
           digits(first->difference.bound, 3);
  }
  const findings::StreamDifference& last = result.streams.back();
  return "the residual streams are nowhere further apart than roundings take them: at " +
         tensor_name({Op::kOutput, last.layer}) + " " + digits(last.difference.value, 3) +
         ", relative to their size, of up to " + digits(last.difference.bound, 3);
}

// With so many honest pairs of which so many were accused, the rate is below that with 95 % confidence: of none, 3 / n.
std::string false_alarms(const Reconciliation& result) {
  if (result.honest_verified == 0) return "";
  return std::to_string(result.honest_accused) + " of " + std::to_string(result.honest_verified) +
         " pairs of right engines that round differently were accused" +
         (result.honest_accused > 0
              ? ""
              : ", so fewer than " + percent(3.0 / static_cast<double>(result.honest_verified)) + " are");
}

}  // namespace

std::string reconciliation_json(const Reconciliation& result) { return to_text(reconciliation_document(result)); }

std::string format_reconciliation(const Reconciliation& result, const TerminalOptions& options) {
  Writer out(options);
  out.line(out.painted(color_of(result.verdict), headline_of(result.verdict)) + "  " +
           wrapped(out.plain(result.reason) + ", " + formats::duration_text(result.seconds), out.width(), "  "));
  const auto sorted = result.by_difference();
  if (!sorted.empty()) {
    out.field("tokens", counted(std::ssize(result.tokens), "token") + ": |log p A - log p B| is " +
                            digits(result.mean_difference(), 3) + " nats in the mean and " +
                            digits(sorted.front()->difference(), 3) + " at worst (" + text_of(*sorted.front()) + ")");
    out.field("explained", percent(result.share_explained()) + " of it is no more than the roundings of both make");
  }
  out.field("layers", streams_of(result));
  out.field("alarms", false_alarms(result));
  if (result.logits_alone) {
    out.field("weaker",
              "nothing but logits was recorded on one side, so that a bug that moves them less than "
              "rounding does is not seen; record the layers' tensors too");
  }
  for (const std::string& note : result.notes) out.field("note", note);
  for (std::size_t s = 0; s < kNumSides; ++s) write_side(result, s, out);
  write_tokens(result, options.all, out);
  out.whole_field("reports", options.reports);
  return out.take();
}

}  // namespace qdiff::report
