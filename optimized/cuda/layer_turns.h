// The layers that the device has no room for: their matrices take turns in one place there, each read anew when its
// layer is wanted. Reading takes far longer than what is computed with it, so a second place would gain nothing.
#pragma once

#include "harness/contract/operation_table.h"
#include "optimized/cuda/weight_loader.h"

namespace qdiff::optimized::cuda {

class LayerTurns {
 public:
  // `source` outlives it. The vectors of `place` are not used.
  LayerTurns(const WeightSource& source, DType dtype, const LayerWeights& place)
      : loader_(source, dtype), place_(place) {}

  // The layer's matrices stand in the place when this returns. The host waits for `stream`, which may still have use
  // for those that stand there; what sessions put into other streams has ended, for their calls return results.
  void bring(int layer, cudaStream_t stream) {
    if (layer == standing_) return;
    QDIFF_CUDA_CHECK(cudaStreamSynchronize(stream));
    standing_ = kNoLayer;  // until all of it is read
    loader_.load_matrices(layer, place_);
    standing_ = layer;
  }

 private:
  WeightLoader loader_;
  LayerWeights place_;
  int standing_ = kNoLayer;
};

}  // namespace qdiff::optimized::cuda
