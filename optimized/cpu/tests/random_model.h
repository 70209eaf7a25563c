// A small model in memory with random weights, and a sink that keeps what an engine hands out.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "harness/contract/engine.h"
#include "harness/contract/error.h"
#include "harness/contract/operation_table.h"
#include "harness/contract/splitmix64.h"
#include "harness/contract/tests/small_model.h"
#include "harness/contract/weights.h"

namespace qdiff::optimized::cpu::testing {

// The same elements, to the bit.
inline bool equal(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && std::ranges::equal(a.bytes(), b.bytes());
}

class Random : public SplitMix64 {
 public:
  using SplitMix64::SplitMix64;
  double number() { return static_cast<double>(static_cast<std::int64_t>(bits()) >> 11) * 0x1p-52; }  // [-1, 1)
};

class RandomModel final : public WeightSource {
 public:
  RandomModel(const ModelConfig& config, DType stored, std::uint64_t seed) : config_(config) {
    config_.validate();
    Random random(seed);
    for (const ModelWeight& weight : weights_of(config_)) {
      Tensor tensor(stored, weight.shape);
      const Arithmetic arithmetic = arithmetic_of(weight.id.op);
      const bool norm = arithmetic == Arithmetic::kNorm;
      const double scale = arithmetic == Arithmetic::kProduct
                               ? 1.7 / std::sqrt(static_cast<double>(tensor.shape()[1]))  // keeps the variance
                               : 1.0;
      for (std::int64_t e = 0; e < tensor.size(); ++e) {
        tensor.set(e, norm ? 1.0 + 0.3 * random.number() : scale * random.number());
      }
      infos_.push_back({weight.name, stored, tensor.shape()});
      values_.emplace(weight.name, std::move(tensor));
    }
  }

  const ModelConfig& config() const override { return config_; }
  const std::string& description() const override { return description_; }
  const std::vector<WeightInfo>& weights() const override { return infos_; }
  void read(const WeightInfo& info, std::int64_t first, std::int64_t count,
            std::span<std::byte> destination) const override {
    const auto size = static_cast<std::int64_t>(size_of(info.dtype));
    if (static_cast<std::int64_t>(destination.size()) != count * size) throw std::logic_error("wrong destination");
    std::memcpy(destination.data(), values_.at(info.name).bytes().data() + first * size, destination.size());
  }

  Tensor& tensor(const std::string& weight) { return values_.at(weight); }
  void remove(const std::string& weight) {
    std::erase_if(infos_, [&](const WeightInfo& info) { return info.name == weight; });
  }
  void reshape(const std::string& weight, const Shape& shape) {
    for (WeightInfo& info : infos_) {
      if (info.name == weight) info.shape = shape;
    }
  }

 private:
  ModelConfig config_;
  std::string description_ = "random model of the tests";
  std::vector<WeightInfo> infos_;
  std::map<std::string, Tensor> values_;
};

using qdiff::testing::small_config;

// H*d differs from D, the group is odd, three or more kv heads, every head size; dimensions with and without tails.
inline std::vector<ModelConfig> small_configs() {
  return {small_config(6, 2, 32, 96, 160, true), small_config(9, 3, 64, 200, 333, false),
          small_config(4, 4, 32, 70, 50, false), small_config(5, 1, 128, 130, 96, true),
          small_config(6, 3, 20, 90, 77, true)};
}

class KeepingSink final : public TensorSink {
 public:
  void take(const TensorId& id, const TensorView& view) override {
    order.push_back(id);
    if (!tensors.emplace(TensorKey{step, id}, Tensor::copy_of(view)).second) {
      throw std::logic_error(tensor_name(id) + " was handed out twice in one step");
    }
  }
  const Tensor& at(int of_step, Op op, int layer = kNoLayer) const { return tensors.at({of_step, {op, layer}}); }

  int step = 0;
  std::vector<TensorId> order;
  std::map<TensorKey, Tensor> tensors;
};

// Steps of the given lengths over random tokens; pads are token 0.
inline std::vector<Step> random_steps(const ModelConfig& config, const std::vector<std::int64_t>& lengths,
                                      const std::vector<std::int64_t>& left_padding, std::uint64_t seed) {
  std::int64_t total = 0;
  for (std::int64_t length : lengths) total += length;
  std::vector<std::vector<std::int32_t>> tokens;  // the same sequence however it is cut
  for (std::size_t b = 0; b < left_padding.size(); ++b) {
    Random random(seed + 1000 * b);
    std::vector<std::int32_t> sequence(static_cast<std::size_t>(left_padding[b]), 0);
    while (static_cast<std::int64_t>(sequence.size()) < total) {
      sequence.push_back(static_cast<std::int32_t>(random.bits() % static_cast<std::uint64_t>(config.vocab)));
    }
    tokens.push_back(sequence);
  }
  std::vector<Step> steps;
  std::int64_t past = 0;
  for (std::int64_t length : lengths) {
    Step step;
    step.index = static_cast<int>(steps.size());
    step.phase = length == 1 && past > 0 ? Phase::kDecode : Phase::kPrefill;
    step.past_length = past;
    step.left_padding = left_padding;
    for (const auto& sequence : tokens) {
      step.tokens.emplace_back(sequence.begin() + past, sequence.begin() + past + length);
    }
    set_default_positions(step);
    steps.push_back(step);
    past += length;
  }
  return steps;
}

inline SessionOptions session_options(const std::vector<Step>& steps, Poison poison = Poison::kNaN,
                                      std::int64_t spare = 0) {
  SessionOptions options;
  options.batch = steps.front().batch();
  options.capacity = steps.back().valid_length() + spare;
  options.left_padding = steps.front().left_padding;
  options.poison = poison;
  return options;
}

inline KeepingSink run_all(Engine& engine, const std::vector<Step>& steps, Poison poison = Poison::kNaN,
                           std::int64_t spare = 0) {
  const std::unique_ptr<Session> session = engine.open(session_options(steps, poison, spare));
  KeepingSink sink;
  for (const Step& step : steps) {
    sink.step = step.index;
    session->run_step(step, &sink);
  }
  return sink;
}

}  // namespace qdiff::optimized::cpu::testing
