// A matrix that is not the file's: rounded to a 16-bit type, or to levels of 8 or 4 bits with a scale for each row, for
// each group of g inputs or for all, and dequantised, as quantising loaders do. The matrix is what right code makes of
// unit vectors, so that it is known here without the file; each way to round it says what the candidate holds, x W'^T.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "harness/explain/mechanisms.h"
#include "harness/explain/product.h"

namespace qdiff::explain {
namespace {

// [columns, width]
struct Matrix {
  std::int64_t width = 0, columns = 0;
  std::vector<double> elements;

  const double* row(std::int64_t n) const { return elements.data() + n * width; }
};

// How the levels of a group of weights lie.
enum class Levels : std::uint8_t {
  kSymmetric,  // integers, scale = largest / (2^(bits-1) - 1): bitsandbytes, ggml, ONNX
  kFull,       // integers, scale = largest / (2^(bits-1) - 1/2): torchao
  kAffine,     // from the smallest to the largest in 2^bits - 1 steps: mlx
  kZeroPoint,  // the same with 0 among them: ONNX, GPTQ, AWQ
  kE4M3,       // numbers of 4 bits of exponent and 3 of mantissa, scale = largest / 448
};

// A way to round a matrix.
struct Rounding {
  std::optional<DType> type = {};  // to this type; else to levels
  int bits = 8;
  Levels levels = Levels::kSymmetric;
  std::int64_t group = 0;  // inputs that share a scale; 0: a row, -1: the whole matrix
  DType scale = DType::kF32;

  std::string words() const {
    if (type) return "rounded to " + std::string(name(*type));
    const std::string shared = group > 0    ? "each " + std::to_string(group) + " inputs"
                               : group == 0 ? "each output"
                                            : "the whole matrix";
    const std::string what = levels == Levels::kE4M3 ? "float8_e4m3" : std::to_string(bits) + "-bit levels";
    const std::string kept = scale == DType::kF32 ? "" : " in " + std::string(name(scale));
    const bool has_zero = levels == Levels::kAffine || levels == Levels::kZeroPoint;
    return "rounded to " + what + " with a scale" + (has_zero ? " and a zero" : "") + kept + " for " + shared;
  }
};

std::vector<Rounding> roundings_of(std::int64_t width) {
  std::vector<Rounding> all = {{DType::kBF16}, {DType::kF16}};
  for (const DType scale : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const std::int64_t group : {0, -1, 32, 64, 128, 256}) {
      if (group >= width || (group > 0 && width % group != 0)) continue;
      for (const int bits : {8, 4}) {
        for (const Levels levels : {Levels::kSymmetric, Levels::kFull, Levels::kAffine, Levels::kZeroPoint}) {
          all.push_back({{}, bits, levels, group, scale});
        }
      }
      all.push_back({{}, 8, Levels::kE4M3, group, scale});
    }
  }
  return all;
}

// A rounded weight, and how far off it lies where it is the next level, for it stood in the middle of two.
struct Level {
  double value, other = 0.0;
};

// The quotient of weight and scale is one of float32, and lies on either side of the middle by its rounding.
Level nearest(double quotient, double scale, double low, double high) {
  const double rounded = std::nearbyint(quotient);
  const double from_middle = 0.5 - std::fabs(quotient - rounded);
  const double unsure = 4.0 * unit_roundoff(DType::kF32) * std::max(std::fabs(quotient), 1.0);
  return {std::clamp(rounded, low, high) * scale, from_middle < unsure ? scale : 0.0};
}

Level nearest_e4m3(double quotient, double scale) {
  constexpr int kLeastExponent = -6, kMantissaBits = 3;
  constexpr double kLargest = 448.0;
  const int exponent = quotient == 0.0 ? kLeastExponent : std::max(std::ilogb(quotient), kLeastExponent);
  const double step = std::ldexp(1.0, exponent - kMantissaBits);
  return nearest(quotient / step, scale * step, -kLargest / step, kLargest / step);
}

// A group of weights, rounded in place; `range` has the smallest and the largest that their scale is of.
struct Range {
  double smallest = std::numeric_limits<double>::infinity(), largest = -smallest;
  void add(const double* first, std::int64_t count) {
    const auto [least, most] = std::minmax_element(first, first + count);
    smallest = std::min(smallest, *least);
    largest = std::max(largest, *most);
  }
  double magnitude() const { return std::max(std::fabs(smallest), std::fabs(largest)); }
};

Level rounded(double value, const Rounding& how, Range range) {
  const double steps = std::ldexp(1.0, how.bits) - 1.0, half = std::ldexp(1.0, how.bits - 1);
  const auto scale_of = [&](double scale) { return round_to(how.scale, round_to(DType::kF32, scale)); };
  if (how.levels == Levels::kE4M3) {
    const double scale = scale_of(range.magnitude() / 448.0);
    return scale > 0.0 ? nearest_e4m3(value / scale, scale) : Level{value};
  }
  if (how.levels == Levels::kSymmetric || how.levels == Levels::kFull) {
    const double scale = scale_of(range.magnitude() / (how.levels == Levels::kFull ? half - 0.5 : half - 1.0));
    return scale > 0.0 ? nearest(value / scale, scale, -half, half - 1.0) : Level{value};
  }
  if (how.levels == Levels::kZeroPoint) {
    range.smallest = std::min(range.smallest, 0.0);
    range.largest = std::max(range.largest, 0.0);
  }
  const double scale = scale_of((range.largest - range.smallest) / steps);
  if (!(scale > 0.0)) return {value};
  const double low = how.levels == Levels::kZeroPoint ? scale * std::nearbyint(range.smallest / scale)
                                                      : round_to(how.scale, range.smallest);
  Level level = nearest((value - low) / scale, scale, 0.0, steps);
  level.value += low;
  return level;
}

// How a row of the matrix changes, [width], and in which elements by a step more or less.
struct Change {
  std::vector<double> by, unsure;
};

Change change_of(const Matrix& matrix, std::int64_t n, const Rounding& how, const Range& whole, DType kept_as) {
  const double* row = matrix.row(n);
  Change change{std::vector<double>(static_cast<std::size_t>(matrix.width)), {}};
  change.unsure.resize(change.by.size());
  const std::int64_t group = how.group > 0 ? how.group : matrix.width;
  for (std::int64_t start = 0; start < matrix.width; start += group) {
    Range range = whole;
    if (how.group >= 0) {
      range = {};
      range.add(row + start, group);
    }
    for (std::int64_t k = start; k < start + group; ++k) {
      const Level level = how.type ? Level{round_to(*how.type, row[k])} : rounded(row[k], how, range);
      change.by[static_cast<std::size_t>(k)] = round_to(kept_as, level.value) - row[k];
      change.unsure[static_cast<std::size_t>(k)] = level.other;
    }
  }
  return change;
}

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
  const Rounding* how;
  double error = 0.0;    // RMS in deviations
  double right = 0.0;    // the same of right code, in the same outputs
  double squares = 0.0;  // of what it changes, and of the matrix, in the sampled rows
  double of_matrix = 0.0;
};

