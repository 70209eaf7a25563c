#include "harness/cli/reduction.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <vector>

#include "cmake/catch2.h"
#include "harness/contract/fault.h"

namespace qdiff::cli {
namespace {

using findings::Finding;

// Two rows of 69 tokens on two layers: 40 and 26 in prefill, 3 in decode. A sample has 15 of them.
reduce::Inputs long_case() {
  std::vector<Step> steps;
  std::int64_t past = 0;
  for (const std::int64_t num_tokens : {40, 26, 1, 1, 1}) {
    Step step{.index = static_cast<int>(steps.size()),
              .phase = num_tokens == 1 ? Phase::kDecode : Phase::kPrefill,
              .tokens = {},
              .past_length = past,
              .positions = {},
              .left_padding = {0, 9}};
    for (int row = 0; row < 2; ++row) step.tokens.emplace_back(static_cast<std::size_t>(num_tokens), 7);
    set_default_positions(step);
    past += num_tokens;
    steps.push_back(step);
  }
  return reduce::whole_case(steps, 72, 2);
}

Finding finding_of(const char* fault, int layer) {
  Finding finding;
  finding.mode = "lockstep";
  finding.tensor = {Op::kAttnOutput, layer};
  finding.explanation.variant = parse_fault_id(fault);
  finding.explanation.verdict = findings::HypothesisVerdict::kConfirmed;
  return finding;
}

// An engine that fails in layer 1 alone: few tokens with one cause, and many with what `of_many` says.
class FakeRunner {
 public:
  explicit FakeRunner(std::optional<Finding> of_many) : of_many_(std::move(of_many)) {}

  findings::RunResult operator()(const reduce::Inputs& inputs, const Judging& judging) {
    longest_ = std::max(longest_, inputs.length());
    ++runs_;
    const auto found = std::ranges::find(inputs.layers, 1);
    findings::RunResult result;
    if (found == inputs.layers.end()) return result;
    const auto layer = static_cast<int>(found - inputs.layers.begin());
    if (judging.layers && !judging.layers->contains(layer)) return result;
    constexpr std::int64_t kFew = 20;
    std::optional<Finding> finding = inputs.length() <= kFew ? finding_of("H05.modulo", layer) : of_many_;
    if (!finding) return result;
    finding->tensor.layer = layer;
    result.verdict = compare::Verdict::kDiverged;
    result.findings = {*finding};
    return result;
  }

  std::int64_t longest() const { return longest_; }
  int runs() const { return runs_; }

 private:
  std::optional<Finding> of_many_;
  std::int64_t longest_ = 0;
  int runs_ = 0;
};

std::optional<reduce::Reduced> of_sample(FakeRunner& runner, diagnose::Mode mode = diagnose::Mode::kBoth) {
  Progress silent(/*quiet=*/true);
  return reduce_sample(std::ref(runner), long_case(), mode, "long", 100, silent);
}

TEST_CASE("a sample that fails as all of its tokens do has the last word", "[reduction]") {
  FakeRunner runner(finding_of("H05.modulo", 1));
  const auto reduced = of_sample(runner);
  REQUIRE(reduced);
  CHECK(reduced->inputs.layers == std::vector<int>{1});
  CHECK(reduced->inputs.length() <= 2);
  CHECK(findings::cause_name(reduced->finding.explanation) == "H05.modulo");
  CHECK(runner.longest() >= 60);  // all tokens of the row that is left were judged
}

TEST_CASE("a sample's cause that all of its tokens refuse is none of the case's", "[reduction]") {
  Finding in_doubt = finding_of("H05.modulo", 1);
  in_doubt.explanation.verdict = findings::HypothesisVerdict::kConsistent;
  Finding elsewhere = finding_of("H05.modulo", 1);
  elsewhere.tensor.op = Op::kScores;
  const std::optional<Finding> of_many[] = {std::nullopt, finding_of("H05.divide_by_kv", 1), in_doubt, elsewhere};
  for (const std::optional<Finding>& found : of_many) {
    FakeRunner runner(found);
    CHECK_FALSE(of_sample(runner));
    CHECK(runner.longest() >= 60);
  }
}

TEST_CASE("what has no sample, or fails in a free run alone, is not judged by one", "[reduction]") {
  FakeRunner runner(finding_of("H05.modulo", 1));
  CHECK_FALSE(of_sample(runner, diagnose::Mode::kFree));
  CHECK(runner.runs() == 0);
}

}  // namespace
}  // namespace qdiff::cli
