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
          ++seen;
          right += *named == layer ? 1 : 0;
          if (*named == layer) continue;
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
