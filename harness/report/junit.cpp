// JUnit's XML has no specification. Readers agree on what https://github.com/testmoapp/junitxml describes: a failure is
// a wrong result, an error one that could not be had, and both carry a short message and a longer text. The strictest
// of them is the schema of Jenkins' xUnit plugin, junit-10.xsd, under which these files are valid: it has no `skipped`
// for <testsuites>.
#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "harness/contract/number_text.h"
#include "harness/contract/wording.h"
#include "harness/report/acceptance.h"
#include "harness/report/causes.h"
#include "harness/report/json.h"
#include "harness/report/report.h"
#include "harness/report/sentences.h"
#include "harness/report/text.h"

namespace qdiff::report {
namespace {

using compare::Verdict;
using findings::Finding;
using findings::HypothesisResult;
using findings::HypothesisVerdict;
using findings::RunResult;

struct TestCase {
  std::string group;  // JUnit's classname
  std::string name;
  std::string element = {};  // "failure", "error", "skipped"; empty: passed
  std::string message = {};
  std::vector<std::string> text = {};  // lines
  double seconds = 0.0;
};

constexpr const char* kCauses = "qdiff.causes";

std::string sentence_of(const Finding& finding) {
  return tensor_name(finding.tensor) + " at " + place_of(finding) + ": " + finding.judgement.reason;
}

// The first finding in full, the others by name: each can be repeated from report.json.
void tell(const std::vector<const Finding*>& findings, TestCase& test) {
  constexpr std::size_t kMostOthers = 20;
  const Finding& first = *findings.front();
  test.message = "case " + first.case_id + ", " + sentence_of(first);
  test.text = {test.message};
  if (!first.judgement.worst_index.empty()) {
    test.text.push_back("element " + to_string(first.judgement.worst_index) + ": actual " +
                        digits(first.judgement.actual, 9) + ", expected " + digits(first.judgement.expected, 9));
  }
  if (!first.explanation.pattern.empty()) test.text.push_back("pattern: " + first.explanation.pattern);
  test.text.push_back("cause: " + cause_of(first.explanation));
  if (!first.explanation.sentence.empty()) test.text.push_back("meaning: " + first.explanation.sentence);
  for (const std::string& alternative : alternatives_of(first.explanation))
    test.text.push_back("or else " + alternative);
  if (!first.explanation.points.empty()) test.text.push_back("declare: " + points_entry(first.explanation.points));
  test.text.push_back("repeat: " + first.command);
  for (std::size_t i = 1; i < findings.size() && i <= kMostOthers; ++i) {
    test.text.push_back("also case " + findings[i]->case_id + ", " + sentence_of(*findings[i]));
  }
  if (findings.size() > kMostOthers + 1) {
    test.text.push_back("and " + std::to_string(findings.size() - kMostOthers - 1) + " more wrong tensors");
  }
}

// What is wrong in each case, by the tests that fail for it.
class Causes {
 public:
  explicit Causes(const RunResult& result) : result_(result), named_(named_causes_of(result)) {
    for (std::size_t c = 0; c < named_.size(); ++c) {
      for (const std::size_t i : named_[c].findings) {
        if (counts(result, result.findings[i])) of_case_[result.findings[i].case_id][c].push_back(i);
      }
    }
  }
  const std::vector<NamedCause>& named() const { return named_; }

  // Of everything that counts; empty where nothing does.
  std::string all() const {
    std::set<std::size_t> causes;
    for (const auto& [id, of_case] : of_case_) {
      for (const auto& [cause, findings] : of_case) causes.insert(cause);
    }
    return names(causes);
  }
  template <typename Predicate>
  std::string in_case(const std::string& id, const Predicate& wanted) const {
    std::set<std::size_t> causes;
    const auto of_case = of_case_.find(id);
    if (of_case == of_case_.end()) return "";
    for (const auto& [cause, findings] : of_case->second) {
      if (std::ranges::any_of(findings, [&](std::size_t i) { return wanted(result_.findings[i]); })) {
        causes.insert(cause);
      }
    }
    return names(causes);
  }

