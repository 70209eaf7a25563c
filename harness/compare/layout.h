// How the elements of a named tensor lie: rows of equally many columns, and which rows are never looked at.
//
//   [B,T,W] and [B,T,H,d]  row (b,t), columns W or H*d          pad rows: slot past_length + t below the left padding
//   [B,S,K,d]              row (b,s), columns K*d               pad rows: slot s below the left padding
//   [B,H,T,S]              row (b,h,t), columns are key slots   pad rows: as for (b,t). Pad *columns* do count: a real
//                                                               row must have them masked
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "harness/contract/config.h"
#include "harness/contract/operation_table.h"
#include "harness/contract/step.h"
#include "harness/contract/tensor.h"

namespace qdiff::compare {

class Layout {
 public:
  // `shape` is the tensor's own; it must be output_shape(op, ...), or for lm_head that of the last row alone.
  Layout(Op op, const Shape& shape, const Step& step, const ModelConfig& config);

  std::int64_t num_rows() const { return batch_ * heads_ * positions_; }
  std::int64_t num_columns() const { return num_columns_; }
  bool is_scores() const { return heads_in_rows_; }
  // Columns of one head, where columns are heads' dimensions; 0 elsewhere.
  std::int64_t head_columns() const { return head_columns_; }
  // Heads, whether they lie in rows or in columns; 0 where the tensor has none.
  std::int64_t num_heads() const {
    return heads_in_rows_ ? heads_ : (head_columns_ ? num_columns_ / head_columns_ : 0);
  }
  std::int64_t num_positions() const { return positions_; }  // T, S, or 1 for the last row of lm_head
  std::int64_t batch() const { return batch_; }

  std::int64_t batch_of(std::int64_t row) const { return row / (heads_ * positions_); }
  std::int64_t head_of(std::int64_t row) const { return row / positions_ % heads_; }  // 0 unless is_scores()
  std::int64_t position_of(std::int64_t row) const { return row % positions_; }

  // The same row of the step in a tensor that holds all of them, as this one or where this is the last row alone.
  std::int64_t row_in(const Layout& whole, std::int64_t row) const {
    if (num_rows() == whole.num_rows()) return row;
    return batch_of(row) * whole.positions_ + whole.positions_ - 1;
  }

  bool counts(std::int64_t row) const {
    return first_real_[static_cast<std::size_t>(batch_of(row))] <= position_of(row) + slot_offset_;
  }
  // "token row 3 of batch row 0", "cache slot 5 of batch row 1", "head 2, token row 3 of batch row 0"
  std::string row_name(std::int64_t row) const;
  const char* position_word() const { return is_cache_ ? "cache slot" : "token row"; }

 private:
  std::int64_t batch_ = 0;
  std::int64_t heads_ = 1;  // in rows
  std::int64_t positions_ = 0;
  std::int64_t num_columns_ = 0;
  std::int64_t head_columns_ = 0;
  std::int64_t slot_offset_ = 0;          // cache slot of position 0
  std::vector<std::int64_t> first_real_;  // [B] slot of each row's first token
  bool heads_in_rows_ = false;
  bool is_cache_ = false;
};

// Whether `shape` is one that `op` may have at this step: output_shape, and for lm_head also [B,1,V].
bool shape_fits(Op op, const Shape& shape, const Step& step, const ModelConfig& config);

// The index of element `linear` of a row-major tensor.
std::vector<std::int64_t> unravel(std::int64_t linear, const Shape& shape);

}  // namespace qdiff::compare
