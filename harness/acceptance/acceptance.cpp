#include "harness/acceptance/acceptance.h"

#include <algorithm>
#include <map>
#include <set>

#include "harness/contract/error.h"
#include "harness/contract/fault_table.h"
#include "harness/formats/suggest.h"

namespace qdiff::acceptance {
namespace {

using findings::Acceptance;
using findings::AcceptanceVerdict;
using findings::BaselineFinding;
using findings::Finding;
using findings::FindingState;
using findings::RunResult;
using findings::WaiverState;

struct Place {
  std::string case_id, mode;
  int step = 0;
  std::string tensor;
  auto operator<=>(const Place&) const = default;
};

class Accepting {
 public:
  Accepting(const RunResult& result, const Terms& terms, const Date& today)
      : result_(result), terms_(terms), today_(today) {}

  Acceptance accept() {
    acceptance_.fail_on = terms_.fail_on;
    acceptance_.baseline = terms_.baseline_folder;
    for (const Waiver& waiver : terms_.waivers) judge_waiver(waiver);
    for (const Finding& finding : result_.findings) acceptance_.states.push_back(state_of(finding));
    if (terms_.baseline) find_what_is_gone(*terms_.baseline);
    decide();
    return std::move(acceptance_);
  }

 private:
  // Of a trace there is one case, named for its folder: "trace-a1b2c3" in one run and "trace-d4e5f6" in the next.
  std::string case_key(const std::string& id) const { return result_.of_trace ? std::string() : id; }

  Place place_of(const Finding& finding) const {
    return {case_key(finding.case_id), finding.mode, finding.step, tensor_name(finding.tensor)};
  }

  bool is_expired(const Waiver& waiver) const {
    return std::chrono::sys_days(today_) > std::chrono::sys_days(waiver.expires);
  }

  // Whether these inputs would show a finding that the waiver fits.
  bool would_show(const Waiver& waiver) const {
    const bool judged = std::ranges::any_of(result_.judged, [&](const findings::JudgedTensor& tensor) {
      return (!waiver.case_id || tensor.case_id == *waiver.case_id) &&
             (!waiver.tensor || waiver.tensor->fits(tensor.id));
    });
    if (!judged || !waiver.variant) return judged;
    const std::string_view hypothesis = hypothesis_of(*waiver.variant);
    if (hypothesis.empty()) return true;  // which inputs show an outsider is not recorded
    for (const findings::HypothesisResult& row : result_.hypotheses) {
      const auto shown = row.shown_by.find(*waiver.variant);
      if (shown != row.shown_by.end()) return !waiver.case_id || shown->second.contains(*waiver.case_id);
      if (std::ranges::find(row.exercised_variants, *waiver.variant) != row.exercised_variants.end()) return true;
    }
    return false;
  }

  void judge_waiver(const Waiver& waiver) {
    findings::WaiverOutcome outcome{
        .what = waiver.what(), .reason = waiver.reason, .link = waiver.link, .expires = to_text(waiver.expires)};
    outcome.findings = std::ranges::count_if(result_.findings, [&](const Finding& f) { return waiver.fits(f); });
    if (is_expired(waiver)) {
      outcome.state = WaiverState::kExpired;
    } else if (outcome.findings > 0) {
      outcome.state = WaiverState::kUsed;
    } else {
      outcome.state = would_show(waiver) ? WaiverState::kUnused : WaiverState::kNotShown;
    }
    outcome.problem = problem_of(outcome);
    acceptance_.waivers.push_back(std::move(outcome));
  }

  bool is_waived(const Finding& finding) const {
    return std::ranges::any_of(terms_.waivers,
                               [&](const Waiver& waiver) { return !is_expired(waiver) && waiver.fits(finding); });
  }

  const BaselineFinding* in_baseline(const Finding& finding) {
    if (!terms_.baseline) return nullptr;
    if (known_.empty()) {
      for (const BaselineFinding& known : terms_.baseline->findings) {
        known_[{case_key(known.case_id), known.mode, known.step, known.tensor}].push_back(&known);
      }
    }
    const auto at = known_.find(place_of(finding));
    if (at == known_.end()) return nullptr;
    const auto same = std::ranges::find_if(at->second, [&](const BaselineFinding* known) {
      return known->kind == finding.kind && known->cause == cause_name(finding.explanation);
    });
    return same == at->second.end() ? nullptr : *same;
  }

  FindingState state_of(const Finding& finding) {
    const BaselineFinding* known = in_baseline(finding);
    if (known != nullptr) again_.insert(known);
    if (is_waived(finding)) return FindingState::kWaived;
    if (std::ranges::find(terms_.fail_on, finding.kind) == terms_.fail_on.end()) return FindingState::kNotCounted;
    return known != nullptr ? FindingState::kUnchanged : FindingState::kNew;
  }

  void find_what_is_gone(const Baseline& baseline) {
    std::set<Place> judged;
    for (const findings::JudgedTensor& tensor : result_.judged) {
      judged.insert({case_key(tensor.case_id), tensor.mode, tensor.step, tensor_name(tensor.id)});
    }
    std::set<Place> in_doubt;
    for (const findings::NotCompared& item : result_.coverage.not_compared) {
      in_doubt.insert({case_key(item.case_id), item.mode, item.step, item.tensor});
    }
    for (const BaselineFinding& known : baseline.findings) {
      if (again_.contains(&known)) continue;
      const Place place{case_key(known.case_id), known.mode, known.step, known.tensor};
      const bool fixed = judged.contains(place) && !in_doubt.contains(place);
      (fixed ? acceptance_.fixed : acceptance_.not_judged).push_back(known);
    }
  }

