// Weights that are off by a constant in each group of g inputs (a zero point, an offset of a quantised block): the
// error of a product is then linear in the sums of the input over the groups, error[r, c] = sum_j s[r, j] delta[c, j].
// Least squares for each column, the largest group first. As much of the error as its own rows were fitted to proves
// nothing: the constants cost the bits that the fit determines of them.
#include <cmath>

#include "harness/explain/least_squares.h"
#include "harness/explain/mechanisms.h"
#include "harness/explain/product.h"

namespace qdiff::explain {
namespace {

std::vector<double> group_sums(const std::vector<double>& x, std::int64_t row, std::int64_t width, std::int64_t group) {
  std::vector<double> sums(static_cast<std::size_t>(width / group));
  for (std::int64_t k = 0; k < width; ++k) {
    sums[static_cast<std::size_t>(k / group)] += x[static_cast<std::size_t>(row * width + k)];
  }
  return sums;
}

struct Fitted {
  std::vector<double> delta;           // [groups, columns]
  std::vector<double> pseudo_inverse;  // [groups, rows]
  std::vector<double> variance;        // [rows, columns] of what was fitted
  double bits = 0.0;
  double left = 0.0;  // RMS in deviations, degrees of freedom taken off
};

std::optional<Fitted> fit_groups(Scene& scene, const std::vector<SampledRow>& rows, std::int64_t width,
                                 std::int64_t group) {
  const auto groups = static_cast<std::size_t>(width / group);
  const std::int64_t columns = scene.layout(scene.instances().front()).num_columns();
  std::vector<double> a, b;
  for (const SampledRow& sampled : rows) {
    const auto x = scene.recorded(*sampled.instance, product_input(scene, *sampled.instance));
    if (!x) return std::nullopt;
    const std::vector<double> sums = group_sums(*x, sampled.row, width, group);
    a.insert(a.end(), sums.begin(), sums.end());
    const Expectation& right = scene.right(*sampled.instance);
    const std::vector<double>& actual = scene.actual(*sampled.instance);
    for (std::int64_t c = 0; c < columns; ++c) {
      const auto i = static_cast<std::size_t>(sampled.row * columns + c);
      if (!std::isfinite(actual[i])) return std::nullopt;
      b.push_back(actual[i] - right.value[i]);
    }
  }
  auto delta = least_squares(a, b, rows.size(), groups, static_cast<std::size_t>(columns));
  if (!delta) return std::nullopt;
  std::vector<double> identity(rows.size() * rows.size());
  for (std::size_t r = 0; r < rows.size(); ++r) identity[r * rows.size() + r] = 1.0;
  auto pseudo_inverse = least_squares(a, std::move(identity), rows.size(), groups, rows.size());
  if (!pseudo_inverse) return std::nullopt;
  Fitted fitted{std::move(*delta), std::move(*pseudo_inverse), {}, 0.0, 0.0};
  std::vector<double> noise(static_cast<std::size_t>(columns));
  for (std::size_t r = 0; r < rows.size(); ++r) {
    const Expectation& right = scene.right(*rows[r].instance);
    for (std::int64_t c = 0; c < columns; ++c) {
      double error = b[r * static_cast<std::size_t>(columns) + static_cast<std::size_t>(c)];
      for (std::size_t j = 0; j < groups; ++j) {
        error -= a[r * groups + j] * fitted.delta[j * static_cast<std::size_t>(columns) + static_cast<std::size_t>(c)];
      }
      const auto i = static_cast<std::size_t>(rows[r].row * columns + c);
      // The value that was stored may be far larger than right code's, and so is its last rounding.
      const double stored = spacing(rows[r].instance->actual.dtype, scene.actual(*rows[r].instance)[i]);
      const double deviation = std::hypot(right.sigma_independent[i], stored / std::sqrt(12.0));
      fitted.left += error * error / (deviation * deviation);
      fitted.variance.push_back(deviation * deviation);
      noise[static_cast<std::size_t>(c)] += deviation * deviation / static_cast<double>(rows.size());
    }
  }
  fitted.left = std::sqrt(fitted.left / (static_cast<double>(columns) * static_cast<double>(rows.size() - groups)));
  for (std::size_t j = 0; j < groups; ++j) {
    double squares = 0.0;
    for (std::size_t r = 0; r < rows.size(); ++r) squares += a[r * groups + j] * a[r * groups + j];
    for (std::size_t c = 0; c < static_cast<std::size_t>(columns); ++c) {
      const double size = fitted.delta[j * static_cast<std::size_t>(columns) + c];
      fitted.bits += 0.5 * std::log2(1.0 + size * size * squares / noise[c]);
    }
  }
  return fitted;
}

}  // namespace

std::vector<Candidate> recover_product_groups(Scene& scene) {
  std::vector<Candidate> candidates;
  if (!is_product(scene)) return candidates;
  const std::vector<SampledRow> rows = sample_wrong_rows(scene, 64);
  if (rows.size() < 4 || scene.right(*rows[0].instance).sigma_independent.empty()) return candidates;
  const TensorView input = rows[0].instance->recorded->get(product_input(scene, *rows[0].instance));
  const std::int64_t width = input.shape.back();
  std::vector<std::int64_t> sizes;
  for (std::int64_t group = width; group >= 2; --group) {
    // Twice as many rows as unknowns, so that half of each column is not fitted.
    if (width % group == 0 && static_cast<std::size_t>(width / group) * 2 <= rows.size()) sizes.push_back(group);
  }
  std::int64_t group = 0;
  std::optional<Fitted> best;
  for (std::int64_t size : sizes) {
    auto fitted = fit_groups(scene, rows, width, size);
    constexpr double kClearlyNearer = 0.5;  // a finer group has to take away half of what is left
    if (!fitted || (best && !(fitted->left < kClearlyNearer * best->left))) continue;
    best = std::move(fitted);
    group = size;
  }
  if (!best) return candidates;
  Candidate candidate = candidate_of(scene, "product.groups", bits_of_choice(sizes.size()) + best->bits,
                                     " is linear in its input: its weights are off by a constant in each group of " +
                                         std::to_string(group) + " inputs");
  candidate.theory.hypothesis = "H07";
  candidate.theory.parameters = {{"group", static_cast<double>(group)}};
  candidate.predict = [&scene, fitted = *best, group, width](const Instance& instance) -> std::optional<Expectation> {
    const auto x = scene.recorded(instance, product_input(scene, instance));
    if (!x) return std::nullopt;
    Expectation theory = scene.right(instance);
    const auto columns = static_cast<std::size_t>(theory.shape.back());
    const auto groups = static_cast<std::size_t>(width / group);
    const std::size_t fitted_rows = fitted.pseudo_inverse.size() / groups;
    for (std::size_t r = 0; r < theory.value.size() / columns; ++r) {
      const std::vector<double> sums = group_sums(*x, static_cast<std::int64_t>(r), width, group);
      std::vector<double> weights(fitted_rows);  // (t P)^2
      for (std::size_t f = 0; f < fitted_rows; ++f) {
        for (std::size_t j = 0; j < groups; ++j) weights[f] += sums[j] * fitted.pseudo_inverse[j * fitted_rows + f];
        weights[f] *= weights[f];
      }
      for (std::size_t c = 0; c < columns; ++c) {
        double beside = 0.0;
        for (std::size_t j = 0; j < groups; ++j) beside += sums[j] * fitted.delta[j * columns + c];
        double variance = 0.0;
        for (std::size_t f = 0; f < fitted_rows; ++f) variance += weights[f] * fitted.variance[f * columns + c];
        const std::size_t i = r * columns + c;
        theory.value[i] += beside;
        theory.sigma_independent[i] = static_cast<float>(std::hypot(theory.sigma_independent[i], std::sqrt(variance)));
      }
    }
    return theory;
  };
  candidates.push_back(std::move(candidate));
  return candidates;
}

}  // namespace qdiff::explain
