#include "harness/reduce/reduce.h"

#include <algorithm>

#include "cmake/catch2.h"

using namespace qdiff;
using namespace qdiff::reduce;
using findings::Finding;

namespace {

// 3 rows of 200 tokens: 100, 60 and 38 in prefill, 2 in decode; row 2 begins with 30 pads.
std::vector<Step> long_batch() {
  std::vector<Step> steps;
  std::int64_t past = 0;
  for (const std::int64_t num_tokens : {100, 60, 38, 1, 1}) {
    Step step{.index = static_cast<int>(steps.size()),
              .phase = num_tokens == 1 ? Phase::kDecode : Phase::kPrefill,
              .tokens = {},
              .past_length = past,
              .positions = {},
              .left_padding = {0, 0, 30}};
    for (std::int32_t row = 0; row < 3; ++row) {
      std::vector<std::int32_t>& tokens = step.tokens.emplace_back();
      for (std::int64_t t = 0; t < num_tokens; ++t) tokens.push_back(static_cast<std::int32_t>(past + t));
    }
    set_default_positions(step);
    past += num_tokens;
    steps.push_back(step);
  }
  return steps;
}

Finding finding_at(int layer, int step, Op op = Op::kAttnOutput) {
  Finding finding;
  finding.tensor = {op, layer};
  finding.step = step;
  finding.explanation.variant = parse_fault_id("H05.modulo");
  finding.explanation.verdict = findings::HypothesisVerdict::kConfirmed;
  return finding;
}

// An engine that fails where `fails` says so. Counts how often it is asked, and how much that was.
class FakeEngine {
 public:
  explicit FakeEngine(std::function<bool(const Inputs&)> fails) : fails_(std::move(fails)) {}

  Judge judge() {
    return [this](const Inputs& inputs) -> std::optional<Finding> {
      validate_steps(inputs.steps, 1000, 1000);
      CHECK(inputs.capacity >= inputs.length());
      ++asked;
      judged += static_cast<std::int64_t>(inputs.layers.size()) * inputs.batch() * inputs.length();
      if (!fails_(inputs)) return std::nullopt;
      return finding_at(static_cast<int>(inputs.layers.size()) - 1, static_cast<int>(inputs.steps.size()) - 1);
    };
  }
  int asked = 0;
  std::int64_t judged = 0;  // tokens of all layers

 private:
  std::function<bool(const Inputs&)> fails_;
};

bool has_layer(const Inputs& inputs, int layer) { return std::ranges::count(inputs.layers, layer) > 0; }

bool decodes(const Inputs& inputs) { return inputs.steps.back().phase == Phase::kDecode; }

}  // namespace

TEST_CASE("a bug of one layer shrinks to that layer, one row, one token") {
  FakeEngine engine([](const Inputs& inputs) { return has_layer(inputs, 17); });
  const Inputs whole = whole_case(long_batch(), 256, 24);
  const Reduced reduced = reduce::reduce(whole, finding_at(17, 0), engine.judge(), {});
  CHECK(in_words(reduced.inputs) == "1 layer, 1 row, 1 token a row in 1 step");
  CHECK(reduced.inputs.layers == std::vector<int>{17});
  CHECK(reduced.inputs.capacity == 1);
  CHECK(reduced.finding.tensor == TensorId{Op::kAttnOutput, 0});
  CHECK(reduced.tries == engine.asked);
  CHECK(engine.asked < 30);
  CHECK_FALSE(reduced.out_of_tries);
}

TEST_CASE("what a failure needs is kept: two layers, two rows, a decode step, a free slot") {
  FakeEngine engine([](const Inputs& inputs) {
    return has_layer(inputs, 3) && has_layer(inputs, 9) && inputs.batch() >= 2 && decodes(inputs) &&
           inputs.capacity > inputs.length() && inputs.steps.size() > 1;
  });
  const Inputs whole = whole_case(long_batch(), 256, 24);
  const Reduced reduced = reduce::reduce(whole, finding_at(9, 3), engine.judge(), {});
  CHECK(reduced.inputs.layers == std::vector<int>{3, 9});
  CHECK(in_words(reduced.inputs) == "2 layers, 2 rows, 2 tokens a row in 2 steps");
  CHECK(decodes(reduced.inputs));
  CHECK(reduced.inputs.capacity == reduced.inputs.length() + 1);
}

TEST_CASE("what is likely to hold is tried first, and little is judged beside the whole") {
  const Inputs whole = whole_case(long_batch(), 256, 24);
  const std::int64_t of_whole = 24 * 3 * 200;
  // One row's prompt; a decode step behind it; two rows; a tile of tokens.
  const std::vector<std::function<bool(const Inputs&)>> failures = {
      [](const Inputs& inputs) { return has_layer(inputs, 17); },
      [](const Inputs& inputs) { return has_layer(inputs, 17) && decodes(inputs) && inputs.length() >= 2; },
      [](const Inputs& inputs) { return has_layer(inputs, 17) && inputs.batch() >= 2; },
      [](const Inputs& inputs) { return has_layer(inputs, 17) && inputs.length() > 16; }};
  for (std::size_t i = 0; i < failures.size(); ++i) {
    CAPTURE(i);
    FakeEngine engine(failures[i]);
    const Reduced reduced = reduce::reduce(whole, finding_at(17, 0), engine.judge(), {});
    CHECK(reduced.inputs.layers == std::vector<int>{17});
    CHECK(engine.judged < of_whole / 8);
  }
  // The row in which it is worst is the one that is tried by itself.
  Finding in_row_two = finding_at(17, 0);
  in_row_two.judgement.worst_index = {2, 40, 7};
  FakeEngine engine([](const Inputs& inputs) { return std::ranges::count(inputs.rows, 2U) > 0; });
  const Reduced reduced = reduce::reduce(whole, in_row_two, engine.judge(), {});
  CHECK(reduced.inputs.rows == Indices{2});
  CHECK(engine.judged < of_whole / 80);
}

