// Owners of device memory, pinned host memory, a stream, an event and a captured graph: freed in the destructor, not
// copied.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <shared_mutex>
#include <utility>

#include "harness/contract/dtype.h"
#include "optimized/cuda/check.h"

namespace qdiff::optimized::cuda {

// A movable handle that Release() frees.
template <typename Handle, auto kRelease>
class Owned {
 public:
  Owned() = default;
  explicit Owned(Handle handle) : handle_(handle) {}
  Owned(Owned&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Owned() {
    if (handle_ != nullptr) kRelease(handle_);
  }
  Handle get() const { return handle_; }
  explicit operator bool() const { return handle_ != nullptr; }

 private:
  Handle handle_ = nullptr;
};

using Stream = Owned<cudaStream_t, cudaStreamDestroy>;
using Event = Owned<cudaEvent_t, cudaEventDestroy>;
using Graph = Owned<cudaGraphExec_t, cudaGraphExecDestroy>;

inline Stream make_stream() {
  cudaStream_t stream = nullptr;
  QDIFF_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return Stream(stream);
}

inline Event make_event(unsigned flags = cudaEventDefault) {
  cudaEvent_t event = nullptr;
  QDIFF_CUDA_CHECK(cudaEventCreateWithFlags(&event, flags));
  return Event(event);
}

// Memory is neither taken nor given back while any session captures a graph: CUDA would call the capture off.
inline std::shared_mutex capture_mutex;

inline void* take_device_memory(std::size_t bytes) {
  const std::shared_lock lock(capture_mutex);
  void* data = nullptr;
  QDIFF_CUDA_CHECK(cudaMalloc(&data, bytes));
  return data;
}
inline cudaError_t free_device_memory(void* data) {
  const std::shared_lock lock(capture_mutex);
  return cudaFree(data);
}

inline void* take_pinned_memory(std::size_t bytes) {
  const std::shared_lock lock(capture_mutex);
  void* data = nullptr;
  QDIFF_CUDA_CHECK(cudaMallocHost(&data, bytes));
  return data;
}
inline cudaError_t free_pinned_memory(void* data) {
  const std::shared_lock lock(capture_mutex);
  return cudaFreeHost(data);
}

// Uninitialised; one of no bytes has an address too, unless it was made by default.
template <auto kTake, auto kFree>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t bytes) : data_(kTake(bytes == 0 ? 1 : bytes)), bytes_(bytes) {}
  void* data() const { return data_.get(); }
  std::byte* bytes_at(std::size_t offset) const { return static_cast<std::byte*>(data_.get()) + offset; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_.get());
  }
  std::size_t size() const { return bytes_; }

 private:
  Owned<void*, kFree> data_;
  std::size_t bytes_ = 0;
};

using DeviceBuffer = Buffer<take_device_memory, free_device_memory>;
using PinnedBuffer = Buffer<take_pinned_memory, free_pinned_memory>;

// What several parts of one buffer take, each in whole bytes of the alignment that cudaMalloc gives.
inline std::size_t aligned(std::size_t bytes) {
  constexpr std::size_t kAlignment = 256;
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

inline const void* elements_at(const void* base, std::int64_t elements, DType dtype) {
  return static_cast<const std::byte*>(base) + elements * static_cast<std::int64_t>(size_of(dtype));
}
inline void* elements_at(void* base, std::int64_t elements, DType dtype) {
  return static_cast<std::byte*>(base) + elements * static_cast<std::int64_t>(size_of(dtype));
}

}  // namespace qdiff::optimized::cuda
