// Projections that go wrong: biases (docs/faults.md, H06) and the layout of weights and products (H07).
#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "optimized/cpu/projection.h"

namespace qdiff::optimized::cpu {
namespace {

bool is_transposed(const Planting<true>& planting, Op projection) {
  constexpr std::pair<Op, FaultId> kTransposed[] = {
      {Op::kQProj, FaultId::kTransposedQ},       {Op::kKProj, FaultId::kTransposedK},
      {Op::kVProj, FaultId::kTransposedV},       {Op::kOProj, FaultId::kTransposedO},
      {Op::kGateProj, FaultId::kTransposedGate}, {Op::kUpProj, FaultId::kTransposedUp},
      {Op::kDownProj, FaultId::kTransposedDown}};
  return std::any_of(std::begin(kTransposed), std::end(kTransposed),
                     [&](const auto& entry) { return entry.first == projection && planting.is(entry.second); });
}

bool is_fused(Op projection) {
  return projection == Op::kQProj || projection == Op::kKProj || projection == Op::kVProj;
}

// Row j starts where a reader with another leading dimension looks for it; it never leaves the matrix.
const std::byte* row_of_other_lda(const LayerContext& s, const Planting<true>& planting, const Matrix& matrix,
                                  std::int64_t row) {
  const std::int64_t last = (matrix.rows - 1) * matrix.columns;
  const std::int64_t start = row * (matrix.columns + planting.whole_value());
  return at(matrix.data.data(), s.storage, std::clamp<std::int64_t>(start, 0, last));
}

// The fused weight is [Wq; Wk; Wv]; this reader takes k's rows first, then v's, then q's.
const std::byte* row_of_other_order(const LayerContext& s, Op projection, std::int64_t row) {
  const std::int64_t kv_width = s.config.kv_width();
  std::int64_t fused = row;
  if (projection == Op::kVProj) fused += kv_width;
  if (projection == Op::kQProj) fused += 2 * kv_width;
  const Matrix* matrix = &s.weights.q;
  if (fused >= matrix->rows) {
    fused -= matrix->rows;
    matrix = &s.weights.k;
  }
  if (matrix == &s.weights.k && fused >= matrix->rows) {
    fused -= matrix->rows;
    matrix = &s.weights.v;
  }
  return at(matrix->data.data(), s.storage, fused * matrix->columns);
}

// One row of the weight as this reader finds it, widened to `out` [k]. Returns whether it is another than the right
// one.
bool read_row(const LayerContext& s, const Planting<true>& planting, Op projection, const Matrix& matrix,
              std::int64_t row, float* out) {
  const std::int64_t k = matrix.columns;
  if (is_transposed(planting, projection)) {
    for (std::int64_t i = 0; i < k; ++i) {
      const auto element = static_cast<std::size_t>(i * matrix.rows + row);
      out[i] = static_cast<float>(load_element(matrix.data.data(), dtype_of(s.storage), element));
    }
    return true;
  }
  const std::byte* right = at(matrix.data.data(), s.storage, row * k);
  const std::byte* start =
      planting.is(FaultId::kLda) ? row_of_other_lda(s, planting, matrix, row) : row_of_other_order(s, projection, row);
  s.kernels.widen(s.storage, start, out, k);
  return start != right;
}

void multiply_wrong_rows(const LayerContext& s, const Planting<true>& planting, Op projection,
                         const MatmulParams& product, const ProductPlace& place) {
  MatmulParams p = product;
  p.weights = product.panel;  // that of fp32 weights is free
  p.storage = Storage::kF32;
  p.rows = 1;
  for (std::int64_t r = 0; r < product.rows; ++r) {
    const bool wrong = read_row(s, planting, projection, place.matrix, place.first_row + r, product.panel);
    if (wrong) planting.count(s.num_real_tokens(place.tokens));
    p.c = product.c + r;
    s.kernels.matmul(p);
  }
}

// Calls round(sum) for each sum of the product and counts those of real tokens that it changes; where the sum is
// complete, those that are then stored as another value.
template <typename Round>
void round_sums(const LayerContext& s, const Planting<true>& planting, const MatmulParams& product, Range tokens,
                bool complete, Round&& round) {
  const DType stored = dtype_of(s.storage);
  std::int64_t changed = 0;
  for (std::int64_t t = 0; t < product.tokens; ++t) {
    for (std::int64_t r = 0; r < product.rows; ++r) {
      float& sum = product.c[t * product.c_stride + r];
      const float rounded = round(sum);
      const bool same = complete ? round_to(stored, rounded) == round_to(stored, sum) : rounded == sum;
      changed += !same && !s.is_pad(tokens.begin + t) ? 1 : 0;
      sum = rounded;
    }
  }
  planting.count(changed);
}

void multiply_in_bf16_blocks(const LayerContext& s, const Planting<true>& planting, const MatmulParams& product,
                             const ProductPlace& place) {
  const std::int64_t length = planting.whole_value();
  std::vector<float> block(static_cast<std::size_t>(product.tokens * product.c_stride));
  MatmulParams p = product;
  p.c = block.data();
  for (std::int64_t first = 0; first < product.k; first += length) {
    p.weights = at(place.matrix.data.data(), s.storage, place.first_row * product.k + first);
    p.x = product.x + first;
    p.k = std::min(length, product.k - first);
    s.kernels.matmul(p);
    for (std::int64_t t = 0; t < product.tokens; ++t) {
      for (std::int64_t r = 0; r < product.rows; ++r) {
        const std::int64_t i = t * product.c_stride + r;
        product.c[i] = (first == 0 ? 0.0F : product.c[i]) + block[static_cast<std::size_t>(i)];
      }
    }
    const bool complete = first + length >= product.k;
    round_sums(s, planting, product, place.tokens, complete,
               [](float sum) { return bf16_to_float(float_to_bf16(sum)); });
  }
}

void round_values(DType dtype, std::vector<float>& values) {
  for (float& value : values) value = static_cast<float>(round_to(dtype, value));
}

// 255 levels, symmetric about 0.
void round_to_int8(std::vector<float>& values) {
  double largest = 0.0;
  for (float value : values) largest = std::max(largest, std::fabs(static_cast<double>(value)));
  if (largest == 0.0) return;
  const double level = largest / 127.0;
  for (float& value : values) value = static_cast<float>(std::nearbyint(value / level) * level);
}

void plant_biases(const LayerContext& s, const Planting<true>& planting, PlantedBiases& biases) {
  const bool decode = s.step.phase == Phase::kDecode;
  std::vector<float>* const all[] = {&biases.q.values, &biases.k.values, &biases.v.values};
  const auto drop = [](PlantedBias& bias) { bias.values.assign(bias.values.size(), 0.0F); };
  if (planting.is(FaultId::kMissingAll) || planting.is(decode ? FaultId::kDecodeMissing : FaultId::kPrefillMissing)) {
    drop(biases.q);
    drop(biases.k);
    drop(biases.v);
  }
  if (planting.is_any({FaultId::kMissingQ, FaultId::kBiasAfterRope})) drop(biases.q);
  if (planting.is_any({FaultId::kMissingK, FaultId::kBiasAfterRope})) drop(biases.k);
  if (planting.is(FaultId::kMissingV)) drop(biases.v);
  if (planting.is(FaultId::kKvSwapped)) std::swap(biases.k.values, biases.v.values);
  if (planting.is(FaultId::kRowAxis)) biases.q.by_token = biases.k.by_token = biases.v.by_token = true;
  for (PlantedBias* bias : {&biases.q, &biases.k, &biases.v}) {
    bias->first_row_only = planting.is(FaultId::kBiasFirstRowOnly);
  }
  if (planting.is(FaultId::kLengthHidden)) {
    std::vector<float> fused;
    for (const std::vector<float>* part : all) fused.insert(fused.end(), part->begin(), part->end());
    std::size_t column = 0;
    for (std::vector<float>* part : all) {
      for (float& value : *part) value = fused[column++ % static_cast<std::size_t>(s.config.hidden)];
    }
  }
  for (std::vector<float>* part : all) {
    if (planting.is(FaultId::kBiasFp16)) round_values(DType::kF16, *part);
    if (planting.is(FaultId::kBiasBf16)) round_values(DType::kBF16, *part);
    if (planting.is(FaultId::kBiasInt8)) round_to_int8(*part);
  }
}

// Elements of real tokens that get another bias than theirs.
std::int64_t num_other(const LayerContext& s, const PlantedBias& bias, const std::vector<float>& right) {
  std::int64_t count = 0;
  for (std::int64_t token = 0; token < s.num_tokens(); ++token) {
    if (s.is_pad(token)) continue;
    for (std::size_t i = 0; i < right.size(); ++i) {
      count += bias.of(static_cast<std::int64_t>(i), token, s.step.num_tokens()) != right[i] ? 1 : 0;
    }
  }
  return count;
}

}  // namespace

void planted_multiply(const LayerContext& s, Op projection, const MatmulParams& product, const ProductPlace& place) {
  const Planting<true> planting(s.fault, s.layer);
  const bool wrong_rows = is_transposed(planting, projection) || planting.is(FaultId::kLda) ||
                          (planting.is(FaultId::kPackedOrder) && is_fused(projection));
  if (wrong_rows) {
    multiply_wrong_rows(s, planting, projection, product, place);
  } else if (planting.is(FaultId::kAccBf16)) {
    multiply_in_bf16_blocks(s, planting, product, place);
  } else {
    s.kernels.matmul(product);
  }
  if (planting.is(FaultId::kOutFp16)) {
    round_sums(s, planting, product, place.tokens, true, [](float sum) { return f16_to_float(float_to_f16(sum)); });
  }
}

void planted_reload_tiles(const LayerContext& s, std::int64_t k) {
  const Planting<true> planting(s.fault, s.layer);
  if (!planting.is(FaultId::kFirstTileOnly)) return;
  const std::int64_t tile = planting.whole_value();
  for_each_token(s, [&](std::int64_t token) {
    float* x = s.arena.wide() + token * round_up_to_lanes(k);
    for (std::int64_t i = tile; i < k; ++i) x[i] = x[i % tile];
  });
  if (k > tile) planting.count(s.num_real_tokens());
}

PlantedBiases planted_biases(const LayerContext& s) {
  const Planting<true> planting(s.fault, s.layer);
  PlantedBiases biases{{s.weights.q_bias}, {s.weights.k_bias}, {s.weights.v_bias}};
  plant_biases(s, planting, biases);
  const std::int64_t other = num_other(s, biases.q, s.weights.q_bias) + num_other(s, biases.k, s.weights.k_bias) +
                             num_other(s, biases.v, s.weights.v_bias);
  planting.count(other);
  return biases;
}

void planted_store_columns(const LayerContext& s, float* c, const PlantedBias& bias, const StorePlace& place) {
  const Planting<true> planting(s.fault, s.layer);
  const bool by_column = planting.is(FaultId::kColumnMajorOut);
  if (!by_column && !bias.by_token && !bias.first_row_only) {
    const float* values = bias.values.empty() ? nullptr : bias.values.data() + place.first;
    store_columns(s, c, values, place.tensor, place.width, place.first, place.rows, place.tokens);
    return;
  }
  for (std::int64_t token = place.tokens.begin; token < place.tokens.end; ++token) {
    for (std::int64_t r = 0; r < place.rows; ++r) {
      // The element of [B*T, width] that this one is stored as.
      const std::int64_t column = place.first + r;
      const std::int64_t element = by_column ? column * s.num_tokens() + token : token * place.width + column;
      const float value = c[(token - place.tokens.begin) * 2 * kRowUnit + r] +
                          bias.of(element % place.width, element / place.width, s.step.num_tokens());
      s.kernels.narrow(s.storage, &value, at(place.tensor, s.storage, element), 1);
    }
  }
  if (by_column && s.num_tokens() > 1) planting.count(s.num_real_tokens(place.tokens) * place.rows);
}

}  // namespace qdiff::optimized::cpu