TEST_CASE("a least size is reached and not undercut; chunks that do not matter are joined") {
  FakeEngine engine([](const Inputs& inputs) { return inputs.length() > 64; });
  const Reduced reduced = reduce::reduce(whole_case(long_batch(), 256, 2), finding_at(0, 1), engine.judge(), {});
  CHECK(in_words(reduced.inputs) == "1 layer, 1 row, 65 tokens a row in 1 step");
  const Reduced again = reduce::reduce(reduced.inputs, reduced.finding, engine.judge(), {});
  CHECK(in_words(again.inputs) == in_words(reduced.inputs));
}

TEST_CASE("positions stay what they were where the failure needs them, and else are the usual ones") {
  const auto last_position = [](const Inputs& inputs) { return inputs.steps.back().positions[0].back(); };
  FakeEngine far([&](const Inputs& inputs) { return last_position(inputs) >= 150; });
  const Reduced reduced = reduce::reduce(whole_case(long_batch(), 200, 1), finding_at(0, 4), far.judge(), {});
  CHECK(reduced.inputs.length() == 1);
  CHECK(last_position(reduced.inputs) >= 150);
  FakeEngine anywhere([](const Inputs& inputs) { return inputs.length() >= 2; });
  const Reduced near = reduce::reduce(whole_case(long_batch(), 200, 1), finding_at(0, 4), anywhere.judge(), {});
  CHECK(near.inputs.steps.front().positions == std::vector<std::vector<std::int64_t>>{{0, 1}});
}

TEST_CASE("another failure is not taken for the same one") {
  const Finding right = finding_at(0, 0);
  const Failure failure = failure_of(right);
  CHECK(shows(right, failure));
  CHECK_FALSE(shows(finding_at(0, 0, Op::kQRope), failure));
  Finding other = right;
  other.explanation.variant = parse_fault_id("H05.head_zero");
  CHECK_FALSE(shows(other, failure));
  other = right;
  other.kind = findings::FindingKind::kPrecision;
  CHECK_FALSE(shows(other, failure));
  other = right;
  other.explanation.verdict = findings::HypothesisVerdict::kConsistent;
  CHECK_FALSE(shows(other, failure));
  CHECK(shows(right, failure_of(other)));  // explained better
  other = right;
  other.explanation.alternatives = {*parse_fault_id("H05.head_zero")};
  CHECK_FALSE(shows(other, failure));
  CHECK(shows(right, failure_of(other)));
}

TEST_CASE("no more tries are made than allowed, and the smallest so far is the result") {
  FakeEngine engine([](const Inputs& inputs) { return inputs.length() > 64; });
  Settings settings{.most_tries = 4};
  std::vector<int> in_vain, left;
  settings.progress = [&](const Pace& pace) {
    in_vain.push_back(pace.in_vain);
    left.push_back(pace.left);
  };
  const Inputs whole = whole_case(long_batch(), 256, 24);
  const Reduced reduced = reduce::reduce(whole, finding_at(0, 0), engine.judge(), settings);
  CHECK(engine.asked == 4);
  CHECK(in_vain.size() == 4);
  CHECK(left.back() == 1);
  CHECK(reduced.out_of_tries);
  CHECK(reduced.inputs.length() > 64);
}

TEST_CASE("about how many tries are left is known as long as they are in vain") {
  FakeEngine engine([](const Inputs& inputs) { return inputs.length() >= 9 && inputs.batch() >= 2; });
  struct Shown {
    std::string smallest;
    int in_vain = 0, left = 0;
  };
  std::vector<Shown> shown;
  Settings settings;
  settings.progress = [&](const Pace& pace) { shown.push_back({in_words(pace.smallest), pace.in_vain, pace.left}); };
  const Reduced reduced = reduce::reduce(whole_case(long_batch(), 256, 4), finding_at(0, 0), engine.judge(), settings);
  CHECK(in_words(reduced.inputs) == "1 layer, 2 rows, 9 tokens a row in 1 step");
  REQUIRE(static_cast<int>(shown.size()) == reduced.tries);
  for (std::size_t i = 0; i < shown.size(); ++i) {
    CAPTURE(i, shown[i].smallest, shown[i].in_vain, shown[i].left);
    CHECK(shown[i].in_vain >= 0);
    CHECK(shown[i].left >= 1);
    if (shown[i].smallest != in_words(reduced.inputs) || shown[i].in_vain > 0) continue;
    const auto made = static_cast<int>(shown.size() - i);
    CHECK(4 * made <= 5 * shown[i].left);
    CHECK(shown[i].left <= 2 * made);
    CHECK(made > 8);
  }
}

TEST_CASE("of a trace, the end and rows and layers go, and nothing in between") {
  FakeEngine engine([](const Inputs& inputs) { return inputs.length() >= 37 && has_layer(inputs, 5); });
  const Settings settings{.of_trace = true};
  const Reduced reduced = reduce::reduce(whole_case(long_batch(), 256, 24), finding_at(5, 0), engine.judge(), settings);
  CHECK(in_words(reduced.inputs) == "1 layer, 1 row, 37 tokens a row in 1 step");
  CHECK(reduced.inputs.slots == all_indices(37));
  CHECK(reduced.inputs.capacity == 256);
}
