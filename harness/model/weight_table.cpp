#include "harness/model/weight_table.h"

#include <stdexcept>
#include <string>

#include "harness/contract/operation_table.h"

namespace qdiff::model {

std::vector<WeightInfo> expected_weights(const ModelConfig& config) {
  std::vector<WeightInfo> weights;
  for (ModelWeight& weight : weights_of(config)) {
    weights.push_back({std::move(weight.name), config.dtype, std::move(weight.shape)});
  }
  return weights;
}

void check_read_range(const WeightInfo& info, std::int64_t first, std::int64_t count,
                      std::span<const std::byte> destination) {
  const std::int64_t size = num_elements(info.shape);
  if (first < 0 || count < 0 || first > size || count > size - first ||
      destination.size() != static_cast<std::size_t>(count) * size_of(info.dtype)) {
    throw std::out_of_range("read of " + info.name + ": elements " + std::to_string(first) + " + " +
                            std::to_string(count) + " of " + std::to_string(size) + " into " +
                            std::to_string(destination.size()) + " bytes");
  }
}

}  // namespace qdiff::model
