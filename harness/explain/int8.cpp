// A cache kept in 8 bits: codes = round(x / a) with a = max |x| / 127 for each slot and head, and each vector handed
// out as codes * a, or as the bare codes where the scale was lost. Which of the two a wrong vector is, is read off the
// candidate and costs a bit; so does that it is one at all.
#include <algorithm>
#include <cmath>
#include <set>

#include "harness/explain/mechanisms.h"
#include "harness/explain/rows.h"

namespace qdiff::explain {
namespace {

constexpr double kLargestCode = 127.0;

struct Vector {
  std::size_t start;
  std::int64_t slot;
  bool bare = false;
};

// x / a rounded to a whole number, times the scale or not.
std::vector<double> quantised(const double* x, std::int64_t width, bool bare) {
  double largest = 0.0;
  for (std::int64_t i = 0; i < width; ++i) largest = std::max(largest, std::fabs(x[i]));
  const double scale = round_to(DType::kF32, largest / kLargestCode);
  std::vector<double> values(x, x + width);
  if (!(scale > 0.0)) return values;
  for (double& value : values) value = std::nearbyint(value / scale) * (bare ? 1.0 : scale);
  return values;
}

double error_of(const double* actual, const std::vector<double>& expected) {
  double sum = 0.0;
  for (std::size_t i = 0; i < expected.size(); ++i) sum += std::fabs(actual[i] - expected[i]);
  return sum;
}

std::string slots_text(const std::set<std::int64_t>& slots) {
  const std::string first = std::to_string(*slots.begin()), last = std::to_string(*slots.rbegin());
  const auto count = static_cast<std::int64_t>(slots.size());
  if (count == 1) return "slot " + first;
  return (*slots.rbegin() - *slots.begin() + 1 == count ? "slots " : "slots among ") + first + ".." + last;
}

}  // namespace

std::vector<Candidate> recover_int8(Scene& scene) {
  std::vector<Candidate> candidates;
  if (!is_cache(scene.op())) return candidates;
  std::map<const Instance*, std::vector<Vector>> vectors;
  std::set<std::int64_t> bare, scaled;
  double bits = 0.0;
  const std::int64_t width = scene.config().head_dim;
  for (const Instance& instance : scene.instances()) {
    const Expectation& right = scene.right(instance);
    const std::vector<double>& actual = scene.actual(instance);
    const compare::Layout& layout = scene.layout(instance);
    const std::int64_t heads = layout.num_columns() / width;
    for (std::int64_t r : scene.real_rows(instance)) {
      for (std::int64_t h = 0; h < heads; ++h) {
        const auto start = static_cast<std::size_t>((r * heads + h) * width);
        bits += 1.0;
        if (std::equal(actual.begin() + static_cast<std::ptrdiff_t>(start),
                       actual.begin() + static_cast<std::ptrdiff_t>(start) + width,
                       right.value.begin() + static_cast<std::ptrdiff_t>(start))) {
          continue;
        }
        const double* x = right.value.data() + start;
        const double* y = actual.data() + start;
        const bool is_bare = error_of(y, quantised(x, width, true)) < error_of(y, quantised(x, width, false));
        bits += 1.0;
        vectors[&instance].push_back({start, layout.position_of(r), is_bare});
        (is_bare ? bare : scaled).insert(layout.position_of(r));
      }
    }
  }
  if (vectors.empty()) return candidates;
  Candidate candidate =
      candidate_of(scene, "memory.int8", bits, " is kept in int8 with a scale for each slot and head");
  if (bare.empty()) {  // an honest rounding
    candidate.theory.points = {{RoundingPoint::kKvCache, DType::kF32, QuantizedInputs::kNone, QuantizedCache::kInt8}};
  }
  if (!scaled.empty()) candidate.theory.parameters.emplace_back("with their scale", slots_text(scaled));
  if (!bare.empty()) {
    candidate.theory.parameters.emplace_back("without their scale", slots_text(bare));
    candidate.theory.sentence += ", and " + slots_text(bare) + " hold the codes without it: a constant ratio in each";
  }
  candidate.predict = [&scene, vectors, width](const Instance& instance) -> std::optional<Expectation> {
    const Expectation& right = scene.right(instance);
    Expectation theory = blank(right);
    theory.unknown.assign(right.value.size(), 1);
    const auto found = vectors.find(&instance);
    if (found == vectors.end()) return theory;
    // The scale and the product are rounded once each in float32.
    const double unit = 2.0 * unit_roundoff(DType::kF32);
    for (const Vector& vector : found->second) {
      const std::vector<double> values = quantised(right.value.data() + vector.start, width, vector.bare);
      for (std::size_t i = 0; i < values.size(); ++i) {
        theory.value[vector.start + i] = values[i];
        theory.sigma_independent[vector.start + i] = static_cast<float>(unit * std::fabs(values[i]));
        theory.unknown[vector.start + i] = 0;
      }
    }
    return theory;
  };
  candidates.push_back(std::move(candidate));
  return candidates;
}

}  // namespace qdiff::explain
