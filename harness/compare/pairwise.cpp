#include "harness/compare/pairwise.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <stdexcept>

#include "harness/compare/decode.h"
#include "harness/compare/layout.h"

namespace qdiff::compare {
namespace {

// A tensor as rows of which each belongs to one token or cache slot of one sequence.
class Rows {
 public:
  Rows(Op op, const Shape& shape) : op_(op), shape_(shape) {
    const auto dims = row(op).shape;
    const auto has = [](Dim wanted) { return [wanted](Dim dim) { return dim == wanted; }; };
    auto position = std::ranges::find_if(dims, has(Dim::kT));
    is_cache_ = position == dims.end();
    if (is_cache_) position = std::ranges::find_if(dims, has(Dim::kS));
    position_dim_ = static_cast<std::size_t>(position - dims.begin());
    const bool has_rank = shape.size() == dims.size();
    for (std::size_t d = has_rank ? position_dim_ + 1 : shape.size(); d < shape.size(); ++d) num_columns_ *= shape[d];
    for (std::size_t d = 1; has_rank && d < position_dim_; ++d) num_heads_ *= shape[d];
    positions_ = has_rank ? shape[position_dim_] : num_elements(shape);
    knows_tokens_ = has_rank;
  }

  std::int64_t num_rows() const { return num_columns_ == 0 ? 0 : num_elements(shape_) / num_columns_; }
  std::int64_t num_columns() const { return num_columns_; }

  // Whether the row is one that the step takes for a pad. A tensor of another shape than the step's has none.
  bool is_pad(std::int64_t row_index, const Step& step) const {
    const std::int64_t steps_positions = is_cache_ ? step.valid_length() : step.num_tokens();
    const bool last_row_alone = may_be_last_row_alone(op_) && positions_ == 1;
    if (!knows_tokens_ || shape_[0] != step.batch() || !(positions_ == steps_positions || last_row_alone)) return false;
    const std::int64_t b = row_index / (num_heads_ * positions_);
    const std::int64_t position = row_index % positions_;
    if (is_cache_) return position < step.left_padding[static_cast<std::size_t>(b)];
    return step.is_pad(b, last_row_alone ? step.num_tokens() - 1 : position);
  }

 private:
  Op op_;
  const Shape& shape_;
  bool is_cache_ = false;
  bool knows_tokens_ = false;
  std::size_t position_dim_ = 0;
  std::int64_t num_heads_ = 1;
  std::int64_t positions_ = 0;
  std::int64_t num_columns_ = 1;
};

class Measuring {
 public:
  Measuring(const TensorView& actual, const TensorView& expected, TensorDifference& result)
      : actual_(actual), expected_(expected), same_dtype_(actual.dtype == expected.dtype), result_(result) {}

  void add_row(std::int64_t first, std::int64_t count) {
    values_.resize(static_cast<std::size_t>(2 * count));
    const std::span<double> a(values_.data(), static_cast<std::size_t>(count));
    const std::span<double> e(values_.data() + count, static_cast<std::size_t>(count));
    load_elements(actual_, static_cast<std::size_t>(first), a);
    load_elements(expected_, static_cast<std::size_t>(first), e);
    for (std::int64_t i = 0; i < count; ++i) {
      add(first + i, a[static_cast<std::size_t>(i)], e[static_cast<std::size_t>(i)]);
    }
  }

  void finish() {
    if (error_squared_ > 0.0) result_.relative_rms_error = std::sqrt(error_squared_ / expected_squared_);
    const std::int64_t worst = first_mismatch_ >= 0 ? first_mismatch_ : largest_;
    if (worst < 0) return;
    result_.worst_index = unravel(worst, result_.actual_shape);
    load_elements(actual_, static_cast<std::size_t>(worst), {&result_.actual, 1});
    load_elements(expected_, static_cast<std::size_t>(worst), {&result_.expected, 1});
  }

 private:
  bool equal_bits(std::int64_t index, double a, double e) const {
    if (!same_dtype_) return a == e && std::signbit(a) == std::signbit(e);
    const std::size_t size = size_of(actual_.dtype), at = static_cast<std::size_t>(index) * size;
    return std::memcmp(static_cast<const char*>(actual_.data) + at, static_cast<const char*>(expected_.data) + at,
                       size) == 0;
  }

  void add(std::int64_t index, double a, double e) {
    ++result_.elements_compared;
    const bool equal = equal_bits(index, a, e);
    if (equal) ++result_.bits_equal;
    if (std::isnan(a) || std::isnan(e)) return count(equal, index, result_.nan_on_both, result_.nan_mismatches);
    if (std::isinf(a) || std::isinf(e)) {
      std::int64_t same = 0;
      return count(a == e, index, same, result_.inf_mismatches);
    }
    const double error = std::fabs(a - e);
    error_squared_ += error * error;
    expected_squared_ += e * e;
    if (error > result_.max_abs_error || (largest_ < 0 && !equal)) {
      result_.max_abs_error = error;
      largest_ = index;
    }
  }

  void count(bool matches, std::int64_t index, std::int64_t& same, std::int64_t& mismatches) {
    ++(matches ? same : mismatches);
    if (!matches && first_mismatch_ < 0) first_mismatch_ = index;
  }

