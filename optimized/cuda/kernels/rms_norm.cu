// RMSNorm of many rows: a block a row.
#include "optimized/cuda/kernels/rms_norm.cuh"

namespace qdiff::optimized::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T, bool kPlanted>
__global__ void __launch_bounds__(kThreads) rms_norm_kernel(const RmsNormParams p) {
  const T* weight = static_cast<const T*>(p.weight);
  HeldWeights<T, kThreads> held_weights;
  held_weights.load(weight, p.hidden);
  wait_for_predecessor();
  const std::int64_t row = blockIdx.x;
  const T* x = static_cast<const T*>(p.x) + row * p.hidden;
  auto* y = reinterpret_cast<uint4*>(static_cast<T*>(p.y) + row * p.hidden);
  rms_norm_row<T, kThreads, kPlanted>(x, weight, held_weights, p.hidden, p.eps, p.fault,
                                      [y](int i, const uint4& pack) { y[i] = pack; });
}

}  // namespace

void launch_rms_norm(const RmsNormParams& params, const Launch& launch) {
  with_storage(launch.dtype, [&]<typename T>() {
    launch_kernel(launch.planted ? rms_norm_kernel<T, true> : rms_norm_kernel<T, false>, dim3(params.rows),
                  dim3(kThreads), 0, launch, params);
  });
}

}  // namespace qdiff::optimized::cuda
