// Hands tensors to a sink: copies to pinned host memory are enqueued right behind the kernel that wrote the tensor, so
// each holds what was there at that moment, and the sink gets them all when the copies are done. Or from a mirror, a
// host copy of a whole arena that is there already.
#pragma once

#include <cstdint>
#include <vector>

#include "harness/contract/engine.h"
#include "optimized/cuda/device_memory.h"

namespace qdiff::optimized::cuda {

class Recorder {
 public:
  Recorder(TensorSink* sink, cudaStream_t stream, DType dtype) : sink_(sink), stream_(stream), dtype_(dtype) {}

  // A new call on the session: its host copies may be overwritten from here on.
  void begin(TensorSink* sink) {
    sink_ = sink;
    mirror_of_ = nullptr;
    pending_.clear();
    chunk_ = 0;
    used_ = 0;
  }
  // The same, where `mirror` holds what was on the device from `device` on: nothing is enqueued any more.
  void begin(TensorSink* sink, const void* device, const void* mirror) {
    begin(sink);
    mirror_of_ = static_cast<const std::byte*>(device);
    mirror_ = static_cast<const std::byte*>(mirror);
  }
  bool active() const { return sink_ != nullptr; }

  // `rows` rows of `columns` elements, `stride` elements apart on the device.
  void copy(const TensorId& id, Shape shape, const void* source, std::int64_t rows, std::int64_t columns,
            std::int64_t stride);
  // Waits for the stream, gives everything to the sink in the order of the calls, and forgets it. The copies stay until
  // begin().
  void flush();

 private:
  struct Pending {
    TensorId id;
    TensorView view;
  };
  void* reserve(std::size_t bytes);

  TensorSink* sink_;
  const std::byte* mirror_of_ = nullptr;
  const std::byte* mirror_ = nullptr;
  cudaStream_t stream_;
  DType dtype_;
  std::vector<Pending> pending_;
  std::vector<PinnedBuffer> chunks_;
  std::size_t chunk_ = 0;  // the one being filled
  std::size_t used_ = 0;   // bytes of it
};

}  // namespace qdiff::optimized::cuda
