// What GitHub Actions shows of a run: workflow commands on standard output, and a page of Markdown.
#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "harness/report/json.h"
#include "harness/report/report.h"
#include "harness/report/sentences.h"
#include "harness/report/text.h"

namespace qdiff::report {
namespace {

using compare::Verdict;
using findings::Explanation;
using findings::Finding;
using findings::HypothesisResult;
using findings::RunResult;

// Characters with a meaning in a workflow command, and what stands for them: escapeData and escapeProperty in
// https://github.com/actions/toolkit/blob/main/packages/core/src/command.ts
std::string escaped(std::string_view text, bool property) {
  std::string result;
  for (char c : text) {
    switch (c) {
      case '%':
        result += "%25";
        break;
      case '\r':
        result += "%0D";
        break;
      case '\n':
        result += "%0A";
        break;
      case ':':
        result += property ? "%3A" : ":";
        break;
      case ',':
        result += property ? "%2C" : ",";
        break;
      default:
        result += c;
    }
  }
  return result;
}

// Line breaks in text from files are spaces by then; those between the lines are ours.
std::string command(const char* kind, const std::string& title, const std::vector<std::string>& lines) {
  std::string message;
  for (const std::string& line : lines) message += (message.empty() ? "" : "\n") + terminal_text(line);
  return "::" + std::string(kind) + " title=" + escaped(terminal_text(title), true) + "::" + escaped(message, false) +
         '\n';
}

std::string name_of(const Explanation& explanation) {
  if (explanation.variant) return std::string(name(*explanation.variant));
  if (explanation.mechanism) return *explanation.mechanism;
  return explanation.hypothesis.value_or("unexplained");
}

std::string error_command(const Finding& finding) {
  const Explanation& explanation = finding.explanation;
  std::vector<std::string> lines = {tensor_name(finding.tensor) + ", case " + finding.case_id + ", " +
                                    place_of(finding) + ": " + finding.judgement.reason};
  lines.push_back("cause: " + cause_of(explanation));
  if (!explanation.points.empty()) lines.push_back("declare: " + points_entry(explanation.points));
  lines.push_back("repeat: " + finding.command);
  return command("error", "qdiff: " + name_of(explanation), lines);
}

bool same_explanation(const Finding& a, const Finding& b) {
  return a.kind == b.kind && a.explanation.hypothesis == b.explanation.hypothesis &&
         a.explanation.variant == b.explanation.variant && a.explanation.mechanism == b.explanation.mechanism &&
         a.explanation.points == b.explanation.points;
}

// GitHub's Markdown, in a table's cell: every sign that could begin something becomes a character reference, which is
// text wherever it stands (https://github.github.com/gfm/#entity-and-numeric-character-references).
std::string markdown_text(std::string_view text) {
  constexpr std::string_view kHarmless = " .,-/=%+;";
  std::string result;
  for (char c : terminal_text(text)) {
    const auto byte = static_cast<unsigned char>(c);
    const bool letter_or_digit = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (letter_or_digit || byte >= 0x80U || kHarmless.find(c) != std::string_view::npos) {
      result += c;
    } else {
      result += "&#" + std::to_string(byte) + ';';
    }
  }
  return result;
}

std::string code(std::string_view text) { return "<code>" + markdown_text(text) + "</code>"; }

std::string cells(const std::vector<std::string>& texts) {
  std::string line = "|";
  for (const std::string& text : texts) line += ' ' + text + " |";
  return line + '\n';
}

std::string finding_cell(const Finding& finding) {
  return code(tensor_name(finding.tensor)) + ", case " + markdown_text(finding.case_id) + ", " +
         markdown_text(place_of(finding));
}

std::string hypothesis_row(const HypothesisResult& hypothesis) {
  std::string verdict(findings::name(hypothesis.verdict));
  std::replace(verdict.begin(), verdict.end(), '_', ' ');
  if (hypothesis.variant) verdict += ": " + std::string(qdiff::name(*hypothesis.variant));
  const std::string name = markdown_text(hypothesis.id + ' ' + hypothesis.title);
  if (!hypothesis.first_divergence) return cells({name, markdown_text(verdict), "", ""});
  return cells({name, markdown_text(verdict), finding_cell(*hypothesis.first_divergence),
                code(hypothesis.first_divergence->command)});
}

}  // namespace

std::string github_commands(const RunResult& result) {
  constexpr std::size_t kMostCommands = 10;  // GitHub shows ten errors of a step
  const Finding* first = result.first_divergence();
  if (first == nullptr || !counts(result, *first)) {
    if (result.verdict == Verdict::kMatch) return "";
    return command("warning", "qdiff: " + std::string(compare::name(result.verdict)), {result.reason});
  }
  std::vector<const Finding*> told = {first};
  for (const Finding& finding : result.findings) {
    const bool known =
        std::any_of(told.begin(), told.end(), [&](const Finding* other) { return same_explanation(*other, finding); });
    if (!known && counts(result, finding) && told.size() < kMostCommands) told.push_back(&finding);
  }
  std::string text;
  for (const Finding* finding : told) text += error_command(*finding);
  return text;
}

std::string github_summary(const RunResult& result) {
  std::string text = "### qdiff: " + std::string(compare::name(result.verdict)) + "\n\n";
  text += markdown_text(result.engine.empty() ? "no" : result.engine) + " engine in " +
          std::string(name(result.precision.activations)) +
          (result.model.empty() ? std::string() : " on " + code(result.model)) + ", " +
          counted(static_cast<std::int64_t>(result.cases.size()), "case") + ", " +
          counted(result.coverage.tensors_compared, "tensor") + " compared.";
  if (result.injected) text += " Planted: " + code(to_string(*result.injected)) + '.';
  text += "\n\n";
  const Finding* first = result.first_divergence();
  if (first != nullptr && counts(result, *first)) {
    text += "First divergence: " + finding_cell(*first) + ".\n\nCause: " + markdown_text(cause_of(first->explanation)) +
            ".\n\nRepeat: " + code(first->command) + "\n\n";
  } else if (result.verdict != Verdict::kMatch) {
    text += markdown_text(result.reason) + "\n\n";
  }
  const std::string declared = points_entry(points_of(result));
  if (!declared.empty()) text += "Declare: " + code(declared) + "\n\n";
  text += "| hypothesis | verdict | first divergence | repeat |\n|---|---|---|---|\n";
  for (const HypothesisResult& hypothesis : all_hypotheses(result)) text += hypothesis_row(hypothesis);
  return text + '\n';
}

std::string without_github_commands(std::string_view text) {
  std::string result;
  bool at_start = true;  // of a line, spaces aside: the runner trims them
  for (std::size_t i = 0; i < text.size(); ++i) {
    const std::string_view rest = text.substr(i);
    if (at_start && rest.starts_with("::")) {
      result += ": ";
    } else if (rest.starts_with("##[")) {
      result += "# ";
    } else {
      result += text[i];
    }
    at_start = text[i] == '\n' || (at_start && text[i] == ' ');
  }
  return result;
}

}  // namespace qdiff::report
