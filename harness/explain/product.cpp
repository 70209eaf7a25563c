#include "harness/explain/product.h"

#include <cmath>

namespace qdiff::explain {
namespace {

constexpr std::int64_t kLargestMatrix = std::int64_t{1} << 25;

}  // namespace

bool is_product(const Scene& scene) {
  const Instance& first = scene.instances().front();
  const Op product = first.span.front().id.op;
  if (arithmetic_of(product) != Arithmetic::kProduct) return false;
  if (num_elements(weight_shape(product, 0, scene.config())) > kLargestMatrix) return false;
  if (first.span.size() > 2) return false;
  if (first.span.size() == 2 && arithmetic_of(scene.op()) != Arithmetic::kBias) return false;
  const std::vector<TensorKey> inputs = span_inputs(scene, first);
  return inputs.size() == 1 && inputs[0] == product_input(scene, first);
}

TensorKey product_input(const Scene& scene, const Instance& instance) {
  return input_keys(instance.span.front(), scene.config()).front();
}

double distance(Scene& scene, const std::vector<SampledRow>& rows, const Instance& instance,
                const std::vector<double>& value) {
  const Expectation& right = scene.right(instance);
  const std::vector<double>& actual = scene.actual(instance);
  const std::int64_t width = scene.layout(instance).num_columns();
  double sum = 0.0, count = 0.0;
  for (const SampledRow& sampled : rows) {
    if (sampled.instance != &instance) continue;
    for (std::int64_t c = 0; c < width; ++c) {
      const auto i = static_cast<std::size_t>(sampled.row * width + c);
      if (!scene.is_wrong(instance, i)) continue;
      const double deviation =
          std::hypot(right.sigma_independent[i], right.sigma_shared[i], spacing(instance.actual.dtype, right.value[i]));
      const double z = (actual[i] - value[i]) / deviation;
      sum += z * z;
      count += 1.0;
    }
  }
  return count > 0.0 && std::isfinite(sum) ? std::sqrt(sum / count) : HUGE_VAL;
}

}  // namespace qdiff::explain
