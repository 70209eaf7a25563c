#include "reference/ensemble.h"

#include <algorithm>
#include <bit>

#include "reference/arithmetic/product.h"
#include "reference/random.h"

namespace qdiff::reference {
namespace {

using enum Op;
using enum RoundingPoint;

enum class Purpose : std::uint64_t { kIndependent, kShared, kStored, kInput, kDirection, kQuantized };

std::uint64_t stream(const TensorKey& key, Purpose purpose) {
  std::uint64_t hash = 0x716469666652ULL;
  for (std::uint64_t part : {static_cast<std::uint64_t>(key.step), static_cast<std::uint64_t>(key.id.layer + 1),
                             static_cast<std::uint64_t>(key.id.op), static_cast<std::uint64_t>(purpose)}) {
    hash = mix_bits(hash ^ part);
  }
  return hash;
}

// Random numbers for members [members * B, T, ...]. Equal rows of gold [B, T, ...] get the same ones, for an engine
// that computes the same twice makes the same errors twice: over a prompt of one token they do not average out.
class Draws {
 public:
  explicit Draws(const at::Tensor& gold) {
    // The rows are read in float32, for the same sum may end in other bits of float64 at the edge of a block.
    const at::Tensor rows = gold.to(at::kCPU, at::kFloat).contiguous().flatten(0, 1).flatten(1);
    const float* data = rows.const_data_ptr<float>();
    for (std::int64_t row = 0; row < rows.size(0); ++row) {
      std::uint64_t hash = 0;
      for (std::int64_t i = 0; i < rows.size(1); ++i) hash = mix_bits(hash ^ std::bit_cast<std::uint32_t>(*data++));
      rows_.push_back(hash);
    }
  }

  at::Tensor normal(const std::vector<std::int64_t>& shape, std::uint64_t key) const {
    return drawn(shape, key, [](std::uint64_t of_row, std::uint64_t i) { return random_normal(of_row, i); });
  }

  // x moved by up to half a step to either side.
  at::Tensor moved(const at::Tensor& x, const at::Tensor& step, std::uint64_t key) const {
    const auto uniform = [](std::uint64_t of_row, std::uint64_t i) { return random_uniform(of_row, i); };
    return x + drawn(x.sizes().vec(), key, uniform) * step;
  }
  at::Tensor rounded(DType dtype, const at::Tensor& x, std::uint64_t key) const {
    return moved(x, spacing_at(dtype, x), key);
  }

 private:
  template <typename Random>
  at::Tensor drawn(const std::vector<std::int64_t>& shape, std::uint64_t key, Random random) const {
    const at::Tensor out = at::empty(shape, at::dtype(at::kDouble));
    const auto num_rows = static_cast<std::int64_t>(rows_.size());
    const std::int64_t row_size = out.numel() / (kMembers * num_rows);
    auto* const data = out.mutable_data_ptr<double>();
    const std::int64_t rows_at_once = std::max<std::int64_t>(1, (1 << 14) / std::max<std::int64_t>(1, row_size));
    at::parallel_for(0, kMembers * num_rows, rows_at_once, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        const auto member = static_cast<std::uint64_t>(r / num_rows);
        const std::uint64_t of_row = key ^ mix_bits(rows_[static_cast<std::size_t>(r % num_rows)] ^ member);
        for (std::int64_t i = 0; i < row_size; ++i) {
          data[r * row_size + i] = random(of_row, static_cast<std::uint64_t>(i));
        }
      }
    });
    return out.to(device());
  }

  std::vector<std::uint64_t> rows_;  // a hash of each
};

Precision without_cache_type(Precision precision) {
  precision.points.erase(kKvCache);
  return precision;
}

// The slots of a cache [copies * B, S, K, d] whose rounding is random: those of this step. What older slots hold was
// rounded before; a fault may have put anything anywhere.
at::Tensor random_slots(const at::Tensor& cache, const Setting& setting) {
  const bool right = setting.variant == nullptr && setting.mistakes == nullptr;
  const std::int64_t count = right ? setting.step.num_tokens() : cache.size(1);
  return cache.narrow(1, cache.size(1) - count, count);
}

// A narrower cache rounds keys or values, which carry noise already, to one side or to the other.
at::Tensor stored_at_random(const at::Tensor& cache, const at::Tensor& gold, const Setting& setting,
                            std::uint64_t key) {
  const DType dtype = setting.precision.points.at(kKvCache);
  const at::Tensor now = random_slots(cache, setting);
  const at::Tensor stored = Draws(random_slots(gold, setting)).rounded(dtype, now, key);
  return at::cat({cache.narrow(1, 0, cache.size(1) - now.size(1)), stored}, 1);
}

