// What is kept of an engine's run: tensors, writes that came later, and the reference's own residual stream.
#include "harness/diagnose/record.h"

#include <cmath>

#include "cmake/catch2.h"
#include "harness/contract/tests/table_counts.h"
#include "harness/diagnose/tests/toy_rows.h"

namespace qdiff::diagnose {
namespace {

const int kLayers = static_cast<int>(toy_config().num_layers);

std::vector<ReferenceChain> chains_of(const CaseInput& input, int last_step, int end_layer, DType activations) {
  ToyEngine reference(gold_precision(DType::kF32));
  return run_reference(reference, {&input}, {last_step}, activations, toy_config(), end_layer, {});
}

TEST_CASE("a free run keeps every tensor of the steps that are asked for", "[record]") {
  ToyEngine engine(kF32);
  const CaseInput input = toy_case({3, 1, 1});
  const Recorded recorded = record_free(engine, input, kLayers, 1, Poison::kNaN);
  CHECK(recorded.later_writes.empty());
  CHECK(recorded.tensors.size() == 2 * all_tensors(toy_config(), true).size());
  const trace::Recording whole = toy_recording(engine, input);
  for (const TensorKey& key : recorded.tensors.keys()) {
    CHECK(to_doubles(recorded.tensors.get(key)) == to_doubles(whole.get(key)));
  }
}

TEST_CASE("a tensor that is written again after it was handed out is noted", "[record]") {
  ToyEngine engine(kF32);
  engine.overwrites_down_proj = true;
  const CaseInput input = toy_case({3});
  const Recorded recorded = record_free(engine, input, kLayers, 0, Poison::kNaN);
  REQUIRE(recorded.later_writes.size() == 3);
  CHECK(recorded.later_writes[1].step == 0);
  CHECK(recorded.later_writes[1].tensor == "model.layers.1.mlp.down_proj");
  // Kept is what was handed out.
  CHECK(recorded.tensors.get(key_of(Op::kDownProj)).shape == Shape{1, 3, toy_config().hidden});
  CHECK(load_element(recorded.tensors.get(key_of(Op::kDownProj)).data, DType::kF32, 0) != 7.0);
}

TEST_CASE("an untapped run gives the logits of the recorded one", "[record]") {
  ToyEngine engine(kF32);
  const CaseInput input = toy_case({3, 1});
  const trace::Recording tapped = toy_recording(engine, input);
  const std::vector<Tensor> logits = run_untapped(engine, input, 1, Poison::kLargeFinite);
  REQUIRE(logits.size() == 2);
  for (int step : {0, 1}) {
    const TensorKey key{step, {Op::kLmHead}};
    CHECK_FALSE(first_difference(tapped.get(key), logits[static_cast<std::size_t>(step)].view(),
                                 input.steps[static_cast<std::size_t>(step)])
                    .has_value());
  }
}

TEST_CASE("the reference's residual stream is rounded to the candidate's type, and its logits are its own",
          "[record]") {
  const CaseInput input = toy_case({3, 1});
  const ReferenceChain chain = chains_of(input, 1, kLayers, DType::kBF16).front();
  REQUIRE(chain.residual.size() == 2);
  for (const std::vector<Tensor>& residual : chain.residual) {
    REQUIRE(residual.size() == 4);  // into each layer and the head
    for (const Tensor& tensor : residual) CHECK(tensor.dtype() == DType::kBF16);
  }
  REQUIRE(chain.logits.size() == 2);
  CHECK(chain.logits[1].shape() == Shape{1, 1, toy_config().vocab});
  // Each layer takes what was rounded: the same pass with every tensor in float64 but the residual stream.
  ToyEngine gold(gold_precision(DType::kF32));
  const auto session = gold.open({.batch = 1, .capacity = input.capacity, .left_padding = {0}});
  const Tensor wide =
      Tensor::rounded(DType::kF64, chain.residual[0][0].shape(), to_doubles(chain.residual[0][0].view()));
  const TensorView next = session->run_layer(0, input.steps[0], wide.view(), nullptr);
  CHECK(to_doubles(Tensor::rounded(DType::kBF16, next.shape, to_doubles(next)).view()) ==
        to_doubles(chain.residual[0][1].view()));

  const ReferenceChain shorter = chains_of(input, 0, 1, DType::kF32).front();
  CHECK(shorter.residual.size() == 1);
  CHECK(shorter.residual[0].size() == 2);
  CHECK(shorter.logits[0].size() == 0);
}

TEST_CASE("in lockstep each judged layer is fed with the reference's residual stream", "[record]") {
  const CaseInput input = toy_case({3, 1});
  const ReferenceChain chain = chains_of(input, 1, kLayers, DType::kF32).front();
  ToyEngine engine = toy_engine({FaultId::kNoSilu, {}, 0});  // what layer 0 puts out is not what layer 1 is given
  const Recorded whole = record_lockstep(engine, input, chain, {0, 1, 2}, true, 1, Poison::kNaN);
  CHECK(whole.tensors.size() == 2 * all_tensors(toy_config(), true).size());
  ToyEngine honest(kF32);
  const Recorded right = record_lockstep(honest, input, chain, {1}, false, 1, Poison::kNaN);
  CHECK(std::ssize(right.tensors.keys()) == 2 * kRowsOfALayer);
  for (const TensorKey& key : right.tensors.keys()) {
    CHECK(key.id.layer == 1);
    CHECK(to_doubles(whole.tensors.get(key)) == to_doubles(right.tensors.get(key)));
  }
  CHECK(to_doubles(whole.tensors.get(key_of(Op::kOutput))) != to_doubles(chain.residual[0][1].view()));
}

}  // namespace
}  // namespace qdiff::diagnose
