#include "harness/diagnose/elements_used.h"

#include <cmath>

#include "harness/compare/layout.h"
#include "harness/compare/sums.h"
#include "harness/diagnose/thresholds.h"

namespace qdiff::diagnose {
namespace {

double deviation_at(const Expectation& expected, DType stored, std::size_t element) {
  return compare::deviation(expected.sigma_independent[element], expected.sigma_shared[element],
                            spacing(stored, expected.value[element]));
}

// Calls look(element) for those of the row's tensor that count.
template <typename Look>
void each_that_counts(const RowJudgement& row, const TensorView& actual, const ModelConfig& config, const Look& look) {
  const compare::Layout layout(row.key.id.op, actual.shape, row.step(), config);
  for (std::int64_t r = 0; r < layout.num_rows(); ++r) {
    if (!layout.counts(r)) continue;
    for (std::int64_t i = r * layout.num_columns(); i < (r + 1) * layout.num_columns(); ++i) {
      look(static_cast<std::size_t>(i));
    }
  }
}

bool is_usable(const RowJudgement& row, const ModelConfig& config) {
  return !compare::what_is_unusable(row.span, *row.subject->inputs, row.subject->input->steps, config);
}

}  // namespace

std::optional<PutRight> put_right(const RowOracle& rows, const RowJudgement& row) {
  if (!is_usable(row, rows.config())) return std::nullopt;
  const TensorView actual = row.actual();
  const Expectation expected = rows.evaluate(row, {});
  if (expected.shape != actual.shape) return std::nullopt;  // the last row of logits alone, which nothing reads
  PutRight result{Tensor::copy_of(actual)};
  each_that_counts(row, actual, rows.config(), [&](std::size_t i) {
    const double gold = expected.value[i], recorded = load_element(actual.data, actual.dtype, i);
    if (!std::isfinite(gold)) return;  // what stands for a masked score is of many kinds
    if (std::fabs(recorded - gold) <= kClearlyWrong * deviation_at(expected, actual.dtype, i)) return;
    const auto element = static_cast<std::int64_t>(i);
    result.tensor.set(element, round_to(actual.dtype, gold));
    if (result.elements++ > 0) return;
    result.first = element;
    result.expected = gold;
  });
  return result.elements > 0 ? std::optional(std::move(result)) : std::nullopt;
}

ValueUsed value_used(const RowOracle& rows, const RowJudgement& reader, const TensorKey& key, const TensorView& right) {
  const Replaced store(*reader.subject->inputs, key, right);
  Subject subject = *reader.subject;
  subject.inputs = &store;
  RowJudgement repaired = reader;
  repaired.subject = &subject;
  const TensorView actual = reader.actual();
  if (!is_usable(repaired, rows.config())) return ValueUsed::kUnknown;
  const Expectation of_right = rows.evaluate(repaired, {});
  const std::vector<double> of_recorded = rows.evaluate(reader, {}, /*with_noise=*/false).value;
  if (of_right.shape != actual.shape) return ValueUsed::kUnknown;
  std::int64_t far = 0, with_right = 0, with_recorded = 0;
  each_that_counts(repaired, actual, rows.config(), [&](std::size_t i) {
    const double gold = of_right.value[i], other = of_recorded[i];
    const double held = load_element(actual.data, actual.dtype, i);
    const double unit = deviation_at(of_right, actual.dtype, i), apart = std::fabs(other - gold);
    if (!std::isfinite(gold) || apart <= kFarApart * unit) return;
    ++far;
    if (!std::isfinite(held)) {
      with_recorded += std::isfinite(other) ? 0 : 1;
    } else if (!std::isfinite(apart)) {
      with_right += std::fabs(held - gold) <= kBeyondRounding * unit ? 1 : 0;
    } else {
      // What is put right is known to within its own rounding, which moves its readers by a share of what apart is.
      with_right += std::fabs(held - gold) <= std::max(kBeyondRounding * unit, kShareOfApart * apart) ? 1 : 0;
      with_recorded += std::fabs(held - other) < std::fabs(held - gold) ? 1 : 0;
    }
  });
  if (far == 0) return ValueUsed::kUnknown;
  const auto is_share = [far](std::int64_t part, double share) {
    return static_cast<double>(part) >= share * static_cast<double>(far);
  };
  if (is_share(with_recorded, kShareWithRecorded)) return ValueUsed::kRecorded;
  return is_share(with_right, kShareWithRight) ? ValueUsed::kRight : ValueUsed::kNeither;
}

}  // namespace qdiff::diagnose
