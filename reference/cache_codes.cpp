#include "reference/cache_codes.h"

#include <algorithm>
#include <cmath>

namespace qdiff::reference {
namespace {

CacheCodes in_int8(const at::Tensor& x) {
  constexpr double kLargestCode = 127.0;
  const at::Tensor largest = at::amax(x.abs(), -1, /*keepdim=*/true);
  const at::Tensor scale = round_to(DType::kF32, largest / kLargestCode);
  const at::Tensor quotient = x / scale.masked_fill(scale.eq(0.0), 1.0);
  return {quotient, at::round(quotient), at::ones_like(quotient), scale, false};
}

bool is_power_of_two(double scale) {
  int exponent = 0;
  return std::frexp(scale, &exponent) == 0.5;
}

CacheCodes in_float8(const Float8Facts& type, const std::vector<double>& scales, const at::Tensor& x) {
  const std::vector<double> factors = scales.empty() ? std::vector<double>{1.0} : scales;
  const at::Tensor scale =
      at::tensor(factors, at::kDouble).to(x.device(), x.scalar_type()).unsqueeze(-1);  // [K, 1] or [1, 1]
  const at::Tensor quotient = x / scale;
  const auto of_each = [&](const auto& f) {
    return map_elements(quotient, [f](std::int64_t, double value) { return f(value); }).to(x.scalar_type());
  };
  const auto code = [&type](double value) { return qdiff::round_to(type, value); };
  const auto step = [&type](double value) {
    return std::isfinite(value) ? spacing(type, std::clamp(value, -type.largest, type.largest)) : 0.0;
  };
  return {quotient, of_each(code), of_each(step), scale, std::ranges::all_of(factors, is_power_of_two)};
}

}  // namespace

at::Tensor CacheCodes::variance(DType divided_in) const {
  if (exact) return at::zeros_like(quotient);
  const double unit = unit_roundoff(DType::kF32);
  // A scale that was read off a recording errs by three roundings, the quotient by one.
  const double of_quotient = 8.0 * unit + (divided_in == DType::kF32 ? 0.0 : unit_roundoff(divided_in));
  const at::Tensor to_middle = 0.5 * step - (quotient - code).abs();
  // Beyond the last code there is no other one.
  const at::Tensor is_near = to_middle.abs().le(of_quotient * quotient.abs());
  // The other code is rounded to that type as well, where its spacing may be twice this one's.
  const at::Tensor next = step * scale + value().abs() * of_quotient;
  return at::where(is_near, next, value().abs() * (4.0 * unit)).square();
}

CacheCodes cache_codes(const Precision& precision, const TensorId& cache, const at::Tensor& x) {
  const Float8Facts* type = float8_of(precision.cache);
  return type == nullptr ? in_int8(x) : in_float8(*type, precision.scales_of(cache), x);
}

}  // namespace qdiff::reference
