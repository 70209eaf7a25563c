#include "reference/emulation.h"

#include <algorithm>

#include "harness/contract/query.h"
#include "reference/random.h"
#include "reference/right_values.h"

namespace qdiff::reference {
namespace {

constexpr std::uint64_t kEmulations = 4;

// The recording with every element moved by about a spacing, up or down or not at all, so that all that follows is
// rounded anew. The first is the recording itself.
class MovedRecording final : public TensorStore {
 public:
  MovedRecording(const TensorStore& recorded, std::uint64_t number, DType activations)
      : recorded_(recorded), number_(number), roundoff_(unit_roundoff(activations)) {}
  bool has(const TensorKey& key) const override { return recorded_.has(key); }
  TensorView get(const TensorKey& key) const override {
    if (number_ == 0) return recorded_.get(key);
    const auto found = moved_.find(key);
    if (found != moved_.end()) return found->second.view();
    Tensor tensor = Tensor::copy_of(recorded_.get(key));
    const std::uint64_t stream = mix_bits(number_ ^ mix_bits(static_cast<std::uint64_t>(key.step) << 32U ^
                                                             static_cast<std::uint64_t>(key.id.layer + 1) << 8U ^
                                                             static_cast<std::uint64_t>(key.id.op)));
    const double spacings = 1.2 * std::max(unit_roundoff(tensor.dtype()), roundoff_);
    for (std::int64_t i = 0; i < tensor.size(); ++i) {
      const std::uint64_t bits = random_bits(stream, static_cast<std::uint64_t>(i)) >> 62U;
      if (bits < 2) tensor.set(i, tensor.at(i) * (1.0 + (bits == 0 ? spacings : -spacings)));
    }
    return moved_.emplace(key, std::move(tensor)).first->second.view();
  }

 private:
  const TensorStore& recorded_;
  std::uint64_t number_;
  double roundoff_;
  mutable std::map<TensorKey, Tensor> moved_;
};

// Mean square error of the emulations.
at::Tensor square_of_emulations(const at::Tensor& gold, const Walk& walk, WeightStore& weights) {
  const Query& query = walk.query();
  const Rounding rounding = Rounding::emulated(query.precision, query.divides_last);
  at::Tensor square = at::zeros_like(gold);
  for (std::uint64_t number = 0; number < kEmulations; ++number) {
    const MovedRecording recorded(query.recorded, number, query.precision.activations);
    const Query moved = of_recorded(query, recorded);
    const at::Tensor error = target_of(Walk(moved, rounding, weights), rounding).to(at::kDouble) - gold;
    square += error.square() / static_cast<double>(kEmulations);
  }
  return square;
}

// Before the target.
bool holds_softmax(const Walk& walk) {
  return std::any_of(walk.units().begin(), walk.units().end() - 1, [](const PlacedUnit& placed) {
    const Arithmetic arithmetic = arithmetic_of(placed.unit.last);
    return arithmetic == Arithmetic::kSoftmax || arithmetic == Arithmetic::kWeightedSum;
  });
}

// Of the elements that count.
at::Tensor sum_of_row(const at::Tensor& x, const at::Tensor& counts) {
  return x.masked_fill(counts.logical_not(), 0.0).sum(-1, true);
}

// Variances [..., n] of which the largest are lowered, in each row to one level, until the row's sum is `allowed`
// [..., 1]. What a row has too much of came from the errors that are largest there; a small element between them may
// carry another error, and keeps it.
at::Tensor lowered_to(const at::Tensor& variance, const at::Tensor& allowed) {
  const at::Tensor ascending = std::get<0>(variance.sort(-1));
  const at::Tensor below = ascending.cumsum(-1) - ascending;
  const at::Tensor others = at::arange(variance.size(-1), 0, -1, variance.options());
  // The level if all elements from here on were lowered. It falls from the first one that lies above it.
  const at::Tensor level = (allowed - below) / others;
  const at::Tensor holds = level.le(ascending);
  const at::Tensor highest = std::get<0>(level.masked_fill(holds.logical_not(), 0.0).max(-1, true));
  return at::where(holds.any(-1, true), at::minimum(variance, highest), variance);
}

}  // namespace

Evaluated narrowed_to_emulations(Evaluated target, const Walk& walk, WeightStore& weights) {
  const Query& query = walk.query();
  if (!holds_softmax(walk) || size_of(query.precision.activations) != 2 || size_of(query.stored) != 2) return target;
  const at::Tensor square = square_of_emulations(target.value, walk, weights);
  const at::Tensor variance = (target.noise.independent + target.noise.shared).expand_as(target.value);
  const at::Tensor counts = at::isfinite(square).logical_and(at::isfinite(variance));
  const at::Tensor of_emulations = sum_of_row(square, counts), power = sum_of_row(target.value.square(), counts);
  const at::Tensor usable = power.gt(0.0);
  const at::Tensor relative = at::where(usable, of_emulations / power, at::zeros_like(power));
  const at::Tensor mean = relative.sum() / usable.to(at::kDouble).sum().clamp_min(1.0);
  const at::Tensor allowed = at::maximum(of_emulations, mean * power);
  const at::Tensor some = variance.masked_fill(counts.logical_not(), 0.0);
  const at::Tensor lowers = usable.logical_and(counts).logical_and(some.gt(0.0));
  const at::Tensor share = at::where(lowers, lowered_to(some, allowed) / some, at::ones_like(some));
  return {target.value, {target.noise.independent * share, target.noise.shared * share}};
}

}  // namespace qdiff::reference
