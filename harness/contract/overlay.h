// Recorded tensors, some of them replaced.
#pragma once

#include <map>
#include <utility>

#include "harness/contract/oracle.h"
#include "harness/contract/tensor.h"

namespace qdiff {

class Overlay final : public TensorStore {
 public:
  explicit Overlay(const TensorStore& recorded) : recorded_(recorded) {}
  void replace(const TensorKey& key, Tensor tensor) { replaced_[key] = std::move(tensor); }
  bool has(const TensorKey& key) const override { return replaced_.contains(key) || recorded_.has(key); }
  TensorView get(const TensorKey& key) const override {
    const auto found = replaced_.find(key);
    return found == replaced_.end() ? recorded_.get(key) : found->second.view();
  }

 private:
  const TensorStore& recorded_;
  std::map<TensorKey, Tensor> replaced_;
};

}  // namespace qdiff
