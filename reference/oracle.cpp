#include <algorithm>
#include <array>
#include <stdexcept>

#include "reference/arithmetic/product.h"
#include "reference/emulation.h"
#include "reference/ensemble.h"
#include "reference/reference.h"
#include "reference/right_values.h"
#include "reference/walk.h"

namespace qdiff::reference {
namespace {

// Rows before the target that an engine of this precision passes on without rounding them.
bool passes_on_exactly(const PlacedUnit& placed, const Precision& precision, const ModelConfig& config) {
  const bool embedding_is_rounded =
      facts(precision.weights).significant_bits > facts(precision.activations).significant_bits;
  const Unit& unit = placed.unit;
  return unit.first == unit.last && only_moves(unit.last, config) &&
         !(unit.last == Op::kEmbedTokens && embedding_is_rounded);
}

// Noise of inputs that the candidate used before it rounded the copy that it handed out; for a projection
// Var(y) = sum_k Var(x_k) W_k^2.
at::Tensor input_variance(const Walk& walk, const PlacedUnit& placed, const at::Tensor& input, WeightStore& weights) {
  const TensorKey key = inputs_of(placed, weights.config())[0].key;
  const at::Tensor variance = rounding_variance(*walk.rounded_after_use(key), input).to(at::kFloat);
  const WeightForm form = {walk.query().precision.weights, at::kFloat, true};
  const std::string name = weight_name({placed.unit.first, placed.layer}, 0, weights.config());
  return project(variance, name, form, weights).to(at::kDouble);
}

class TorchOracle : public Oracle {
 public:
  explicit TorchOracle(const WeightSource& weights) : weights_(weights) {}

  const ModelConfig& config() const override { return weights_.config(); }
  const std::vector<VariantFacts>& catalogue() const override { return catalogue_; }

  Expectation evaluate(const Query& query) override {
    const WithoutAutograd without_autograd;
    try {
      return expectation_of(query);
    } catch (const MissingTensor& missing) {
      throw NotEvaluable("it needs " + std::string(missing.what()));
    }
  }

  std::vector<Expectation> evaluate_all(std::span<const Query> queries) override {
    const WithoutAutograd without_autograd;
    const Rounding gold = queries.empty() ? Rounding::gold({}) : Rounding::gold(queries.front().precision);
    std::vector<Walk> walks;
    for (const Query& query : queries) walks.emplace_back(query, gold, weights_);
    if (walks.empty() || !are_one_projection(walks)) return Oracle::evaluate_all(queries);
    return expectations_of_one_projection(walks);
  }

  std::vector<double> emulate(const Query& query) override {
    const WithoutAutograd without_autograd;
    const Rounding rounding = Rounding::emulated(query.precision, query.divides_last);
    try {
      const Walk walk(query, rounding, weights_);
      return to_vector(round_to(query.stored, right_values_.target(walk, rounding)));
    } catch (const MissingTensor& missing) {
      throw NotEvaluable("it needs " + std::string(missing.what()));
    }
  }

 private:
  Expectation expectation_of(const Query& query) {
    const Rounding gold = Rounding::gold(query.precision);
    const Walk walk(query, gold, weights_);
    Expectation expectation;
    if (!query.with_noise) {
      const at::Tensor value = right_values_.target(walk, gold);
      expectation.shape = value.sizes().vec();
      expectation.value = to_vector(value);
      return expectation;
    }
    bool exact = false;
    Evaluated target = evaluate_gold(walk, exact);
    std::vector<std::uint8_t> unknown;
    if (query.variant != nullptr) unknown = take_out_unknown(target);
    expectation = as_expectation(target, query.precision);
    expectation.unknown = std::move(unknown);
    expectation.exact = exact;
    return expectation;
  }

  static Expectation as_expectation(const Evaluated& target, const Precision& precision) {
    Expectation expectation;
    expectation.shape = target.value.sizes().vec();
    expectation.value = to_vector(target.value);
    // Near zero the spacing of numbers has a floor, and so has the error. A masked probability is 0 without error.
    const double floor = spacing(precision.accumulate, 0.0);
    const at::Tensor sigma = target.noise.independent.expand_as(target.value).sqrt();
    expectation.sigma_independent =
        to_float_vector(at::where(sigma.gt(0.0), sigma.clamp_min(floor), at::zeros({}, sigma.options())));
    expectation.sigma_shared = to_float_vector(target.noise.shared.expand_as(target.value).sqrt());
    return expectation;
  }

  // Marks the elements of which nothing is expected, and leaves zeros there.
  static std::vector<std::uint8_t> take_out_unknown(Evaluated& target) {
    const at::Tensor unknown = at::isposinf(target.noise.independent).expand_as(target.value);
    if (!unknown.any().item<bool>()) return {};
    target.noise.independent = target.noise.independent.expand_as(target.value).masked_fill(unknown, 0.0);
    target.noise.shared = target.noise.shared.expand_as(target.value).masked_fill(unknown, 0.0);
    target.value = target.value.masked_fill(unknown, 0.0);
    const at::Tensor bytes = unknown.to(at::kCPU, at::kByte).contiguous();
    const std::uint8_t* data = bytes.const_data_ptr<std::uint8_t>();
    return {data, data + bytes.numel()};
  }

