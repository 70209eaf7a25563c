// The elements of a tensor that lie within a mistake's scope.
#include <numeric>
#include <vector>

#include "reference/mistakes.h"

namespace qdiff::reference {
namespace {

at::Tensor holds(const Selection& selection, const std::vector<std::int64_t>& indices) {
  std::vector<std::uint8_t> inside;
  for (std::int64_t index : indices) inside.push_back(selection.holds(index) ? 1 : 0);
  return at::tensor(inside, of_type(at::kByte)).to(at::kBool);
}

}  // namespace

at::Tensor scope_mask(const MistakeScope& scope, Op op, const Setting& setting, at::IntArrayRef shape) {
  const Step& step = setting.step;
  at::Tensor mask = at::ones(shape, of_type(at::kBool));
  const bool outside = (scope.phase && *scope.phase != step.phase) || !scope.steps.holds(step.index);
  if (outside) return mask.logical_not();
  const auto& dims = row(op).shape;
  const auto rank = static_cast<std::int64_t>(dims.size());
  const auto restrict_to = [&](const at::Tensor& inside, std::int64_t dim) {
    std::vector<std::int64_t> along(static_cast<std::size_t>(rank), 1);
    along[static_cast<std::size_t>(dim)] = inside.size(0);
    mask = mask.logical_and(inside.view(along));
  };
  std::vector<std::int64_t> batch_rows;
  for (std::int64_t b = 0; b < shape[0]; ++b) batch_rows.push_back(b % step.batch());
  restrict_to(holds(scope.batch_rows, batch_rows), 0);
  bool heads_apart = false;
  for (std::int64_t dim = 1; dim < rank; ++dim) {
    const Dim what = dims[static_cast<std::size_t>(dim)];
    const std::int64_t size = shape[static_cast<std::size_t>(dim)];
    std::vector<std::int64_t> indices(static_cast<std::size_t>(size));
    std::iota(indices.begin(), indices.end(), std::int64_t{0});
    if (what == Dim::kT) {
      std::vector<std::uint8_t> inside;  // [copies * B, T]
      for (std::int64_t b = 0; b < shape[0]; ++b) {
        const std::int64_t pads = step.left_padding[static_cast<std::size_t>(b % step.batch())];
        const std::int64_t before = step.past_length + step.num_tokens() - size - pads;
        for (std::int64_t t = 0; t < size; ++t) inside.push_back(scope.tokens.holds(before + t) ? 1 : 0);
      }
      std::vector<std::int64_t> along(static_cast<std::size_t>(rank), 1);
      along[0] = shape[0];
      along[static_cast<std::size_t>(dim)] = size;
      mask = mask.logical_and(at::tensor(inside, of_type(at::kByte)).to(at::kBool).view(along));
    } else if (what == Dim::kS && dim + 1 < rank) {
      restrict_to(holds(scope.tokens, indices), dim);
    } else if (what == Dim::kQHeads || what == Dim::kKvHeads) {
      restrict_to(holds(scope.heads, indices), dim);
      heads_apart = true;
    } else if (what == Dim::kQWidth || what == Dim::kKvWidth) {
      std::vector<std::int64_t> heads, columns;
      for (std::int64_t c = 0; c < size; ++c) {
        heads.push_back(c / setting.config().head_dim);
        columns.push_back(c % setting.config().head_dim);
      }
      restrict_to(holds(scope.heads, heads), dim);
      restrict_to(holds(scope.columns, columns), dim);
      heads_apart = true;
    } else {
      restrict_to(holds(scope.columns, indices), dim);
    }
  }
  // A tensor without heads has the one head 0.
  if (!heads_apart && !scope.heads.holds(0)) return mask.logical_and(at::zeros({}, of_type(at::kBool)));
  return mask;
}

}  // namespace qdiff::reference
