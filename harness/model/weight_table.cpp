#include "harness/model/weight_table.h"

#include "harness/contract/operation_table.h"

namespace qdiff::model {

std::vector<WeightInfo> expected_weights(const ModelConfig& config) {
  std::vector<WeightInfo> weights;
  for (const TensorId& id : all_tensors(config, /*optional_too=*/true)) {
    if (id.op == Op::kLmHead && config.tie_word_embeddings) continue;  // the embedding, listed already
    for (std::size_t i = 0; i < row(id.op).weights.size(); ++i) {
      weights.push_back({weight_name(id, i, config), config.dtype, weight_shape(id.op, i, config)});
    }
  }
  return weights;
}

}  // namespace qdiff::model
