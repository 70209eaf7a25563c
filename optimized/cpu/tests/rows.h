// What the tests of invariance of all engines compare: tensors row by row, and runs that must give the same rows.
#pragma once

#include <algorithm>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "optimized/cpu/tests/random_model.h"

namespace qdiff::optimized::cpu::testing {

// The bytes of one token of one tensor, by sequence and by place in it, pads left out and not counted.
using Rows = std::map<std::tuple<TensorId, std::int64_t, std::int64_t>, std::vector<std::byte>>;

inline Rows rows_of(const KeepingSink& sink, const std::vector<Step>& steps, std::int64_t first_sequence = 0) {
  Rows rows;
  for (const auto& [key, tensor] : sink.tensors) {
    const Step& step = steps[static_cast<std::size_t>(key.step)];
    const bool cache = key.id.op == Op::kKCache || key.id.op == Op::kVCache;
    if (cache && key.step + 1 != static_cast<int>(steps.size())) continue;  // the last one holds all
    const std::int64_t length = tensor.shape()[1];
    const auto bytes = tensor.bytes().size() / static_cast<std::size_t>(tensor.shape()[0] * length);
    for (std::int64_t b = 0; b < tensor.shape()[0]; ++b) {
      for (std::int64_t t = 0; t < length; ++t) {
        const std::int64_t place = t + (cache ? 0 : step.past_length) - step.left_padding[static_cast<std::size_t>(b)];
        if (place < 0) continue;
        const std::byte* data = tensor.bytes().data() + static_cast<std::size_t>(b * length + t) * bytes;
        rows[{key.id, first_sequence + b, place}] = {data, data + bytes};
      }
    }
  }
  return rows;
}

// The name of the first row of `part` that `whole` lacks or holds with other bits; empty where there is none.
inline std::string first_difference(const Rows& part, const Rows& whole) {
  for (const auto& [key, bytes] : part) {
    const auto found = whole.find(key);
    if (found != whole.end() && found->second == bytes) continue;
    return tensor_name(std::get<0>(key)) + ", sequence " + std::to_string(std::get<1>(key)) + ", token " +
           std::to_string(std::get<2>(key)) + (found == whole.end() ? " is missing" : " differs");
  }
  return part.empty() ? "nothing to compare" : "";
}

// Row b of a batch alone, with its pads.
inline std::vector<Step> row_alone(std::vector<Step> steps, std::size_t b) {
  for (Step& step : steps) {
    step.tokens = {step.tokens[b]};
    step.positions = {step.positions[b]};
    step.left_padding = {step.left_padding[b]};
  }
  return steps;
}

// One row without its pads, all of which the first step has.
inline std::vector<Step> without_pads(std::vector<Step> steps) {
  const std::int64_t pads = steps[0].left_padding[0];
  for (Step& step : steps) {
    step.left_padding = {0};
    step.past_length = std::max<std::int64_t>(0, step.past_length - pads);
  }
  steps[0].tokens[0].erase(steps[0].tokens[0].begin(), steps[0].tokens[0].begin() + pads);
  steps[0].positions[0].erase(steps[0].positions[0].begin(), steps[0].positions[0].begin() + pads);
  return steps;
}

// Each layer over all steps before the next layer.
inline KeepingSink run_layer_by_layer(Engine& engine, const ModelConfig& config, const std::vector<Step>& steps) {
  const auto session = engine.open(session_options(steps));
  KeepingSink sink;
  std::vector<Tensor> residual;
  for (const Step& step : steps) {
    sink.step = step.index;
    residual.push_back(Tensor::copy_of(session->run_embedding(step, &sink)));
  }
  for (int layer = 0; layer < config.num_layers; ++layer) {
    for (const Step& step : steps) {
      sink.step = step.index;
      Tensor& stream = residual[static_cast<std::size_t>(step.index)];
      stream = Tensor::copy_of(session->run_layer(layer, step, stream.view(), &sink));
    }
  }
  for (const Step& step : steps) {
    sink.step = step.index;
    session->run_head(step, residual[static_cast<std::size_t>(step.index)].view(), &sink);
  }
  return sink;
}

}  // namespace qdiff::optimized::cpu::testing
