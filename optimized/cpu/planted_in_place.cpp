// Buffers that share memory and should not (docs/faults.md, H04). One thread works through them in the order that the
// catalogue names, for the result depends on it.
#include <cstring>

#include "optimized/cpu/projection.h"

namespace qdiff::optimized::cpu {
namespace {

// rows [first, first + count) of the matrix . x, for `tokens` token rows of fp32 `x_stride` apart; c [tokens, count].
void product_of_rows(const StageContext& s, const Matrix& matrix, std::int64_t first, std::int64_t count,
                     const float* x, std::int64_t tokens, float* c) {
  MatmulParams p = product_of(s, matrix, first, count, {0, tokens}, s.arena.thread(0).panel, c);
  p.x = x;
  p.c_stride = count;
  s.kernels.matmul(p);
}

// The product [B*T, D] from the first element of its input [B*T, k] on, token after token. It may be longer than its
// input: what follows in the arena is its own place, which has room for all of it.
void product_over_rows(const StageContext& s, const Planting<true>& planting, const Matrix& matrix, std::byte* x,
                       std::byte* place) {
  const std::int64_t k = matrix.columns;
  std::vector<float> wide(static_cast<std::size_t>(round_up_to_lanes(k)));
  std::vector<float> product(static_cast<std::size_t>(matrix.rows));
  for (std::int64_t token = 0; token < s.num_tokens(); ++token) {
    s.kernels.widen(s.storage, at(x, s.storage, token * k), wide.data(), k);
    product_of_rows(s, matrix, 0, matrix.rows, wide.data(), 1, product.data());
    s.kernels.narrow(s.storage, product.data(), at(x, s.storage, token * matrix.rows), matrix.rows);
    // What the tokens before wrote reaches into this one's input.
    if (token * matrix.rows > token * k && !s.is_pad(token)) planting.count(1);
  }
  std::memmove(place, x, static_cast<std::size_t>(s.num_tokens() * matrix.rows * storage_bytes(s.storage)));
}

// Columns in tiles, each over the same columns of the input; columns that the input lacks go to their own place.
void product_over_columns(const StageContext& s, const Planting<true>& planting, const Matrix& matrix, std::byte* x,
                          std::byte* place) {
  const std::int64_t k = matrix.columns;
  const std::int64_t tile = std::min(planting.whole_value(), matrix.rows);
  const std::int64_t shared = std::min(matrix.rows, k);  // columns
  std::vector<float> product(static_cast<std::size_t>(s.num_tokens() * tile));
  for (std::int64_t first = 0; first < matrix.rows; first += tile) {
    const std::int64_t count = std::min(tile, matrix.rows - first);
    widen_tokens(s, x, k);
    product_of_rows(s, matrix, first, count, s.arena.wide(), s.num_tokens(), product.data());
    const std::int64_t over_input = std::clamp<std::int64_t>(shared - first, 0, count);
    for (std::int64_t token = 0; token < s.num_tokens(); ++token) {
      const float* row = product.data() + token * count;
      s.kernels.narrow(s.storage, row, at(x, s.storage, token * k + first), over_input);
      s.kernels.narrow(s.storage, row + over_input, at(place, s.storage, token * matrix.rows + first + over_input),
                       count - over_input);
    }
    if (first > 0) planting.count(s.num_real_tokens());
  }
  for (std::int64_t token = 0; token < s.num_tokens(); ++token) {
    std::memcpy(at(place, s.storage, token * matrix.rows), at(x, s.storage, token * k),
                static_cast<std::size_t>(shared * storage_bytes(s.storage)));
  }
}

}  // namespace

bool planted_product_in_place(const LayerContext& s, Op projection, const Matrix& matrix, std::byte* x) {
  const Planting<true> planting(s.fault, s.layer);
  std::byte* place = s.arena.tensor(projection);
  if (projection == Op::kOProj && planting.is(FaultId::kWoRows)) {
    product_over_rows(s, planting, matrix, x, place);
    return true;
  }
  if (planting.is(projection == Op::kOProj ? FaultId::kWoCols : FaultId::kDownInAct)) {
    product_over_columns(s, planting, matrix, x, place);
    return true;
  }
  return false;
}

void planted_add_residual(const LayerContext& s, const std::byte* residual, const std::byte* norm,
                          const std::byte* product, std::byte* sum) {
  const Planting<true> planting(s.fault, s.layer);
  const std::int64_t hidden = s.config.hidden;
  if (planting.is(FaultId::kResidualLost)) residual = product;
  if (planting.is(FaultId::kNormIntoResidual)) residual = norm;
  const bool product_alone = planting.is(FaultId::kResidualLost) && planting.whole_value() == 1;
  if (planting.is_any({FaultId::kResidualLost, FaultId::kNormIntoResidual})) planting.count(s.num_real_tokens());
  for_each_token(s, [&](std::int64_t token) {
    const std::int64_t element = token * hidden;
    if (product_alone) {
      std::memcpy(at(sum, s.storage, element), at(product, s.storage, element),
                  static_cast<std::size_t>(hidden * storage_bytes(s.storage)));
      return;
    }
    std::vector<float> wide(static_cast<std::size_t>(hidden));
    s.kernels.widen(s.storage, at(product, s.storage, element), wide.data(), hidden);
    s.kernels.add_residual(s.storage, at(residual, s.storage, element), wide.data(), at(sum, s.storage, element),
                           hidden);
  });
}

}  // namespace qdiff::optimized::cpu
