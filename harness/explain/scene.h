// What a theory is recovered from and held against: the tensors of one operation in one layer, in every case and step,
// with everything that was recorded around them and an oracle for what right code makes of any of it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "harness/compare/layout.h"
#include "harness/contract/oracle.h"
#include "harness/contract/overlay.h"
#include "harness/contract/precision.h"
#include "harness/contract/step.h"
#include "harness/contract/tensor.h"

namespace qdiff::explain {

// One tensor of the operation: of a case, a mode and a step.
struct Instance {
  TensorKey key;
  std::vector<TensorKey> span;  // the operations that follow from recorded tensors; the last is `key`
  TensorView actual;
  const TensorStore* recorded = nullptr;  // that the span is recomputed from
  const std::vector<Step>* steps = nullptr;
  std::int64_t capacity = 0;  // cache slots of a row; 0: not known
  double unwritten = 0.0;
  bool wrong = false;  // diverged from right code

  const Step& step() const { return (*steps)[static_cast<std::size_t>(key.step)]; }
};

class Scene {
 public:
  // All instances are of one operation and layer. Nothing is copied from the stores before it is asked for.
  Scene(Oracle& oracle, const Precision& precision, std::vector<Instance> instances);

  Op op() const { return instances_.front().key.id.op; }
  int layer() const { return instances_.front().key.id.layer; }
  // How many tokens a theory has to explain here, whatever it is: more than elements spoiled here and there have, where
  // the expected rounding is wide.
  void ask_for_tokens(std::int64_t least) { least_tokens_ = least; }
  std::int64_t least_tokens() const { return least_tokens_; }
  const ModelConfig& config() const { return oracle_.config(); }
  const Precision& precision() const { return precision_; }
  std::span<const Instance> instances() const { return instances_; }
  std::size_t index_of(const Instance& instance) const {
    return static_cast<std::size_t>(&instance - instances_.data());
  }

  // Of right code, with its expected rounding; evaluated once.
  const Expectation& right(const Instance& instance);
  const std::vector<double>& actual(const Instance& instance);
  const compare::Layout& layout(const Instance& instance) const {
    return layouts_[static_cast<std::size_t>(&instance - instances_.data())];
  }
  // A recorded tensor of the instance's case, of the shape that its step gives it; nothing where there is none.
  std::optional<std::vector<double>> recorded(const Instance& instance, const TensorKey& key) const;
  bool is_recorded(const Instance& instance, const TensorKey& key) const;

  // Right code on other inputs, or of other rows, or at other steps. Throws what Oracle::evaluate throws.
  Expectation evaluate(const Instance& instance, const TensorStore& recorded, std::span<const TensorKey> operations,
                       const std::vector<Step>* steps = nullptr);
  Expectation evaluate(const Instance& instance, const TensorStore& recorded) {
    return evaluate(instance, recorded, instance.span);
  }
  // The value alone, far cheaper.
  std::vector<double> value(const Instance& instance, const TensorStore& recorded,
                            std::span<const TensorKey> operations, const std::vector<Step>* steps = nullptr);

  // Error of an element in units of its expected rounding under `expected`, the final rounding included; 0 where both
  // are the same infinity or NaN, a huge number where only one is, or where the element is unknown.
  double deviations(const Instance& instance, const Expectation& expected, std::size_t element);
  // Of each element from right code; computed once.
  const std::vector<double>& deviations_from_right(const Instance& instance);
  // That expected rounding, in the tensor's own units.
  double deviation(const Instance& instance, const Expectation& expected, std::size_t element) const;
  // Whether an element lies further from right code than rounding takes it (kBeyondRounding, rows.h). A solver leaves
  // out the rest, for a mistake may be one of some heads or columns.
  bool is_wrong(const Instance& instance, std::size_t element);

  // The rows of an instance that are not padding.
  std::vector<std::int64_t> real_rows(const Instance& instance) const;
  // Of a wrong instance those whose error is many times the expected rounding, all of them where none is: a solver
  // starts from them. They decide nothing.
  std::vector<std::int64_t> wrong_rows(const Instance& instance);

 private:
  Oracle& oracle_;
  const Precision& precision_;
  std::vector<Instance> instances_;
  std::int64_t least_tokens_ = 1;
  std::vector<compare::Layout> layouts_;
  std::vector<std::optional<Expectation>> right_;
  std::vector<std::vector<double>> deviations_from_right_;  // empty: not asked yet
  std::vector<std::optional<std::vector<double>>> actual_;
};

}  // namespace qdiff::explain
