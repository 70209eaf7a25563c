// What the files of mistakes share: places of the table, and right code that is told or reads something else.
#pragma once

#include <string>
#include <utility>

#include "harness/contract/error.h"
#include "reference/evaluation.h"
#include "reference/mistakes.h"

namespace qdiff::reference {

using Wrong = std::function<at::Tensor(const Operation&)>;

[[noreturn]] inline void refuse(const Mistake& mistake, const std::string& why) {
  throw InputError("'" + to_string(mistake) + "': " + why);
}

// Right code that is told other parameters.
inline Wrong told(std::function<void(Parameters&, const Setting&)> change) {
  return [change = std::move(change)](const Operation& operation) {
    const std::function<void(Parameters&)> bound = [&](Parameters& parameters) {
      change(parameters, operation.setting);
    };
    Setting setting = operation.setting;
    setting.change = &bound;
    return evaluate_row(operation.op, operation.inputs, setting);
  };
}

// Right code on another first input.
inline Wrong reading(std::function<at::Tensor(const at::Tensor&)> change) {
  return [change = std::move(change)](const Operation& operation) {
    Tensors inputs(operation.inputs.begin(), operation.inputs.end());
    inputs.front() = change(inputs.front());
    return evaluate_row(operation.op, inputs, operation.setting);
  };
}

// For sizes that do not depend on the step.
// Tokens and slots are primes beyond any width: only tensors that are as large in every step are as large here.
inline Shape sample_shape(Op op, const ModelConfig& config) {
  return output_shape(op, config, 2, 1'000'003, 2'000'003);
}

inline bool are_scores(Op op) { return row(op).shape[1] == Dim::kQHeads; }

inline std::int64_t columns_of(Op op, const ModelConfig& config) {
  const Shape shape = sample_shape(op, config);
  return shape.size() == 4 && !are_scores(op) ? shape[2] * shape[3] : shape.back();
}

inline std::int64_t heads_of(Op op, const ModelConfig& config) {
  if (are_scores(op)) return config.num_q_heads;
  const Shape shape = sample_shape(op, config);
  if (shape.size() == 4) return shape[2];
  const Dim width = row(op).shape[2];
  return width == Dim::kQWidth || width == Dim::kKvWidth ? shape[2] / config.head_dim : 1;
}

// Vectors of a row or of a head: [B, positions, heads, width].
inline at::Tensor as_vectors(const at::Tensor& x, Op op, const ModelConfig& config) {
  return x.reshape({x.size(0), x.size(1), heads_of(op, config), -1});
}

// mistake_products.cpp: of products and of the biases behind them.
Wrong other_rows(const Mistake& mistake, const ModelConfig& config);
Wrong permuted_inputs(const Mistake& mistake, const ModelConfig& config);
Wrong scaled_inputs(const Mistake& mistake, const ModelConfig& config);
Wrong offset_groups(const Mistake& mistake, const ModelConfig& config);
Wrong other_bias(const Mistake& mistake, const ModelConfig& config);
Wrong other_bias_rows(const Mistake& mistake, const ModelConfig& config);

}  // namespace qdiff::reference
