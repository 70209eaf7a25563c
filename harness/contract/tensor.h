// Named tensors as data: a shape, an element type, where the bytes are. No arithmetic lives here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "harness/contract/dtype.h"

namespace qdiff {

using Shape = std::vector<std::int64_t>;

// Product of the dimensions; 1 for a scalar. Throws std::overflow_error if it does not fit, std::invalid_argument on a
// negative dimension.
std::int64_t num_elements(const Shape& shape);
std::string to_string(const Shape& shape);  // "[2, 7, 896]"

enum class DeviceKind : std::uint8_t { kCpu, kCuda };

struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

// A borrowed, row-major, contiguous tensor. On a CUDA device `data` is a device pointer and is valid for work
// enqueued on `stream` (a cudaStream_t) after the call that handed the view out.
struct TensorView {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  Shape shape;
  Device device;
  void* stream = nullptr;

  std::size_t bytes() const { return static_cast<std::size_t>(num_elements(shape)) * size_of(dtype); }
};

// An owned, row-major tensor in host memory, initially all zero bytes.
class Tensor {
 public:
  Tensor() = default;
  Tensor(DType dtype, Shape shape);
  static Tensor copy_of(const TensorView& view);                                    // a host view
  static Tensor rounded(DType dtype, Shape shape, std::span<const double> values);  // each value rounded once

  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  std::int64_t size() const { return static_cast<std::int64_t>(bytes_.size() / size_of(dtype_)); }
  std::span<const std::byte> bytes() const { return bytes_; }
  std::span<std::byte> bytes() { return bytes_; }
  TensorView view() const { return {bytes_.data(), dtype_, shape_, {}, nullptr}; }

  double at(std::int64_t index) const { return load_element(bytes_.data(), dtype_, static_cast<std::size_t>(index)); }
  void set(std::int64_t index, double value) {
    store_element(bytes_.data(), dtype_, static_cast<std::size_t>(index), value);
  }

 private:
  DType dtype_ = DType::kF32;
  Shape shape_{0};
  std::vector<std::byte> bytes_;
};

// All elements of a host view as doubles, exactly.
std::vector<double> to_doubles(const TensorView& view);

}  // namespace qdiff
