// Every catalogued fault, planted in one layer of an engine of which the layers' outputs alone are recorded: is that
// layer's output the first that is wrong? Layer 0 of profile qwen has large k biases, so that what a rounding may do to
// its softmax is as wide as the output itself.
#include <iostream>
#include <string>

#include "cmake/catch2.h"
#include "harness/cli/tests/planted_engine.h"

namespace qdiff {
namespace {

bool outputs_alone(const TensorId& id) { return id.op == Op::kEmbedTokens || id.op == Op::kOutput; }

// The layer of the first wrong output; nothing where none is wrong, and none is in doubt.
std::optional<int> layer_named(const diagnose::Judged& judged) {
  if (!judged.wrong.empty()) return judged.wrong.front().key.id.layer;
  return judged.not_compared.empty() ? std::nullopt : std::optional(kNoLayer);
}

TEST_CASE("a fault in a layer with large biases is found in that layer's output", "[layer_outputs]") {
  PlantedEngine outputs("synthetic:toy-15x5,profile=qwen", DType::kBF16, outputs_alone);
  for (FaultId id : {FaultId::kTheta, FaultId::kNoRope, FaultId::kDecodePosZero, FaultId::kMissingQ,
                     FaultId::kTransposedQ, FaultId::kNoBatchStride}) {
    INFO(name(id));
    CHECK(layer_named(outputs.judge({id, {}, 0})) == 0);
  }
}

// With layer 0's plane of the cache under layer 1, layer 1 finds its own keys again: what lies there last is what it
// wrote itself. Wrong is what layer 0 reads in the step after.
TEST_CASE("a layer that writes into another's cache is found where its vectors are read", "[layer_outputs]") {
  for (const Keep& keep : {Keep(everything), Keep(outputs_alone)}) {
    PlantedEngine engine("synthetic:toy-15x5,profile=qwen", DType::kBF16, keep);
    const diagnose::Judged judged = engine.judge({FaultId::kNoLayerStride, {}, 1});
    INFO((keep({Op::kQRope, 0}) ? "all tensors" : "layer outputs"));
    REQUIRE_FALSE(judged.wrong.empty());
    for (const diagnose::WrongTensor& tensor : judged.wrong) {
      INFO(tensor_name(tensor.key.id) << " of step " << tensor.key.step);
      CHECK(tensor.key.id.layer == 0);
      CHECK(tensor.key.step > 0);
    }
  }
}

// A cache of which most was never written leaves NaN, and so does a softmax without its maximum on large biases.
TEST_CASE("from layer outputs alone NaN in every element confirms no bug", "[layer_outputs]") {
  const findings::RunResult result = judge_trace_of({.inject = Fault{FaultId::kHeadStrideIsTokens, {}, {}},
                                                     .keep = outputs_alone,
                                                     .options = {.layers = {{0}}, .steps = {{0}}, .probing = false}});
  INFO(result.reason);
  REQUIRE(result.verdict == compare::Verdict::kDiverged);
  CHECK(result.first_divergence()->tensor == TensorId{Op::kOutput, 0});
  CHECK(result.first_divergence()->explanation.verdict != findings::HypothesisVerdict::kConfirmed);
  for (const auto& hypothesis : result.hypotheses) {
    INFO(hypothesis.id);
    CHECK(hypothesis.verdict != findings::HypothesisVerdict::kConfirmed);
    if (hypothesis.id == "H01" || hypothesis.id == "H02")
      CHECK(hypothesis.verdict != findings::HypothesisVerdict::kRefuted);
  }
}

// All of them: `trace_run_tests "[.layers]"`, some minutes.
TEST_CASE("from layer outputs alone the guilty layer is named in 95 % of the catalogued faults", "[.][layers]") {
  int seen = 0, right = 0;
  for (const char* model : {"synthetic:toy-15x5,profile=qwen", "synthetic:toy-d64"}) {
    for (DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
      PlantedEngine outputs(model, dtype, outputs_alone);
      for (FaultId id : outputs.faults()) {
        for (int layer : {0, 1}) {
          std::optional<int> named;
          try {
            named = layer_named(outputs.judge({id, {}, layer}));
          } catch (const InputError&) {  // the engine cannot run with it
          }
          if (!named) continue;
          // Layer 1's vectors in layer 0's cache are read in layer 0.
          const int guilty = id == FaultId::kNoLayerStride ? 0 : layer;
          ++seen;
          right += *named == guilty ? 1 : 0;
          if (*named == guilty) continue;
          std::cout << model << " in " << name(dtype) << ", " << name(id) << " in layer " << layer << ": named "
                    << *named << std::endl;
        }
      }
    }
  }
  std::cout << right << " of " << seen << " in their layer\n";
  CHECK(100 * right >= 95 * seen);
}

}  // namespace
}  // namespace qdiff
