#include "harness/compare/layout.h"

#include <algorithm>
#include <stdexcept>

#include "harness/compare/mutants.h"

namespace qdiff::compare {
namespace {

bool has_dim(Op op, Dim dim) {
  const auto& dims = row(op).shape;
  return std::ranges::find(dims, dim) != dims.end();
}

Shape full_shape(Op op, const Step& step, const ModelConfig& config) {
  return output_shape(op, config, step.batch(), step.num_tokens(), step.valid_length());
}

}  // namespace

bool shape_fits(Op op, const Shape& shape, const Step& step, const ModelConfig& config) {
  const Shape full = full_shape(op, step, config);
  if (shape == full) return true;
  return may_be_last_row_alone(op) && shape == Shape{full[0], 1, full[2]};
}

Layout::Layout(Op op, const Shape& shape, const Step& step, const ModelConfig& config) {
  if (!shape_fits(op, shape, step, config)) {
    throw std::invalid_argument("Layout: " + std::string(row(op).name) + " of shape " + to_string(shape) +
                                "; this step and model give " + to_string(full_shape(op, step, config)));
  }
  first_real_ = step.left_padding;
  first_real_.resize(static_cast<std::size_t>(step.batch()), 0);
  if (mutated(Mutant::kPadsCompared)) first_real_.assign(first_real_.size(), 0);
  batch_ = step.batch();
  heads_in_rows_ = has_dim(op, Dim::kQHeads) && has_dim(op, Dim::kS);
  is_cache_ = !heads_in_rows_ && has_dim(op, Dim::kS);
  if (heads_in_rows_) {
    heads_ = shape[1];
    positions_ = shape[2];
    num_columns_ = shape[3];
  } else {
    positions_ = shape[1];
    num_columns_ = shape[2] * (shape.size() == 4 ? shape[3] : 1);
    const bool by_heads = has_dim(op, Dim::kHeadDim) || has_dim(op, Dim::kQWidth) || has_dim(op, Dim::kKvWidth);
    if (by_heads) head_columns_ = config.head_dim;
  }
  // Row T-1 is the step's last slot; a lone row of logits is that one.
  if (!is_cache_) slot_offset_ = step.past_length + step.num_tokens() - positions_;
}

std::string Layout::row_name(std::int64_t row) const {
  std::string name = heads_in_rows_ ? "head " + std::to_string(head_of(row)) + ", " : std::string();
  return name + position_word() + ' ' + std::to_string(position_of(row)) + " of batch row " +
         std::to_string(batch_of(row));
}

std::vector<std::int64_t> unravel(std::int64_t linear, const Shape& shape) {
  std::vector<std::int64_t> index(shape.size());
  for (std::size_t d = shape.size(); d-- > 0;) {
    index[d] = linear % shape[d];
    linear /= shape[d];
  }
  return index;
}

}  // namespace qdiff::compare
