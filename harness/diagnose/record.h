// Runs engines over the steps of a case and keeps what they hand out.
#pragma once

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "harness/compare/judge.h"
#include "harness/contract/engine.h"
#include "harness/contract/oracle.h"
#include "harness/diagnose/subject.h"
#include "harness/trace/recording.h"

namespace qdiff::diagnose {

// A tensor whose buffer changed after the engine had handed it out.
struct LaterWrite {
  int step;
  std::string tensor;
};

struct Recorded {
  trace::Recording tensors;
  std::vector<LaterWrite> later_writes;
};

// The gold residual stream of one case, rounded to the candidate's activations dtype: [step][i] enters layer i, and
// i = num_layers enters the final norm. `logits` is the reference's own.
struct ReferenceChain {
  std::vector<std::vector<Tensor>> residual;
  std::vector<Tensor> logits;  // [step]; empty tensors where the chain stopped before the head
};

// Called behind each part of a step: the embedding, a layer, the head.
using PartDone = std::function<void()>;
inline constexpr int kPartsOutsideLayers = 2;

// Steps 0..last_step, part by part, each part fed with what the engine itself put out before.
Recorded record_free(Engine& engine, const CaseInput& input, int num_layers, int last_step, Poison poison,
                     const PartDone& done = {});

// Logits of steps 0..last_step from whole steps with nothing recorded: [step]. `step_done` is called behind each.
std::vector<Tensor> run_untapped(Engine& engine, const CaseInput& input, int last_step, Poison poison,
                                 const std::function<void()>& step_done = {});

// Where logits of a recorded and an untapped run differ in any bit that is no padding; none where they agree. NaN in
// both is agreement: the judge meets the NaN itself.
std::optional<compare::Judgement> first_difference(const TensorView& tapped, const TensorView& untapped,
                                                   const Step& step);

// Layers `layers` (and the embedding and the head, where `outside_layers`) of steps 0..last_step, each layer's input
// forced to the chain's.
Recorded record_lockstep(Engine& engine, const CaseInput& input, const ReferenceChain& chain,
                         const std::set<int>& layers, bool outside_layers, int last_step, Poison poison,
                         const PartDone& done = {});

// The reference feeding itself, each residual rounded to `activations` before it goes on. Layer by layer over all
// cases, so that each layer's weights are read once. Layers 0..end_layer-1 run, and the head only if that is all of
// them.
std::vector<ReferenceChain> run_reference(Engine& reference, const std::vector<const CaseInput*>& inputs,
                                          const std::vector<int>& last_steps, DType activations,
                                          const ModelConfig& config, int end_layer, const ProgressReport& progress);

// In lockstep the input of a layer is the forced one, not what the candidate's layer before put out.
class LockstepInputs final : public TensorStore {
 public:
  LockstepInputs(const TensorStore& candidate, const ReferenceChain& chain) : candidate_(candidate), chain_(chain) {}
  bool has(const TensorKey& key) const override;
  TensorView get(const TensorKey& key) const override;

 private:
  const Tensor* forced(const TensorKey& key) const;
  const TensorStore& candidate_;
  const ReferenceChain& chain_;
};

}  // namespace qdiff::diagnose
