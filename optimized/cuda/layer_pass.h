// Enqueues the kernels of a step's parts. Three kernel classes compute the same operations:
//   matvec   one token a row and few rows (of long rows of weights one, else up to kMaxMatvecRows): fused matrix-vector
//            kernels and split attention, in 16-bit storage by clusters of blocks on tensor cores
//   batch    one token a row and more rows: cuBLASLt products, most of them in parts of k that the kernel behind adds
//            up, and split attention on tensor cores
//   prefill  several tokens a row: cuBLASLt products, flash attention, and small kernels between them
// Within a class a row's bits depend neither on the other rows nor on how a prompt is cut into steps (for cuBLASLt's
// products gemm.h says how). Between the classes they differ, for the orders of their sums do.
#pragma once

#include "harness/contract/step.h"
#include "optimized/cuda/arena.h"
#include "optimized/cuda/device_model.h"
#include "optimized/cuda/gemm.h"
#include "optimized/cuda/kernels/params.h"
#include "optimized/cuda/planted_fault.h"
#include "optimized/cuda/recorder.h"

namespace qdiff::optimized::cuda {

// What all sessions of an engine share.
struct EngineParts {
  DeviceModel model;
  Gemm gemm;
  explicit EngineParts(DeviceModel loaded) : model(std::move(loaded)), gemm(model.dtype) {}
};

// A session's device memory besides its arenas.
struct SessionMemory {
  KvCacheLayout layout;
  DeviceBuffer keys;
  DeviceBuffer values;
  DeviceBuffer inputs;  // tokens, positions, left padding, past length
  StepInputs step;
  DeviceBuffer partials;
  float* partial_max;
  float* partial_sum;
  float* partial_out;
  DeviceBuffer tickets;
  int num_splits;
  DeviceBuffer product_partials;  // of the batch class; empty in a session that the matvec class serves
  DeviceBuffer cache_view;
};

// A step as kernels see it.
struct StepShape {
  int batch;
  int num_tokens;
  int valid_length;
  bool decode;        // the phase
  bool first_decode;  // the first of that phase
  bool matvec;        // the class of kernels
  bool batch_class() const { return num_tokens == 1 && !matvec; }
  int rows() const { return batch * num_tokens; }
};

class LayerPass {
 public:
  LayerPass(EngineParts& parts, SessionMemory& memory, const PlantedFault* fault, cudaStream_t stream)
      : parts_(parts), memory_(memory), fault_(fault), stream_(stream) {}

  // All parts in turn. The same bits as the parts one by one, with fewer kernels: where a layer's output is made, the
  // norm behind it is too.
  void step(const StepShape& shape, const Arena& arena, Recorder* recorder);
  // out: [M,D].
  void embedding(const StepShape& shape, void* out, Recorder* recorder);
  // x: [M,D].
  void layer(int index, const StepShape& shape, const void* x, const LayerBuffers& out, Recorder* recorder);
  void head(const StepShape& shape, const void* x, const Arena& arena, Recorder* recorder);
  // Everything that a step left in its arena, in execution order; the caches, if wanted, as they are now.
  void record_step(const StepShape& shape, const Arena& arena, bool caches, Recorder& recorder);

 private:
  // The norm of a layer's output, where the layer makes it.
  struct Norm {
    const void* weight = nullptr;  // [D]
    void* normed = nullptr;        // [M,D]
  };
  // One layer's circumstances, handed from stage to stage.
  struct Stage {
    int layer;
    const StepShape& shape;
    const LayerWeights& weights;
    const void* x;
    const LayerBuffers& out;
    const PlantedFault* fault;  // if it holds in this layer
    Recorder* recorder;
    bool caches = true;   // are recorded too
    bool normed = false;  // input_norm is there already
    Norm next{};          // without a weight: made by what comes behind
  };
  void run(const Stage& stage);
  void head(const StepShape& shape, const void* x, const Arena& arena, Recorder* recorder, bool normed);

  void qkv(const Stage& stage);
  void rotate_and_append(const Stage& stage, bool planted);
  void attention(const Stage& stage);
  void o_proj(const Stage& stage);
  void gate_up(const Stage& stage);
  void down_proj(const Stage& stage);
  // A matrix that is packed of several weights, and the fault that reads each of them transposed.
  struct Part {
    FaultId transposed;
    std::int64_t rows;
  };
  using Parts = std::vector<Part>;
  Parts qkv_parts() const;
  void multiply(const Stage& stage, const GemmCall& call, const Parts& parts);
  // A right layer's product. The batch class leaves sums over parts of k, and the kernel behind makes the product.
  PartialSums multiply_in_parts(const Stage& stage, GemmCall call);
  void multiply_qkv(const Stage& stage, const GemmCall& call);
  void multiply_in_other_order(const Stage& stage, const GemmCall& call);
  void multiply_over_input(const Stage& stage, const GemmCall& call, void* input);
  void add_residual(const Stage& stage, const void* residual, void* product, void* sum);

  // What the matrix-vector kernels of a step have in common.
  MatvecParams matvec_params(const StepShape& shape) const;
  RopeAppendParams rope_params(const Stage& stage) const;
  const void* bias_of(const Stage& stage) const;
  float eps_of(const PlantedFault* fault, bool final_norm) const;
  const void* norm_weight_of(const Stage& stage, bool post) const;
  const void* residual_of(const Stage& stage, const void* right, const void* norm, const void* product) const;
  void rms_norm(const StepShape& shape, const void* x, const void* weight, void* y, float eps,
                const PlantedFault* fault);
  WrongWeights wrong_weights(const Stage& stage, const Parts& parts) const;
  void record_embedding(const StepShape& shape, const void* out, Recorder& recorder) const;
  void record_qkv(const Stage& stage) const;
  void record_attention(const Stage& stage);
  void record_o_proj(const Stage& stage) const;
  void record_gate_up(const Stage& stage) const;
  void record_down_proj(const Stage& stage) const;
  void record_head(const StepShape& shape, const Arena& arena, Recorder& recorder) const;
  void record(const Stage& stage, Op op, const void* data, std::int64_t columns, std::int64_t stride) const;
  void record_cache(const Stage& stage, Op op);
  Launch launch(bool planted, bool overlapped) const { return {parts_.model.dtype, stream_, planted, overlapped}; }
  KernelFault kernel_fault(const PlantedFault* fault) const { return fault ? fault->for_kernels() : KernelFault{}; }

  EngineParts& parts_;
  SessionMemory& memory_;
  const PlantedFault* fault_;
  cudaStream_t stream_;
};

}  // namespace qdiff::optimized::cuda
