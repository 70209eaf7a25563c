// A whole layer that did not run, where it recorded nothing: what follows it is right code on the residual stream as it
// entered that layer.
#include <algorithm>
#include <set>

#include "harness/explain/mechanisms.h"
#include "harness/explain/rows.h"

namespace qdiff::explain {

std::vector<Candidate> recover_left_out(Scene& scene) {
  std::vector<Candidate> candidates;
  const Instance& first = scene.instances().front();
  std::set<int> layers;
  for (const TensorKey& key : first.span) {
    if (key.id.layer != kNoLayer && key.id.layer != scene.layer()) layers.insert(key.id.layer);
  }
  if (layers.size() != 1) return candidates;
  const int left_out = *layers.begin();
  const TensorId inside = std::find_if(first.span.begin(), first.span.end(), [&](const TensorKey& key) {
                            return key.id.layer == left_out;
                          })->id;
  const auto behind_it = [left_out](const Instance& instance) {
    std::vector<TensorKey> operations;
    for (const TensorKey& key : instance.span) {
      if (key.id.layer != left_out) operations.push_back(key);
    }
    return operations;
  };
  const TensorId entering = resolve(Input{inside.op, From::kResidual}, inside, scene.config());
  const TensorId leaving = resolve(Input{scene.op(), From::kResidual}, first.key.id, scene.config());
  Candidate candidate =
      candidate_of(scene, "layer.left_out", 0.0,
                   " takes " + tensor_name(entering) + ": layer " + std::to_string(left_out) + " is left out");
  candidate.theory.parameters = {{"layer", static_cast<double>(left_out)}};
  candidate.predict = [&scene, entering, leaving, behind_it](const Instance& instance) -> std::optional<Expectation> {
    const TensorKey from{instance.key.step, entering};
    if (!scene.is_recorded(instance, from)) return std::nullopt;
    Overlay overlay(*instance.recorded);
    overlay.replace({instance.key.step, leaving}, Tensor::copy_of(instance.recorded->get(from)));
    const std::vector<TensorKey> operations = behind_it(instance);
    return scene.evaluate(instance, overlay, operations);
  };
  candidate.operations = behind_it;
  candidates.push_back(std::move(candidate));
  return candidates;
}

}  // namespace qdiff::explain
