// A batch of sequences on the device: its cache, its buffers, and the order in which its steps may come.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <vector>

#include "optimized/cuda/layer_pass.h"

namespace qdiff::optimized::cuda {

class CudaSession final : public Session {
 public:
  // `parts` and the engine's device outlive the session.
  CudaSession(EngineParts& parts, const SessionOptions& options, std::shared_ptr<const PlantedFault> fault);

  TensorView run_embedding(const Step& step, TensorSink* sink) override;
  TensorView run_layer(int layer, const Step& step, const TensorView& input, TensorSink* sink) override;
  TensorView run_head(const Step& step, const TensorView& input, TensorSink* sink) override;
  TensorView run_step(const Step& step, TensorSink* sink) override;

  // The sink of the n-th of several decode steps; null where nobody looks.
  using StepSinks = std::function<TensorSink*(int)>;
  // Runs `count` decode steps on the device alone, each feeding itself the likeliest token of the one before (the first
  // one's is `step`'s), and returns milliseconds for each. The cache then holds them; the caller's next step follows.
  // With `sinks`, the tensors of each step, all but the caches, go to its sink while later steps run: two arenas take
  // turns, and one is copied to the host while the next step fills the other.
  std::vector<float> decode_greedily(const Step& step, int count, const StepSinks& sinks = nullptr);
  // Runs the same step `count` times without a look at its results, and returns milliseconds for each.
  std::vector<float> time_prefill(const Step& step, int count);
  // The tokens of the last step of decode_greedily().
  std::vector<std::int32_t> last_tokens() const;

 private:
  struct Progress {
    std::int64_t length = 0;  // cache slots filled
    int decode_steps = 0;
  };

  void check_input(const Step& step, const TensorView& input) const;
  void check_order(int layer, const Step& step) const;
  void advance(int layer, const Step& step);
  StepShape shape_of(const Step& step, int layer) const;
  void upload(const Step& step);
  void upload_input(const TensorView& input, void* destination);
  TensorView download(const void* source, Shape shape, std::int64_t stride);
  void begin(const Step& step, TensorSink* sink);
  Recorder* recorder() { return recorder_.active() ? &recorder_ : nullptr; }
  Graph capture(const StepShape& shape, const Arena& arena, bool greedy);
  Graph capture_once(const StepShape& shape, const Arena& arena, bool greedy, bool last_attempt);
  // Whether nothing waits in a step of this shape: the first products of the batch class do, for they choose their
  // algorithms, and so do steps that read weights.
  bool may_capture(const StepShape& shape) const {
    return parts_.model.all_resident() && (shape.matvec || products_chosen_);
  }
  void run_prompt(const StepShape& shape);
  void arrange_whole(int turn);
  void prepare_greedy(const StepShape& shape, int turn, bool tapped);

  EngineParts& parts_;
  SessionOptions options_;
  std::shared_ptr<const PlantedFault> fault_;
  Stream stream_;
  SessionMemory memory_;
  PinnedBuffer staged_inputs_;
  PinnedBuffer result_;
  Arena parts_arena_;  // of single parts, and of prefill steps
  // Those of decode steps are fixed, for captured graphs have their addresses. Steps that are not greedy use the first.
  static constexpr int kTurns = 2;
  std::array<Arena, kTurns> whole_arenas_;
  std::array<bool, kTurns> whole_arranged_{};
  Graph decode_graph_;
  // Of the last step of several tokens a row that nobody looked at: where it came twice in one shape and place.
  struct Prompt {
    int num_tokens = 0;
    const void* memory = nullptr;
    bool operator==(const Prompt&) const = default;
  };
  Prompt prompt_;
  Graph prompt_graph_;
  std::array<Graph, kTurns> greedy_graphs_;
  DeviceBuffer greedy_memory_;
  Stream copies_;
  std::array<PinnedBuffer, kTurns> mirrors_;
  std::array<Event, kTurns> computed_;
  std::array<Event, kTurns> copied_;
  Recorder recorder_;
  LayerPass pass_;
  std::vector<Progress> progress_;  // by layer
  bool matvec_fits_;
  bool products_chosen_ = false;
};

}  // namespace qdiff::optimized::cuda
