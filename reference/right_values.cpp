#include "reference/right_values.h"

#include <algorithm>
#include <functional>
#include <set>
#include <string_view>

#include "reference/random.h"

namespace qdiff::reference {
namespace {

constexpr std::size_t kMostKept = 4;                           // spans: of a case's steps that are asked in turn
constexpr std::int64_t kMostElements = std::int64_t{1} << 22;  // of all values of a span, 32 MiB in fp64

void add_to(std::uint64_t& hash, std::uint64_t value) { hash = mix_bits(hash ^ value); }

template <typename T>
void add_numbers(std::uint64_t& hash, const std::vector<T>& numbers) {
  for (const T& number : numbers) add_to(hash, static_cast<std::uint64_t>(number));
}

// Of all that right code's values follow from, the weights aside.
std::uint64_t hash_of_inputs(const Walk& walk, const ModelConfig& config) {
  std::uint64_t hash = 0;
  std::set<TensorKey> computed;
  for (const PlacedUnit& placed : walk.units()) {
    const Step& step = walk.step(placed);
    add_to(hash, static_cast<std::uint64_t>(step.past_length));
    for (const auto& row : step.tokens) add_numbers(hash, row);
    for (const auto& row : step.positions) add_numbers(hash, row);
    add_numbers(hash, step.left_padding);
    for (const UnitInput& input : inputs_of(placed, config)) {
      if (!input.exists || computed.contains(input.key)) continue;
      const TensorView view = walk.query().recorded.get(input.key);
      const std::size_t size = static_cast<std::size_t>(num_elements(view.shape)) * size_of(view.dtype);
      add_to(hash, std::hash<std::string_view>{}({static_cast<const char*>(view.data), size}));
    }
    computed.insert(placed.output());
  }
  return hash;
}

std::int64_t elements_of(const Walk& walk, const ModelConfig& config) {
  std::int64_t elements = 0;
  for (const PlacedUnit& placed : walk.units()) {
    const Step& step = walk.step(placed);
    elements +=
        num_elements(output_shape(placed.unit.last, config, step.batch(), step.num_tokens(), step.valid_length()));
  }
  return elements;
}

// Whether something is planted in one of the unit's rows.
bool is_planted(const PlacedUnit& placed, const Query& query) {
  const auto acts_on = [&](Op op) {
    for (const Variant* variant : {query.variant, query.beside}) {
      if (variant == nullptr) continue;
      const std::vector<Op>& ops = fault_facts(variant->id).ops;
      if (std::find(ops.begin(), ops.end(), op) != ops.end()) return true;
    }
    return std::any_of(query.mistakes.begin(), query.mistakes.end(), [op](const Mistake& m) { return m.op == op; });
  };
  for (std::optional<Op> op = placed.unit.first; op; op = row(*op).fuses_into) {
    if (acts_on(*op)) return true;
    if (op == placed.unit.last) break;
  }
  return false;
}

}  // namespace

void evaluate_units(const Walk& walk, const Rounding& rounding, Values& computed) {
  const WalkSurroundings around(walk, computed);
  for (const PlacedUnit& placed : walk.units()) {
    if (&placed == &walk.units().back()) break;
    if (computed.contains(placed.output())) continue;
    const std::vector<at::Tensor> inputs = gather_inputs(walk, placed, computed, walk.config());
    const at::Tensor value = evaluate_unit(placed.unit, inputs, walk.setting(placed, 1, &around));
    computed.emplace(placed.output(), rounding.taken(placed.unit.last, value));
  }
}

const Values& RightValues::values_of(const Query& right, const Rounding& rounding) {
  const Walk walk(right, rounding, weights_);
  Kept wanted{{right.operations.begin(), right.operations.end()},
              right.precision,
              rounding.emulates(),
              rounding.divides_last(),
              hash_of_inputs(walk, weights_.config()),
              {}};
  const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const Kept& kept) {
    return kept.inputs == wanted.inputs && kept.operations == wanted.operations && kept.emulates == wanted.emulates &&
           kept.divides_last == wanted.divides_last && kept.precision == wanted.precision;
  });
  if (found != kept_.end()) return found->values;
  evaluate_units(walk, rounding, wanted.values);
  kept_.push_front(std::move(wanted));
  if (kept_.size() > kMostKept) kept_.pop_back();
  return kept_.front().values;
}

Values RightValues::unreached(const Walk& walk, const Rounding& rounding) {
  const Query& query = walk.query();
  const bool planted = query.variant != nullptr || query.beside != nullptr || !query.mistakes.empty();
  if (!planted || walk.units().size() < 2 || elements_of(walk, weights_.config()) > kMostElements) return {};
  Query right = query;
  right.variant = right.beside = nullptr;
  right.mistakes = {};
  const Values& values = values_of(right, rounding);
  Values unreached;
  for (const PlacedUnit& placed : walk.units()) {
    if (&placed == &walk.units().back() || is_planted(placed, query)) continue;
    const std::vector<UnitInput> inputs = inputs_of(placed, weights_.config());
    const bool reached = std::any_of(inputs.begin(), inputs.end(), [&](const UnitInput& input) {
      const bool is_computed = std::any_of(walk.units().begin(), walk.units().end(),
                                           [&](const PlacedUnit& other) { return other.output() == input.key; });
      return is_computed && !unreached.contains(input.key);
    });
    const auto found = values.find(placed.output());
    if (!reached && found != values.end()) unreached.insert(*found);
  }
  return unreached;
}

}  // namespace qdiff::reference
