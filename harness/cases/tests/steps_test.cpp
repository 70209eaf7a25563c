#include <algorithm>
#include <set>

#include "cmake/catch2.h"
#include "harness/cases/case.h"
#include "harness/contract/error.h"

namespace qdiff::cases {
namespace {

ModelConfig config_with(std::int64_t vocab, std::int64_t max_positions = 4096) {
  ModelConfig config;
  config.vocab = vocab;
  config.max_position_embeddings = max_positions;
  return config;
}

Case small_case() {
  Case test_case;
  test_case.argument = "cases/small.json";
  test_case.batch = 3;
  test_case.left_padding = {0, 2, 5};
  test_case.capacity = 20;
  test_case.seed = 11;
  test_case.steps = {{Phase::kPrefill, 8, {}, {}}, {Phase::kPrefill, 3, {}, {}}, {Phase::kDecode, 1, {}, {}}};
  return test_case;
}

TEST_CASE("steps of every case of the suite fit models of any vocabulary", "[cases]") {
  for (const Case& test_case : embedded_suite()) {
    for (std::int64_t vocab : {1, 2, 7, 500, 151936}) {
      INFO(test_case.id << " with vocabulary " << vocab);
      const std::vector<Step> steps = make_steps(test_case, config_with(vocab));
      CHECK(steps.size() == test_case.steps.size());
      CHECK(steps.back().valid_length() == test_case.length());
    }
  }
}

TEST_CASE("steps carry lengths, phases, padding and the usual positions", "[cases]") {
  const std::vector<Step> steps = make_steps(small_case(), config_with(1000));
  REQUIRE(steps.size() == 3);
  CHECK(steps[1].past_length == 8);
  CHECK(steps[2].past_length == 11);
  CHECK(steps[2].phase == Phase::kDecode);
  CHECK(steps[0].left_padding == std::vector<std::int64_t>{0, 2, 5});
  CHECK(steps[0].positions[1] == std::vector<std::int64_t>{0, 0, 0, 1, 2, 3, 4, 5});
  CHECK(steps[1].positions[2] == std::vector<std::int64_t>{3, 4, 5});
  CHECK(steps[2].positions[0] == std::vector<std::int64_t>{11});
}

TEST_CASE("token ids are the same on every machine and follow the seed", "[cases]") {
  Case test_case = small_case();
  const std::vector<Step> steps = make_steps(test_case, config_with(1000));
  // Computed by an independent program from the description in steps.cpp.
  CHECK(steps[0].tokens[0] == std::vector<std::int32_t>{191, 28, 92, 58, 770, 362, 646, 145});
  CHECK(steps[2].tokens[2] == std::vector<std::int32_t>{971});
  CHECK(make_steps(test_case, config_with(1000))[1].tokens == steps[1].tokens);
  test_case.seed = 12;
  CHECK(make_steps(test_case, config_with(1000))[0].tokens != steps[0].tokens);
}

TEST_CASE("one long prefill and its chunks hold the same tokens", "[cases]") {
  Case whole = small_case();
  whole.steps = {{Phase::kPrefill, 12, {}, {}}};
  const std::vector<Step> chunks = make_steps(small_case(), config_with(1000));
  const std::vector<Step> one = make_steps(whole, config_with(1000));
  for (std::size_t b = 0; b < 3; ++b) {
    std::vector<std::int32_t> joined;
    for (const Step& step : chunks) joined.insert(joined.end(), step.tokens[b].begin(), step.tokens[b].end());
    CHECK(joined == one[0].tokens[b]);
  }
}

TEST_CASE("rows differ at every slot, even in a vocabulary barely larger than the batch", "[cases]") {
  for (std::int64_t vocab : {3, 4, 50}) {
    for (const Step& step : make_steps(small_case(), config_with(vocab))) {
      for (std::size_t t = 0; t < step.tokens[0].size(); ++t) {
        const std::set<std::int32_t> ids = {step.tokens[0][t], step.tokens[1][t], step.tokens[2][t]};
        CHECK(ids.size() == 3);
      }
    }
  }
}

TEST_CASE("the largest case is made in a moment, in any vocabulary", "[cases]") {
  Case large = small_case();
  large.batch = kMaxBatch;
  large.left_padding.assign(static_cast<std::size_t>(kMaxBatch), 0);
  large.steps = {{Phase::kPrefill, kMaxTokens / kMaxBatch, {}, {}}};
  for (std::int64_t vocab : {1, 1024, 151936}) {
    const std::vector<Step> steps = make_steps(large, config_with(vocab, kMaxLength));
    const std::set<std::int32_t> first_slot = [&] {
      std::set<std::int32_t> ids;
      for (const auto& row : steps[0].tokens) ids.insert(row[0]);
      return ids;
    }();
    CHECK(first_slot.size() == static_cast<std::size_t>(std::min(vocab, kMaxBatch)));
  }
}

TEST_CASE("special tokens come from the end of the vocabulary, where they were asked for", "[cases]") {
  Case test_case = small_case();
  test_case.special_tokens = SpecialTokens{4, 5};
  for (std::int64_t vocab : {40, 151936}) {
    for (const Step& step : make_steps(test_case, config_with(vocab))) {
      for (std::size_t b = 0; b < step.tokens.size(); ++b) {
        for (std::size_t t = 0; t < step.tokens[b].size(); ++t) {
          const auto slot = static_cast<std::size_t>(step.past_length) + t;
          CHECK((step.tokens[b][t] >= vocab - 5) == ((slot + b + 1) % 4 == 0));
        }
      }
    }
  }
  // A vocabulary smaller than that leaves nothing else; the ids stay valid.
  CHECK(make_steps(test_case, config_with(2)).size() == 3);
}

TEST_CASE("explicit tokens and positions are taken as they stand", "[cases]") {
  Case test_case = small_case();
  test_case.steps[1].tokens = {{1, 2, 3}, {4, 5, 6}, {7, 8, 999}};
  test_case.steps[0].positions = {{7, 6, 5, 4, 3, 2, 1, 0}, {90, 91, 2, 3, 4, 5, 6, 7}, {0, 0, 0, 0, 0, 40, 41, 42}};
  const std::vector<Step> steps = make_steps(test_case, config_with(1000));
  CHECK(steps[1].tokens == test_case.steps[1].tokens);
  CHECK(steps[0].positions[0] == test_case.steps[0].positions[0]);
  CHECK(steps[0].positions[1] == std::vector<std::int64_t>{0, 0, 2, 3, 4, 5, 6, 7});  // pads hold 0
  CHECK(steps[0].positions[2] == std::vector<std::int64_t>{0, 0, 0, 0, 0, 40, 41, 42});
}

TEST_CASE("J08 what does not fit the model is refused, naming case, step, row and token", "[cases]") {
  Case test_case = small_case();
  test_case.steps[1].tokens = {{1, 2, 3}, {4, 5, 6}, {7, 8, 1000}};
  CHECK_THROWS_AS(make_steps(test_case, config_with(1000)), InputError);
  CHECK_THROWS_WITH(make_steps(test_case, config_with(1000)),
                    StartsWith("cases/small.json: step 1: token 1000 at row 2, token 2 is not in [0, 1000)"));
  CHECK_NOTHROW(make_steps(test_case, config_with(1001)));

  CHECK_NOTHROW(make_steps(small_case(), config_with(1000, 12)));
  CHECK_THROWS_AS(make_steps(small_case(), config_with(1000, 11)), InputError);  // position 11 of the last step
  test_case = small_case();
  test_case.steps[2].positions = {{4096}, {0}, {0}};
  CHECK_THROWS_WITH(make_steps(test_case, config_with(1000)), ContainsSubstring("position 4096"));
}

}  // namespace
}  // namespace qdiff::cases
