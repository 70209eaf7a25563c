// A norm with another scale or another weight. The scale of right code and of a law follow from the recorded input, so
// y = right code's * scale of the law / right scale; the weight is what right code makes of a row of ones.
#include <cmath>

#include "harness/explain/mechanisms.h"
#include "harness/explain/rows.h"

namespace qdiff::explain {
namespace {

bool is_norm(Op op) { return arithmetic_of(op) == Arithmetic::kNorm; }

// factors(x of a row) gives by what each column is multiplied beside right code.
using Factors = std::function<std::vector<double>(const double* x, std::int64_t width)>;

Candidate with_factors(Scene& scene, Candidate candidate, const TensorId& input, const Factors& factors) {
  candidate.theory.hypothesis = "H09";
  candidate.predict = [&scene, input, factors](const Instance& instance) -> std::optional<Expectation> {
    const auto x = scene.recorded(instance, {instance.key.step, input});
    if (!x) return std::nullopt;
    const Expectation& right = scene.right(instance);
    Expectation theory = blank(right);
    const compare::Layout& layout = scene.layout(instance);
    const std::int64_t width = layout.num_columns();
    const double unit = unit_roundoff(scene.precision().accumulate);
    for (std::int64_t r = 0; r < layout.num_rows(); ++r) {
      const std::vector<double> of_row = factors(x->data() + r * width, width);
      for (std::int64_t c = 0; c < width; ++c) {
        const auto i = static_cast<std::size_t>(r * width + c);
        set_scaled(theory, i, right, right.value[i] * of_row[static_cast<std::size_t>(c)], unit);
      }
    }
    return theory;
  };
  return candidate;
}

double mean_square(const double* x, std::int64_t count) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < count; ++i) sum += x[i] * x[i];
  return sum / static_cast<double>(count);
}

void add_blocks(Scene& scene, const TensorId& input, std::vector<Candidate>& candidates) {
  const double eps = scene.config().rms_norm_eps;
  const std::int64_t width = scene.layout(scene.instances().front()).num_columns();
  constexpr std::int64_t kMostBlocks = 64;
  for (std::int64_t blocks = 2; blocks <= std::min(kMostBlocks, width / 2); ++blocks) {
    if (width % blocks != 0) continue;
    const std::int64_t of_a_block = width / blocks;
    Candidate named =
        candidate_of(scene, "norm.blocks", std::log2(static_cast<double>(kMostBlocks)),
                     " takes the mean square of each " + std::to_string(of_a_block) +
                         " columns by themselves, where right code takes that of all " + std::to_string(width));
    named.theory.parameters = {{"blocks", static_cast<double>(blocks)},
                               {"columns of a block", static_cast<double>(of_a_block)}};
    const auto factors_of = [eps, blocks](const double* x, std::int64_t n) {
      std::vector<double> factors;
      const double whole = std::sqrt(mean_square(x, n) + eps);
      const std::int64_t size = n / blocks;
      for (std::int64_t b = 0; b < blocks; ++b) {
        const double own = std::sqrt(mean_square(x + b * size, size) + eps);
        factors.insert(factors.end(), static_cast<std::size_t>(size), whole / own);
      }
      return factors;
    };
    candidates.push_back(with_factors(scene, std::move(named), input, factors_of));
  }
  Candidate outside = candidate_of(scene, "norm.eps", 2.0, " adds eps to the root mean square, not to the mean square");
  outside.theory.parameters = {{"eps", std::string("outside the root")}};
  candidates.push_back(with_factors(scene, std::move(outside), input, [eps](const double* x, std::int64_t n) {
    const double square = mean_square(x, n);
    return std::vector<double>(static_cast<std::size_t>(n), std::sqrt(square + eps) / (std::sqrt(square) + eps));
  }));
}

