// What GitHub Actions shows of a run: workflow commands on standard output, and a page of Markdown.
#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "harness/report/acceptance.h"
#include "harness/report/causes.h"
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
  const std::string message = qdiff::joined(lines, "\n", terminal_text);
  return "::" + std::string(kind) + " title=" + escaped(terminal_text(title), true) + "::" + escaped(message, false) +
         '\n';
}

std::string error_command(const NamedCause& cause, const Finding& finding) {
  const Explanation& explanation = finding.explanation;
  std::vector<std::string> lines = {tensor_name(finding.tensor) + ", case " + finding.case_id + ", " +
                                    place_of(finding) + ": " + finding.judgement.reason};
  lines.push_back("cause: " + cause_of(explanation));
  if (!explanation.points.empty()) lines.push_back("declare: " + points_entry(explanation.points));
  lines.push_back("repeat: " + finding.command);
  return command("error", "qdiff: " + cause.name, lines);
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
  std::ranges::replace(verdict, '_', ' ');
  if (hypothesis.variant) verdict += ": " + std::string(qdiff::name(*hypothesis.variant));
  const std::string name = markdown_text(hypothesis.id + ' ' + hypothesis.title);
  if (!hypothesis.first_divergence) return cells({name, markdown_text(verdict), "", ""});
  return cells({name, markdown_text(verdict), finding_cell(*hypothesis.first_divergence),
                code(hypothesis.first_divergence->command)});
}

// One line for each cause, tensor and kind of step, as on a terminal. GitHub takes a summary of at most 1 MiB, so that
// many explained ones are counted; unexplained ones are all there, up to a number that no step summary is read for.
std::string causes_table(const RunResult& result) {
  constexpr std::size_t kMostExplained = 30, kMost = 200;
  std::string rows;
  std::size_t shown = 0;
  std::int64_t left_out = 0;
  for (const Cause& cause : causes_of(result)) {
    if (shown >= (cause.explained ? kMostExplained : kMost)) {
      ++left_out;
      continue;
    }
    ++shown;
    const std::string standing = standing_of(result, cause.findings);
    rows += cells({markdown_text(cause.what + (standing.empty() ? "" : "; " + standing)),
                   code(cause.tensor) + ' ' + markdown_text(cause.where()), std::to_string(cause.findings.size()),
                   markdown_text(distance_from_bound(result.findings[cause.worst].judgement))});
  }
  if (rows.empty()) return "";
  std::string text = "| cause | wrong | tensors | worst |\n|---|---|---|---|\n" + rows;
  if (left_out > 0) text += cells({"and " + counted(left_out, "more line") + " in report.html", "", "", ""});
  return text + '\n';
}

// Nothing fails; a run that could not be judged to its end says so.
std::string doubt_command(const RunResult& result) {
  if (!result.acceptance) {
    return result.verdict == Verdict::kInconclusive
               ? command("warning", "qdiff: " + std::string(compare::name(result.verdict)), {result.reason})
               : "";
  }
  if (result.acceptance->verdict != findings::AcceptanceVerdict::kUndecided) return "";
  return command("warning", "qdiff: undecided", result.acceptance->reasons);
}

}  // namespace

std::string github_commands(const RunResult& result) {
  constexpr std::size_t kMostCommands = 10;  // GitHub shows ten errors of a step
  std::vector<std::string> commands;
  for (const NamedCause& cause : named_causes_of(result)) {
    const auto first = std::ranges::find_if(cause.findings, [&](std::size_t i) { return fails(result, i); });
    if (first != cause.findings.end()) commands.push_back(error_command(cause, result.findings[*first]));
  }
  if (result.acceptance) {
    for (const findings::WaiverOutcome& waiver : result.acceptance->waivers) {
      if (!waiver.problem.empty()) commands.push_back(command("error", "qdiff: waiver", {waiver.problem}));
    }
  }
  commands.resize(std::min(commands.size(), kMostCommands));
  if (commands.empty()) commands.push_back(doubt_command(result));
  std::string text;
  for (const std::string& line : commands) text += line;
  return text;
}

std::string github_summary(const RunResult& result) {
  std::string text = "### qdiff: " + std::string(compare::name(result.verdict)) +
                     (result.acceptance ? ", " + std::string(findings::name(result.acceptance->verdict)) : "") +
                     "\n\n" + markdown_text(verdict_sentence(result)) + "\n\n";
  text += markdown_text(result.engine.empty() ? "no" : result.engine) + " engine in " + dtypes_of(result) +
          (result.model.empty() ? std::string() : " on " + code(result.model)) + ", " +
          counted(static_cast<std::int64_t>(result.cases.size()), "case") + ", " +
          counted(result.coverage.tensors_compared, "tensor") + " compared.";
  if (result.injected) text += " Planted: " + code(to_string(*result.injected)) + '.';
  text += "\n\n";
  if (result.acceptance) {
    for (const std::string& line : acceptance_lines(*result.acceptance)) text += "- " + markdown_text(line) + '\n';
    text += '\n';
  }
  const Finding* first = result.first_divergence();
  if (first != nullptr && counts(result, *first)) {
    text += "First divergence: " + finding_cell(*first) + ".\n\nCause: " + markdown_text(cause_of(first->explanation)) +
            ".\n\nRepeat: " + code(first->command) + "\n\n";
  } else if (result.verdict != Verdict::kMatch) {
    text += markdown_text(result.reason) + "\n\n";
  }
  const std::string declared = points_entry(points_of(result));
  if (!declared.empty()) text += "Declare: " + code(declared) + "\n\n";
  text += causes_table(result);
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
