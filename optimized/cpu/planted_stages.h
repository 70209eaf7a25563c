// What the planted instances of the stages call in place of their own code: the places where a fault of docs/faults.md
// makes the engine go wrong. Each function computes with the right rule wherever the fault that is planted says nothing
// of it, and then gives the clean engine's bits.
//
// The planted stages are not fused: what one operation stored is what the next one reads, for a wrong store has to be
// seen by it.
#pragma once

#include <cstdint>
#include <vector>

#include "optimized/cpu/stages.h"

namespace qdiff::optimized::cpu {

// ---- planted_norm.cpp: H09, X.no_final_norm ------------------------------------------------------------------------

// `norm` of every token, stored in its place and widened for the product that follows.
void planted_norm_tokens(const StageContext& context, Op norm, const std::byte* x, const std::vector<float>& weight);

// ---- planted_product.cpp: H06, H07 ---------------------------------------------------------------------------------

// Which part of which matrix a product takes.
struct ProductPlace {
  const Matrix& matrix;
  std::int64_t first_row;
  Range tokens;
};
void planted_multiply(const LayerContext& context, Op projection, const MatmulParams& product,
                      const ProductPlace& place);
// Between the widening of a product's input [B*T, k] and the product.
void planted_reload_tiles(const LayerContext& context, std::int64_t k);

// The bias that a projection gets; without values, none.
struct PlantedBias {
  std::vector<float> values;
  bool by_token = false;        // values[t] for all features of token t
  bool first_row_only = false;  // of all B*T

  // What is added in a row of B*T; the rows hold `num_tokens` of each sequence.
  float of(std::int64_t column, std::int64_t row, std::int64_t num_tokens) const {
    if (values.empty() || (first_row_only && row > 0)) return 0.0F;
    return values[static_cast<std::size_t>(by_token ? row % num_tokens : column) % values.size()];
  }
};
struct PlantedBiases {
  PlantedBias q, k, v;
};
PlantedBiases planted_biases(const LayerContext& context);

// Columns of c into columns [first, first + rows) of `tensor` [B*T, width].
struct StorePlace {
  std::byte* tensor;
  std::int64_t width;
  std::int64_t first;
  std::int64_t rows;
  Range tokens;
};
void planted_store_columns(const LayerContext& context, float* c, const PlantedBias& bias, const StorePlace& place);

// ---- planted_rope.cpp: H03, H06.after_rope, H08.length_counts_current -----------------------------------------------

// [B][T]: the positions by which a session turns q and k.
std::vector<std::vector<std::int64_t>> planted_positions(const PlantedFault& fault, const Step& step);
// The frequencies of the session's table of angles, [d/2].
std::vector<double> planted_frequencies(const PlantedFault& fault, const ModelConfig& config);
// q_proj and k_proj to q_rope and k_rope.
void planted_rotate(const LayerContext& context);

// ---- planted_cache.cpp: H01, H08 ------------------------------------------------------------------------------------

// k and v of the step's tokens into the cache, in the order batch row, head, token.
void planted_write_cache(const LayerContext& context);
// Where the reader looks for a slot. The slots of a head follow each other.
std::int64_t planted_read_offset(const Planting<true>& planting, const KvCacheLayout& layout, int layer, std::int64_t b,
                                 std::int64_t kv_head, std::int64_t slot);

// ---- planted_attention.cpp: H02, H08, H10 ---------------------------------------------------------------------------

// Slots that token t of row b sees.
Range planted_visible_slots(const LayerContext& context, std::int64_t b, std::int64_t t);
// Keys of the widened tile [slots, width] that this step's attention takes from elsewhere than the cache.
void planted_replace_keys(const LayerContext& context, std::int64_t b, std::int64_t kv_head, Range slots, float* tile);
// The factors on q.k and on the probabilities.
struct SoftmaxScales {
  float scores = 0.0F;
  float probs = 1.0F;
};
SoftmaxScales planted_scales(const LayerContext& context);
// Faults inside the softmax, for which the planted engine holds all scores of a row.
bool plants_softmax(const LayerContext& context);
// Then this takes the place of the online softmax over fixed tiles: `tokens` of one head of row b.
void planted_attend_head(const LayerContext& context, std::int64_t b, std::int64_t head, Range tokens, float scale);

// ---- planted_in_place.cpp: H04 --------------------------------------------------------------------------------------

// Whether this product of the layer goes into the memory of its own input; if so, computes it there, and copies it to
// its own place.
bool planted_product_in_place(const LayerContext& context, Op projection, const Matrix& matrix, std::byte* x);
// Every token's sum of `residual` and `product`, as the planted engine finds them; `norm` is the tensor that was made
// of the residual.
void planted_add_residual(const LayerContext& context, const std::byte* residual, const std::byte* norm,
                          const std::byte* product, std::byte* sum);

// ---- planted_activation.cpp: X --------------------------------------------------------------------------------------

// act of gate_proj and up_proj.
void planted_activate(const LayerContext& context);

}  // namespace qdiff::optimized::cpu
