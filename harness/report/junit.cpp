// JUnit's XML has no specification; readers agree on what https://github.com/testmoapp/junitxml describes: a failure is
// a wrong result, an error one that could not be had, and both carry a short message and a longer text.
#include <algorithm>
#include <string>
#include <vector>

#include "harness/contract/number_text.h"
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
};

std::string element_for(Verdict verdict) {
  switch (verdict) {
    case Verdict::kMatch:
      return "";
    case Verdict::kDiverged:
      return "failure";
    case Verdict::kInconclusive:
      break;
  }
  return "error";
}

std::string sentence_of(const Finding& finding) {
  return tensor_name(finding.tensor) + " at " + place_of(finding) + ": " + finding.judgement.reason;
}

// The first finding in full, the others by name: each can be repeated from report.json.
void tell(const std::vector<const Finding*>& findings, TestCase& test) {
  constexpr std::size_t kMostOthers = 20;
  const Finding& first = *findings.front();
  test.message = sentence_of(first);
  test.text = {sentence_of(first)};
  if (!first.judgement.worst_index.empty()) {
    test.text.push_back("element " + to_string(first.judgement.worst_index) + ": actual " +
                        digits(first.judgement.actual, 9) + ", expected " + digits(first.judgement.expected, 9));
  }
  if (!first.explanation.pattern.empty()) test.text.push_back("pattern: " + first.explanation.pattern);
  test.text.push_back("cause: " + cause_of(first.explanation));
  for (const std::string& alternative : alternatives_of(first.explanation))
    test.text.push_back("or else " + alternative);
  if (!first.explanation.points.empty()) test.text.push_back("declare: " + points_entry(first.explanation.points));
  test.text.push_back("repeat: " + first.command);
  for (std::size_t i = 1; i < findings.size() && i <= kMostOthers; ++i) {
    test.text.push_back("also " + sentence_of(*findings[i]));
  }
  if (findings.size() > kMostOthers + 1) {
    test.text.push_back("and " + std::to_string(findings.size() - kMostOthers - 1) + " more wrong tensors");
  }
}

template <typename Predicate>
std::vector<const Finding*> findings_that(const RunResult& result, const Predicate& wanted) {
  std::vector<const Finding*> findings;
  for (const Finding& finding : result.findings) {
    if (wanted(finding)) findings.push_back(&finding);
  }
  return findings;
}

TestCase verdict_test(const RunResult& result) {
  TestCase test{"qdiff.run", "verdict", element_for(result.verdict)};
  if (const Finding* first = result.first_divergence()) {
    tell({first}, test);
    test.message = "first divergence in case " + first->case_id + ", " + test.message;
  } else if (result.verdict != Verdict::kMatch) {
    test.message = result.reason;
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

TestCase case_test(const RunResult& result, const findings::CaseSummary& summary) {
  TestCase test{"qdiff.cases", summary.id, element_for(summary.verdict)};
  if (summary.verdict == Verdict::kMatch) return test;
  const auto findings = findings_that(result, [&](const Finding& finding) { return finding.case_id == summary.id; });
  if (findings.empty()) {
    test.message = doubt_of(result, summary);
  } else {
    tell(findings, test);
  }
  return test;
}

// Whether this case's inputs would show a variant of the hypothesis.
bool would_show(const findings::CaseSummary& summary, const HypothesisResult& hypothesis) {
  return std::any_of(hypothesis.shown_by.begin(), hypothesis.shown_by.end(),
                     [&](const auto& shown) { return shown.second.contains(summary.id); });
}

// Passed means: this case would show a variant of the hypothesis, and nothing that is wrong in it speaks for one.
TestCase hypothesis_test(const RunResult& result, const HypothesisResult& hypothesis,
                         const findings::CaseSummary& summary) {
  TestCase test{hypothesis.id, summary.id};
  const auto findings = findings_that(result, [&](const Finding& finding) {
    return finding.case_id == summary.id && speaks_for(finding.explanation, hypothesis.id) && counts(result, finding);
  });
  if (!findings.empty()) {
    test.element = "failure";
    tell(findings, test);
    for (const std::string& sentence : hypothesis.evidence) test.text.push_back("evidence: " + sentence);
  } else if (hypothesis.verdict == HypothesisVerdict::kUndetectable ||
             hypothesis.verdict == HypothesisVerdict::kNotExercised) {
    test.element = "skipped";
    test.message = hypothesis.verdict == HypothesisVerdict::kUndetectable ? "undetectable: " : "not exercised: ";
    test.message += why_not_judged(hypothesis);
  } else if (summary.verdict == Verdict::kInconclusive) {
    test.element = "skipped";
    test.message = "the case is inconclusive: " + doubt_of(result, summary);
  } else if (!would_show(summary, hypothesis)) {
    test.element = "skipped";
    test.message = "this case would show no variant of the hypothesis";
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
  const std::string start = "    <testcase" + attribute("classname", test.group) + attribute("name", test.name);
  if (test.element.empty()) return start + "/>\n";
  std::string text = start + ">\n      <" + test.element + attribute("message", test.message);
  if (test.text.empty()) return text + "/>\n    </testcase>\n";
  text += '>';
  for (std::size_t i = 0; i < test.text.size(); ++i) text += (i == 0 ? "" : "\n") + xml_text(test.text[i]);
  return text + "</" + test.element + ">\n    </testcase>\n";
}

}  // namespace

std::string junit_xml(const RunResult& result) {
  std::vector<TestCase> tests = {verdict_test(result)};
  for (const findings::CaseSummary& summary : result.cases) tests.push_back(case_test(result, summary));
  for (const HypothesisResult& hypothesis : all_hypotheses(result)) {
    for (const findings::CaseSummary& summary : result.cases) {
      tests.push_back(hypothesis_test(result, hypothesis, summary));
    }
  }

  const std::string counts = attribute("tests", std::to_string(tests.size())) +
                             attribute("failures", std::to_string(count_with(tests, "failure"))) +
                             attribute("errors", std::to_string(count_with(tests, "error"))) +
                             attribute("skipped", std::to_string(count_with(tests, "skipped"))) +
                             attribute("time", decimals(result.seconds, 3));
  std::string text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites" + counts + ">\n  <testsuite" +
                     attribute("name", "qdiff") + counts + ">\n";
  for (const TestCase& test : tests) text += xml_of(test);
  return text + "  </testsuite>\n</testsuites>\n";
}

}  // namespace qdiff::report
