#include "harness/report/acceptance.h"

#include <algorithm>
#include <array>
#include <utility>

#include "harness/contract/wording.h"
#include "harness/report/sentences.h"

namespace qdiff::report {

QDIFF_REPORTED(findings::WaiverOutcome, what, reason, link, expires, state, findings)

namespace {

using findings::Acceptance;
using findings::BaselineFinding;
using findings::FindingState;
using findings::WaiverState;

std::int64_t count_of(const Acceptance& acceptance, FindingState state) {
  return std::ranges::count(acceptance.states, state);
}

// "4 of H03.theta, 1 unexplained"
std::string by_cause(const std::vector<BaselineFinding>& findings) {
  nlohmann::ordered_map<std::string, std::int64_t> causes;
  for (const BaselineFinding& finding : findings) ++causes[finding.cause];
  const auto text_of = [](const auto& cause) {
    return std::to_string(cause.second) + (cause.first.empty() ? " unexplained" : " of " + cause.first);
  };
  return joined(texts_of(causes, text_of), 6);
}

std::string are(std::int64_t count) { return counted(count, "finding") + (count == 1 ? " is " : " are "); }

Document baseline_document(const BaselineFinding& finding) {
  return {{"case", finding.case_id},  {"mode", finding.mode},       {"step", finding.step},
          {"tensor", finding.tensor}, {"kind", name(finding.kind)}, {"cause", or_null(finding.cause)}};
}

}  // namespace

bool fails(const findings::RunResult& result, std::size_t finding) {
  if (result.acceptance) return result.acceptance->states.at(finding) == FindingState::kNew;
  return counts(result, result.findings.at(finding));
}

std::string standing_of(const findings::RunResult& result, const std::vector<std::size_t>& findings) {
  if (!result.acceptance) return "";
  constexpr std::array<std::pair<FindingState, std::string_view>, 4> kWords = {
      {{FindingState::kNew, "new"},
       {FindingState::kUnchanged, "in the baseline"},
       {FindingState::kWaived, "waived"},
       {FindingState::kNotCounted, "not counted"}}};
  std::string text;
  for (const auto& entry : kWords) {
    const FindingState state = entry.first;
    const std::string_view words = entry.second;
    const auto count = static_cast<std::size_t>(
        std::ranges::count_if(findings, [&](std::size_t i) { return result.acceptance->states.at(i) == state; }));
    if (count == 0) continue;
    if (count == findings.size()) return std::string(words);
    text += (text.empty() ? "" : ", ") + std::to_string(count) + ' ' + std::string(words);
  }
  return text;
}

std::vector<std::string> acceptance_lines(const Acceptance& acceptance) {
  std::vector<std::string> lines = acceptance.reasons;
  if (acceptance.verdict == findings::AcceptanceVerdict::kAccepted) lines.emplace_back("nothing is new");
  if (const std::int64_t count = count_of(acceptance, FindingState::kUnchanged); count > 0) {
    lines.push_back(are(count) + "in the baseline " + acceptance.baseline.value_or(""));
  }
  if (const std::int64_t count = count_of(acceptance, FindingState::kWaived); count > 0) {
    lines.push_back(are(count) + "waived");
  }
  if (const std::int64_t count = count_of(acceptance, FindingState::kNotCounted); count > 0) {
    lines.push_back(are(count) + "of a kind that does not fail this run");
  }
  if (!acceptance.fixed.empty()) {
    lines.push_back("fixed since the baseline: " + by_cause(acceptance.fixed));
  }
  if (!acceptance.not_judged.empty()) {
    lines.push_back("of the baseline, and not judged in this run: " + by_cause(acceptance.not_judged));
  }
  for (const findings::WaiverOutcome& waiver : acceptance.waivers) {
    if (waiver.state == WaiverState::kUsed) {
      lines.push_back(waiver.what + " is waived until " + waiver.expires + ": " + waiver.reason + " (" + waiver.link +
                      ')');
    } else if (waiver.state == WaiverState::kNotShown) {
      lines.push_back("these inputs would not show what the waiver for " + waiver.what + " is for");
    }
  }
  return lines;
}

Document acceptance_document(const std::optional<Acceptance>& acceptance) {
  if (!acceptance) return nullptr;
  return {{"verdict", name(acceptance->verdict)},
          {"reasons", acceptance->reasons},
          {"fail_on", document_of(acceptance->fail_on)},
          {"baseline", document_of(acceptance->baseline)},
          {"states", document_of(acceptance->states)},
          {"fixed", list(acceptance->fixed, baseline_document)},
          {"not_judged", list(acceptance->not_judged, baseline_document)},
          {"waivers", document_of(acceptance->waivers)}};
}

}  // namespace qdiff::report
