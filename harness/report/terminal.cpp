#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "harness/contract/number_text.h"
#include "harness/findings/blindness.h"
#include "harness/formats/duration.h"
#include "harness/report/acceptance.h"
#include "harness/report/advice.h"
#include "harness/report/causes.h"
#include "harness/report/injection.h"
#include "harness/report/json.h"
#include "harness/report/report.h"
#include "harness/report/sentences.h"
#include "harness/report/terminal_writer.h"
#include "harness/report/text.h"

namespace qdiff::report {
namespace {

using compare::Verdict;
using findings::Finding;
using findings::HypothesisVerdict;
using findings::RunResult;

std::string_view hypothesis_color(HypothesisVerdict verdict) {
  switch (verdict) {
    case HypothesisVerdict::kConfirmed:
    case HypothesisVerdict::kConsistent:
      return kRed;
    case HypothesisVerdict::kRefuted:
      return kGreen;
    case HypothesisVerdict::kOpen:
    case HypothesisVerdict::kUndetectable:
    case HypothesisVerdict::kNotExercised:
      break;
  }
  return kYellow;
}

// ---- First divergence ----

std::string element_line(const compare::Judgement& judgement) {
  if (judgement.worst_index.empty()) return "";
  return to_string(judgement.worst_index) + "  actual " + digits(judgement.actual, 9) + "  expected " +
         digits(judgement.expected, 9);
}

void write_alternatives(const findings::Explanation& explanation, Writer& out) {
  constexpr std::size_t kMostLines = 6;
  const std::vector<std::string> lines = alternatives_of(explanation);
  for (std::size_t i = 0; i < lines.size() && i < kMostLines; ++i) out.field(i == 0 ? "or else" : "", lines[i]);
  if (lines.size() > kMostLines) out.field("", "and " + std::to_string(lines.size() - kMostLines) + " more");
}

// One line for each cause, tensor and kind of step. Many explained ones are cut short; unexplained ones never are.
void write_causes(const RunResult& result, bool all, Writer& out) {
  if (result.findings.size() < 2) return;
  constexpr std::size_t kMostLines = 10;
  std::size_t lines = 0;
  std::int64_t left_out = 0;
  for (const Cause& cause : causes_of(result)) {
    if (lines >= kMostLines && cause.explained && !all) {
      ++left_out;
      continue;
    }
    const std::string where = cause.where(), standing = standing_of(result, cause.findings);
    out.field(lines == 0 ? "wrong" : "", cause.tensor + (where.empty() ? "" : " in " + where) + ": " +
                                             counted(static_cast<std::int64_t>(cause.findings.size()), "tensor") +
                                             ", " + cause.what + ", worst " +
                                             distance_from_bound(result.findings[cause.worst].judgement) +
                                             (standing.empty() ? "" : "; " + standing));
    ++lines;
  }
  if (left_out > 0) out.field("", "and " + counted(left_out, "more line") + " like these in report.html");
}

void write_divergence(const RunResult& result, const Finding& first, bool all, Writer& out) {
  const std::string tensor = tensor_name(first.tensor);
  out.blank();
  out.whole_field("first at", tensor, kBold);
  out.field("where", "case " + first.case_id + ", " + place_of(first) +
                         (first.kind == findings::FindingKind::kPrecision ? ", an undeclared rounding" : ""));
  out.whole_field("element", element_line(first.judgement));
  out.field("error", error_alone(first.judgement));
  if (first.span_start != first.tensor) out.field("span", tensor_name(first.span_start) + " to " + tensor);
  out.field("pattern", first.explanation.pattern);
  out.field("cause", cause_of(first.explanation));
  out.field("meaning", meaning_of(result, first.explanation));
  if (first.explanation.variant && first.explanation.verdict == HypothesisVerdict::kConsistent) {
    out.field("doubt", first.explanation.evidence);
  }
  write_alternatives(first.explanation, out);
  if (const auto advice = what_to_record(result)) {
    out.field("record", sentence_of(*advice));
  }
  out.whole_field("repeat", first.command, kBold);
  if (const auto mistake = mistake_of(first)) out.whole_field("plant", "--inject '" + to_string(*mistake) + "'");

  write_causes(result, all, out);
  out.whole_field("declare", points_entry(result.inferred_points ? *result.inferred_points : points_of(result)));
}

// ---- Hypotheses ----

std::string note_of(const findings::HypothesisResult& hypothesis) {
  const std::size_t exercised = hypothesis.exercised_variants.size();
  const std::size_t blind = hypothesis.blind_variants.size();
  switch (hypothesis.verdict) {
    case HypothesisVerdict::kConfirmed:
    case HypothesisVerdict::kConsistent: {
      const std::string variant(hypothesis.variant ? name(*hypothesis.variant) : std::string_view());
      const auto& first = hypothesis.first_divergence;  // may name another variant of the hypothesis
      if (first && first->explanation.value && first->explanation.variant == hypothesis.variant) {
        return variant + " = " + plain_number(*first->explanation.value);
      }
      return variant.empty() && !hypothesis.evidence.empty() ? hypothesis.evidence.front() : variant;
    }
    case HypothesisVerdict::kOpen:
      if (!hypothesis.never_judged.empty()) return "not excluded: " + hypothesis.never_judged + " was never judged";
      if (!findings::is_mostly_blind(hypothesis)) return "not excluded: a wrong tensor in its reach is unexplained";
      return "not excluded: these inputs show " + std::to_string(exercised) + " of " +
             counted(static_cast<std::int64_t>(exercised + blind), "variant");
    case HypothesisVerdict::kRefuted:
      return counted(static_cast<std::int64_t>(exercised), "variant") + " would have shown" +
             (blind > 0 ? ", " + std::to_string(blind) + " not" : "");
    case HypothesisVerdict::kUndetectable:
    case HypothesisVerdict::kNotExercised:
      break;
  }
  return why_not_judged(hypothesis);
}

// Nothing found speaks for it, and nothing found keeps it open.
bool is_quiet(const findings::HypothesisResult& hypothesis, bool something_found) {
  if (hypothesis.verdict == HypothesisVerdict::kOpen) return !something_found && findings::is_mostly_blind(hypothesis);
  return hypothesis.verdict != HypothesisVerdict::kConfirmed && hypothesis.verdict != HypothesisVerdict::kConsistent;
}

// "all of H09, H10; H01.no_batch_stride, H03.theta and 5 more"
std::string not_shown(const std::vector<HypothesisRef>& hypotheses) {
  std::vector<std::string> whole, variants;
  for (const findings::HypothesisResult& hypothesis : hypotheses) {
    if (hypothesis.exercised_variants.empty()) {
      whole.push_back(hypothesis.id);
      continue;
    }
    for (const findings::BlindVariant& variant : hypothesis.blind_variants)
      variants.emplace_back(name(variant.variant));
  }
  std::string text = whole.empty() ? "" : "all of " + joined(whole, whole.size());
  if (!variants.empty()) text += (text.empty() ? "" : "; ") + joined(variants, 6);
  return text;
}

// The ten in one line, where none of them has anything to say.
void write_quiet(const std::vector<HypothesisRef>& hypotheses, Writer& out) {
  std::size_t looked_for = 0;
  for (const findings::HypothesisResult& hypothesis : hypotheses) {
    looked_for += hypothesis.exercised_variants.size() + hypothesis.blind_variants.size();
  }
  const std::string missing = not_shown(hypotheses);
  out.field("bugs", "of " + counted(static_cast<std::int64_t>(looked_for), "known bug") + " none" +
                        (missing.empty() ? "" : "; not shown by these inputs: " + missing));
}

void write_hypotheses(const RunResult& result, bool whole, Writer& out) {
  out.blank();
  if (!whole) return;
  const std::vector<HypothesisRef> all = all_hypotheses(result);
  std::size_t title_width = 0;
  for (const findings::HypothesisResult& hypothesis : all)
    title_width = std::max(title_width, display_width(out.plain(hypothesis.title)));
  constexpr std::size_t kIdWidth = 5, kVerdictWidth = 13, kGap = 2, kNoteWidth = 44;
  constexpr std::size_t kFixed = kGap + kIdWidth + kGap + kVerdictWidth + kGap;
  const std::size_t room = out.width() > kFixed + kNoteWidth ? out.width() - kFixed - kNoteWidth : 0;
  title_width = std::min(title_width, std::max<std::size_t>(room, 20));
  for (const findings::HypothesisResult& hypothesis : all) {
    std::string verdict(findings::name(hypothesis.verdict));
    std::replace(verdict.begin(), verdict.end(), '_', ' ');
    const std::vector<std::string> title = wrapped_lines(out.plain(hypothesis.title), title_width);
    const std::vector<std::string> note =
        wrapped_lines(out.plain(note_of(hypothesis)), out.width() - kFixed - title_width);
    for (std::size_t i = 0; i < std::max(title.size(), note.size()); ++i) {
      const bool first = i == 0, with_note = i < note.size();
      std::string line =
          "  " + padded_to(first ? out.plain(hypothesis.id) : "", kIdWidth) + (i < title.size() ? title[i] : "");
      if (first || with_note) {
        line = padded_to(line, kGap + kIdWidth + title_width) + "  ";
        const std::string words = padded_to(first ? verdict : "", with_note ? kVerdictWidth : 0);
        line += (first ? out.painted(hypothesis_color(hypothesis.verdict), words) : words) +
                (with_note ? "  " + note[i] : "");
      }
      out.line(line);
    }
  }
}

// ---- What was and was not compared ----

// "3 because ..." for each reason, the most frequent first. Reasons that differ in their numbers alone are one, and the
// first of them stands for all.
std::vector<std::string> by_reason(const std::vector<findings::NotCompared>& items) {
  struct Group {
    std::string first;
    std::int64_t count = 0;
    bool same = true;
  };
  std::map<std::string, Group> groups;
  for (const findings::NotCompared& item : items) {
    std::string key = item.reason;
    std::erase_if(key, [](char c) { return c >= '0' && c <= '9'; });
    Group& group = groups[key];
    if (group.count++ == 0) group.first = item.reason;
    group.same = group.same && item.reason == group.first;
  }
  std::vector<Group> sorted;
  for (const auto& [key, group] : groups) sorted.push_back(group);
  std::stable_sort(sorted.begin(), sorted.end(), [](const Group& a, const Group& b) { return a.count > b.count; });
  std::vector<std::string> texts;
  for (const Group& group : sorted) {
    texts.push_back(std::to_string(group.count) + (group.same ? " because " : " for reasons such as: ") + group.first);
  }
  return texts;
}

// What both would write, in words, and where they part.
void write_choices(const findings::FreeRun& run, Writer& out) {
  if (!run.expected_text || !run.actual_text || run.expected_tokens.empty()) return;
  out.field("expected", '"' + run.expected_written.value_or(*run.expected_text) + '"');
  out.field("actual", '"' + run.actual_written.value_or(*run.actual_text) + '"');
  const std::int64_t expected = run.expected_tokens.back(), actual = run.actual_tokens.back();
  if (expected == actual) return;
  const auto token = [](std::int64_t number, const std::optional<std::string>& word) {
    return number < 0 ? std::string("no token, for there is NaN,")
                      : '"' + word.value_or("") + "\" (token " + std::to_string(number) + ')';
  };
  out.field("", "they part in step " + std::to_string(run.step) + ", row " + std::to_string(run.row) + ": " +
                    token(actual, run.actual_word) + " where " + token(expected, run.expected_word) + " is expected" +
                    (run.margin ? ", which the reference's logits prefer by " + digits(*run.margin, 3) : ""));
}

bool choose_alike(const findings::FreeRun& run) {
  // Logits of the last rows alone are not among the positions, but have choices.
  return run.same_top_token == run.tokens_compared && run.expected_tokens == run.actual_tokens;
}

std::string choices_text(const findings::FreeRun& run) {
  const std::string positions = counted(run.tokens_compared, "position");
  if (choose_alike(run)) return "the reference's next token at all of " + positions;
  const std::int64_t others = run.tokens_compared - run.same_top_token;
  return "another next token than the reference's " +
         (others > 0 ? "at " + std::to_string(others) + " of " + positions : "behind step " + std::to_string(run.step));
}

// Rounding moves a close choice of token now and then; a user sees text, so a few lines say how much.
void write_texts(const std::vector<findings::FreeRun>& runs, Writer& out) {
  constexpr std::int64_t kMostCases = 3;
  std::int64_t shown = 0, more = 0;
  for (const findings::FreeRun& run : runs) {
    if (choose_alike(run) && !run.greedy) continue;
    if (shown == kMostCases) {
      ++more;
      continue;
    }
    ++shown;
    out.field("text", "case " + run.case_id + ": " + choices_text(run));
    write_choices(run, out);
  }
  if (more > 0) out.field("", "and in " + counted(more, "more case"));
}

void write_elsewhere(const RunResult& result, Writer& out) {
  const char* label = "text";
  for (const std::string& line : where_else_to_look(result)) {
    out.field(label, line);
    label = "";
  }
}

void write_coverage(const RunResult& result, bool whole, Writer& out) {
  if (whole) out.blank();
  const findings::Coverage& coverage = result.coverage;
  std::string compared = counted(coverage.tensors_compared, "tensor");
  if (!coverage.tensors_missing.empty()) {
    compared +=
        (result.of_trace ? "; not recorded: " : "; never handed out: ") + joined(by_layer(coverage.tensors_missing), 4);
  }
  out.field("compared", compared);
  if (result.cases.size() > 1 && result.verdict != Verdict::kMatch) {
    std::vector<std::string> verdicts;
    for (const findings::CaseSummary& summary : result.cases) {
      verdicts.push_back(summary.id + ' ' + std::string(compare::name(summary.verdict)));
    }
    out.field("cases", joined(verdicts, 12));
  }
  out.field("unjudged", joined(by_reason(coverage.not_compared), 2));
  if (!whole) write_quiet(all_hypotheses(result), out);
  if (whole && !coverage.blind.empty()) {
    out.field("blind", joined(coverage.blind, 10) + ": these inputs do not show whether they hold");
  }
  out.field("closest", closest_of(result));
  write_texts(result.free_runs, out);
  write_elsewhere(result, out);
}

// ---- What only a trace has ----

// Many models are a number here; the report names them.
std::string models_of(const RunResult& result) {
  constexpr std::size_t kShort = 80;
  if (result.model.size() <= kShort) return result.model;
  std::int64_t models = 1;
  for (std::size_t at = result.model.find(", "); at != std::string::npos; at = result.model.find(", ", at + 2))
    ++models;
  return models == 1 ? result.model : counted(models, "model");
}

std::string variant_text(const findings::RankedVariant& variant) {
  return std::string(variant.variant ? name(*variant.variant) : "right code") +
         (variant.value ? '=' + plain_number(*variant.value) : std::string());
}

void write_ranking(const findings::FreeRanking& ranking, Writer& out) {
  constexpr std::size_t kMostLines = 5;
  const auto line_of = [&](const findings::RankedVariant& variant) {
    std::string text = variant_text(variant) + ": " + digits(variant.times_rounding, 3) + " times rounding";
    if (ranking.tokens_compared > 0) {
      text += ", the same next token at " + std::to_string(variant.same_top_token) + " of " +
              std::to_string(ranking.tokens_compared);
    }
    return text + (variant.reproduces ? ", which rounding explains" : "");
  };
  out.blank();
  if (std::isfinite(ranking.right.times_rounding)) out.field("free runs", line_of(ranking.right));
  for (std::size_t i = 0; i < std::min(kMostLines, ranking.nearest.size()); ++i) {
    out.field(i == 0 ? "nearest" : "", line_of(ranking.nearest[i]));
  }
  if (ranking.variants_tried > 0) {
    out.field("of", std::to_string(ranking.variants_tried) + " forward passes, each with one bug planted; up to " +
                        digits(ranking.explained_up_to, 3) +
                        " times is explained by rounding; each figure is of the worst step and tensor");
  }
  out.field("record", joined(ranking.record_next, 12) + ", to see which operation is wrong");
}

void write_headline(const RunResult& result, Writer& out) {
  std::string engine = result.engine.empty() ? std::string("no") : result.engine;
  if (!result.device.empty() && result.device != result.engine) engine += " (" + result.device + ")";
  out.line(
      out.painted(color_of(result.verdict), headline_of(result.verdict)) + "  " +
      out.plain(engine + " engine in " + dtypes_of(result) + (result.model.empty() ? "" : " on " + models_of(result))) +
      ", " + counted(static_cast<std::int64_t>(result.cases.size()), "case") + ", " +
      formats::duration_text(result.seconds) + out.plain(conditions_of(result)));
  if (result.injected) {
    out.field("planted", to_string(*result.injected) + ", which ran " + counted(result.planted_executions, "time") +
                             " where it differs from right code");
  }
  if (result.verdict == Verdict::kInconclusive) out.field("because", result.reason);
  if (result.first_divergence() == nullptr) {
    if (result.verdict == Verdict::kDiverged) out.field("because", result.reason);
    write_causes(result, /*all=*/false, out);
  }
}

// What the exit status follows, where it is not the verdict alone.
void write_acceptance(const std::optional<findings::Acceptance>& acceptance, Writer& out) {
  if (!acceptance) return;
  std::string label(findings::name(acceptance->verdict));
  for (const std::string& line : acceptance_lines(*acceptance)) {
    out.field(label, line);
    label.clear();
  }
}

}  // namespace

std::string format_terminal(const RunResult& result, const TerminalOptions& options) {
  Writer out(options);
  write_headline(result, out);
  write_acceptance(result.acceptance, out);
  // What may have kept a tensor from being compared is said before the good news.
  const bool notes_first = result.verdict == Verdict::kMatch && result.findings.empty();
  const auto write_notes = [&] {
    for (const std::string& note : result.notes) out.field("note", note);
  };
  if (notes_first) write_notes();
  if (const Finding* first = result.first_divergence()) write_divergence(result, *first, options.all, out);
  if (result.ranking) write_ranking(*result.ranking, out);
  const auto hypotheses = all_hypotheses(result);
  const bool whole = options.all || !std::ranges::all_of(hypotheses, [&](const findings::HypothesisResult& hypothesis) {
                       return is_quiet(hypothesis, !result.findings.empty());
                     });
  write_hypotheses(result, whole, out);
  write_coverage(result, whole, out);
  if (!notes_first) write_notes();
  if (const auto& values = result.reference_values) {
    out.field("reference", counted(values->computed, "value") + " computed, " + std::to_string(values->from_cache) +
                               " from the cache");
  }
  out.whole_field("reports", options.reports);
  return out.take();
}

}  // namespace qdiff::report
