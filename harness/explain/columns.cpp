// Columns with a number of their own: y = c_n * g, as where the scales of output channels are lost or another tensor's,
// or a norm's weight is; or y = g + b_n, as with the bias of another layer's file. Each column is a regression over the
// wrong rows. As much of the error as its own rows were fitted to proves nothing: each number costs the bits that the
// fit determines of it.
#include <algorithm>
#include <cmath>

#include "harness/compare/sums.h"
#include "harness/explain/mechanisms.h"
#include "harness/explain/rows.h"

namespace qdiff::explain {
namespace {

enum class OfColumn : std::uint8_t { kFactor, kOffset };

struct Column {
  double change = 0.0;    // the factor less 1, or the offset
  double variance = 0.0;  // of that
};

struct Solved {
  std::vector<Column> columns;
  double bits = 0.0;
  double smallest = HUGE_VAL, largest = -HUGE_VAL;  // change of a wrong column
  std::size_t wrong = 0;
};

// A column that is right in every row keeps right code's number, which costs nothing.
Solved solve(Scene& scene, const std::vector<SampledRow>& rows, OfColumn law) {
  const auto width = static_cast<std::size_t>(scene.layout(scene.instances().front()).num_columns());
  Solved solved{.columns = std::vector<Column>(width)};
  for (std::size_t c = 0; c < width; ++c) {
    double along = 0.0, whole = 0.0;
    bool wrong = false;
    for (const SampledRow& sampled : rows) {
      const std::size_t i = static_cast<std::size_t>(sampled.row) * width + c;
      const Expectation& right = scene.right(*sampled.instance);
      const double gold = right.value[i], actual = scene.actual(*sampled.instance)[i];
      if (!std::isfinite(gold) || !std::isfinite(actual)) continue;
      wrong |= scene.is_wrong(*sampled.instance, i);
      // The value that was stored may be far larger than right code's, and so is its last rounding.
      const double last = spacing(sampled.instance->actual.dtype, std::max(std::fabs(gold), std::fabs(actual)));
      const double deviation = compare::deviation(right.sigma_independent[i], right.sigma_shared[i], last);
      const double unknown = (law == OfColumn::kFactor ? gold : 1.0) / deviation;
      along += unknown * (actual - gold) / deviation;
      whole += unknown * unknown;
    }
    if (!wrong || !(whole > 0.0)) continue;
    Column& column = solved.columns[c];
    column = {along / whole, 1.0 / whole};
    solved.bits += 0.5 * std::log2(1.0 + column.change * column.change * whole);
    solved.smallest = std::min(solved.smallest, column.change);
    solved.largest = std::max(solved.largest, column.change);
    ++solved.wrong;
  }
  return solved;
}

Expectation expected(const Expectation& right, const std::vector<Column>& columns, OfColumn law) {
  Expectation theory = right;
  for (std::size_t i = 0; i < theory.value.size(); ++i) {
    const Column& column = columns[i % columns.size()];
    const double gold = right.value[i];
    if (column.variance == 0.0 || !std::isfinite(gold)) continue;
    const bool is_factor = law == OfColumn::kFactor;
    const double scale = is_factor ? std::fabs(1.0 + column.change) : 1.0;
    theory.value[i] += column.change * (is_factor ? gold : 1.0);
    theory.sigma_independent[i] = static_cast<float>(std::hypot(
        scale * right.sigma_independent[i], (is_factor ? std::fabs(gold) : 1.0) * std::sqrt(column.variance)));
    theory.sigma_shared[i] = static_cast<float>(scale * right.sigma_shared[i]);
  }
  return theory;
}

void add(Scene& scene, const std::vector<SampledRow>& rows, OfColumn law, const std::string& hypothesis,
         std::vector<Candidate>& candidates) {
  Solved solved = solve(scene, rows, law);
  constexpr std::size_t kLeastColumns = 8;  // of fewer a constant says less than where it comes from
  if (solved.wrong < kLeastColumns) return;
  const bool is_factor = law == OfColumn::kFactor;
  const double base = is_factor ? 1.0 : 0.0;
  const std::string from = number_text(base + solved.smallest), to = number_text(base + solved.largest);
  Candidate candidate = candidate_of(scene, is_factor ? "columns.factor" : "columns.offset", 1.0 + solved.bits,
                                     (is_factor ? " is right code's times a factor of each column's own, "
                                                : " is right code's and a constant of each column's own, ") +
                                         from + " to " + to);
  candidate.theory.hypothesis = hypothesis;
  candidate.theory.parameters = {{"smallest", base + solved.smallest}, {"largest", base + solved.largest}};
  candidate.predict = [&scene, columns = std::move(solved.columns),
                       law](const Instance& instance) -> std::optional<Expectation> {
    return expected(scene.right(instance), columns, law);
  };
  candidates.push_back(std::move(candidate));
}

}  // namespace

std::vector<Candidate> recover_columns(Scene& scene) {
  std::vector<Candidate> candidates;
  constexpr std::size_t kSampled = 64, kLeast = 4;  // with fewer rows more than a quarter of each column is fitted
  const Arithmetic arithmetic = arithmetic_of(scene.op());
  const std::vector<SampledRow> rows = sample_wrong_rows(scene, kSampled);
  if (rows.size() < kLeast || scene.right(*rows.front().instance).sigma_independent.empty()) return candidates;
  if (arithmetic == Arithmetic::kNorm) add(scene, rows, OfColumn::kFactor, "H09", candidates);
  if (arithmetic == Arithmetic::kProduct) add(scene, rows, OfColumn::kFactor, "H07", candidates);
  if (arithmetic == Arithmetic::kProduct || arithmetic == Arithmetic::kBias) {
    add(scene, rows, OfColumn::kOffset, arithmetic == Arithmetic::kBias ? "H06" : "H07", candidates);
  }
  return candidates;
}

}  // namespace qdiff::explain
