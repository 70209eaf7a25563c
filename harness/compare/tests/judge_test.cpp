#include <chrono>
#include <stdexcept>

#include "cmake/catch2.h"
#include "harness/compare/tests/judge_checks.h"
#include "harness/compare/tests/sample.h"

namespace qdiff::compare {
namespace {

TEST_CASE("the judge passes every assertion that its mutants are held against", "[judge]") {
  for (const Check& check : judge_checks()) {
    INFO(check.name);
    CHECK(check.holds());
  }
}

TEST_CASE("a wrong call is refused, whatever the candidate", "[judge]") {
  Sample sample = honest_sample({});
  SECTION("sigma of another size") { sample.expected.sigma_shared.pop_back(); }
  SECTION("an expectation of another shape") { sample.expected.shape = {2, 100, 5}; }
  CHECK_THROWS_AS(sample.judge(), std::invalid_argument);
}

TEST_CASE("the reason of a divergence names the element, the statistic and both values", "[judge]") {
  Sample sample = honest_sample({});
  sample.expected.value[207] = 0.5;
  sample.actual.set(207, 4.0);
  const Judgement judgement = sample.judge();
  CHECK_THAT(judgement.reason, ContainsSubstring("max_excess"));
  CHECK_THAT(judgement.reason, ContainsSubstring("[0, 2, 7]: 4 where 0.5 is expected"));
}

TEST_CASE("equal inputs give equal judgements", "[judge]") {
  const Sample sample = honest_sample({.op = Op::kLmHead, .dtype = DType::kF32});
  CHECK(sample.judge().statistics.normalised == sample.judge().statistics.normalised);
}

TEST_CASE("logits of a real vocabulary take seconds, not minutes", "[judge]") {
  SampleOptions options{.op = Op::kLmHead, .num_tokens = 4, .left_padding = {0}};
  Sample sample = honest_sample(options);
  sample.config.vocab = 151936;
  sample.expected.shape = {1, 4, sample.config.vocab};
  const auto n = static_cast<std::size_t>(num_elements(sample.expected.shape));
  Random random(3);
  sample.expected.value.resize(n);
  for (double& gold : sample.expected.value) gold = 2.0 * random.uniform() - 1.0;
  sample.expected.sigma_independent.assign(n, 1e-6F);
  sample.expected.sigma_shared.assign(n, 0.0F);
  sample.actual = Tensor::rounded(DType::kBF16, sample.expected.shape, sample.expected.value);
  const auto start = std::chrono::steady_clock::now();
  const Judgement judgement = sample.judge();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  CHECK(judgement.outcome == Outcome::kMatch);
  CHECK(seconds.count() < 10.0);  // 0.05 s on a quiet core; the room is for sanitizers
  CHECK(judgement.statistics.elements_compared == static_cast<std::int64_t>(n));
}

}  // namespace
}  // namespace qdiff::compare