Fit fit_of(Scene& scene, const Matrix& matrix, const Range& whole, const Rounding& how,
           const std::vector<SampledRow>& rows, const std::vector<std::vector<double>>& inputs) {
  constexpr std::int64_t kSampledColumns = 32;
  Fit fit{&how};
  double count = 0.0;
  const std::int64_t stride = std::max<std::int64_t>(1, matrix.columns / kSampledColumns);
  for (std::int64_t n = 0; n < matrix.columns; n += stride) {
    const std::vector<double> change = change_of(matrix, n, how, whole, scene.precision().weights).by;
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
Expectation with_changes(Scene& scene, const Instance& instance, const Matrix& matrix, const Range& whole,
                         const Rounding& how, const std::vector<double>& inputs) {
  Expectation theory = scene.right(instance);
  for (std::int64_t n = 0; n < matrix.columns; ++n) {
    const Change change = change_of(matrix, n, how, whole, scene.precision().weights);
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

Candidate with_weights(Scene& scene, const std::shared_ptr<const Matrix>& matrix, const Range& whole, const Fit& fit,
                       std::size_t choices) {
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
  Range whole;
  whole.add(matrix.elements.data(), static_cast<std::int64_t>(matrix.elements.size()));
  std::vector<std::vector<double>> inputs;
  for (const SampledRow& sampled : rows) {
    const auto x = scene.recorded(*sampled.instance, product_input(scene, *sampled.instance));
    if (!x) return candidates;
    const auto first = x->begin() + sampled.row * matrix.width;
    inputs.emplace_back(first, first + matrix.width);
  }
  const std::vector<Rounding> roundings = roundings_of(matrix.width);
  std::vector<Fit> fits;
  for (const Rounding& how : roundings) fits.push_back(fit_of(scene, matrix, whole, how, rows, inputs));
  std::ranges::stable_sort(fits, {}, &Fit::error);
  for (const Fit& fit : fits) {
    if (candidates.size() == kMostOffered || !(fit.error < kLargestShareLeft * fit.right)) break;
    if (fit.squares > 0.0) candidates.push_back(with_weights(scene, shared, whole, fit, roundings.size()));
  }
  return candidates;
}

}  // namespace qdiff::explain
