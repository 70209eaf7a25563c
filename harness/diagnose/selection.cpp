#include "harness/diagnose/selection.h"

#include "harness/contract/error.h"

namespace qdiff::diagnose {

Extent select_layers(const std::optional<std::set<int>>& wanted, const ModelConfig& config) {
  Extent extent{wanted.value_or(std::set<int>{}), !wanted};
  if (!wanted) {
    for (int layer = 0; layer < config.num_layers; ++layer) extent.layers.insert(layer);
  }
  if (extent.layers.erase(kNoLayer) > 0) extent.outside_layers = true;
  if (extent.layers.empty()) throw InputError("--layers: the list is empty");
  for (int layer : extent.layers) {
    if (layer < 0 || layer >= config.num_layers) {
      throw InputError("--layers: the model has no layer " + std::to_string(layer) + "; its layers are 0 to " +
                       std::to_string(config.num_layers - 1));
    }
  }
  return extent;
}

std::set<int> select_steps(const std::optional<std::set<int>>& wanted, const std::vector<Step>& steps) {
  std::set<int> selected;
  for (const Step& step : steps) {
    if ((!wanted || wanted->contains(step.index)) && step.has_real_tokens()) selected.insert(step.index);
  }
  return selected;
}

std::string options_selecting(const TensorKey& key) {
  return (key.id.layer == kNoLayer ? "" : " --layers " + std::to_string(key.id.layer)) + " --steps " +
         std::to_string(key.step);
}

}  // namespace qdiff::diagnose