  bool are_one_projection(const std::vector<Walk>& walks) const {
    const Query& first = walks.front().query();
    const PlacedUnit& unit = walks.front().units().front();
    return arithmetic_of(unit.unit.first) == Arithmetic::kProduct && std::ranges::all_of(walks, [&](const Walk& walk) {
             const Query& query = walk.query();
             const PlacedUnit& other = walk.units().front();
             return walk.units().size() == 1 && other.unit.first == unit.unit.first &&
                    other.unit.last == unit.unit.last && other.layer == unit.layer && query.variant == nullptr &&
                    query.mistakes.empty() && query.with_noise && query.stored == first.stored &&
                    query.precision == first.precision && !walk.rounded_after_use(inputs_of(other, config())[0].key);
           });
  }

  // Each row of the input gives a row of the output, whichever query it is of. Logits are taken some rows at a time, so
  // that they and their noise never stand whole in the memory of a GPU.
  std::vector<Expectation> expectations_of_one_projection(const std::vector<Walk>& walks) {
    constexpr std::int64_t kOutputsAtOnce = std::int64_t{1} << 27;  // 1 GiB in fp64
    const PlacedUnit& placed = walks.front().units().front();
    const std::int64_t width = weights_.shape(weight_name({placed.unit.first, placed.layer}, 0, config()))[0];
    std::vector<at::Tensor> rows;
    std::vector<Expectation> expectations;
    for (const Walk& walk : walks) {
      const at::Tensor input = gather_inputs(walk, walk.units().front(), {}, config())[0];
      rows.push_back(input.flatten(0, 1));
      expectations.emplace_back().shape = {input.size(0), input.size(1), width};
    }
    const at::Tensor all = at::cat(rows);
    const std::int64_t at_once = std::max<std::int64_t>(1, kOutputsAtOnce / width);
    for (std::int64_t first = 0; first < all.size(0); first += at_once) {
      const std::int64_t count = std::min(at_once, all.size(0) - first);
      const std::array inputs = {all.narrow(0, first, count).unsqueeze(0)};
      const Evaluated together = evaluate_unit_with_noise(
          placed.unit, inputs, walks.front().setting(placed, 1, nullptr), walks.front().query().stored);
      std::int64_t begin = 0;  // of the query's rows
      for (std::size_t q = 0; q < rows.size(); ++q) {
        const std::int64_t end = begin + rows[q].size(0);
        const std::int64_t from = std::max(begin, first), until = std::min(end, first + count);
        begin = end;
        if (from >= until) continue;
        const auto part = [&](const at::Tensor& x) {
          return x.expand_as(together.value).narrow(1, from - first, until - from);
        };
        append(as_expectation({part(together.value), {part(together.noise.independent), part(together.noise.shared)}},
                              walks.front().query().precision),
               expectations[q]);
      }
    }
    return expectations;
  }

  // Rows behind those that `whole` has; the first ones are moved there.
  static void append(Expectation part, Expectation& whole) {
    const auto add = [&](auto& from, auto& to) {
      if (to.empty()) {
        to = std::move(from);
        to.reserve(static_cast<std::size_t>(num_elements(whole.shape)));
      } else {
        to.insert(to.end(), from.begin(), from.end());
      }
    };
    add(part.value, whole.value);
    add(part.sigma_independent, whole.sigma_independent);
    add(part.sigma_shared, whole.sigma_shared);
  }

  Evaluated evaluate_gold(const Walk& walk, bool& exact) {
    const std::vector<PlacedUnit>& units = walk.units();
    const PlacedUnit& last = units.back();
    const bool one_step_of_rounding =
        walk.query().mistakes.empty() && std::all_of(units.begin(), units.end() - 1, [&](const PlacedUnit& placed) {
          return passes_on_exactly(placed, walk.query().precision, config());
        });
    if (!one_step_of_rounding) {
      const Evaluated from_ensemble = evaluate_ensemble(walk, weights_, right_values_.unreached_ensemble(walk));
      return narrowed_to_emulations(from_ensemble, walk, weights_);
    }
    exact = last.unit.first == last.unit.last && only_moves(last.unit.last, config());

    bool noisy_inputs = false;
    if (!exact) {
      for (const PlacedUnit& placed : units) {
        for (const UnitInput& input : inputs_of(placed, config())) {
          const bool computed =
              std::ranges::any_of(units, [&](const PlacedUnit& other) { return other.output() == input.key; });
          noisy_inputs |= !computed && input.exists && walk.rounded_after_use(input.key).has_value();
        }
      }
    }
    const bool projection = units.size() == 1 && arithmetic_of(last.unit.first) == Arithmetic::kProduct;
    if (noisy_inputs && !projection) return evaluate_ensemble(walk, weights_);

    Values computed;
    const WalkSurroundings around(walk, computed);
    for (const PlacedUnit& placed : units) {
      const std::vector<at::Tensor> inputs = gather_inputs(walk, placed, computed, config());
      const Setting setting = walk.setting(placed, 1, &around);
      if (&placed != &last) {
        computed.emplace(placed.output(), evaluate_unit(placed.unit, inputs, setting));
        continue;
      }
      Evaluated target = evaluate_unit_with_noise(placed.unit, inputs, setting, walk.query().stored);
      if (noisy_inputs)
        target.noise.independent = target.noise.independent + input_variance(walk, placed, inputs[0], weights_);
      return target;
    }
    throw std::logic_error("evaluate: a walk has at least one unit");
  }

  WeightStore weights_;
  RightValues right_values_{weights_};
  std::vector<VariantFacts> catalogue_ = faults_of(config());
};

}  // namespace

std::unique_ptr<Oracle> make_oracle(const WeightSource& weights, const Options& options) {
  use_threads(options.num_threads, weights.config());
  use_device(options.where, weights.config());
  keep_freed_memory();
  return std::make_unique<TorchOracle>(weights);
}

}  // namespace qdiff::reference
