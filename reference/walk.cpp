#include "reference/walk.h"

#include <algorithm>
#include <stdexcept>

#include "harness/contract/error.h"

namespace qdiff::reference {
namespace {

using enum Op;

std::string place_of(const TensorKey& key) { return tensor_name(key.id) + " of step " + std::to_string(key.step); }

}  // namespace

std::vector<PlacedUnit> join_into_units(std::span<const TensorKey> operations, std::span<const Mistake> mistakes) {
  auto listed = [&](const TensorKey& key) { return std::ranges::find(operations, key) != operations.end(); };
  auto are_apart = [&](Op op, Op next) {
    return std::ranges::any_of(mistakes,
                               [=](const Mistake& mistake) { return mistake.op == op || mistake.op == next; });
  };
  std::vector<PlacedUnit> units;
  for (const TensorKey& key : operations) {
    const std::optional<Op> next = row(key.id.op).fuses_into;
    if (next && listed({key.step, {*next, key.id.layer}}) && !are_apart(key.id.op, *next)) continue;
    Unit unit{key.id.op, key.id.op};
    for (std::optional<Op> before = unit.last; before; before = fused_before(unit.first)) {
      if (!listed({key.step, {*before, key.id.layer}}) || are_apart(*before, unit.first)) break;
      unit.first = *before;
    }
    units.push_back({unit, key.step, key.id.layer});
  }
  return units;
}

std::vector<UnitInput> inputs_of(const PlacedUnit& placed, const ModelConfig& config) {
  std::vector<UnitInput> inputs;
  for (const Input& input : unit_inputs(placed.unit)) {
    const bool previous = input.from == From::kPreviousStep;
    const TensorId id = resolve(input, {placed.unit.last, placed.layer}, config);
    inputs.push_back({{previous ? placed.step - 1 : placed.step, id}, !(previous && placed.step == 0)});
  }
  return inputs;
}

Walk::Walk(const Query& query, const Rounding& rounding, WeightStore& weights)
    : query_(query), rounding_(rounding), weights_(weights), units_(join_into_units(query.operations, query.mistakes)) {
  for (const Mistake& mistake : query.mistakes) {
    try {
      mistakes_.emplace_back(mistake, weights.config());
    } catch (const InputError& no_such_place) {
      throw NotEvaluable(no_such_place.what());
    }
  }
  if (query.operations.empty()) throw std::invalid_argument("a query names at least one operation");
  for (const TensorKey& key : query.operations) {
    if (key.step < 0 || static_cast<std::size_t>(key.step) >= query.steps.size()) {
      throw std::invalid_argument(place_of(key) + ": the case has " + std::to_string(query.steps.size()) + " steps");
    }
  }
  if (query.variant == nullptr) return;
  // A fault that attends to a slot behind the cache's: scores and probabilities as they are recorded lack it, so its
  // attention is one piece from the queries on.
  for (PlacedUnit& placed : units_) {
    if (placed.unit.last != kProbs && placed.unit.last != kAttnOutput) continue;
    const Place place = {.op = kScores, .layer = placed.layer, .step = step(placed), .config = weights.config()};
    if (!parameters_at(place, query.variant, query.beside).attention.slots) continue;
    placed.unit.first = kScores;
    for (const UnitInput& input : inputs_of(placed, weights.config())) {
      const bool computed =
          std::ranges::any_of(query.operations, [&](const TensorKey& operation) { return operation == input.key; });
      if (!computed && !query.recorded.has(input.key)) throw MissingTensor(input.key);
    }
  }
}

Setting Walk::setting(const PlacedUnit& placed, std::int64_t copies, const Surroundings* around,
                      const Rounding& rounding) const {
  return {.weights = weights_,
          .precision = query_.precision,
          .rounding = rounding,
          .step = step(placed),
          .layer = placed.layer,
          .copies = copies,
          .variant = query_.variant,
          .around = around,
          .beside = query_.beside,
          .mistakes = mistakes_.empty() ? nullptr : &mistakes_};
}

at::Tensor WalkSurroundings::tensor(const TensorKey& key) const {
  if (const auto found = computed_.find(key); found != computed_.end()) return found->second;
  if (!walk_.query().recorded.has(key)) throw MissingTensor(key);
  return walk_.recorded(key);
}

std::int64_t WalkSurroundings::capacity() const {
  const Query& query = walk_.query();
  return query.capacity > 0 ? query.capacity : query.steps.back().valid_length();
}

at::Tensor Walk::recorded(const TensorKey& key) const {
  if (!query_.recorded.has(key)) {
    throw InputError(place_of(key) + " is needed, but it is neither recorded nor among the operations to evaluate");
  }
  const TensorView view = query_.recorded.get(key);
  const Step& at_step = query_.steps[static_cast<std::size_t>(key.step)];
  const Shape wanted =
      output_shape(key.id.op, weights_.config(), at_step.batch(), at_step.num_tokens(), at_step.valid_length());
  if (view.shape != wanted) {
    throw InputError(place_of(key) + " has shape " + to_string(view.shape) + "; this step gives it " +
                     to_string(wanted));
  }
  const at::Tensor value = widen(view, rounding_.compute());
  const auto taken = query_.precision.taken_as.find(key.id.op);
  if (taken == query_.precision.taken_as.end() || rounded_after_use(key)) return value;
  return round_to(taken->second, value);
}

void Walk::keep_wanted_rows(const PlacedUnit& placed, std::vector<at::Tensor>& inputs) const {
  const TensorKey key = placed.output();
  if (!may_be_last_row_alone(key.id.op) || !query_.recorded.has(key)) return;
  const Shape recorded = query_.recorded.get(key).shape;
  const std::int64_t tokens = step(placed).num_tokens();
  if (recorded.size() == 3 && recorded[1] == 1) inputs[0] = inputs[0].narrow(1, tokens - 1, 1);
}

std::optional<DType> Walk::rounded_after_use(const TensorKey& key) const {
  const auto taken = query_.precision.taken_as.find(key.id.op);
  if (taken == query_.precision.taken_as.end() || !query_.recorded.has(key)) return std::nullopt;
  const DType stored = query_.recorded.get(key).dtype;
  const bool wider = facts(taken->second).significant_bits > facts(stored).significant_bits;
  return wider ? std::optional(stored) : std::nullopt;
}

std::vector<at::Tensor> gather_inputs(const Walk& walk, const PlacedUnit& placed, const Values& computed,
                                      const ModelConfig& config) {
  std::vector<at::Tensor> inputs;
  for (const UnitInput& input : inputs_of(placed, config)) {
    const auto found = computed.find(input.key);
    inputs.push_back(found != computed.end() ? found->second : input.exists ? walk.recorded(input.key) : at::Tensor());
  }
  walk.keep_wanted_rows(placed, inputs);
  return inputs;
}

}  // namespace qdiff::reference
