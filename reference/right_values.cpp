#include "reference/right_values.h"

#include <algorithm>
#include <functional>
#include <set>
#include <string_view>

#include "reference/random.h"

namespace qdiff::reference {
namespace {

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

bool is_planted(const Query& query) {
  return query.variant != nullptr || query.beside != nullptr || !query.mistakes.empty();
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

// Whether a unit has right code's value: nothing is planted in it, and what it follows from is recorded or one of those
// that have right code's value.
bool follows_from(const std::set<TensorKey>& right, const PlacedUnit& placed, const Walk& walk) {
  if (is_planted(placed, walk.query())) return false;
  const std::vector<UnitInput> inputs = inputs_of(placed, walk.config());
  return std::none_of(inputs.begin(), inputs.end(), [&](const UnitInput& input) {
    const bool is_computed = std::any_of(walk.units().begin(), walk.units().end(),
                                         [&](const PlacedUnit& other) { return other.output() == input.key; });
    return is_computed && !right.contains(input.key);
  });
}

// The units before the last that have right code's value, of those whose right value is known: nothing is planted in
// them or in what they follow from, and they do not differ otherwise.
template <typename Differs>
std::set<TensorKey> unreached_of(const Walk& walk, const Values& right, Differs differs) {
  std::set<TensorKey> unreached;
  for (const PlacedUnit& placed : walk.units()) {
    if (&placed == &walk.units().back() || differs(placed)) continue;
    if (follows_from(unreached, placed, walk) && right.contains(placed.output())) unreached.insert(placed.output());
  }
  return unreached;
}

at::Tensor value_of(const PlacedUnit& placed, const Walk& walk, const Rounding& rounding, const Values& computed) {
  const WalkSurroundings around(walk, computed);
  const std::vector<at::Tensor> inputs = gather_inputs(walk, placed, computed, walk.config());
  const at::Tensor value = evaluate_unit(placed.unit, inputs, walk.setting(placed, 1, &around));
  return &placed == &walk.units().back() ? value : rounding.taken(placed.unit.last, value);
}

Values values_of(const Walk& walk, const Rounding& rounding) {
  Values computed;
  for (const PlacedUnit& placed : walk.units()) {
    computed.emplace(placed.output(), value_of(placed, walk, rounding, computed));
  }
  return computed;
}

}  // namespace

at::Tensor target_of(const Walk& walk, const Rounding& rounding) {
  return values_of(walk, rounding).at(walk.units().back().output());
}

template <typename Answer, typename Compute>
const Answer& RightValues::ask(Kept<Answer>& kept, const Query& query, const Rounding& rounding, std::int64_t elements,
                               Compute compute) {
  Query right = query;
  right.variant = right.beside = nullptr;
  right.mistakes = {};
  const Walk walk(right, rounding, weights_);
  Question question{{right.operations.begin(), right.operations.end()},
                    right.precision,
                    rounding.emulates(),
                    rounding.divides_last(),
                    hash_of_inputs(walk, weights_.config())};
  const auto found = std::ranges::find(kept.entries, question, &Kept<Answer>::Entry::question);
  if (found != kept.entries.end()) return found->answer;
  kept.elements += elements;
  while (kept.elements > kept.most_elements && !kept.entries.empty()) {
    kept.elements -= kept.entries.back().elements;
    kept.entries.pop_back();
  }
  kept.entries.push_front({std::move(question), elements, compute(walk)});
  return kept.entries.front().answer;
}

at::Tensor RightValues::target(const Walk& walk, const Rounding& rounding) {
  const std::int64_t elements = elements_of(walk, weights_.config());
  if (!is_planted(walk.query()) || walk.units().size() < 2 || elements > values_.most_elements) {
    return target_of(walk, rounding);
  }
  const Values& right = ask(values_, walk.query(), rounding, elements,
                            [&](const Walk& of_right) { return values_of(of_right, rounding); });
  std::set<TensorKey> are_right = unreached_of(walk, right, [](const PlacedUnit&) { return false; });
  Values computed;
  for (const TensorKey& key : are_right) computed.emplace(key, right.at(key));
  for (const PlacedUnit& placed : walk.units()) {
    const TensorKey key = placed.output();
    if (are_right.contains(key)) continue;
    const auto known = right.find(key);  // a unit that a mistake takes apart is unknown there
    if (known != right.end() && follows_from(are_right, placed, walk)) {
      computed.emplace(key, known->second);
    } else {
      computed.emplace(key, value_of(placed, walk, rounding, computed));
      if (known == right.end() || !has_bits_of(computed.at(key), known->second)) continue;
    }
    are_right.insert(key);
  }
  return computed.at(walk.units().back().output());
}

Ensemble RightValues::unreached_ensemble(const Walk& walk) {
  const Query& query = walk.query();
  const std::int64_t elements = elements_of(walk, weights_.config()) * (kMembers + 1);
  if (walk.units().size() < 2 || elements > ensembles_.most_elements) return {};
  const Ensemble& right = ask(ensembles_, query, Rounding::gold(query.precision), elements,
                              [&](const Walk& of_right) { return ensemble_before_last(of_right, weights_); });
  // Beside something planted, a cache that rounds rounds all its slots at random, and one in 8 bits does not err; and
  // probabilities that overflow do not either (arithmetic/).
  const auto errs_otherwise = [&](const PlacedUnit& placed) {
    const Arithmetic arithmetic = arithmetic_of(placed.unit.last);
    const bool rounds =
        query.precision.points.contains(RoundingPoint::kKvCache) || query.precision.cache != QuantizedCache::kNone;
    return is_planted(query) && ((arithmetic == Arithmetic::kAppend && rounds) || arithmetic == Arithmetic::kSoftmax);
  };
  Ensemble unreached;
  for (const TensorKey& key : unreached_of(walk, right.gold, errs_otherwise)) {
    unreached.gold.emplace(key, right.gold.at(key));
    unreached.members.emplace(key, right.members.at(key));
  }
  return unreached;
}

}  // namespace qdiff::reference