at::Tensor stacked(const at::Tensor& x) {
  std::vector<std::int64_t> times(static_cast<std::size_t>(x.dim()), 1);
  times[0] = kMembers;
  return x.repeat(times);
}

// What a shared error moves together: a row of a norm, an angle in all heads, a head of attention. The dimensions that
// it spans have extent 1.
std::vector<std::int64_t> shared_shape(Op op, const at::Tensor& members, const ModelConfig& config) {
  std::vector<std::int64_t> shape = members.sizes().vec();
  if (arithmetic_of(op) == Arithmetic::kRotate) {
    shape[2] = 1;
  } else if (arithmetic_of(op) == Arithmetic::kWeightedSum) {
    shape.back() = config.num_q_heads;
  } else {
    shape.back() = 1;
  }
  return shape;
}

at::Tensor with_noise(const at::Tensor& members, const Evaluated& gold, const Draws& draws, const TensorKey& key,
                      const ModelConfig& config) {
  const at::Tensor independent = stacked(gold.noise.independent.expand_as(gold.value).sqrt());
  at::Tensor noisy = members + independent * draws.normal(members.sizes().vec(), stream(key, Purpose::kIndependent));
  const at::Tensor shared = gold.noise.shared.expand_as(gold.value);
  if (!shared.any().item<bool>()) return noisy;
  at::Tensor draw = draws.normal(shared_shape(key.id.op, members, config), stream(key, Purpose::kShared));
  const bool by_head = arithmetic_of(key.id.op) == Arithmetic::kWeightedSum;
  if (by_head) draw = draw.repeat_interleave(config.head_dim, -1);
  // A common factor moves each element in the direction of its own sign.
  noisy = noisy + stacked(shared.sqrt() * gold.value.sign()) * draw;
  if (!by_head) return noisy;
  // A weight's error moves a head along v_j - o, in signs that are not known here. With those of o alone a sum over the
  // head may vanish in all members where an engine's does not.
  return noisy + stacked(shared.sqrt()) * draws.normal(members.sizes().vec(), stream(key, Purpose::kDirection));
}

// Deviations of the members from gold, block by block of the last dimension.
class Deviations {
 public:
  explicit Deviations(const at::Tensor& gold) : gold_(gold), own_(at::zeros_like(gold)) {
    std::vector<std::int64_t> rows = gold.sizes().vec();
    rows.pop_back();
    rows.insert(rows.begin(), kMembers);
    sum_ = at::zeros(rows, gold.options());
    along_gold_ = at::zeros(rows, gold.options());
  }

  // `deviation` [members, ..., count] of the columns [first, first + count).
  void add(std::int64_t first, const at::Tensor& deviation) {
    const std::int64_t count = deviation.size(-1);
    own_.narrow(-1, first, count).copy_(deviation.square().mean(0));
    sum_ += deviation.sum(-1);
    along_gold_ += (deviation * finite_gold().narrow(-1, first, count)).sum(-1);
  }

  // Shared: the common offset of a row (its mean) and the common factor (its regression on gold), each less what
  // independent errors alone would show. Independent: the rest. Sixteen members give a variance to 35 %, so an
  // element's own estimate is averaged with its four neighbours', which count four times its own at most: next to a
  // channel of massive values it must not go blind.
  Noise noise() const {
    const at::Tensor y2 = finite_gold().square();
    const at::Tensor power = y2.sum(-1);
    const at::Tensor safe = power.masked_fill(power.eq(0.0), 1.0);
    const auto n = static_cast<double>(gold_.size(-1));
    const at::Tensor offset = (sum_ / n).square().mean(0) - own_.mean(-1) / n;
    const at::Tensor factor = (along_gold_ / safe).square().mean(0) - (own_ * y2).sum(-1) / safe.square();
    const at::Tensor shared = offset.clamp_min(0.0).unsqueeze(-1) + factor.clamp_min(0.0).unsqueeze(-1) * y2;
    at::Tensor pooled = own_ * 0.5;
    for (std::int64_t shift : {-2, -1, 1, 2}) {
      pooled = pooled + at::minimum(at::roll(own_, shift, -1), own_ * 4.0) * 0.125;
    }
    const at::Tensor share = at::minimum(shared, pooled * 0.9);
    return {pooled - share, share};
  }

 private:
  at::Tensor finite_gold() const { return gold_.masked_fill(at::isfinite(gold_).logical_not(), 0.0); }

  at::Tensor gold_, own_, sum_, along_gold_;
};

