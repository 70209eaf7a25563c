#include "harness/reduce/trace_part.h"

#include "cmake/catch2.h"
#include "harness/formats/tests/temporary_directory.h"
#include "harness/reduce/tests/batch.h"
#include "harness/trace/trace_writer.h"

using namespace qdiff;
using namespace qdiff::reduce;

namespace {

// Each element tells where it stands: 10000 b + 100 t + d of [B,T,D], 10000 b + 100 t + s of [B,H,T,S], slots counted
// for t.
Tensor labelled(Shape shape, std::int64_t past) {
  Tensor tensor(DType::kF32, shape);
  const std::int64_t last = shape.back(), middle = shape[shape.size() - 2];
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    const std::int64_t row = i / last % middle + past;
    const std::int64_t batch = i / (num_elements(shape) / shape[0]);
    tensor.set(i, static_cast<double>(10000 * batch + 100 * row + i % last));
  }
  return tensor;
}

constexpr std::int64_t kHidden = 2, kHeads = 2, kVocab = 7;

trace::Manifest manifest() {
  trace::Manifest about;
  about.engine = {"test", "1", "cpu"};
  about.config.num_layers = 3;
  return about;
}

std::unique_ptr<trace::Trace> write_whole(const std::filesystem::path& folder, bool last_row_alone) {
  trace::Recording recording;
  for (const Step& step : ragged_batch()) {
    const std::int64_t tokens = step.num_tokens(), past = step.past_length;
    recording.put({step.index, {Op::kEmbedTokens}}, labelled({3, tokens, kHidden}, past));
    for (int layer = 0; layer < 3; ++layer) {
      recording.put({step.index, {Op::kScores, layer}}, labelled({3, kHeads, tokens, step.valid_length()}, past));
      recording.put({step.index, {Op::kOutput, layer}}, labelled({3, tokens, kHidden}, past));
    }
    recording.put({step.index, {Op::kLmHead}}, labelled({3, last_row_alone ? 1 : tokens, kVocab}, past));
  }
  trace::write_trace(folder, manifest(), ragged_batch(), recording);
  return trace::read_trace(folder);
}

}  // namespace

TEST_CASE("a part of a trace holds the values of what is kept") {
  const testing::TemporaryDirectory folder;
  const auto whole = write_whole(folder.path() / "whole", false);
  Inputs inputs = inputs_of(*whole, 3);
  inputs = keep_layers(*keep_slots(*keep_rows(inputs, {1}), all_indices(4)), {1});
  // Row 1 has two pads, which go with the other rows; its slots 2 to 5 are the end of step 0 and the begin of step 1.
  CHECK(inputs.slots == Indices{2, 3, 4, 5});
  write_part(*whole, inputs, 3, folder.path() / "part");
  const auto part = trace::read_trace(folder.path() / "part");
  REQUIRE(part->manifest().steps.size() == 2);
  CHECK(part->manifest().steps[1].tokens == std::vector<std::vector<std::int32_t>>{{104, 105}});
  CHECK_FALSE(part->manifest().positions_requested);
  const TensorView scores = part->get({1, {Op::kScores, 1}});
  CHECK(scores.shape == Shape{1, kHeads, 2, 4});
  CHECK(to_doubles(scores) == std::vector<double>{10402, 10403, 10404, 10405, 10502, 10503, 10504, 10505,  //
                                                  10402, 10403, 10404, 10405, 10502, 10503, 10504, 10505});
  CHECK(to_doubles(part->get({0, {Op::kEmbedTokens}})) == std::vector<double>{10200, 10201, 10300, 10301});
  CHECK(part->has({0, {Op::kOutput, 0}}));  // what enters the kept layer
  CHECK_FALSE(part->has({0, {Op::kScores, 0}}));
  CHECK_FALSE(part->has({0, {Op::kOutput, 2}}));
  CHECK_FALSE(part->has({0, {Op::kLmHead}}));
}

TEST_CASE("logits of the last row alone go with that row") {
  const testing::TemporaryDirectory folder;
  const auto whole = write_whole(folder.path() / "whole", true);
  const Inputs all = inputs_of(*whole, 3);
  const trace::Recording same = part_of(*whole, all, 3);
  CHECK(same.get({0, {Op::kLmHead}}).shape == Shape{3, 1, kVocab});
  CHECK(same.size() == whole->keys().size());
  const trace::Recording shorter = part_of(*whole, *keep_slots(*keep_rows(all, {0}), all_indices(6)), 3);
  CHECK(shorter.has({0, {Op::kLmHead}}));
  CHECK_FALSE(shorter.has({1, {Op::kLmHead}}));
  CHECK(shorter.has({1, {Op::kOutput, 2}}));
  CHECK_FALSE(shorter.has({2, {Op::kOutput, 2}}));
}
