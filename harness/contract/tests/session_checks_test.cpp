// What every engine refuses of a session and of a step, in the same words.
#include "harness/contract/session_checks.h"

#include <functional>

#include "cmake/catch2.h"
#include "harness/contract/error.h"

namespace qdiff {
namespace {

std::string refusal_of(const std::function<void()>& check) {
  try {
    check();
  } catch (const InputError& error) {
    return error.what();
  }
  return "";
}

TEST_CASE("a session without padding is one of zeros", "[session]") {
  const SessionOptions options = checked_session({.batch = 2, .capacity = 4, .left_padding = {}}, "an engine");
  CHECK(options.left_padding == std::vector<std::int64_t>{0, 0});
  CHECK(checked_session({.batch = 2, .capacity = 4, .left_padding = {0, 3}}, "an engine").left_padding ==
        std::vector<std::int64_t>{0, 3});
}

TEST_CASE("a session that cannot work is refused", "[session]") {
  const auto refusal = [](std::int64_t batch, std::int64_t capacity, std::vector<std::int64_t> padding) {
    return refusal_of([&] {
      checked_session({.batch = batch, .capacity = capacity, .left_padding = std::move(padding)}, "an engine");
    });
  };
  CHECK(refusal(0, 4, {}) == "an engine: a session of batch 0; it needs at least 1 row");
  CHECK(refusal(1, 0, {}) ==
        "an engine: a session of capacity 0; the cache needs a slot for every token of the sequence");
  CHECK(refusal(2, 4, {0}) == "an engine: left_padding has 1 entries for a batch of 2; give one for each row");
  CHECK(refusal(1, 4, {-1}) == "an engine: left_padding -1 is not in [0, 4), the session's slots");
  CHECK(refusal(1, 4, {4}) == "an engine: left_padding 4 is not in [0, 4), the session's slots");
}

TEST_CASE("a step that does not fit its session is refused", "[session]") {
  ModelConfig config;
  config.vocab = 10;
  config.max_position_embeddings = 6;
  const SessionOptions session{.batch = 2, .capacity = 5, .left_padding = {0, 1}};
  Step right;
  right.index = 3;
  right.tokens = {{1, 9}, {0, 2}};
  right.past_length = 3;
  right.positions = {{3, 5}, {2, 3}};
  right.left_padding = {0, 1};
  const auto refusal = [&](const std::function<void(Step&)>& change) {
    Step step = right;
    change(step);
    return refusal_of([&] { check_step(step, session, config, "an engine"); });
  };
  CHECK(refusal([](Step&) {}).empty());
  const std::string start = "an engine, step 3: ";
  CHECK(refusal([](Step& s) { s.tokens.pop_back(); }) ==
        start + "has 1 rows, but the session was opened for a batch of 2");
  CHECK(refusal([](Step& s) { s.tokens = {{}, {}}; }) == start + "has no tokens");
  CHECK(refusal([](Step& s) { s.past_length = -1; }) == start + "past_length -1 is negative");
  CHECK(refusal([](Step& s) { s.past_length = 4; }) ==
        start + "needs 6 cache slots, but the session's capacity is 5; open it with a larger one");
  CHECK(refusal([](Step& s) { s.left_padding = {0, 0}; }) == start + "left_padding differs from the session's");
  CHECK(refusal([](Step& s) { s.positions.pop_back(); }) ==
        start + "positions must have one row for each row of tokens");
  CHECK(refusal([](Step& s) { s.tokens[1].pop_back(); }) ==
        start + "rows differ in length in row 1; pad them on the left");
  CHECK(refusal([](Step& s) { s.positions[1].pop_back(); }) ==
        start + "positions and tokens differ in length in row 1");
  CHECK(refusal([](Step& s) { s.tokens[0][1] = 10; }) == start + "token 10 in row 0 is not in [0, 10)");
  CHECK(refusal([](Step& s) { s.tokens[0][1] = -1; }) == start + "token -1 in row 0 is not in [0, 10)");
  CHECK(refusal([](Step& s) { s.positions[1][0] = 6; }) == start + "position 6 in row 1 is not in [0, 6)");
  CHECK(refusal([](Step& s) { s.positions[1][0] = -1; }) == start + "position -1 in row 1 is not in [0, 6)");
}

}  // namespace
}  // namespace qdiff
