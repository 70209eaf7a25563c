// A batch of sequences: its cache, its buffers, and the order in which its steps may come.
#pragma once

#include <optional>
#include <vector>

#include "harness/contract/engine.h"
#include "optimized/cpu/stages.h"

namespace qdiff::optimized::cpu {

// What the sessions of an engine share.
struct EngineParts {
  ModelConfig config;
  Storage storage;
  DType dtype;
  const KernelSet& kernels;
  ThreadPool pool;
  WeightStore weights;
};

class CpuSession final : public Session {
 public:
  CpuSession(EngineParts& parts, const SessionOptions& options, const std::optional<PlantedFault>& fault);

  TensorView run_embedding(const Step& step, TensorSink* sink) override;
  TensorView run_layer(int layer, const Step& step, const TensorView& input, TensorSink* sink) override;
  TensorView run_head(const Step& step, const TensorView& input, TensorSink* sink) override;
  TensorView run_step(const Step& step, TensorSink* sink) override;

 private:
  void check_order(int layer, const Step& step) const;
  void check_input(const Step& step, const TensorView& input) const;
  TensorView view(Op op, const Step& step, const std::byte* data) const;
  void hand_out(Op op, int layer, const Step& step, TensorSink* sink) const;
  void hand_out_cache(Op op, int layer, const Step& step, TensorSink* sink);
  const PlantedFault* fault() const { return fault_ ? &*fault_ : nullptr; }
  bool planted_at(int layer) const { return fault_ && (!fault_->layer || *fault_->layer == layer); }
  std::int64_t read_offset(int layer, std::int64_t b, std::int64_t kv_head, std::int64_t slot) const;
  StageContext stage_context(const Step& step, int layer, const TensorView& input, std::byte* output);

  EngineParts& parts_;
  SessionOptions options_;
  std::optional<PlantedFault> fault_;
  Arena arena_;
  KvCache cache_;
  RopeTable rope_;
  std::optional<RopeTable> planted_rope_;
  std::optional<int> first_decode_;      // index of the first decode step
  AlignedBuffer logits_;                 // [B*T, V]
  AlignedBuffer key_view_, value_view_;  // [B,S,K,d], gathered for a sink
  struct Progress {
    int steps = 0;
    std::int64_t length = 0;  // cache slots filled
  };
  std::vector<Progress> progress_;  // by layer
};

}  // namespace qdiff::optimized::cpu
