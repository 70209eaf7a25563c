#include "reference/arithmetic/arithmetic.h"

namespace qdiff::reference {

Evaluated evaluate_lookup(const Unit& unit, std::span<const at::Tensor>, const Setting& setting,
                          const NoiseModel* model) {
  const std::int64_t offset = setting.parameters(unit.last).token_offset;
  std::vector<std::int64_t> ids;
  for (const auto& row : setting.step.tokens) {
    for (std::int64_t id : row) ids.push_back((id + offset) % setting.config().vocab);
  }
  const at::Tensor rows =
      setting.weights.gather_rows(weight_name({unit.last}, 0, setting.config()), ids, setting.form());
  const at::Tensor batch = rows.view({setting.step.batch(), setting.step.num_tokens(), setting.config().hidden});
  const at::Tensor value = batch.repeat({setting.copies, 1, 1});
  return {value, model == nullptr ? Noise() : no_noise(value)};
}

}  // namespace qdiff::reference
