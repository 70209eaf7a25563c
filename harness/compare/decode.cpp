#include "harness/compare/decode.h"

#include <cstring>

namespace qdiff::compare {
namespace {

template <typename Stored, typename Convert>
void convert(const TensorView& view, std::size_t first, std::span<double> destination, const Convert& to_real) {
  const auto* bytes = static_cast<const std::byte*>(view.data) + first * sizeof(Stored);
  for (std::size_t i = 0; i < destination.size(); ++i) {
    Stored stored;
    std::memcpy(&stored, bytes + i * sizeof(Stored), sizeof(Stored));  // a mapped file need not be aligned
    destination[i] = static_cast<double>(to_real(stored));
  }
}

}  // namespace

void load_elements(const TensorView& view, std::size_t first, std::span<double> destination) {
  switch (view.dtype) {
    case DType::kF64:
      return convert<double>(view, first, destination, [](double x) { return x; });
    case DType::kF32:
      return convert<float>(view, first, destination, [](float x) { return x; });
    case DType::kF16:
      return convert<std::uint16_t>(view, first, destination, f16_to_float);
    case DType::kBF16:
      return convert<std::uint16_t>(view, first, destination, bf16_to_float);
  }
}

}  // namespace qdiff::compare
