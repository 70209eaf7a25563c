#include "harness/contract/tensor.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "harness/contract/wording.h"

namespace qdiff {
namespace {

template <typename T>
T load_raw(const void* data, std::size_t index) {
  T value;
  std::memcpy(&value, static_cast<const std::byte*>(data) + index * sizeof(T), sizeof(T));
  return value;
}

template <typename T>
void store_raw(void* data, std::size_t index, T value) {
  std::memcpy(static_cast<std::byte*>(data) + index * sizeof(T), &value, sizeof(T));
}

}  // namespace

double load_element(const void* data, DType dtype, std::size_t index) {
  switch (dtype) {
    case DType::kF64:
      return load_raw<double>(data, index);
    case DType::kF32:
      return load_raw<float>(data, index);
    case DType::kF16:
      return f16_to_float(load_raw<std::uint16_t>(data, index));
    case DType::kBF16:
      return bf16_to_float(load_raw<std::uint16_t>(data, index));
  }
  throw std::logic_error("load_element: unknown dtype");
}

void store_element(void* data, DType dtype, std::size_t index, double value) {
  // round_to() rounds once; the narrowing to float that follows is exact for the 16-bit types.
  const auto narrow = static_cast<float>(round_to(dtype, value));
  switch (dtype) {
    case DType::kF64:
      return store_raw(data, index, value);
    case DType::kF32:
      return store_raw(data, index, narrow);
    case DType::kF16:
      return store_raw(data, index, float_to_f16(narrow));
    case DType::kBF16:
      return store_raw(data, index, float_to_bf16(narrow));
  }
  throw std::logic_error("store_element: unknown dtype");
}

std::int64_t num_elements(const Shape& shape) {
  std::int64_t product = 1;
  for (std::int64_t dimension : shape) {
    if (dimension < 0) throw std::invalid_argument("negative dimension in shape " + to_string(shape));
    if (__builtin_mul_overflow(product, dimension, &product)) {
      throw std::overflow_error("number of elements overflows in shape " + to_string(shape));
    }
  }
  return product;
}

std::string to_string(const Shape& shape) { return '[' + joined(shape, ", ") + ']'; }

Tensor::Tensor(DType dtype, Shape shape) : dtype_(dtype), shape_(std::move(shape)) {
  bytes_.resize(static_cast<std::size_t>(num_elements(shape_)) * size_of(dtype_));
}

Tensor Tensor::copy_of(const TensorView& view) {
  if (view.device.kind != DeviceKind::kCpu) throw std::invalid_argument("Tensor::copy_of takes a host view");
  Tensor tensor(view.dtype, view.shape);
  if (!tensor.bytes_.empty()) std::memcpy(tensor.bytes_.data(), view.data, tensor.bytes_.size());
  return tensor;
}

Tensor Tensor::rounded(DType dtype, Shape shape, std::span<const double> values) {
  Tensor tensor(dtype, std::move(shape));
  if (tensor.size() != static_cast<std::int64_t>(values.size())) {
    throw std::invalid_argument("Tensor::rounded: " + std::to_string(values.size()) + " values for shape " +
                                to_string(tensor.shape_));
  }
  if (dtype == DType::kF64) {
    if (!values.empty()) std::memcpy(tensor.bytes_.data(), values.data(), values.size_bytes());
    return tensor;
  }
  for (std::size_t i = 0; i < values.size(); ++i) store_element(tensor.bytes_.data(), dtype, i, values[i]);
  return tensor;
}

std::vector<double> to_doubles(const TensorView& view) {
  if (view.device.kind != DeviceKind::kCpu) throw std::invalid_argument("to_doubles takes a host view");
  std::vector<double> values(static_cast<std::size_t>(num_elements(view.shape)));
  if (view.dtype == DType::kF64) {
    if (!values.empty()) std::memcpy(values.data(), view.data, values.size() * sizeof(double));
    return values;
  }
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = load_element(view.data, view.dtype, i);
  return values;
}

}  // namespace qdiff
