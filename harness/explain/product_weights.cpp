// A matrix that is not the file's: rounded to a 16-bit type, or to levels of 8 or 4 bits with a scale for each row, for
// each group of g inputs or for all, and dequantised, as quantising loaders do. The matrix is what right code makes of
// unit vectors, so that it is known here without the file; each way to round it says what the candidate holds, x W'^T.
#include <algorithm>
#include <cmath>
#include <memory>
#include <span>

#include "harness/explain/mechanisms.h"
#include "harness/explain/product.h"
#include "harness/explain/weight_levels.h"

namespace qdiff::explain {
namespace {

// [columns, width]
struct Matrix {
  std::int64_t width = 0, columns = 0;
  std::vector<double> elements;

  const double* row(std::int64_t n) const { return elements.data() + n * width; }
  std::span<const double> weights_of(std::int64_t n) const { return {row(n), static_cast<std::size_t>(width)}; }
};

// What right code makes of unit vectors, less what it makes of zeros.
Matrix matrix_of(Scene& scene, const Instance& instance) {
  constexpr std::int64_t kMostAtOnce = 512;
  const TensorKey input = product_input(scene, instance);
  Matrix matrix{instance.recorded->get(input).shape.back(), scene.layout(instance).num_columns(), {}};
  matrix.elements.resize(static_cast<std::size_t>(matrix.width * matrix.columns));
  for (std::int64_t first = 0; first < matrix.width; first += kMostAtOnce) {
    const std::int64_t count = std::min(kMostAtOnce, matrix.width - first);
    std::vector<Step> steps = *instance.steps;
    Step& step = steps[static_cast<std::size_t>(instance.key.step)];
    step.past_length = 0;
    step.left_padding = {0};
    step.tokens.assign(1, std::vector<std::int32_t>(static_cast<std::size_t>(count + 1)));
    set_default_positions(step);
    Tensor units(DType::kF64, {1, count + 1, matrix.width});
    for (std::int64_t i = 0; i < count; ++i) units.set(i * matrix.width + first + i, 1.0);
    Overlay overlay(*instance.recorded);
    overlay.replace(input, std::move(units));
    const std::vector<double> made = scene.value(instance, overlay, instance.span, &steps);
    for (std::int64_t i = 0; i < count; ++i) {
      for (std::int64_t n = 0; n < matrix.columns; ++n) {
        matrix.elements[static_cast<std::size_t>(n * matrix.width + first + i)] =
            made[static_cast<std::size_t>(i * matrix.columns + n)] -
            made[static_cast<std::size_t>(count * matrix.columns + n)];
      }
    }
  }
  return matrix;
}

double dot(const double* a, const double* b, std::int64_t count) {
  double sum = 0.0;
  for (std::int64_t k = 0; k < count; ++k) sum += a[k] * b[k];
  return sum;
}

// A way to round, held against some outputs of some wrong rows.
struct Fit {
  const WeightRounding* how;
  double error = 0.0;    // RMS in deviations
  double right = 0.0;    // the same of right code, in the same outputs
  double squares = 0.0;  // of what it changes, and of the matrix, in the sampled rows
  double of_matrix = 0.0;
};

Fit fit_of(Scene& scene, const Matrix& matrix, const WeightRange& whole, const WeightRounding& how,
           const std::vector<SampledRow>& rows, const std::vector<std::vector<double>>& inputs) {
  constexpr std::int64_t kSampledColumns = 32;
  Fit fit{&how};
  double count = 0.0;
  const std::int64_t stride = std::max<std::int64_t>(1, matrix.columns / kSampledColumns);
  for (std::int64_t n = 0; n < matrix.columns; n += stride) {
    const std::vector<double> change =
        change_by_rounding(matrix.weights_of(n), how, whole, scene.precision().weights).by;
    fit.squares += dot(change.data(), change.data(), matrix.width);
    fit.of_matrix += dot(matrix.row(n), matrix.row(n), matrix.width);
    for (std::size_t r = 0; r < rows.size(); ++r) {
      const Instance& instance = *rows[r].instance;
      const auto i = static_cast<std::size_t>(rows[r].row * matrix.columns + n);
      const Expectation& right = scene.right(instance);
      const double deviation =
          std::hypot(right.sigma_independent[i], right.sigma_shared[i], spacing(instance.actual.dtype, right.value[i]));
      const double of_right = scene.actual(instance)[i] - right.value[i];
      const double error = of_right - dot(change.data(), inputs[r].data(), matrix.width);
      if (!std::isfinite(error)) continue;
      fit.error += error * error / (deviation * deviation);
      fit.right += of_right * of_right / (deviation * deviation);
      count += 1.0;
    }
  }
  fit.error = count > 0.0 ? std::sqrt(fit.error / count) : HUGE_VAL;
  fit.right = std::sqrt(fit.right / std::max(count, 1.0));
  return fit;
}

// A scale is rounded to float32, and so are the weights of its group with it: the part of a product that they have.
double deviation_of_scales(const double* row, const std::vector<double>& by, const double* x, std::int64_t group) {
  double squares = 0.0;
  for (std::size_t start = 0; start < by.size(); start += static_cast<std::size_t>(group)) {
    double part = 0.0;
    for (std::size_t k = start; k < start + static_cast<std::size_t>(group); ++k) part += (row[k] + by[k]) * x[k];
    squares += part * part;
  }
  return 2.0 * unit_roundoff(DType::kF32) * std::sqrt(squares);
}

// Right code's value and what the change of the weights makes of the input, with its error where a weight may be the
// next level.
Expectation with_changes(Scene& scene, const Instance& instance, const Matrix& matrix, const WeightRange& whole,
                         const WeightRounding& how, const std::vector<double>& inputs) {
  Expectation theory = scene.right(instance);
  for (std::int64_t n = 0; n < matrix.columns; ++n) {
    const WeightChange change = change_by_rounding(matrix.weights_of(n), how, whole, scene.precision().weights);
    std::vector<std::size_t> unsure;
    for (std::size_t k = 0; k < change.unsure.size(); ++k) {
      if (change.unsure[k] > 0.0) unsure.push_back(k);
    }
    for (auto i = static_cast<std::size_t>(n), r = std::size_t{0}; i < theory.value.size();
         i += static_cast<std::size_t>(matrix.columns), ++r) {
      const double* x = inputs.data() + r * static_cast<std::size_t>(matrix.width);
      theory.value[i] += dot(change.by.data(), x, matrix.width);
      double deviation = theory.sigma_independent[i];
      if (!how.type) {
        const std::int64_t group = how.group > 0 ? how.group : matrix.width;
        deviation = std::hypot(deviation, deviation_of_scales(matrix.row(n), change.by, x, group));
      }
      for (std::size_t k : unsure) deviation = std::hypot(deviation, change.unsure[k] * x[k]);
      theory.sigma_independent[i] = static_cast<float>(deviation);
    }
  }
  return theory;
}

Candidate with_weights(Scene& scene, const std::shared_ptr<const Matrix>& matrix, const WeightRange& whole,
                       const Fit& fit, std::size_t choices) {
  const double percent = 100.0 * std::sqrt(fit.squares / fit.of_matrix);
  const double digit = std::pow(10.0, std::floor(std::log10(percent)));
  const std::string apart = number_text(std::round(percent / digit) * digit) + " %";
  Candidate candidate =
      candidate_of(scene, "product.weights", bits_of_choice(choices),
                   ": the engine's weights are not the file's, but " + fit.how->words() + ", " + apart + " apart");
  candidate.theory.parameters = {{"weights", fit.how->words()}, {"apart", apart}};
  candidate.predict = [&scene, matrix, whole, how = *fit.how](const Instance& instance) -> std::optional<Expectation> {
    const auto x = scene.recorded(instance, product_input(scene, instance));
    if (!x) return std::nullopt;
    return with_changes(scene, instance, *matrix, whole, how, *x);
  };
  return candidate;
}

}  // namespace

std::vector<Candidate> recover_product_weights(Scene& scene) {
  constexpr std::size_t kSampledRows = 16;
  constexpr double kLargestShareLeft = 0.5;  // of right code's error
  // Where outputs are stored in 16 bits, the sampled ones do not tell a scale in float32 from one in 16 bits.
  constexpr std::size_t kMostOffered = 3;
  std::vector<Candidate> candidates;
  if (!is_product(scene)) return candidates;
  const std::vector<SampledRow> rows = sample_wrong_rows(scene, kSampledRows);
  if (rows.empty() || scene.right(*rows.front().instance).sigma_independent.empty()) return candidates;
  // The candidates share it: it is as large as the file's.
  const auto shared = std::make_shared<const Matrix>(matrix_of(scene, *rows.front().instance));
  const Matrix& matrix = *shared;
  WeightRange whole;
  whole.add(matrix.elements);
  std::vector<std::vector<double>> inputs;
  for (const SampledRow& sampled : rows) {
    const auto x = scene.recorded(*sampled.instance, product_input(scene, *sampled.instance));
    if (!x) return candidates;
    const auto first = x->begin() + sampled.row * matrix.width;
    inputs.emplace_back(first, first + matrix.width);
  }
  const std::vector<WeightRounding> roundings = roundings_of(matrix.width);
  std::vector<Fit> fits;
  for (const WeightRounding& how : roundings) fits.push_back(fit_of(scene, matrix, whole, how, rows, inputs));
  std::ranges::stable_sort(fits, {}, &Fit::error);
  for (const Fit& fit : fits) {
    if (candidates.size() == kMostOffered || !(fit.error < kLargestShareLeft * fit.right)) break;
    if (fit.squares > 0.0) candidates.push_back(with_weights(scene, shared, whole, fit, roundings.size()));
  }
  return candidates;
}

}  // namespace qdiff::explain
