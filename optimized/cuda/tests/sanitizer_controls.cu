// One small wrong kernel for each tool of compute-sanitizer: a tool that finds nothing in the engine must find these.
//
//   cuda_sanitizer_controls memcheck|racecheck|initcheck|synccheck
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstring>

namespace {

constexpr int kThreads = 64;

__global__ void write_behind_the_end(int* data, int count) { data[threadIdx.x + count] = 1; }

__global__ void read_without_barrier(int* out) {
  __shared__ int values[kThreads];
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  out[threadIdx.x] = values[kThreads - 1 - threadIdx.x];  // a barrier is missing in front
}

__global__ void copy(const int* in, int* out) { out[threadIdx.x] = in[threadIdx.x]; }

// Half a block at a barrier that the other half never reaches.
__global__ void divide_at_barrier(int* out) {
  if (threadIdx.x < kThreads / 2 + 1) __syncthreads();
  out[threadIdx.x] = 1;
}

bool works(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return true;
  std::printf("%s: %s\n", what, cudaGetErrorString(status));
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  constexpr int kSkipped = 77;
  const char* control = argc == 2 ? argv[1] : "";
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: no CUDA device\n");
    return kSkipped;
  }
  int* a = nullptr;
  int* b = nullptr;
  if (!works(cudaMalloc(&a, kThreads * sizeof(int)), "cudaMalloc")) return 1;
  if (!works(cudaMalloc(&b, kThreads * sizeof(int)), "cudaMalloc")) return 1;
  if (std::strcmp(control, "memcheck") == 0) {
    write_behind_the_end<<<1, kThreads>>>(a, kThreads);
  } else if (std::strcmp(control, "racecheck") == 0) {
    read_without_barrier<<<1, kThreads>>>(a);
  } else if (std::strcmp(control, "initcheck") == 0) {
    copy<<<1, kThreads>>>(a, b);
  } else if (std::strcmp(control, "synccheck") == 0) {
    divide_at_barrier<<<1, kThreads>>>(a);
  } else {
    std::printf("give one of memcheck, racecheck, initcheck, synccheck\n");
    return 2;
  }
  const bool launched = works(cudaGetLastError(), "launch") && works(cudaDeviceSynchronize(), "kernel");
  const bool freed = works(cudaFree(a), "cudaFree") && works(cudaFree(b), "cudaFree");
  return launched && freed ? 0 : 1;
}
