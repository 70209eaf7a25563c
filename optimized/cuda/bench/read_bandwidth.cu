#include <algorithm>
#include <vector>

#include "optimized/cuda/bench/read_bandwidth.h"
#include "optimized/cuda/device_memory.h"
#include "optimized/cuda/kernels/bulk_copy.cuh"

namespace qdiff::optimized::cuda {
namespace {

// These were the fastest of the sizes tried on an H100 (stages of 8 to 64 KB, 64 to 200 KB in all).
constexpr int kStages = 6;
constexpr int kStageBytes = 32 * 1024;
constexpr std::int64_t kBytes = std::int64_t{8} << 30;
constexpr int kPasses = 12;

// A block a multiprocessor, one thread that keeps kStages copies under way; blocks take stages in turn.
__global__ void read_kernel(const unsigned char* source, std::int64_t num_pieces) {
  extern __shared__ __align__(128) unsigned char ring[];
  __shared__ std::uint64_t arrived[kStages];
  if (threadIdx.x != 0) return;
  for (std::uint64_t& barrier : arrived) init_barrier(&barrier);
  publish_barriers();
  std::int64_t asked = blockIdx.x;
  const auto ask = [&](int stage) {
    if (asked >= num_pieces) return;
    expect_bytes(&arrived[stage], kStageBytes);
    start_copy(ring + stage * kStageBytes, source + asked * kStageBytes, kStageBytes, &arrived[stage]);
    asked += gridDim.x;
  };
  for (int stage = 0; stage < kStages; ++stage) ask(stage);
  int stage = 0;
  unsigned parity = 0;
  for (std::int64_t piece = blockIdx.x; piece < num_pieces; piece += gridDim.x) {
    wait_for_bytes(&arrived[stage], parity);
    ask(stage);
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
}

}  // namespace

double read_terabytes_per_second() {
  int device = 0;
  int multiprocessors = 0;
  QDIFF_CUDA_CHECK(cudaGetDevice(&device));
  QDIFF_CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  QDIFF_CUDA_CHECK(
      cudaFuncSetAttribute(read_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kStages * kStageBytes));
  const DeviceBuffer source(static_cast<std::size_t>(kBytes));
  QDIFF_CUDA_CHECK(cudaMemset(source.data(), 0x3C, source.size()));
  const Stream stream = make_stream();
  std::vector<double> rates;
  const Event begin = make_event();
  const Event end = make_event();
  for (int pass = 0; pass < kPasses; ++pass) {
    QDIFF_CUDA_CHECK(cudaEventRecord(begin.get(), stream.get()));
    read_kernel<<<multiprocessors, 32, kStages * kStageBytes, stream.get()>>>(source.as<unsigned char>(),
                                                                              kBytes / kStageBytes);
    QDIFF_CUDA_CHECK_LAUNCH();
    QDIFF_CUDA_CHECK(cudaEventRecord(end.get(), stream.get()));
    QDIFF_CUDA_CHECK(cudaStreamSynchronize(stream.get()));
    float milliseconds = 0.0F;
    QDIFF_CUDA_CHECK(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()));
    if (pass >= 2) rates.push_back(static_cast<double>(kBytes) / (1e9 * milliseconds));
  }
  std::sort(rates.begin(), rates.end());
  return rates[rates.size() / 2];
}

}  // namespace qdiff::optimized::cuda
