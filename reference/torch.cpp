#include "reference/torch.h"

#include <stdexcept>

namespace qdiff::reference {

void use_threads(int num_threads, const ModelConfig& config) {
  constexpr std::int64_t kWorthThreads = std::int64_t{1} << 21;  // elements of the MLP's matrices
  static const int all = at::get_num_threads();
  if (num_threads == 0) num_threads = config.hidden * config.intermediate < kWorthThreads ? 1 : all;
  at::set_num_threads(num_threads);
}

at::ScalarType scalar_type(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return at::kDouble;
    case DType::kF32:
      return at::kFloat;
    case DType::kF16:
      return at::kHalf;
    case DType::kBF16:
      return at::kBFloat16;
  }
  throw std::logic_error("scalar_type: unknown dtype");
}

at::Tensor widen(const TensorView& view, at::ScalarType compute) {
  if (view.device.kind != DeviceKind::kCpu) throw std::invalid_argument("the reference takes host tensors");
  // from_blob wants a pointer to mutable data; nothing below writes through it. Always a copy: the view's memory may be
  // reused by its owner, and its alignment must not decide how LibTorch's sums are blocked.
  const at::Tensor borrowed =
      at::from_blob(const_cast<void*>(view.data), view.shape, at::dtype(scalar_type(view.dtype)));
  return borrowed.to(compute, /*non_blocking=*/false, /*copy=*/true);
}

at::Tensor round_to(DType dtype, const at::Tensor& x) {
  const at::ScalarType wide = x.scalar_type();
  if (dtype == DType::kF64 || scalar_type(dtype) == wide) return x;
  // LibTorch takes fp64 to the 16-bit types by way of fp32, which would round twice.
  if (wide == at::kDouble && dtype != DType::kF32) {
    return map_elements(x, [dtype](std::int64_t, double value) { return qdiff::round_to(dtype, value); });
  }
  return x.to(scalar_type(dtype)).to(wide);
}

at::Tensor with_overflow(DType dtype, const at::Tensor& x) {
  const at::Tensor rounded = round_to(dtype, x);
  return at::where(at::isinf(rounded), rounded, x);
}

at::Tensor spacing_at(DType dtype, const at::Tensor& x) {
  return map_elements(
      x, [dtype](std::int64_t, double value) { return std::isfinite(value) ? qdiff::spacing(dtype, value) : 0.0; });
}

at::Tensor rounding_variance(DType dtype, const at::Tensor& x) { return spacing_at(dtype, x).square() / 12.0; }

std::vector<double> to_vector(const at::Tensor& x) {
  const at::Tensor flat = x.to(at::kDouble).contiguous();
  const double* data = flat.const_data_ptr<double>();
  return {data, data + flat.numel()};
}

std::vector<float> to_float_vector(const at::Tensor& x) {
  const at::Tensor flat = x.to(at::kFloat).contiguous();
  const float* data = flat.const_data_ptr<float>();
  return {data, data + flat.numel()};
}

}  // namespace qdiff::reference
