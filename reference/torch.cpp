#include "reference/torch.h"

#include <malloc.h>

#include <bit>
#include <stdexcept>

namespace qdiff::reference {

bool is_large(const ModelConfig& config) {
  constexpr std::int64_t kLarge = std::int64_t{1} << 21;  // elements of the MLP's matrices
  return config.hidden * config.intermediate >= kLarge;
}

void use_threads(int num_threads, const ModelConfig& config) {
  static const int all = at::get_num_threads();
  if (num_threads == 0) num_threads = is_large(config) ? all : 1;
  at::set_num_threads(num_threads);
}

void keep_freed_memory() {
  constexpr int kMostKept = 64 << 20;
  constexpr int kLargestKept = 32 << 20;  // the most that glibc takes for M_MMAP_THRESHOLD
  mallopt(M_TRIM_THRESHOLD, kMostKept);
  mallopt(M_MMAP_THRESHOLD, kLargestKept);
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
  return borrowed.to(device(), borrowed.scalar_type(), /*non_blocking=*/false, /*copy=*/true).to(compute);
}

namespace {

// What spacing() and round_to() of dtype.h say, in operations of whole tensors.
at::Tensor spacing_on_device(DType dtype, const at::Tensor& x) {
  const DTypeFacts f = facts(dtype);
  constexpr std::int64_t kExponentBits = 0x7FF0000000000000;
  const at::Tensor binade = x.contiguous().view(at::kLong).bitwise_and(kExponentBits).view(at::kDouble);
  const at::Tensor spacing = (binade * std::ldexp(1.0, 1 - f.significant_bits))
                                 .clamp_min(std::ldexp(1.0, f.min_exponent + 1 - f.significant_bits));
  return spacing.masked_fill(at::isfinite(x).logical_not(), 0.0);
}

at::Tensor rounded_on_device(DType dtype, const at::Tensor& x) {
  const at::Tensor spacing = spacing_on_device(dtype, x);
  const at::Tensor rounded = at::round(x / spacing) * spacing;  // ties to even; both by a power of two, exact
  const at::Tensor overflows = rounded.abs().ge(std::ldexp(1.0, facts(dtype).max_exponent + 1));
  return at::where(at::isfinite(x), at::where(overflows, x * HUGE_VAL, rounded), x);
}

// spacing() and round_to() of dtype.h for many elements of one type: what follows from the type is worked out once, and
// the exponent is read from an element's bits.
class Spacings {
 public:
  explicit Spacings(DType dtype)
      : scale_(std::ldexp(1.0, 1 - facts(dtype).significant_bits)),
        least_(std::ldexp(1.0, facts(dtype).min_exponent + 1 - facts(dtype).significant_bits)) {}

  // Of a finite x.
  double at(double x) const {
    return std::max(std::bit_cast<double>(std::bit_cast<std::uint64_t>(x) & kExponentBits) * scale_, least_);
  }
  static bool is_finite(double x) { return (std::bit_cast<std::uint64_t>(x) & kExponentBits) != kExponentBits; }

 private:
  static constexpr std::uint64_t kExponentBits = 0x7FF0000000000000U;
  double scale_, least_;
};

// Of x to a 16-bit type.
at::Tensor rounded_on_host(DType dtype, const at::Tensor& x) {
  const Spacings spacings(dtype);
  const double too_large = std::ldexp(1.0, facts(dtype).max_exponent + 1);
  // A number below 2^51 that is added to this one loses its fraction, to nearest and ties to even.
  constexpr double kOnlyWhole = 0x1.8p52;
  return map_elements(x, [=](std::int64_t, double value) {
    const double spacing = spacings.at(value);
    const double whole = (value / spacing + kOnlyWhole) - kOnlyWhole;  // of at most 2^11; the quotient is exact
    const double rounded = std::fabs(whole * spacing) >= too_large ? HUGE_VAL : whole * spacing;
    return Spacings::is_finite(value) ? std::copysign(rounded, value) : value;
  });
}

// A tensor's elements, row by row, written once.
template <typename T>
std::vector<T> copied_out(const at::Tensor& x, at::ScalarType type) {
  std::vector<T> elements(static_cast<std::size_t>(x.numel()));
  at::from_blob(elements.data(), x.sizes(), at::dtype(type)).copy_(x);
  return elements;
}

}  // namespace

at::Tensor round_to(DType dtype, const at::Tensor& x) {
  const at::ScalarType wide = x.scalar_type();
  if (dtype == DType::kF64 || scalar_type(dtype) == wide) return x;
  // LibTorch takes fp64 to the 16-bit types by way of fp32, which would round twice.
  if (wide == at::kDouble && dtype != DType::kF32) {
    if (!x.device().is_cpu()) return rounded_on_device(dtype, x);
    return rounded_on_host(dtype, x);
  }
  return x.to(scalar_type(dtype)).to(wide);
}

at::Tensor with_overflow(DType dtype, const at::Tensor& x) {
  const at::Tensor rounded = round_to(dtype, x);
  return at::where(at::isinf(rounded), rounded, x);
}

at::Tensor spacing_at(DType dtype, const at::Tensor& x) {
  if (!x.device().is_cpu()) return spacing_on_device(dtype, x.to(at::kDouble));
  const Spacings spacings(dtype);
  return map_elements(
      x, [spacings](std::int64_t, double value) { return Spacings::is_finite(value) ? spacings.at(value) : 0.0; });
}

at::Tensor rounding_variance(DType dtype, const at::Tensor& x) { return spacing_at(dtype, x).square() / 12.0; }

bool has_bits_of(const at::Tensor& x, const at::Tensor& other) {
  if (x.sizes() != other.sizes() || x.scalar_type() != other.scalar_type()) return false;
  const at::ScalarType bits = x.element_size() == 8 ? at::kLong : at::kInt;
  return at::equal(x.contiguous().view(bits), other.contiguous().view(bits));
}

std::vector<double> to_vector(const at::Tensor& x) { return copied_out<double>(x, at::kDouble); }
std::vector<float> to_float_vector(const at::Tensor& x) { return copied_out<float>(x, at::kFloat); }

}  // namespace qdiff::reference