  // What could not be judged, and could be in the baseline.
  std::vector<const findings::NotCompared*> newly_in_doubt() const {
    std::set<Place> known;
    if (terms_.baseline) {
      for (const findings::NotCompared& item : terms_.baseline->not_compared) {
        known.insert({case_key(item.case_id), item.mode, item.step, item.tensor});
      }
    }
    std::vector<const findings::NotCompared*> items;
    for (const findings::NotCompared& item : result_.coverage.not_compared) {
      if (!known.contains({case_key(item.case_id), item.mode, item.step, item.tensor})) items.push_back(&item);
    }
    return items;
  }

  void refuse_new_findings() {
    std::vector<std::pair<std::string, std::int64_t>> causes;  // in the order in which they come first
    std::int64_t total = 0;
    for (std::size_t i = 0; i < result_.findings.size(); ++i) {
      if (acceptance_.states[i] != FindingState::kNew) continue;
      const std::string named = cause_name(result_.findings[i].explanation);
      const std::string cause = named.empty() ? "unexplained" : named;
      const auto found = std::ranges::find(causes, cause, &std::pair<std::string, std::int64_t>::first);
      if (found == causes.end()) {
        causes.emplace_back(cause, 1);
      } else {
        ++found->second;
      }
      ++total;
    }
    if (total == 0) return;
    std::string text = std::to_string(total) + (total == 1 ? " new finding: " : " new findings: ");
    for (std::size_t i = 0; i < causes.size(); ++i) {
      text += (i == 0 ? "" : ", ") + std::to_string(causes[i].second) + " of " + causes[i].first;
    }
    refuse(text);
  }

  std::string problem_of(const findings::WaiverOutcome& waiver) const {
    const std::string named = "the waiver for " + waiver.what;
    if (waiver.state == WaiverState::kExpired && waiver.findings > 0) {
      return named + " expired on " + waiver.expires + ", and it still occurs; mend it, or agree on another day (" +
             waiver.link + ')';
    }
    if (waiver.state == WaiverState::kExpired) {
      return named + " expired on " + waiver.expires + ", and fits no finding of this run; take it out of " +
             terms_.waivers_file;
    }
    if (waiver.state != WaiverState::kUnused) return "";
    return named + " is for what no longer occurs; take it out of " + terms_.waivers_file + " (" + waiver.link + ')';
  }

  void refuse(const std::string& reason) {
    acceptance_.verdict = AcceptanceVerdict::kRefused;
    acceptance_.reasons.push_back(reason);
  }

  void decide() {
    refuse_new_findings();
    for (const findings::WaiverOutcome& waiver : acceptance_.waivers) {
      if (!waiver.problem.empty()) refuse(waiver.problem);
    }
    if (acceptance_.verdict == AcceptanceVerdict::kRefused) return;
    const bool inconclusive = result_.verdict == compare::Verdict::kInconclusive;
    const auto doubts = newly_in_doubt();
    std::string reason;
    if (result_.coverage.tensors_compared == 0 || (inconclusive && result_.coverage.not_compared.empty())) {
      reason = result_.reason.empty() ? "nothing was compared" : result_.reason;
    } else if (!doubts.empty()) {
      reason = doubts.front()->tensor + " in case " + doubts.front()->case_id + ", step " +
               std::to_string(doubts.front()->step) + ": " + doubts.front()->reason;
      if (doubts.size() > 1) reason += ", and " + std::to_string(doubts.size() - 1) + " more that could not be judged";
    } else {
      return;
    }
    acceptance_.verdict = AcceptanceVerdict::kUndecided;
    acceptance_.reasons.push_back(reason);
  }

  const RunResult& result_;
  const Terms& terms_;
  const Date today_;
  Acceptance acceptance_;
  std::map<Place, std::vector<const BaselineFinding*>> known_;
  std::set<const BaselineFinding*> again_;  // of the baseline, and in this run too
};

}  // namespace

void check_baseline(const Terms& terms, bool of_trace, const std::vector<std::string>& cases) {
  if (!terms.baseline) return;
  const Baseline& baseline = *terms.baseline;
  const std::string where = "--baseline '" + formats::printable(terms.baseline_folder.value_or("")) + "': ";
  if (baseline.of_trace != of_trace) {
    throw InputError(where +
                     (baseline.of_trace ? "the report is of a trace, and this run is of cases"
                                        : "the report is of cases, and this run is of a trace") +
                     "; take the report of a run like this one");
  }
  if (of_trace || std::ranges::any_of(cases, [&](const std::string& id) { return baseline.cases.contains(id); }))
    return;
  throw InputError(where + "the report has none of this run's cases; take the report of a run like this one");
}

Acceptance accept(const RunResult& result, const Terms& terms, const Date& today) {
  return Accepting(result, terms, today).accept();
}

}  // namespace qdiff::acceptance
