// RMSNorm of many rows, also of a sum that is made on the way: a block a row.
#include "optimized/cuda/kernels/partial_sums.cuh"
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

template <typename T, bool kInParts>
__global__ void __launch_bounds__(kThreads) add_norm_kernel(const AddNormParams p) {
  const int hidden = p.add.hidden;
  const T* weight = static_cast<const T*>(p.weight);
  HeldWeights<T, kThreads> held_weights;
  held_weights.load(weight, hidden);
  wait_for_predecessor();
  const std::int64_t first_pack = static_cast<std::int64_t>(blockIdx.x) * (hidden / kPackSize<T>);
  const auto* sum = static_cast<const uint4*>(p.add.sum) + first_pack;
  auto* y = static_cast<uint4*>(p.normed) + first_pack;
  // A thread reads again only what it wrote itself.
  rms_norm_row<T, kThreads, false>([&](int i) { return add_pack<T, kInParts>(p.add, first_pack + i); },
                                   [sum](int i) { return sum[i]; }, weight, held_weights, hidden, p.eps, KernelFault{},
                                   [y](int i, const uint4& pack) { y[i] = pack; });
}

}  // namespace

void launch_add_norm(const AddNormParams& params, const Launch& launch) {
  with_storage(launch.dtype, [&]<typename T>() {
    launch_kernel(params.add.partials.sums != nullptr ? add_norm_kernel<T, true> : add_norm_kernel<T, false>,
                  dim3(params.add.rows), dim3(kThreads), 0, launch, params);
  });
}

void launch_rms_norm(const RmsNormParams& params, const Launch& launch) {
  with_storage(launch.dtype, [&]<typename T>() {
    launch_kernel(launch.planted ? rms_norm_kernel<T, true> : rms_norm_kernel<T, false>, dim3(params.rows),
                  dim3(kThreads), 0, launch, params);
  });
}

}  // namespace qdiff::optimized::cuda
