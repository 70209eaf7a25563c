// A product with the weights of another layer: that layer's row, evaluated on this one's input.
#include "harness/explain/mechanisms.h"
#include "harness/explain/product.h"
#include "harness/explain/rows.h"

namespace qdiff::explain {
namespace {

std::vector<TensorKey> in_layer(const std::vector<TensorKey>& span, int layer) {
  std::vector<TensorKey> keys = span;
  for (TensorKey& key : keys) key.id.layer = layer;
  return keys;
}

Overlay with_input(Scene& scene, const Instance& instance, const std::vector<TensorKey>& span) {
  const TensorKey own = product_input(scene, instance);
  Overlay overlay(*instance.recorded);
  overlay.replace(input_keys(span.front(), scene.config()).front(), Tensor::copy_of(instance.recorded->get(own)));
  return overlay;
}

}  // namespace

std::vector<Candidate> recover_other_layer(Scene& scene) {
  if (!is_product(scene) || scene.layer() == kNoLayer) return {};
  const std::vector<SampledRow> rows = sample_wrong_rows(scene, 8);
  if (rows.empty() || scene.right(*rows.front().instance).sigma_independent.empty()) return {};
  const Instance& sample = *rows.front().instance;
  const auto layers = static_cast<int>(scene.config().num_layers);
  int nearest = scene.layer();
  double least = distance(scene, rows, sample, scene.right(sample).value);
  for (int layer = 0; layer < layers; ++layer) {
    if (layer == scene.layer()) continue;
    const std::vector<TensorKey> span = in_layer(sample.span, layer);
    const double here = distance(scene, rows, sample, scene.value(sample, with_input(scene, sample, span), span));
    if (!(here < least)) continue;
    least = here;
    nearest = layer;
  }
  if (nearest == scene.layer()) return {};
  Candidate candidate = candidate_of(scene, "product.layer", bits_of_choice(static_cast<std::size_t>(layers)),
                                     " was made with the weights of layer " + std::to_string(nearest));
  candidate.theory.hypothesis = "H07";
  candidate.theory.parameters = {{"layer", static_cast<double>(nearest)}};
  candidate.predict = [&scene, nearest](const Instance& instance) -> std::optional<Expectation> {
    if (!scene.is_recorded(instance, product_input(scene, instance))) return std::nullopt;
    const std::vector<TensorKey> span = in_layer(instance.span, nearest);
    return scene.evaluate(instance, with_input(scene, instance, span), span);
  };
  return {candidate};
}

}  // namespace qdiff::explain
