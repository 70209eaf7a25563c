// A candidate's tensor beside its expectation, element by element: which elements are wrong, and whether some other
// value would explain one.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "harness/compare/layout.h"
#include "harness/compare/sums.h"
#include "harness/contract/config.h"
#include "harness/contract/oracle.h"
#include "harness/contract/step.h"

namespace qdiff::pattern {

// A share from which one speaks of all: what is left over may have a cause of its own.
inline constexpr double kNearlyAll = 0.99;
inline constexpr double kMost = 0.9;
// An explanation must hold for so many more elements than it has free numbers. One element agrees by chance with about
// the probability of its allowance over its spread, 2^-6 in bfloat16: eight do with 2^-48.
inline constexpr std::int64_t kLeastSpare = 8;

enum class Mark : std::uint8_t { kNotCompared, kRight, kWrong };

class Values {
 public:
  // The shapes must fit op, step and config (compare::shape_fits).
  Values(Op op, const TensorView& actual, const Expectation& expected, const Step& step, const ModelConfig& config);

  Op op() const { return op_; }
  const compare::Layout& layout() const { return layout_; }
  const Step& step() const { return step_; }
  const ModelConfig& config() const { return config_; }
  DType stored() const { return actual_.dtype; }
  std::int64_t num_rows() const { return layout_.num_rows(); }
  std::int64_t num_columns() const { return layout_.num_columns(); }
  bool same_shape() const { return actual_.shape == expected_.shape; }
  bool is_cache() const { return op_ == Op::kKCache || op_ == Op::kVCache; }

  double actual(std::int64_t row, std::int64_t column) const {
    return load_element(actual_.data, actual_.dtype, static_cast<std::size_t>(row * num_columns() + column));
  }
  double expected(std::int64_t row, std::int64_t column) const { return expected_.value[index(row, column)]; }
  // The error's deviation before the final rounding; 0 where none was given.
  double sigma(std::int64_t row, std::int64_t column) const;
  Mark mark(std::int64_t row, std::int64_t column) const {
    return marks_[static_cast<std::size_t>(row * num_columns() + column)];
  }
  bool compared(std::int64_t row, std::int64_t column) const { return mark(row, column) != Mark::kNotCompared; }
  bool wrong(std::int64_t row, std::int64_t column) const { return mark(row, column) == Mark::kWrong; }

  std::int64_t num_compared() const { return num_compared_; }
  std::int64_t num_wrong() const { return num_wrong_; }
  std::int64_t wrong_in_row(std::int64_t row) const { return wrong_in_row_[static_cast<std::size_t>(row)]; }

  // What correct rounding may leave between `value`, of deviation `sigma`, and a stored `actual`. Both finite.
  double allowance(double actual, double value, double sigma) const;
  // Whether `actual` is `value` to within rounding; infinities and NaN are only themselves.
  bool explains(double value, double sigma, double actual) const;

  // Largest finite expected score of a row; a score so far below it that its exponential is 0 is not seen.
  bool vanishes(double score, std::int64_t row) const;

  std::int64_t head_of(std::int64_t row, std::int64_t column) const {
    return layout_.is_scores() ? layout_.head_of(row)
                               : (layout_.head_columns() > 0 ? column / layout_.head_columns() : 0);
  }
  // Index of the row's token within the step; not for caches.
  std::int64_t token_of(std::int64_t row) const {
    return step_.num_tokens() - layout_.num_positions() + layout_.position_of(row);
  }
  std::int64_t padding_of(std::int64_t row) const;
  // Where the row's token stands in its sequence.
  std::int64_t sequence_position(std::int64_t row) const;

  // Over the finite elements compared in a row.
  double row_error_squared(std::int64_t row) const { return row_error_squared_[static_cast<std::size_t>(row)]; }
  double row_gold_squared(std::int64_t row) const { return row_gold_squared_[static_cast<std::size_t>(row)]; }

  // Elements compared and wrong by the exponent field of their finite expected value.
  static constexpr std::size_t kNumBinades = 2048;
  struct Binade {
    std::int64_t compared = 0;
    std::int64_t wrong = 0;
  };
  const std::array<Binade, kNumBinades>& binades() const { return binades_; }

 private:
  std::size_t index(std::int64_t row, std::int64_t column) const {
    return static_cast<std::size_t>(layout_.row_in(expected_layout_, row) * num_columns() + column);
  }
  void mark_row(std::int64_t row);
  Mark judge(double actual, double value, double sigma, std::int64_t row) const;

  Op op_;
  const TensorView& actual_;
  const Expectation& expected_;
  const Step& step_;
  const ModelConfig& config_;
  compare::Layout layout_;
  compare::Layout expected_layout_;
  compare::SpacingRule spacing_;
  std::vector<Mark> marks_;  // as `actual`
  std::vector<std::int64_t> wrong_in_row_;
  std::vector<double> row_maximum_;  // of scores
  std::vector<double> row_error_squared_, row_gold_squared_;
  std::array<Binade, kNumBinades> binades_{};
  std::int64_t num_compared_ = 0;
  std::int64_t num_wrong_ = 0;
};

struct Element {
  double actual;
  double expected;
  double sigma;
  std::int32_t row;
  std::int32_t column;
};

// Rows with a wrong element, at most about `most_elements` of the tensor in all, evenly spaced among such rows.
std::vector<std::int64_t> sample_of_wrong_rows(const Values& values,
                                               std::int64_t most_elements = std::int64_t{1} << 20);
// The wrong elements of those rows.
std::vector<Element> wrong_elements(const Values& values, const std::vector<std::int64_t>& rows);

}  // namespace qdiff::pattern
