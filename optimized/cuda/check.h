// Every CUDA call and every launch goes through one of these: an error names the call, the place and CUDA's own words.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace qdiff::optimized::cuda {

inline void check(cudaError_t status, const char* call, const char* file, int line) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string(file) + ":" + std::to_string(line) + ": " + call + ": " +
                           cudaGetErrorName(status) + ", " + cudaGetErrorString(status));
}

}  // namespace qdiff::optimized::cuda

#define QDIFF_CUDA_CHECK(call) ::qdiff::optimized::cuda::check((call), #call, __FILE__, __LINE__)
// Right after `kernel<<<...>>>(...)`: reports a launch that was refused.
#define QDIFF_CUDA_CHECK_LAUNCH() \
  ::qdiff::optimized::cuda::check(cudaGetLastError(), "kernel launch", __FILE__, __LINE__)