// lm_head's members at once would be sixteen vocabularies wide; its deviations are linear in those of its input.
Noise lm_head_deviations(const at::Tensor& gold, const at::Tensor& members_in, const at::Tensor& gold_in,
                         const Setting& setting, WeightStore& weights) {
  Deviations deviations(gold);
  std::vector<std::int64_t> shape = gold_in.sizes().vec();
  shape.insert(shape.begin(), kMembers);
  const at::Tensor moved = (members_in.view(shape) - gold_in).to(at::kFloat);
  WeightForm form = setting.form();
  form.compute = at::kFloat;
  weights.for_each_block(weight_name({kLmHead}, 0, weights.config()), form,
                         [&](std::int64_t first, const at::Tensor& rows) {
                           deviations.add(first, at::matmul(moved, rows.t()).to(at::kDouble));
                         });
  return deviations.noise();
}

// A cache that takes keys or values which the walk has computed: input 1 is what this step adds.
bool stores_what_is_computed(const PlacedUnit& placed, const Values& computed, const ModelConfig& config) {
  return arithmetic_of(placed.unit.last) == Arithmetic::kAppend &&
         computed.contains(inputs_of(placed, config).at(1).key);
}

// Its rounding to a declared type that is narrower than the one which it is handed out in: [B, S, K, d].
at::Tensor cache_rounding(const at::Tensor& cache, DType stored, const Setting& setting) {
  const DType dtype = setting.precision.points.at(kKvCache);
  at::Tensor variance = at::zeros_like(cache);
  if (facts(stored).significant_bits <= facts(dtype).significant_bits) return variance;  // the judge adds that one
  random_slots(variance, setting).copy_(rounding_variance(dtype, random_slots(cache, setting)));
  return variance;
}

// What a fault asks for, once for each member.
class MemberSurroundings final : public Surroundings {
 public:
  MemberSurroundings(const WalkSurroundings& gold, const Values& members) : gold_(gold), members_(members) {}
  at::Tensor tensor(const TensorKey& key) const override {
    const auto found = members_.find(key);
    return found != members_.end() ? found->second : stacked(gold_.tensor(key));
  }
  const std::vector<Step>& steps() const override { return gold_.steps(); }
  std::int64_t capacity() const override { return gold_.capacity(); }
  bool is_full(const Step& step) const override { return gold_.is_full(step); }
  double unwritten() const override { return gold_.unwritten(); }

 private:
  const WalkSurroundings& gold_;
  const Values& members_;
};

// A walk that both gold and the members take, unit by unit.
class EnsembleWalk {
 public:
  EnsembleWalk(const Walk& walk, WeightStore& weights) : walk_(walk), weights_(weights) {}
  EnsembleWalk(const EnsembleWalk&) = delete;
  EnsembleWalk& operator=(const EnsembleWalk&) = delete;

  void pass(const PlacedUnit& placed) {
    const TensorKey key = placed.output();
    const Stored stored(*this, placed);
    const Evaluated here = evaluate_unit_with_noise(placed.unit, gather_inputs(walk_, placed, so_far_.gold, config()),
                                                    stored.setting, std::nullopt);
    at::Tensor moved = evaluate_unit(placed.unit, member_inputs(placed), stored.of_members);
    const Draws draws(here.value);
    if (!only_moves(key.id.op)) moved = with_noise(moved, here, draws, key, config());
    if (stored.noise) moved = stored_at_random(moved, here.value, stored.of_members, stream(key, Purpose::kStored));
    const auto taken = precision().taken_as.find(key.id.op);
    if (taken != precision().taken_as.end()) {
      moved = draws.rounded(taken->second, moved, stream(key, Purpose::kStored));
    } else if (!row(key.id.op).optional) {
      moved = draws.rounded(precision().activations, moved, stream(key, Purpose::kStored));
    }
    take(key, here.value, moved);
  }

  void take(const TensorKey& key, const at::Tensor& gold, const at::Tensor& members) {
    so_far_.gold.emplace(key, gold);
    so_far_.members.emplace(key, members);
  }

  Evaluated last(const PlacedUnit& placed) const {
    const Stored stored(*this, placed);
    const std::vector<at::Tensor> gold_in = gather_inputs(walk_, placed, so_far_.gold, config());
    const DType kept_as = walk_.query().stored;
    Evaluated here = evaluate_unit_with_noise(placed.unit, gold_in, stored.setting, kept_as);
    Noise passed_on;
    if (may_be_last_row_alone(placed.unit.last)) {
      const at::Tensor taken = quantize(gold_in[0], input_rule(placed.unit.last, stored.setting)).value;
      passed_on = lm_head_deviations(here.value, member_inputs(placed)[0], taken, stored.setting, weights_);
    } else {
      const at::Tensor moved = evaluate_unit(placed.unit, member_inputs(placed), stored.of_members);
      std::vector<std::int64_t> shape = here.value.sizes().vec();
      shape.insert(shape.begin(), kMembers);
      const at::Tensor deviation = moved.view(shape) - here.value;
      Deviations deviations(here.value);
      // Masked scores are -inf in gold and in every member.
      deviations.add(0, deviation.masked_fill(at::isfinite(here.value).logical_not(), 0.0));
      passed_on = deviations.noise();
    }
    here.noise.independent = here.noise.independent + passed_on.independent;
    if (stored.noise)
      here.noise.independent = here.noise.independent + cache_rounding(here.value, kept_as, stored.setting);
    here.noise.shared = here.noise.shared + passed_on.shared;
    return here;
  }

