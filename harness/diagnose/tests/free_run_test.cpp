#include "harness/diagnose/free_run.h"

#include <cmath>

#include "cmake/catch2.h"
#include "harness/trace/recording.h"

using namespace qdiff;
using namespace qdiff::diagnose;

namespace {

constexpr std::int64_t kBatch = 2, kVocab = 4;

// Two rows: a prefill of two tokens and two decode steps. chosen[step][row] is the token behind the last one.
std::vector<Step> steps(std::int64_t pads_of_row_1) {
  std::vector<Step> all(3);
  for (int i = 0; i < 3; ++i) {
    Step& step = all[static_cast<std::size_t>(i)];
    step.index = i;
    step.phase = i == 0 ? Phase::kPrefill : Phase::kDecode;
    step.tokens.assign(kBatch, std::vector<std::int32_t>(i == 0 ? 2 : 1, 1));
    step.past_length = i == 0 ? 0 : i + 1;
    step.left_padding = {0, pads_of_row_1};
    set_default_positions(step);
  }
  return all;
}

using Chosen = std::vector<std::vector<std::int64_t>>;

// Logits of which the chosen token's is 2 and the others' are 1, 0.75 and so on; of token -1 all are NaN.
Tensor logits_of(const std::vector<std::int64_t>& chosen, std::int64_t num_tokens) {
  Tensor logits(DType::kF32, {kBatch, num_tokens, kVocab});
  for (std::int64_t b = 0; b < kBatch; ++b) {
    for (std::int64_t t = 0; t < num_tokens; ++t) {
      for (std::int64_t v = 0; v < kVocab; ++v) {
        const std::int64_t wanted = t == num_tokens - 1 ? chosen[static_cast<std::size_t>(b)] : 0;
        const double value = v == wanted ? 2.0 : 1.0 - 0.25 * static_cast<double>(v);
        logits.set((b * num_tokens + t) * kVocab + v, wanted < 0 ? std::nan("") : value);
      }
    }
  }
  return logits;
}

findings::FreeRun figures(const Chosen& actual, const Chosen& expected, bool last_rows_only = false,
                          std::int64_t pads_of_row_1 = 0) {
  trace::Recording candidate;
  ReferenceChain chain;
  const std::vector<Step> all = steps(pads_of_row_1);
  ModelConfig config;
  config.vocab = kVocab;
  for (const Step& step : all) {
    const auto s = static_cast<std::size_t>(step.index);
    const Tensor logits = logits_of(actual[s], last_rows_only ? 1 : step.num_tokens());
    candidate.put({step.index, {Op::kLmHead}}, logits);
    chain.residual.emplace_back();
    chain.logits.push_back(logits_of(expected[s], step.num_tokens()));
  }
  return free_run_figures("c", all, candidate, chain, config);
}

}  // namespace

TEST_CASE("a free run's choices: row 0 where both choose alike") {
  const findings::FreeRun run = figures({{1, 2}, {3, 0}, {2, 2}}, {{1, 2}, {3, 0}, {2, 2}});
  CHECK(run.row == 0);
  CHECK(run.expected_tokens == std::vector<std::int64_t>{1, 3, 2});
  CHECK(run.actual_tokens == run.expected_tokens);
  CHECK_FALSE(run.margin.has_value());
  CHECK(run.tokens_compared == 8);
  CHECK(run.same_top_token == 8);
}

TEST_CASE("a free run's choices end with the first that differs, in the row where that comes first") {
  const findings::FreeRun run = figures({{1, 2}, {3, 1}, {0, 2}}, {{1, 2}, {3, 0}, {2, 2}});
  CHECK(run.row == 1);
  CHECK(run.step == 1);
  CHECK(run.expected_tokens == std::vector<std::int64_t>{2, 0});
  CHECK(run.actual_tokens == std::vector<std::int64_t>{2, 1});
  CHECK(run.margin == 2.0 - 0.75);  // of the reference's logits: 2 for its own, 0.75 for token 1
  CHECK(run.same_top_token == 6);
}

TEST_CASE("logits of the last rows alone have choices, and are counted nowhere else") {
  const findings::FreeRun run = figures({{1, 2}, {3, 0}, {1, 2}}, {{1, 2}, {3, 0}, {2, 2}}, true);
  CHECK(run.expected_tokens == std::vector<std::int64_t>{1, 3, 2});
  CHECK(run.actual_tokens == std::vector<std::int64_t>{1, 3, 1});
  CHECK(run.tokens_compared == 4);  // of the steps of one token
}

TEST_CASE("behind padding nothing is chosen") {
  const findings::FreeRun run = figures({{1, 1}, {3, 1}, {2, 2}}, {{1, 2}, {3, 0}, {2, 2}}, false, 2);
  CHECK(run.row == 1);  // which differs in step 1, where its first token stands, and not in step 0
  CHECK(run.step == 1);
  CHECK(run.expected_tokens == std::vector<std::int64_t>{0});
  CHECK(run.actual_tokens == std::vector<std::int64_t>{1});
}

TEST_CASE("among NaN nothing is chosen, which differs from any choice and has no margin") {
  const findings::FreeRun run = figures({{1, 2}, {-1, 0}, {2, 2}}, {{1, 2}, {3, 0}, {2, 2}});
  CHECK(run.row == 0);
  CHECK(run.actual_tokens == std::vector<std::int64_t>{1, -1});
  CHECK_FALSE(run.margin.has_value());
}

namespace {

// Every decode step is fed token 1.
std::optional<findings::FedTokens> fed(const Chosen& actual, std::int64_t pads_of_row_1 = 0,
                                       std::set<int> judged = {0, 1, 2}, bool last_rows_only = false) {
  trace::Recording candidate;
  ModelConfig config;
  config.vocab = kVocab;
  const std::vector<Step> all = steps(pads_of_row_1);
  for (const Step& step : all) {
    const auto s = static_cast<std::size_t>(step.index);
    candidate.put({step.index, {Op::kLmHead}}, logits_of(actual[s], last_rows_only ? 1 : step.num_tokens()));
  }
  return fed_tokens(all, judged, candidate, config);
}

}  // namespace

TEST_CASE("tokens that decode steps were fed, beside what the logits before would choose") {
  const auto chosen = fed({{1, 1}, {1, 1}, {2, 3}});  // behind the last step nothing is fed
  REQUIRE(chosen.has_value());
  CHECK(chosen->compared == 4);
  CHECK(chosen->not_chosen == 0);
  for (const bool last_rows_only : {false, true}) {
    const auto others = fed({{1, 1}, {1, 3}, {1, 1}}, 0, {0, 1, 2}, last_rows_only);
    CHECK(others->not_chosen == 1);
    CHECK(others->step == 2);
    CHECK(others->row == 1);
    CHECK(others->fed == 1);
    CHECK(others->chosen == 3);
  }
  CHECK(fed({{2, 1}, {0, 3}, {1, 1}})->not_chosen == 3);
}

TEST_CASE("where nothing was chosen nothing is said of what was fed") {
  CHECK(fed({{1, 2}, {1, 1}, {1, 1}}, 2)->compared == 3);  // row 1 holds nothing but padding in step 0
  CHECK(fed({{-1, 1}, {1, 1}, {1, 1}})->compared == 3);    // NaN
  CHECK(fed({{1, 2}, {1, 1}, {1, 1}}, 0, {1, 2})->not_chosen == 0);
  CHECK_FALSE(fed({{1, 1}, {1, 1}, {1, 1}}, 0, {2}).has_value());
}
