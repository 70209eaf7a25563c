#include <algorithm>
#include <sstream>
#include <string>
#include <vector>

#include "cmake/catch2.h"
#include "harness/report/report.h"
#include "harness/report/tests/printed.h"
#include "harness/report/tests/results.h"

namespace qdiff::report {
namespace {

bool is_printable(const std::string& text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    return c == '\n' || (static_cast<unsigned char>(c) >= ' ' && static_cast<unsigned char>(c) != 0x7F);
  });
}

TEST_CASE("GitHub: one error for one bug, however many tensors it spoils", "[report]") {
  CHECK(
      github_commands(tests::diverged()) ==
      "::error title=qdiff%3A H05.modulo::model.layers.0.self_attn.attn_output, case H05-gqa, step 0 (prefill), layer "
      "0, lockstep: worst_slice_rms is 412 times the largest that honest engines show%0A"
      "cause: H05.modulo (confirmed), in layers 0-2, in prefill and decode%0A"
      "repeat: qdiff run cases/H05-gqa.json --mode lockstep --layers 0 --steps 0\n");
}

TEST_CASE("GitHub: the first divergence comes first, then each other explanation", "[report]") {
  const std::vector<std::string> lines = lines_of(github_commands(tests::unexplained()));
  REQUIRE(lines.size() == 2);
  CHECK_THAT(lines[0], StartsWith("::error title=qdiff%3A unexplained%3A lm_head::lm_head"));  // of kind logic
  CHECK_THAT(lines[1], StartsWith("::error title=qdiff%3A H02.attention_probs_bf16::model.layers.0.self_attn.probs"));
  CHECK_THAT(lines[1], ContainsSubstring("%0Adeclare: \"points\": {\"attention.probs\": \"bfloat16\""));
}

TEST_CASE("GitHub shows ten errors of a step, so there are never more", "[report]") {
  findings::RunResult result = tests::diverged();
  result.findings.resize(20, result.findings.front());
  for (std::size_t i = 0; i < result.findings.size(); ++i) {
    result.findings[i].explanation.variant = fault_table()[i].id;
  }
  CHECK(lines_of(github_commands(result)).size() == 10);
}

TEST_CASE("GitHub: no command for a match, a warning for what is inconclusive", "[report]") {
  CHECK(github_commands(tests::match()).empty());
  CHECK(github_commands(tests::empty()) == "::warning title=qdiff%3A inconclusive::nothing was compared\n");
}

TEST_CASE("GitHub: a rounding that is allowed is no error", "[report]") {
  CHECK(github_commands(tests::allowed()).empty());
  const std::string page = github_summary(tests::allowed());
  CHECK_THAT(page, StartsWith("### qdiff: match\n"));
  CHECK(page.find("First divergence") == std::string::npos);
  CHECK_THAT(page, ContainsSubstring("Declare: <code>"));
}

TEST_CASE("GitHub: text from files ends no command and begins none", "[report]") {
  findings::RunResult result = tests::diverged();
  result.findings.resize(1);
  result.findings[0].explanation.variant.reset();
  result.findings[0].explanation.hypothesis = "a:b,c::d%\r\n::error::x";
  result.findings[0].command = "100% :: ,\r\n::set-env name=A::b";
  const std::string commands = github_commands(result);
  CHECK(lines_of(commands).size() == 1);
  CHECK_THAT(commands, StartsWith("::error title=qdiff%3A a%3Ab%2Cc%3A%3Ad%25  %3A%3Aerror%3A%3Ax by its pattern%3A "
                                  "self_attn.attn_output::model"));
  CHECK_THAT(commands, ContainsSubstring("repeat: 100%25 :: ,  ::set-env name=A::b\n"));
  CHECK(is_printable(github_commands(tests::hostile())));
}

