#include <cstdio>
#include <string>

#include "harness/report/json.h"
#include "harness/report/report.h"
#include "harness/report/text.h"

namespace qdiff::report {
namespace {

using compare::HypothesisVerdict;
using compare::RunResult;
using compare::Verdict;

struct TestCase {
  std::string group;  // JUnit's classname, "qdiff.hypotheses"
  std::string name;
  std::string element;  // "failure", "error", "skipped"; empty: passed
  std::string message;
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

std::string element_for(HypothesisVerdict verdict) {
  switch (verdict) {
    case HypothesisVerdict::kConfirmed:
    case HypothesisVerdict::kConsistent:
      return "failure";
    case HypothesisVerdict::kRefuted:
      return "";
    case HypothesisVerdict::kUndetectable:
    case HypothesisVerdict::kNotExercised:
      break;
  }
  return "skipped";
}

std::string sentence_of(const compare::Finding& finding) {
  return tensor_name(finding.tensor) + " at step " + std::to_string(finding.step) + ": " + finding.judgement.reason +
         "; repeat with: " + finding.command;
}

TestCase verdict_test(const RunResult& result) {
  TestCase test{"qdiff.run", "verdict", element_for(result.verdict), ""};
  if (const compare::Finding* first = result.first_divergence()) {
    test.message = "first divergence in case " + first->case_id + ", " + sentence_of(*first);
  } else if (result.verdict != Verdict::kMatch) {
    test.message = result.reason;
  }
  return test;
}

TestCase case_test(const RunResult& result, const compare::CaseSummary& summary) {
  TestCase test{"qdiff.cases", summary.id, element_for(summary.verdict), ""};
  if (summary.verdict == Verdict::kMatch) return test;
  for (const compare::Finding& finding : result.findings) {
    if (finding.case_id == summary.id) {
      test.message = sentence_of(finding);
      return test;
    }
  }
  for (const compare::NotCompared& item : result.coverage.not_compared) {
    if (item.case_id == summary.id) {
      test.message = item.tensor + " at step " + std::to_string(item.step) + ": " + item.reason;
      return test;
    }
  }
  test.message = result.reason;
  return test;
}

TestCase hypothesis_test(const compare::HypothesisResult& hypothesis) {
  TestCase test{"qdiff.hypotheses", hypothesis.id + " " + hypothesis.title, element_for(hypothesis.verdict), ""};
  test.message = std::string(compare::name(hypothesis.verdict));
  if (hypothesis.variant) test.message += ": " + *hypothesis.variant;
  if (test.element == "failure") {
    for (const std::string& sentence : hypothesis.evidence) test.message += "; " + sentence;
  } else if (!hypothesis.blind_variants.empty()) {
    test.message += ": " + hypothesis.blind_variants.front().why;
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

}  // namespace

std::string junit_xml(const RunResult& result) {
  std::vector<TestCase> tests = {verdict_test(result)};
  for (const compare::CaseSummary& summary : result.cases) tests.push_back(case_test(result, summary));
  for (const auto& hypothesis : all_hypotheses(result)) tests.push_back(hypothesis_test(hypothesis));

  char seconds[40];
  std::snprintf(seconds, sizeof seconds, "%.3f", result.seconds);
  const std::string counts = attribute("tests", std::to_string(tests.size())) +
                             attribute("failures", std::to_string(count_with(tests, "failure"))) +
                             attribute("errors", std::to_string(count_with(tests, "error"))) +
                             attribute("skipped", std::to_string(count_with(tests, "skipped"))) +
                             attribute("time", seconds);
  std::string text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites" + counts + ">\n  <testsuite" +
                     attribute("name", "qdiff") + counts + ">\n";
  for (const TestCase& test : tests) {
    text += "    <testcase" + attribute("classname", test.group) + attribute("name", test.name);
    if (test.element.empty()) {
      text += "/>\n";
    } else {
      text += ">\n      <" + test.element + attribute("message", test.message) + "/>\n    </testcase>\n";
    }
  }
  return text + "  </testsuite>\n</testsuites>\n";
}

}  // namespace qdiff::report
