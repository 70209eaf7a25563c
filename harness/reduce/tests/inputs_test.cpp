#include "harness/reduce/inputs.h"

#include "cmake/catch2.h"
#include "harness/reduce/failure.h"
#include "harness/reduce/tests/batch.h"

using namespace qdiff;
using namespace qdiff::reduce;

namespace {

using Rows = std::vector<std::vector<std::int32_t>>;
using Positions = std::vector<std::vector<std::int64_t>>;

void check_valid(const Inputs& inputs) {
  CHECK_NOTHROW(validate_steps(inputs.steps, 1000, 1000));
  CHECK(inputs.steps.back().valid_length() == inputs.length());
  CHECK(inputs.steps.front().batch() == inputs.batch());
}

}  // namespace

TEST_CASE("a whole case is all of it") {
  const Inputs whole = whole_case(ragged_batch(), 20, 24);
  check_valid(whole);
  CHECK(in_words(whole) == "24 layers, 3 rows, 8 tokens a row in 3 steps");
  CHECK(in_words(keep_layers(whole, {3})) == "1 layer, 3 rows, 8 tokens a row in 3 steps");
  CHECK(keep_layers(keep_layers(whole, {2, 5, 9}), {1, 2}).layers == std::vector<int>{5, 9});
}

TEST_CASE("kept slots keep their tokens, positions and steps") {
  const Inputs whole = whole_case(ragged_batch(), 20, 1);
  const auto kept = keep_slots(whole, {1, 3, 6, 7});
  REQUIRE(kept);
  check_valid(*kept);
  REQUIRE(kept->steps.size() == 3);
  CHECK(kept->steps[0].tokens == Rows{{1, 3}, {101, 103}, {201, 203}});
  CHECK(kept->steps[1].tokens == Rows{{6}, {106}, {206}});
  CHECK(kept->steps[0].left_padding == std::vector<std::int64_t>{0, 1, 2});
  CHECK(kept->steps[0].positions == Positions{{1, 3}, {0, 1}, {0, 0}});  // those of pads are 0
  CHECK(kept->steps[1].positions == Positions{{6}, {4}, {1}});
  CHECK(kept->slots == Indices{1, 3, 6, 7});
  const Inputs usual = with_usual_positions(*kept);
  CHECK(usual.steps[0].positions == Positions{{0, 1}, {0, 0}, {0, 0}});
  CHECK(usual.steps[2].positions == Positions{{3}, {2}, {1}});
}

TEST_CASE("steps that lose all their slots are gone, and a row needs a real token") {
  const Inputs whole = whole_case(ragged_batch(), 20, 1);
  const auto without_middle = keep_steps(whole, {0, 2});
  REQUIRE(without_middle);
  check_valid(*without_middle);
  CHECK(without_middle->steps[1].phase == Phase::kDecode);
  CHECK(without_middle->steps[1].index == 1);
  CHECK(without_middle->steps[1].past_length == 4);
  CHECK_FALSE(keep_steps(whole, {0}));  // row 2 has five pads
  CHECK_FALSE(keep_slots(whole, {0, 1, 2, 3, 4}));
}

TEST_CASE("rows go, and with them slots of padding alone") {
  const Inputs whole = whole_case(ragged_batch(), 20, 1);
  const auto last = keep_rows(whole, {2});
  REQUIRE(last);
  check_valid(*last);
  CHECK(last->rows == Indices{2});
  CHECK(last->slots == Indices{5, 6, 7});
  REQUIRE(last->steps.size() == 2);  // the first held nothing else
  CHECK(last->steps[0].tokens == Rows{{205, 206}});
  CHECK(last->steps[0].left_padding == std::vector<std::int64_t>{0});
  const auto two = keep_rows(whole, {0, 2});
  REQUIRE(two);
  check_valid(*two);
  CHECK(two->steps[0].left_padding == std::vector<std::int64_t>{0, 5});
  CHECK(keep_rows(*two, {1})->rows == Indices{2});
}

TEST_CASE("a sample has the ends of each step, and is none of a short case") {
  CHECK_FALSE(sample_of(whole_case(ragged_batch(), 20, 2)));
  std::vector<Step> steps;
  std::int64_t past = 0;
  for (const std::int64_t num_tokens : {30, 5, 1, 1, 1, 1, 1}) {
    Step step{.index = static_cast<int>(steps.size()),
              .phase = num_tokens == 1 ? Phase::kDecode : Phase::kPrefill,
              .tokens = {},
              .past_length = past,
              .positions = {},
              .left_padding = {0, 29}};
    step.tokens.assign(2, std::vector<std::int32_t>(static_cast<std::size_t>(num_tokens), 7));
    set_default_positions(step);
    past += num_tokens;
    steps.push_back(step);
  }
  const auto sample = sample_of(whole_case(steps, 40, 3));
  REQUIRE(sample);
  check_valid(*sample);
  CHECK(sample->slots == Indices{0, 1, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 38, 39});
  CHECK(in_words(*sample) == "3 layers, 2 rows, 15 tokens a row in 6 steps");
  CHECK(sample->steps.front().left_padding == std::vector<std::int64_t>{0, 5});
  CHECK(sample->steps.front().positions[0] == std::vector<std::int64_t>{0, 1, 26, 27, 28, 29});
}

TEST_CASE("joined steps are one prefill step") {
  const Inputs joined = join_steps(whole_case(ragged_batch(), 20, 1), 1);
  check_valid(joined);
  REQUIRE(joined.steps.size() == 2);
  CHECK(joined.steps[1].phase == Phase::kPrefill);
  CHECK(joined.steps[1].tokens[0] == std::vector<std::int32_t>{4, 5, 6, 7});
}

TEST_CASE("a fault follows its layer into the smaller model") {
  const Fault everywhere{*parse_fault_id("H05.modulo")};
  CHECK(to_string(*in_layers(everywhere, {7})) == "H05.modulo");
  const Fault in_seven{*parse_fault_id("H05.modulo"), {}, 7};
  CHECK(to_string(*in_layers(in_seven, {2, 7})) == "H05.modulo@1");
  CHECK_FALSE(in_layers(in_seven, {2, 8}));
  Mistake mistake{.kind = MistakeKind::kFactor, .parameters = {{"factor", 2.0}}, .op = Op::kQProj, .scope = {}};
  CHECK(std::get<Mistake>(*in_layers(mistake, {3})) == mistake);
  mistake.scope.layers = {.kind = Selection::Kind::kFrom, .bound = 5};
  const auto moved = in_layers(mistake, {3, 5, 9});
  REQUIRE(moved);
  CHECK(std::get<Mistake>(*moved).scope.layers == Selection{.kind = Selection::Kind::kOnly, .only = {1, 2}});
  CHECK_FALSE(in_layers(mistake, {0, 4}));
}
