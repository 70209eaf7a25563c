// Every catalogued fault, planted in one layer of an engine of which the layers' outputs alone are recorded: is that
// layer's output the first that is wrong? Layer 0 of profile qwen has large k biases, so that what a rounding may do to
// its softmax is as wide as the output itself.
#include <iostream>
#include <string>

#include "cmake/catch2.h"
#include "harness/cli/tests/trace_sample.h"
#include "harness/diagnose/judging.h"

namespace qdiff {
namespace {

// An engine's layer outputs, with a fault planted in one layer.
class LayerOutputs {
 public:
  LayerOutputs(const std::string& model, DType dtype)
      : weights_(model::open_model(model)),
        input_(cases::input_of(small_case(model), weights_->config())),
        engine_(optimized::cpu::make_engine(*weights_, {.dtype = dtype, .num_threads = 1})),
        oracle_(reference::make_oracle(*weights_, {.num_threads = 1})) {}

  std::vector<FaultId> faults() const { return engine_->plantable_faults(); }

  // Judged and not explained, which would take most of a diagnosis' time.
  diagnose::Judged judge(const Fault& fault) {
    engine_->plant(fault);
    const auto session = engine_->open({.batch = input_.steps.front().batch(),
                                        .capacity = input_.capacity,
                                        .left_padding = input_.steps.front().left_padding,
                                        .poison = Poison::kNaN});
    trace::Recording recording;
    diagnose::Subject subject{&input_, "trace", &recording, &recording, {}};
    for (const Step& step : input_.steps) {
      trace::RecordingSink sink(recording, step.index);
      session->run_step(step, &sink);
      subject.steps.insert(step.index);
    }
    for (const TensorKey& key : recording.keys()) {
      if (key.id.op != Op::kEmbedTokens && key.id.op != Op::kOutput) recording.erase(key);
    }
    const diagnose::JudgingOptions options{
        .probing = false, .progress = {}, .after_part = {}, .is_explained_otherwise = [](const diagnose::Judged&) {
          return true;
        }};
    return diagnose::judge_subjects({subject}, *oracle_, engine_->precision(),
                                    diagnose::select_layers({}, weights_->config()), options);
  }

 private:
  std::unique_ptr<WeightSource> weights_;
  CaseInput input_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Oracle> oracle_;
};

// The layer of the first wrong output; nothing where none is wrong, and none is in doubt.
std::optional<int> layer_named(const diagnose::Judged& judged) {
  if (!judged.wrong.empty()) return judged.wrong.front().key.id.layer;
  return judged.not_compared.empty() ? std::nullopt : std::optional(kNoLayer);
}

TEST_CASE("a fault in a layer with large biases is found in that layer's output", "[layer_outputs]") {
  LayerOutputs outputs("synthetic:toy-15x5,profile=qwen", DType::kBF16);
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
      LayerOutputs outputs(model, dtype);
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