  Ensemble so_far() && { return std::move(so_far_); }

 private:
  // A unit's settings, and whether it stores numbers that carry noise.
  struct Stored {
    bool noise;
    Setting setting, of_members;

    Stored(const EnsembleWalk& walk, const PlacedUnit& placed)
        : noise(stores_what_is_computed(placed, walk.so_far_.gold, walk.config()) &&
                walk.precision().points.contains(kKvCache)),
          setting(walk.walk_.setting(placed, 1, &walk.around_gold_, walk.rounding(noise))),
          of_members(walk.walk_.setting(placed, kMembers, &walk.around_members_, walk.rounding(noise))) {
      of_members.quantizes = false;
    }
  };

  const ModelConfig& config() const { return weights_.config(); }
  const Precision& precision() const { return walk_.query().precision; }
  const Rounding& rounding(bool stores_noise) const { return stores_noise ? unrounded_cache_ : as_declared_; }

  std::vector<at::Tensor> member_inputs(const PlacedUnit& placed) const {
    std::vector<at::Tensor> inputs;
    for (const UnitInput& input : inputs_of(placed, config())) {
      if (!input.exists) {
        inputs.emplace_back();
      } else if (const auto found = so_far_.members.find(input.key); found != so_far_.members.end()) {
        inputs.push_back(found->second);
      } else {
        const at::Tensor recorded = stacked(walk_.recorded(input.key));
        const std::optional<DType> rounded = walk_.rounded_after_use(input.key);
        const std::uint64_t random = stream(input.key, Purpose::kInput);
        inputs.push_back(rounded ? Draws(walk_.recorded(input.key)).rounded(*rounded, recorded, random) : recorded);
      }
    }
    walk_.keep_wanted_rows(placed, inputs);
    if (precision().quantized == QuantizedInputs::kNone || arithmetic_of(placed.unit.first) != Arithmetic::kProduct)
      return inputs;
    // Numbers that carry noise may be rounded to either side; those that are recorded, to one.
    const InputRule rule = input_rule(placed.unit.first, walk_.setting(placed, 1, &around_gold_));
    const bool computed = so_far_.gold.contains(inputs_of(placed, config())[0].key);
    inputs[0] = computed ? Draws(gather_inputs(walk_, placed, so_far_.gold, config())[0])
                               .moved(inputs[0], quantization_step(inputs[0], rule.form),
                                      stream(placed.output(), Purpose::kQuantized))
                         : quantize(inputs[0], rule).value;
    return inputs;
  }

  const Walk& walk_;
  WeightStore& weights_;
  Ensemble so_far_;
  const WalkSurroundings around_gold_{walk_, so_far_.gold};
  const MemberSurroundings around_members_{around_gold_, so_far_.members};
  const Rounding as_declared_ = Rounding::gold(precision());
  const Rounding unrounded_cache_ = Rounding::gold(without_cache_type(precision()));
};

}  // namespace

Evaluated evaluate_ensemble(const Walk& walk, WeightStore& weights, const Ensemble& known) {
  EnsembleWalk ensemble(walk, weights);
  for (const PlacedUnit& placed : walk.units()) {
    if (&placed == &walk.units().back()) return ensemble.last(placed);
    const TensorKey key = placed.output();
    // Only now: a fault that asks for what is computed later has to miss it.
    if (const auto found = known.members.find(key); found != known.members.end()) {
      ensemble.take(key, known.gold.at(key), found->second);
    } else {
      ensemble.pass(placed);
    }
  }
  throw std::logic_error("evaluate_ensemble: a walk has at least one unit");
}

Ensemble ensemble_before_last(const Walk& walk, WeightStore& weights) {
  EnsembleWalk ensemble(walk, weights);
  for (const PlacedUnit& placed : walk.units()) {
    if (&placed != &walk.units().back()) ensemble.pass(placed);
  }
  return std::move(ensemble).so_far();
}

}  // namespace qdiff::reference
