// A small random model, a recording and the queries of a whole case, all in memory.
#pragma once

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "harness/contract/engine.h"
#include "harness/contract/error.h"
#include "harness/contract/oracle.h"
#include "harness/contract/tests/small_model.h"
#include "harness/contract/weights.h"
#include "reference/random.h"

namespace qdiff::reference {

inline ModelConfig small_config() {
  ModelConfig config = testing::small_config(6, 2, 32, 96, 160, false, 211);  // 6 * 32 is not 96
  config.rope_theta = 1e4;
  return config;
}

// Weights of the sizes that keep a small model's activations near 1; biases of k are large, as in trained models.
class ModelInMemory : public WeightSource {
 public:
  ModelInMemory(ModelConfig config, DType dtype, std::uint64_t seed) : config_(std::move(config)) {
    config_.dtype = dtype;
    for (const auto& [id, index, name, shape] : weights_of(config_)) {
      const bool norm = arithmetic_of(id.op) == Arithmetic::kNorm;
      const double size = shape.size() == 2 ? 1.0 / std::sqrt(static_cast<double>(shape[1])) : norm ? 0.2 : 0.5;
      std::vector<double> values(static_cast<std::size_t>(num_elements(shape)));
      for (std::size_t k = 0; k < values.size(); ++k) {
        values[k] =
            (norm ? 1.0 : 0.0) + size * random_normal(seed + names_.size(), k) * (id.op == Op::kKProj ? 8.0 : 1.0);
      }
      values_.emplace(name, Tensor::rounded(dtype, shape, values));
      names_.push_back({name, dtype, shape});
    }
  }

  const ModelConfig& config() const override { return config_; }
  const std::string& description() const override { return description_; }
  const std::vector<WeightInfo>& weights() const override { return names_; }
  void read(const WeightInfo& info, std::int64_t first, std::int64_t count,
            std::span<std::byte> destination) const override {
    const std::size_t size = size_of(info.dtype);
    const auto from = values_.at(info.name).bytes().subspan(static_cast<std::size_t>(first) * size,
                                                            static_cast<std::size_t>(count) * size);
    std::copy(from.begin(), from.end(), destination.begin());
  }
  Tensor& weight(const std::string& name) { return values_.at(name); }

 private:
  ModelConfig config_;
  std::string description_ = "model in memory";
  std::map<std::string, Tensor> values_;
  std::vector<WeightInfo> names_;
};

class Recording : public TensorStore {
 public:
  bool has(const TensorKey& key) const override { return tensors_.contains(key); }
  TensorView get(const TensorKey& key) const override { return tensors_.at(key).view(); }
  void put(const TensorKey& key, Tensor tensor) { tensors_.insert_or_assign(key, std::move(tensor)); }
  void forget(const TensorKey& key) { tensors_.erase(key); }
  const std::map<TensorKey, Tensor>& all() const { return tensors_; }

 private:
  std::map<TensorKey, Tensor> tensors_;
};

// Steps of the given lengths over random tokens; the first `prefills` are prefill.
inline std::vector<Step> random_steps(const ModelConfig& config, std::vector<std::int64_t> lengths,
                                      std::vector<std::int64_t> left_padding, std::uint64_t seed) {
  std::vector<Step> steps;
  std::int64_t past = 0;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    Step step;
    step.index = static_cast<int>(i);
    step.phase = lengths[i] == 1 && i > 0 ? Phase::kDecode : Phase::kPrefill;
    step.past_length = past;
    step.left_padding = left_padding;
    for (std::size_t b = 0; b < left_padding.size(); ++b) {
      step.tokens.emplace_back();
      for (std::int64_t t = 0; t < lengths[i]; ++t) {
        const std::uint64_t bits = random_bits(seed + b, static_cast<std::uint64_t>(past + t));
        step.tokens.back().push_back(static_cast<std::int32_t>(bits % static_cast<std::uint64_t>(config.vocab)));
      }
    }
    past += lengths[i];
    set_default_positions(step);
    steps.push_back(std::move(step));
  }
  return steps;
}

// Sum of squares of a relative to that of b, as a root: ||a - b|| / ||b||.
inline double relative_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double difference = 0.0, size = 0.0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    if (std::isinf(b[i]) && a[i] == b[i]) continue;
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return size == 0.0 ? difference : std::sqrt(difference / size);
}

// No rounding but that of float64.
inline Precision float64_everywhere() {
  return {.weights = DType::kF64,
          .activations = DType::kF64,
          .accumulate = DType::kF64,
          .points = {},
          .taken_as = {},
          .quantized = {}};
}

// Keeps what an engine hands out, under the step that was said last.
class Recorder : public TensorSink {
 public:
  explicit Recorder(Recording& recording) : recording_(recording) {}
  void at(int step) { step_ = step; }
  void take(const TensorId& id, const TensorView& view) override { recording_.put({step_, id}, Tensor::copy_of(view)); }

 private:
  Recording& recording_;
  int step_ = 0;
};

}  // namespace qdiff::reference
