#include "harness/diagnose/elements_used.h"

#include <algorithm>
#include <cmath>

#include "harness/compare/layout.h"
#include "harness/compare/sums.h"
#include "harness/contract/overlay.h"

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

std::vector<UnderBoth> under_both(const RowOracle& rows, const RowJudgement& reader, const TensorKey& key,
                                  const Tensor& right) {
  Overlay store(*reader.subject->inputs);
  store.replace(key, Tensor::copy_of(right.view()));
  Subject subject = *reader.subject;
  subject.inputs = &store;
  RowJudgement repaired = reader;
  repaired.subject = &subject;
  std::vector<UnderBoth> elements;
  if (!is_usable(repaired, rows.config())) return elements;
  const TensorView actual = reader.actual();
  const Expectation of_right = rows.evaluate(repaired, {});
  if (of_right.shape != actual.shape) return elements;
  const std::vector<double> of_recorded = rows.evaluate(reader, {}, /*with_noise=*/false).value;
  each_that_counts(repaired, actual, rows.config(), [&](std::size_t i) {
    if (!std::isfinite(of_right.value[i])) return;
    elements.push_back({load_element(actual.data, actual.dtype, i), of_right.value[i], of_recorded[i],
                        deviation_at(of_right, actual.dtype, i)});
  });
  return elements;
}

ValueUsed value_used(const std::vector<UnderBoth>& elements, const Telling& telling) {
  std::int64_t far = 0, with_right = 0, with_recorded = 0;
  for (const UnderBoth& element : elements) {
    const double apart = element.apart(), error = std::fabs(element.held - element.right);
    if (apart <= telling.far_apart * element.deviation) continue;
    ++far;
    if (!std::isfinite(element.held)) {
      with_recorded += std::isfinite(element.recorded) ? 0 : 1;
      continue;
    }
    // What is put right is known to within its own rounding, which moves its readers by a share of what apart is.
    const double allowed = std::isfinite(apart) ? telling.share_of_apart * apart : 0.0;
    with_right += error <= std::max(kBeyondRounding * element.deviation, allowed) ? 1 : 0;
    with_recorded += std::fabs(element.held - element.recorded) < error ? 1 : 0;
  }
  if (far == 0) return ValueUsed::kUnknown;
  const auto is_share = [far](std::int64_t part, double share) {
    return static_cast<double>(part) >= share * static_cast<double>(far);
  };
  if (is_share(with_recorded, telling.share_with_recorded)) return ValueUsed::kRecorded;
  return is_share(with_right, telling.share_with_right) ? ValueUsed::kRight : ValueUsed::kNeither;
}

}  // namespace qdiff::diagnose
