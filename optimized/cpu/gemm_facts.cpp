#include "optimized/cpu/gemm_facts.h"

#include "optimized/cpu/kernels/kernels.h"

namespace qdiff::optimized::cpu {

std::vector<GemmFacts> gemm_facts(const ModelConfig& config, WeightStore& weights) {
  // As product_of() and store_columns() in projection.h: activations are widened into rows of whole vectors, weights
  // lie as in the checkpoint, and what leaves is packed.
  const auto facts_of = [&config](const char* name, const Matrix& matrix, std::int64_t num_rows) {
    return GemmFacts{.name = name,
                     .layers = config.num_layers,
                     .n = num_rows,
                     .k = matrix.columns,
                     .x_stride = round_up_to_lanes(matrix.columns),
                     .weight_stride = matrix.columns,
                     .out_stride = num_rows};
  };
  const auto layer_facts = [&](const char* name, const Matrix& matrix, const std::vector<float>* bias = nullptr) {
    GemmFacts facts = facts_of(name, matrix, matrix.rows);
    if (bias != nullptr) facts.bias_length = static_cast<std::int64_t>(bias->size());
    return facts;
  };
  const auto layer = weights.layer(0);
  std::vector<GemmFacts> facts = {layer_facts("self_attn.q_proj", layer->q, &layer->q_bias),
                                  layer_facts("self_attn.k_proj", layer->k, &layer->k_bias),
                                  layer_facts("self_attn.v_proj", layer->v, &layer->v_bias),
                                  layer_facts("self_attn.o_proj", layer->o),
                                  layer_facts("mlp.gate_proj", layer->gate),
                                  layer_facts("mlp.up_proj", layer->up),
                                  layer_facts("mlp.down_proj", layer->down)};
  facts.push_back(facts_of("lm_head", weights.lm_head_rows(0, 1), config.vocab));
  facts.back().layers = 1;
  return facts;
}

}  // namespace qdiff::optimized::cpu
