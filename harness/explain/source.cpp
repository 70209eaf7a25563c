// An operation that read another tensor than its own input: right code, evaluated on each recorded tensor of the same
// size in the input's place.
#include <algorithm>

#include "harness/explain/mechanisms.h"
#include "harness/explain/rows.h"

namespace qdiff::explain {

std::vector<Candidate> recover_source(Scene& scene) {
  std::vector<Candidate> candidates;
  const Instance& first = scene.instances().front();
  for (const TensorKey& input : span_inputs(scene, first)) {
    const std::int64_t size = num_elements(first.recorded->get(input).shape);
    std::vector<TensorId> others;
    for (const OperationRow& other : kOperationTable) {
      const bool layered = other.scope == qdiff::Scope::kLayer;
      for (int layer = layered ? 0 : kNoLayer; layer < (layered ? static_cast<int>(scene.config().num_layers) : 0);
           ++layer) {
        const TensorId id{other.op, layer};
        // Of other layers the same tensor alone: what an engine that took the wrong layer would have read.
        if (id == input.id || !runs_before(id, first.key.id) ||
            (layered && layer != scene.layer() && other.op != input.id.op)) {
          continue;
        }
        const TensorKey key{first.key.step, id};
        if (scene.is_recorded(first, key) && num_elements(first.recorded->get(key).shape) == size) others.push_back(id);
      }
    }
    // The residual stream as it entered the layer.
    const TensorId entering = resolve(Input{scene.op(), From::kResidual}, first.key.id, scene.config());
    const TensorKey entered{first.key.step, entering};
    const bool is_other = entering != input.id && std::find(others.begin(), others.end(), entering) == others.end();
    if (scene.layer() != kNoLayer && is_other && scene.is_recorded(first, entered) &&
        num_elements(first.recorded->get(entered).shape) == size) {
      others.push_back(entering);
    }
    for (const TensorId& other : others) {
      const std::string right_name = short_name(input.id, scene.layer());
      const std::string name = short_name(other, scene.layer());
      Candidate candidate = candidate_of(scene, "source", 2.0 + bits_of_choice(others.size()),
                                         " reads " + name + " where right code reads " + right_name);
      // At position 0 a rotation changes nothing, so that its input is as good as an output that was recorded wrongly.
      candidate.least_tokens = 2;
      candidate.theory.parameters = {{"input", right_name}, {"source", name}};
      candidate.predict = [&scene, id = input.id, other](const Instance& instance) -> std::optional<Expectation> {
        const TensorKey from{instance.key.step, other}, to{instance.key.step, id};
        if (!scene.is_recorded(instance, from) || !scene.is_recorded(instance, to)) return std::nullopt;
        const TensorView source = instance.recorded->get(from);
        const Shape shape = instance.recorded->get(to).shape;
        if (num_elements(source.shape) != num_elements(shape)) return std::nullopt;
        Overlay overlay(*instance.recorded);
        overlay.replace(to, Tensor::rounded(source.dtype, shape, to_doubles(source)));
        return scene.evaluate(instance, overlay);
      };
      candidates.push_back(std::move(candidate));
    }
  }
  return candidates;
}

}  // namespace qdiff::explain
