// How the reference computes with a mistake (harness/contract/mistake.h): right code on other inputs, of another row of
// the table, told other parameters, or its result put somewhere else. Outside the mistake's scope right code holds.
#pragma once

#include <functional>
#include <set>
#include <span>

#include "harness/contract/mistake.h"
#include "reference/setting.h"

namespace qdiff::reference {

// What an operation is about to compute.
struct Operation {
  Op op;
  std::span<const at::Tensor> inputs;  // as evaluate_row() takes them
  const Setting& setting;              // of right code; `around` holds what the mistake asks for
  const at::Tensor& right;             // what right code computes
};

class PlantedMistake {
 public:
  // Throws InputError where a model of that config has no such place: a layer, a head, a column, a divisor of its
  // width.
  PlantedMistake(Mistake mistake, const ModelConfig& config);

  const Mistake& mistake() const { return mistake_; }
  bool acts_on(Op op, const Setting& setting) const;
  at::Tensor operator()(const Operation& operation) const;
  // Tensors of earlier steps that it asks for.
  const std::set<Op>& remembered() const { return remembered_; }

 private:
  Mistake mistake_;
  std::function<at::Tensor(const Operation&)> wrong_;  // everywhere
  std::set<Op> remembered_;
};

// Bool, of the shape of the operation's output: where the scope holds.
at::Tensor scope_mask(const MistakeScope& scope, Op op, const Setting& setting, at::IntArrayRef shape);

}  // namespace qdiff::reference
