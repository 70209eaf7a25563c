// Storage types and 16-byte packs of them. Arithmetic is in float32; narrow() rounds once, to nearest even.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <mutex>
#include <set>
#include <stdexcept>
#include <utility>

#include "harness/contract/dtype.h"
#include "optimized/cuda/check.h"
#include "optimized/cuda/kernels/params.h"

namespace qdiff::optimized::cuda {

using Bf16 = __nv_bfloat16;
using F16 = __half;

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(Bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float widen(F16 x) { return __half2float(x); }

template <typename T>
__device__ __forceinline__ T narrow(float x);
template <>
__device__ __forceinline__ float narrow<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ Bf16 narrow<Bf16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ __forceinline__ F16 narrow<F16>(float x) {
  return __float2half_rn(x);
}

template <typename T>
inline constexpr int kPackSize = 16 / static_cast<int>(sizeof(T));

__device__ __forceinline__ void widen_pack(const uint4& raw, float (&out)[4], float) {
  out[0] = __uint_as_float(raw.x);
  out[1] = __uint_as_float(raw.y);
  out[2] = __uint_as_float(raw.z);
  out[3] = __uint_as_float(raw.w);
}
__device__ __forceinline__ void widen_pack(const uint4& raw, float (&out)[8], Bf16) {
  const unsigned words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out[2 * i] = __uint_as_float(words[i] << 16);
    out[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000U);
  }
}
__device__ __forceinline__ void widen_pack(const uint4& raw, float (&out)[8], F16) {
  const unsigned words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __half_raw low{static_cast<unsigned short>(words[i] & 0xFFFFU)};
    const __half_raw high{static_cast<unsigned short>(words[i] >> 16)};
    out[2 * i] = __half2float(__half(low));
    out[2 * i + 1] = __half2float(__half(high));
  }
}

template <typename T>
__device__ __forceinline__ uint4 narrow_pack(const float (&x)[kPackSize<T>]) {
  union {
    uint4 raw;
    T items[kPackSize<T>];
  } pack;
#pragma unroll
  for (int i = 0; i < kPackSize<T>; ++i) pack.items[i] = narrow<T>(x[i]);
  return pack.raw;
}

// Nothing that another kernel of this step writes may be read before this, nor may anything be written.
__device__ __forceinline__ void wait_for_predecessor() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
// Lets the next kernel start its blocks where there is room; it still waits for this one's end in the call above.
__device__ __forceinline__ void release_successor() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

// The sum of 32 lanes, in every lane; the order is fixed.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xFFFFFFFFU, x, offset);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFU, x, offset));
  return x;
}

__device__ __forceinline__ void count_execution(const KernelFault& fault, unsigned long long times = 1) {
  if (fault.executions != nullptr) atomicAdd(fault.executions, times);
}

// A pause of up to `longest` cycles, a power of two; its length differs from call to call and from warp to warp.
__device__ __forceinline__ void pause_at_random(long long longest) {
  const long long start = clock64();
  const auto warp = static_cast<unsigned>(blockIdx.x + 131 * blockIdx.y + 17 * (threadIdx.x / 32));
  const long long length = (static_cast<unsigned>(start >> 3) * 2654435761U ^ warp * 40503U) >> 7 & (longest - 1);
  while (clock64() - start < length) {
  }
}

// Calls f<T>() with T the storage type of `dtype`.
template <typename F>
void with_storage(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kBF16:
      return f.template operator()<Bf16>();
    case DType::kF16:
      return f.template operator()<F16>();
    case DType::kF32:
      return f.template operator()<float>();
    case DType::kF64:
      break;
  }
  throw std::logic_error("the cuda engine has no float64 storage");
}

// The same for what tensor cores take.
template <typename F>
void with_16_bit_storage(DType dtype, F&& f) {
  if (dtype == DType::kBF16) return f.template operator()<Bf16>();
  if (dtype == DType::kF16) return f.template operator()<F16>();
  throw std::logic_error("a kernel on the tensor cores takes 16-bit storage");
}

// Lets a kernel have all the shared memory that the device grants a block, not what one launch takes: the setting is
// the kernel's, and a session of smaller shapes beside this one would lower it between setting and launch. And the
// multiprocessor is to have as much of it as it can, not what this kernel's blocks fill: else there is no room for the
// blocks of the kernel behind until this one's have gone. Once for a kernel and device: the calls take microseconds.
inline void grant_shared_memory(const void* kernel) {
  static std::mutex mutex;
  static std::set<std::pair<const void*, int>> granted;
  int device = 0, most = 0;
  QDIFF_CUDA_CHECK(cudaGetDevice(&device));
  const std::lock_guard lock(mutex);
  if (granted.contains({kernel, device})) return;
  QDIFF_CUDA_CHECK(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  cudaFuncAttributes attributes{};
  QDIFF_CUDA_CHECK(cudaFuncGetAttributes(&attributes, kernel));
  QDIFF_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        most - static_cast<int>(attributes.sharedSizeBytes)));
  QDIFF_CUDA_CHECK(
      cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared));
  granted.insert({kernel, device});
}

template <typename Params>
void launch_kernel(void (*kernel)(Params), dim3 grid, dim3 block, std::size_t shared_bytes, const Launch& launch,
                   const Params& params) {
  // A block has 48 KB without asking. The kernel's static variables count too; none here has 4 KB of them.
  constexpr std::size_t kSurelyGranted = 44 * 1024;
  if (shared_bytes > kSurelyGranted) grant_shared_memory(reinterpret_cast<const void*>(kernel));
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = launch.stream;
  config.attrs = &attribute;
  config.numAttrs = launch.overlapped ? 1 : 0;
  QDIFF_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, params));
  QDIFF_CUDA_CHECK_LAUNCH();
}

}  // namespace qdiff::optimized::cuda