 private:
  std::string names(const std::set<std::size_t>& causes) const {
    return joined(texts_of(causes, [this](std::size_t cause) { return named_[cause].name; }), 6);
  }

  const RunResult& result_;
  std::vector<NamedCause> named_;
  std::map<std::string, std::map<std::size_t, std::vector<std::size_t>>> of_case_;  // case, cause: findings
};

// The exit status as a test. What diverged fails in the test of its cause, and not here once more.
TestCase verdict_test(const RunResult& result, const Causes& causes) {
  TestCase test{"qdiff.run", "verdict"};
  test.seconds = result.seconds;
  if (result.acceptance) {
    using findings::AcceptanceVerdict;
    const AcceptanceVerdict verdict = result.acceptance->verdict;
    if (verdict == AcceptanceVerdict::kAccepted) return test;
    test.element = verdict == AcceptanceVerdict::kRefused ? "skipped" : "error";
    test.message = std::string(findings::name(verdict)) + ": " + qdiff::joined(result.acceptance->reasons, "; ");
  } else if (result.verdict == Verdict::kDiverged) {
    test.element = "skipped";
    test.message = "diverged: " + causes.all();
  } else if (result.verdict == Verdict::kInconclusive) {
    test.element = "error";
    test.message = result.reason;
  }
  return test;
}

// One failure for one cause, wherever it shows. What does not fail the run is skipped, with the reason.
TestCase cause_test(const RunResult& result, const NamedCause& cause) {
  std::vector<const Finding*> failing;
  for (const std::size_t i : cause.findings) {
    if (fails(result, i)) failing.push_back(&result.findings[i]);
  }
  TestCase test{kCauses, cause.name};
  if (failing.empty()) {
    test.element = "skipped";
    const std::string standing = standing_of(result, cause.findings);
    test.message =
        (standing.empty() ? "allowed" : standing) + ": " + sentence_of(result.findings[cause.findings.front()]);
    return test;
  }
  test.element = "failure";
  tell(failing, test);
  for (const HypothesisResult& hypothesis : result.hypotheses) {
    if (!speaks_for(failing.front()->explanation, hypothesis.id)) continue;
    for (const std::string& sentence : hypothesis.evidence) test.text.push_back("evidence: " + sentence);
  }
  return test;
}

TestCase waiver_test(const findings::WaiverOutcome& waiver) {
  TestCase test{"qdiff.waivers", waiver.what};
  if (!waiver.problem.empty()) {
    test.element = "failure";
    test.message = waiver.problem;
    test.text = {"reason: " + waiver.reason, "owner: " + waiver.link, "expires: " + waiver.expires};
  } else if (waiver.state == findings::WaiverState::kNotShown) {
    test.element = "skipped";
    test.message = "these inputs would not show what it is for";
  }
  return test;
}

// Why a case without a finding is no match.
std::string doubt_of(const RunResult& result, const findings::CaseSummary& summary) {
  for (const findings::NotCompared& item : result.coverage.not_compared) {
    if (item.case_id == summary.id) return item.tensor + " at step " + std::to_string(item.step) + ": " + item.reason;
  }
  return result.reason.empty() ? "no tensor of it could be compared" : result.reason;
}

// Whether what could not be judged is accepted.
bool doubts_decide(const RunResult& result) {
  return !result.acceptance || result.acceptance->verdict == findings::AcceptanceVerdict::kUndecided;
}

TestCase case_test(const RunResult& result, const Causes& causes, const findings::CaseSummary& summary) {
  TestCase test{"qdiff.cases", summary.id};
  if (summary.verdict == Verdict::kDiverged) {
    test.element = "skipped";
    test.message = "diverged: " + causes.in_case(summary.id, [](const Finding&) { return true; });
  } else if (summary.verdict == Verdict::kInconclusive) {
    test.element = doubts_decide(result) ? "error" : "skipped";
    test.message = doubt_of(result, summary);
  }
  return test;
}

// Whether this case's inputs would show a variant of the hypothesis.
bool would_show(const findings::CaseSummary& summary, const HypothesisResult& hypothesis) {
  return std::ranges::any_of(hypothesis.shown_by, [&](const auto& shown) { return shown.second.contains(summary.id); });
}

// Passed means: this case would show a variant of the hypothesis, and nothing that is wrong in it speaks for one.
TestCase hypothesis_test(const RunResult& result, const Causes& causes, const HypothesisResult& hypothesis,
                         const findings::CaseSummary& summary) {
  TestCase test{hypothesis.id, summary.id};
  const std::string wrong = causes.in_case(
      summary.id, [&](const Finding& finding) { return speaks_for(finding.explanation, hypothesis.id); });
  test.element = "skipped";
  if (!wrong.empty()) {
    test.message = std::string(findings::name(hypothesis.verdict)) + ": " + wrong;
  } else if (hypothesis.verdict == HypothesisVerdict::kUndetectable ||
             hypothesis.verdict == HypothesisVerdict::kNotExercised) {
    test.message = hypothesis.verdict == HypothesisVerdict::kUndetectable ? "undetectable: " : "not exercised: ";
    test.message += why_not_judged(hypothesis);
  } else if (summary.verdict == Verdict::kInconclusive) {
    test.message = "the case is inconclusive: " + doubt_of(result, summary);
  } else if (!would_show(summary, hypothesis)) {
    test.message = "this case would show no variant of the hypothesis";
  } else {
    test.element.clear();
  }
  return test;
}

std::size_t count_with(const std::vector<TestCase>& tests, std::string_view element) {
  std::size_t count = 0;
  for (const TestCase& test : tests) count += test.element == element ? 1 : 0;
  return count;
}

std::string attribute(std::string_view name, const std::string& value) {
  return ' ' + std::string(name) + "=\"" + xml_text(value) + '"';
}

std::string xml_of(const TestCase& test) {
  const std::string start = "    <testcase" + attribute("classname", test.group) + attribute("name", test.name) +
                            attribute("time", decimals(test.seconds, 3));
  if (test.element.empty()) return start + "/>\n";
  std::string text = start + ">\n      <" + test.element + attribute("message", test.message);
  if (test.text.empty()) return text + "/>\n    </testcase>\n";
  return text + '>' + qdiff::joined(test.text, "\n", xml_text) + "</" + test.element + ">\n    </testcase>\n";
}

std::vector<TestCase> tests_of(const RunResult& result) {
  const Causes causes(result);
  std::vector<TestCase> tests = {verdict_test(result, causes)};
  for (const NamedCause& cause : causes.named()) tests.push_back(cause_test(result, cause));
  if (result.acceptance) {
    for (const findings::WaiverOutcome& waiver : result.acceptance->waivers) tests.push_back(waiver_test(waiver));
  }
  for (const findings::CaseSummary& summary : result.cases) tests.push_back(case_test(result, causes, summary));
  for (const HypothesisResult& hypothesis : all_hypotheses(result)) {
    for (const findings::CaseSummary& summary : result.cases) {
      tests.push_back(hypothesis_test(result, causes, hypothesis, summary));
    }
  }
  return tests;
}

}  // namespace

std::string junit_xml(const RunResult& result) {
  const std::vector<TestCase> tests = tests_of(result);
  const std::string counts = attribute("tests", std::to_string(tests.size())) +
                             attribute("failures", std::to_string(count_with(tests, "failure"))) +
                             attribute("errors", std::to_string(count_with(tests, "error")));
  const std::string skipped = attribute("skipped", std::to_string(count_with(tests, "skipped")));
  const std::string time = attribute("time", decimals(result.seconds, 3));
  std::string text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites" + counts + time + ">\n  <testsuite" +
                     attribute("name", "qdiff") + counts + skipped + time + ">\n";
  for (const TestCase& test : tests) text += xml_of(test);
  return text + "  </testsuite>\n</testsuites>\n";
}

}  // namespace qdiff::report
