// A recorded tensor that whole forward passes are held against.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "harness/compare/layout.h"
#include "harness/contract/operation_table.h"
#include "harness/contract/tensor.h"

namespace qdiff::diagnose {

// lm_head may hold the last row of the step alone.
class Target {
 public:
  Target(const TensorKey& key, const TensorView& recorded, const Step& step, const ModelConfig& config);

  const TensorKey& key() const { return key_; }
  const TensorView& recorded() const { return recorded_; }
  const compare::Layout& layout() const { return layout_; }
  std::span<const double> candidate() const { return candidate_; }
  std::span<const double> gold() const { return gold_; }
  std::span<const double> right() const { return right_; }       // right code that rounds as declared, as recorded
  std::int64_t rows_compared() const { return rows_compared_; }  // not pads, nor rows in which the candidate has NaN
  std::int64_t rows_with_nan() const { return rows_with_nan_; }
  bool counts(std::int64_t row) const { return compared_[static_cast<std::size_t>(row)]; }
  std::int64_t width() const { return layout_.num_columns(); }
  std::int64_t num_rows() const { return layout_.num_rows(); }
  std::span<const double> row_of(std::span<const double> values, std::int64_t row) const {
    return values.subspan(static_cast<std::size_t>(row * width()), static_cast<std::size_t>(width()));
  }

  // Engines mask with -inf or with any number that the softmax takes for it (compare/gates.h), and what stands in rows
  // that are masked as a whole nobody reads. After this only a mask that is wrong differs from gold.
  void take_gold(const TensorView& whole, DType accumulate);
  void take_right(std::vector<double> values) { right_ = std::move(values); }
  // What the whole tensor of a pass holds of the rows that the candidate recorded.
  std::vector<double> same_rows(const TensorView& whole) const;
  // The same, rounded to the type that the candidate recorded.
  std::vector<double> as_recorded(const TensorView& whole) const;
  // Over the rows compared.
  double distance(std::span<const double> a, std::span<const double> b) const;
  double norm() const { return norm_; }  // of gold
  // distance / norm; the distance itself where gold is 0.
  double relative(double distance) const { return norm_ > 0.0 ? distance / norm_ : distance; }

  // For logits, summed over the rows compared: the divergence of the candidate's next-token distribution from that of
  // `other`, -sum p log(q / p) in nats, and at how many rows both choose the same token (none where `other` has NaN).
  double divergence(std::span<const double> other) const;
  std::int64_t same_top_tokens(std::span<const double> other) const;

 private:
  TensorKey key_;
  TensorView recorded_;
  compare::Layout layout_;
  std::vector<double> candidate_, gold_, right_;
  std::vector<bool> compared_;  // by row
  std::int64_t rows_compared_ = 0, rows_with_nan_ = 0;
  double norm_ = 0.0;
};

}  // namespace qdiff::diagnose