TEST_CASE("GitHub's page: a table of the hypotheses", "[report]") {
  const std::string page = github_summary(tests::diverged());
  CHECK_THAT(page, StartsWith("### qdiff: diverged\n\n"));
  CHECK_THAT(page, ContainsSubstring("Cause: H05.modulo &#40;confirmed&#41;, in layers 0-2"));
  CHECK_THAT(page, ContainsSubstring("\n| hypothesis | verdict | first divergence | repeat |\n|---|---|---|---|\n"));
  CHECK_THAT(page,
             ContainsSubstring("\n| H05 GQA head mapping | confirmed&#58; H05.modulo | "
                               "<code>model.layers.0.self&#95;attn.attn&#95;output</code>, case H05-gqa, step 0"));
  CHECK_THAT(page,
             ContainsSubstring(" | <code>qdiff run cases/H05-gqa.json --mode lockstep --layers 0 --steps 0</code> |"));
  CHECK_THAT(page, ContainsSubstring("\n| H10 Masking | not exercised |  |  |\n"));
  CHECK_THAT(github_summary(tests::empty()), ContainsSubstring("\n\nnothing was compared\n\n"));
  CHECK_THAT(github_summary(tests::rounding()), ContainsSubstring("Declare: <code>&#34;points&#34;&#58; "));
}

TEST_CASE("GitHub: what a pipeline knows is no error, and a waiver that does not hold is one", "[report]") {
  const std::vector<std::string> lines = lines_of(github_commands(tests::refused()));
  REQUIRE(lines.size() == 2);
  CHECK_THAT(lines[0], StartsWith("::error title=qdiff%3A unexplained%3A lm_head::lm_head"));
  CHECK(lines[1] == "::error title=qdiff%3A waiver::the waiver for X.layer_repeated expired on 2026-01-31");
  CHECK(github_commands(tests::accepted()).empty());
  findings::RunResult undecided = tests::accepted();
  undecided.acceptance->verdict = findings::AcceptanceVerdict::kUndecided;
  undecided.acceptance->reasons = {"lm_head holds NaN"};
  CHECK(github_commands(undecided) == "::warning title=qdiff%3A undecided::lm_head holds NaN\n");
  const std::string page = github_summary(tests::refused());
  CHECK_THAT(page, StartsWith("### qdiff: diverged, refused\n"));
  CHECK_THAT(page, ContainsSubstring("\n- 1 new finding&#58; 1 of unexplained\n"));
  CHECK_THAT(page, ContainsSubstring("\n- fixed since the baseline&#58; 1 of H03.theta, 1 unexplained\n"));
}

TEST_CASE("GitHub's page: every unexplained tensor is there, and many explained ones are counted", "[report]") {
  CHECK_THAT(
      github_summary(tests::unexplained()),
      ContainsSubstring("\n| unexplained&#58; no known bug and no mechanism reproduces it | <code>lm&#95;head</code> "
                        "prefill | 1 | shape |\n"));
  findings::RunResult result = tests::diverged();
  const findings::Finding explained = result.findings.front();
  for (std::size_t i = 0; i < 40; ++i) {
    result.findings.push_back(explained);
    result.findings.back().explanation.variant = fault_table()[i].id;
  }
  result.findings.push_back(tests::unexplained().findings.back());
  const std::string page = github_summary(result);
  CHECK_THAT(page, ContainsSubstring("more lines in report.html |"));
  CHECK_THAT(page, ContainsSubstring("<code>lm&#95;head</code> prefill | 1 |"));
}

TEST_CASE("R01 R02 GitHub's page: text from files is neither HTML nor Markdown", "[report]") {
  for (const auto& [name, result] : tests::all()) {
    INFO(name);
    std::string page = github_summary(result);
    CHECK(is_printable(page));
    CHECK(page.find('`') == std::string::npos);
    for (const char* tag : {"<code>", "</code>"}) {
      for (std::size_t at = page.find(tag); at != std::string::npos; at = page.find(tag)) {
        page.erase(at, std::string(tag).size());
      }
    }
    CHECK(page.find('<') == std::string::npos);
    for (const std::string& line : lines_of(page)) {
      if (line.starts_with('|')) {
        INFO(line);
        CHECK(std::count(line.begin(), line.end(), '|') == 5);
      }
    }
  }
}

TEST_CASE("GitHub: a report's lines are no workflow commands", "[report]") {
  CHECK(without_github_commands("::error::x\n  ::add-mask::y\na ::b\n##[group]z\n") ==
        ": :error::x\n  : :add-mask::y\na ::b\n# #[group]z\n");
  const std::string text = "plain: text\n\n  with # signs :: inside\n";
  CHECK(without_github_commands(text) == text);
}

}  // namespace
}  // namespace qdiff::report
