// Brings weights to the device, each rounded once to the engine's dtype.
#pragma once

#include <string>
#include <vector>

#include "harness/contract/operation_table.h"
#include "harness/contract/weights.h"
#include "optimized/cuda/device_memory.h"

namespace qdiff::optimized::cuda {

// Row-major, [out, in]; projections that share an input lie behind each other.
struct LayerWeights {
  void* input_norm;  // [D]
  void* qkv;         // [(H+2K)*d, D]
  void* qkv_bias;    // [(H+2K)*d]
  void* o_proj;      // [D, H*d]
  void* post_norm;   // [D]
  void* gate_up;     // [2*I, D]
  void* down_proj;   // [D, I]
};

// Reads in chunks, with all processors (a synthetic model computes what it "reads"), by way of pinned memory. What a
// call loads is there when it returns.
class WeightLoader {
 public:
  // `source` outlives the loader.
  WeightLoader(const WeightSource& source, DType dtype) : source_(source), dtype_(dtype), stream_(make_stream()) {}

  // The index-th weight of a row of the table to `base[first]`; of a component that the model lacks nothing. Throws
  // qdiff::InputError where the weight is missing or cannot be read, or has another shape than the config makes it.
  void load(const TensorId& id, std::size_t index, void* base, std::int64_t first = 0);
  // What is large in a layer, and what is small.
  void load_matrices(int layer, const LayerWeights& place);
  void load_vectors(int layer, const LayerWeights& place);

  // The biases of q, k and v as they are on the device, [(H+2K)*d]; zeros where the model has none.
  std::vector<double> read_biases(int layer) const;

  // A stream of its own: waiting for the whole device would break into what another session is capturing.
  cudaStream_t stream() const { return stream_.get(); }

 private:
  void read_part(const WeightInfo& info, std::int64_t first, std::int64_t count, std::byte* out) const;
  void read_chunk(const WeightInfo& info, std::int64_t first, std::int64_t count, std::byte* out) const;

  const WeightSource& source_;
  DType dtype_;
  Stream stream_;
  PinnedBuffer staging_;
};

}  // namespace qdiff::optimized::cuda