// The same with the weight of another norm: that row of the table, evaluated on this one's input.
void add_weights(Scene& scene, const TensorId& input, std::vector<Candidate>& candidates) {
  std::vector<TensorId> others;
  for (const OperationRow& other : kOperationTable) {
    if (!is_norm(other.op)) continue;
    if (other.scope != Scope::kLayer) {
      others.push_back({other.op, kNoLayer});
    } else {
      for (int layer = 0; layer < static_cast<int>(scene.config().num_layers); ++layer)
        others.push_back({other.op, layer});
    }
  }
  for (const TensorId& other : others) {
    if (other == scene.instances().front().key.id) continue;
    Candidate candidate =
        candidate_of(scene, "norm.weight", bits_of_choice(others.size()), " takes the weight of " + tensor_name(other));
    candidate.theory.hypothesis = "H09";
    candidate.theory.parameters = {{"weight", tensor_name(other) + ".weight"}};
    candidate.predict = [&scene, input, other](const Instance& instance) -> std::optional<Expectation> {
      const TensorKey from{instance.key.step, input};
      if (!scene.is_recorded(instance, from)) return std::nullopt;
      const TensorKey key{instance.key.step, other};
      Overlay overlay(*instance.recorded);
      overlay.replace(input_keys(key, scene.config()).front(), Tensor::copy_of(instance.recorded->get(from)));
      return scene.evaluate(instance, overlay, std::span(&key, 1));
    };
    candidates.push_back(std::move(candidate));
  }
}

// The norm of the norm.
void add_twice(Scene& scene, const TensorId& input, std::vector<Candidate>& candidates) {
  Candidate candidate = candidate_of(scene, "norm.twice", 1.0, " is normalised twice");
  candidate.theory.hypothesis = "H09";
  candidate.predict = [&scene, input](const Instance& instance) -> std::optional<Expectation> {
    const Expectation& once = scene.right(instance);
    Overlay overlay(*instance.recorded);
    overlay.replace({instance.key.step, input}, Tensor::rounded(instance.actual.dtype, once.shape, once.value));
    return scene.evaluate(instance, overlay);
  };
  candidates.push_back(std::move(candidate));
}

// The weight is 1 + w, or that rounded to a 16-bit type.
void add_one_plus(Scene& scene, const TensorId& input, std::optional<DType> type, std::vector<Candidate>& candidates) {
  const std::string weight = type ? "1 + w rounded to " + std::string(name(*type)) : "1 + w";
  Candidate plus_one = candidate_of(scene, "norm.weight", (type ? 3.0 : 2.0),
                                    " multiplies by " + weight + ", where right code multiplies by w");
  plus_one.theory.hypothesis = "H09";
  plus_one.theory.parameters = {{"weight", weight}};
  plus_one.predict = [&scene, input, type](const Instance& instance) -> std::optional<Expectation> {
    const TensorKey from{instance.key.step, input};
    if (!scene.is_recorded(instance, from)) return std::nullopt;
    const TensorView x = instance.recorded->get(from);
    const auto count = static_cast<std::size_t>(num_elements(x.shape));
    Overlay ones(*instance.recorded);
    ones.replace(from, Tensor::rounded(DType::kF64, x.shape, std::vector<double>(count, 1.0)));
    const Expectation weights = scene.evaluate(instance, ones);
    const Expectation& right = scene.right(instance);
    Expectation theory = blank(right);
    const double eps = scene.config().rms_norm_eps;
    const std::vector<double> values = to_doubles(x);
    const std::int64_t width = scene.layout(instance).num_columns();
    for (std::size_t i = 0; i < count; ++i) {
      const double w = weights.value[i] * std::sqrt(1.0 + eps);
      const double* start = values.data() + static_cast<std::int64_t>(i) / width * width;
      const double normalised = values[i] / std::sqrt(mean_square(start, width) + eps);
      // The weight as it is stored: the middle between two numbers is frequent in 1 + w.
      const double sum = type ? round_to(*type, 1.0 + round_to(scene.precision().weights, w)) : 1.0 + w;
      set_scaled(theory, i, right, normalised * sum, unit_roundoff(scene.precision().accumulate));
    }
    return theory;
  };
  candidates.push_back(std::move(plus_one));
}

}  // namespace

std::vector<Candidate> recover_norm(Scene& scene) {
  std::vector<Candidate> candidates;
  const Instance& first = scene.instances().front();
  if (!is_norm(scene.op()) || first.span.size() != 1) return candidates;
  const TensorId input = input_keys(first.key, scene.config()).front().id;
  add_blocks(scene, input, candidates);
  add_twice(scene, input, candidates);
  add_weights(scene, input, candidates);
  add_one_plus(scene, input, std::nullopt, candidates);
  for (DType type : {DType::kBF16, DType::kF16}) add_one_plus(scene, input, type, candidates);
  return candidates;
}

}  // namespace qdiff::explain