  const TensorView& actual_;
  const TensorView& expected_;
  bool same_dtype_;
  TensorDifference& result_;
  std::vector<double> values_;
  double error_squared_ = 0.0, expected_squared_ = 0.0;
  std::int64_t first_mismatch_ = -1, largest_ = -1;
};

PairOutcome outcome_of(const TensorDifference& difference, std::optional<double> within) {
  if (!difference.same_shape()) return PairOutcome::kDiffers;
  if (difference.elements_compared == 0) return PairOutcome::kNothing;
  if (difference.same_dtype() && difference.bits_equal == difference.elements_compared) return PairOutcome::kEqual;
  const bool near = within && difference.nan_mismatches == 0 && difference.inf_mismatches == 0 &&
                    difference.relative_rms_error <= *within;
  return near ? PairOutcome::kWithin : PairOutcome::kDiffers;
}

// Infinite where nothing finite says how far the two lie apart.
double error_of(const TensorDifference& difference) {
  const bool comparable = difference.same_shape() && difference.nan_mismatches == 0 && difference.inf_mismatches == 0;
  return comparable ? difference.relative_rms_error : std::numeric_limits<double>::infinity();
}

std::optional<ErrorJump> largest_jump(const std::vector<TensorDifference>& tensors) {
  std::optional<ErrorJump> largest;
  const TensorDifference* previous = nullptr;
  for (const TensorDifference& tensor : tensors) {
    const bool is_residual = tensor.key.id.op == Op::kEmbedTokens || tensor.key.id.op == Op::kOutput;
    if (!is_residual || tensor.outcome == PairOutcome::kNothing) continue;
    if (previous != nullptr && previous->key.step == tensor.key.step) {
      const double rounding = std::max(unit_roundoff(tensor.actual_dtype), unit_roundoff(tensor.expected_dtype));
      const double from = error_of(*previous), to = error_of(tensor);
      const double ratio = to / std::max(from, rounding);
      // Not a number where both are infinite: the error came before.
      if (ratio > 1.0 && !(largest && ratio <= largest->ratio)) largest = {previous->key, tensor.key, from, to, ratio};
    }
    previous = &tensor;
  }
  return largest;
}

std::vector<std::string> differences_of_steps(const std::vector<Step>& actual, const std::vector<Step>& expected) {
  std::vector<std::string> notes;
  if (actual.size() != expected.size()) {
    notes.push_back("the traces have " + std::to_string(actual.size()) + " and " + std::to_string(expected.size()) +
                    " steps");
  }
  for (std::size_t i = 0; i < std::min(actual.size(), expected.size()); ++i) {
    std::string what;
    const auto add = [&](bool equal, const char* field) {
      if (!equal) what += std::string(what.empty() ? "" : ", ") + field;
    };
    add(actual[i].tokens == expected[i].tokens, "tokens");
    add(actual[i].past_length == expected[i].past_length, "past_length");
    add(actual[i].positions == expected[i].positions, "positions");
    add(actual[i].left_padding == expected[i].left_padding, "left_padding");
    if (!what.empty()) notes.push_back("step " + std::to_string(i) + " had other inputs in each trace: " + what);
  }
  return notes;
}

}  // namespace

std::int64_t PairwiseResult::count(PairOutcome outcome) const {
  return std::ranges::count_if(tensors, [&](const auto& tensor) { return tensor.outcome == outcome; });
}

const TensorDifference* PairwiseResult::first_difference() const {
  const auto first =
      std::ranges::find_if(tensors, [](const auto& tensor) { return tensor.outcome == PairOutcome::kDiffers; });
  return first == tensors.end() ? nullptr : &*first;
}

TensorDifference difference_of(const TensorKey& key, const TensorView& actual, const Step& actual_step,
                               const TensorView& expected, const Step& expected_step, std::optional<double> within) {
  TensorDifference difference;
  difference.key = key;
  difference.actual_dtype = actual.dtype;
  difference.expected_dtype = expected.dtype;
  difference.actual_shape = actual.shape;
  difference.expected_shape = expected.shape;
  if (difference.same_shape()) {
    const Rows rows(key.id.op, difference.actual_shape);
    Measuring measuring(actual, expected, difference);
    for (std::int64_t r = 0; r < rows.num_rows(); ++r) {
      if (rows.is_pad(r, actual_step) && rows.is_pad(r, expected_step)) continue;
      measuring.add_row(r * rows.num_columns(), rows.num_columns());
    }
    measuring.finish();
  }
  difference.outcome = outcome_of(difference, within);
  return difference;
}

PairwiseResult compare_pairwise(const PairSide& actual, const PairSide& expected, std::optional<double> within,
                                const std::function<void(std::size_t done, std::size_t total)>& done) {
  if (within && !(*within >= 0.0 && std::isfinite(*within))) {
    throw std::invalid_argument("within must be finite and not negative");
  }
  PairwiseResult result;
  result.within = within;
  result.notes = differences_of_steps(actual.steps, expected.steps);
  std::vector<TensorKey> common;
  std::set_intersection(actual.keys.begin(), actual.keys.end(), expected.keys.begin(), expected.keys.end(),
                        std::back_inserter(common));
  std::set_difference(actual.keys.begin(), actual.keys.end(), expected.keys.begin(), expected.keys.end(),
                      std::back_inserter(result.only_actual));
  std::set_difference(expected.keys.begin(), expected.keys.end(), actual.keys.begin(), actual.keys.end(),
                      std::back_inserter(result.only_expected));
  for (const TensorKey& key : common) {
    const auto step = static_cast<std::size_t>(key.step);
    result.tensors.push_back(difference_of(key, actual.tensors.get(key), actual.steps[step], expected.tensors.get(key),
                                           expected.steps[step], within));
    done(result.tensors.size(), common.size());
  }
  result.jump = largest_jump(result.tensors);
  if (result.first_difference() != nullptr) {
    result.verdict = Verdict::kDiverged;
  } else if (result.count(PairOutcome::kNothing) < static_cast<std::int64_t>(result.tensors.size())) {
    result.verdict = Verdict::kMatch;
  }
  return result;
}

}  // namespace qdiff::compare
