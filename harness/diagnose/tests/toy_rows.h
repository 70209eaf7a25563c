// Recordings of the toy engine, and rows of them judged as the walk over a layer judges them.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "harness/compare/judge.h"
#include "harness/diagnose/attribution.h"
#include "harness/diagnose/row_oracle.h"
#include "harness/diagnose/tests/toy_model.h"

namespace qdiff::diagnose {

inline const Precision kF32 = plain_precision(DType::kF32);

inline Precision rounding_at(RoundingPoint point, DType dtype, Precision precision = kF32) {
  precision.points[point] = dtype;
  return precision;
}

inline TensorKey key_of(Op op, int layer = 0, int step = 0) { return {step, {op, layer}}; }

// The rows of the table from `first` on, before `until`, both of a layer.
inline std::vector<Op> rows_from(Op first, Op until) {
  std::vector<Op> ops;
  for (const OperationRow& operation : kOperationTable) {
    const TensorId id{operation.op, 0};
    if (operation.scope != Scope::kLayer || runs_before(id, {first, 0}) || !runs_before(id, {until, 0})) continue;
    ops.push_back(operation.op);
  }
  return ops;
}

inline void replace(trace::Recording& recording, const TensorKey& key, Tensor tensor) {
  recording.erase(key);
  recording.put(key, std::move(tensor));
}

// What an engine recorded of a case. Subjects point into it, so it stays where it is.
struct ToySubject {
  CaseInput input;
  trace::Recording tensors;
  Subject subject;

  explicit ToySubject(ToyEngine& engine, CaseInput of = toy_case())
      : input(std::move(of)), tensors(toy_recording(engine, input)) {
    subject = {&input, "free", &tensors, &tensors, {}, engine.poison_value(Poison::kNaN)};
    for (const Step& step : input.steps) subject.steps.insert(step.index);
  }
  ToySubject(const ToySubject&) = delete;
  ToySubject& operator=(const ToySubject&) = delete;

  // Takes these tensors of all layers and steps out of the recording.
  void drop(const std::vector<Op>& ops) {
    for (const TensorKey& key : tensors.keys()) {
      if (std::find(ops.begin(), ops.end(), key.id.op) != ops.end()) tensors.erase(key);
    }
  }

  RowJudgement row(ToyOracle& oracle, const TensorKey& key, const Precision& precision = kF32) const {
    RowJudgement judged{&subject, key, compare::replay_span(key, tensors, oracle.config()), {}, {}, {}};
    judged.judgement = RowOracle(oracle, precision).judge(judged, {});
    return judged;
  }
  // All recorded rows of a layer, in execution order, then by step.
  std::vector<RowJudgement> rows(ToyOracle& oracle, int layer = 0, const Precision& precision = kF32) const {
    std::vector<RowJudgement> judged;
    for (const OperationRow& operation : kOperationTable) {
      if (operation.scope != Scope::kLayer) continue;
      for (int step : subject.steps) {
        const TensorKey key = key_of(operation.op, layer, step);
        if (tensors.has(key)) judged.push_back(row(oracle, key, precision));
      }
    }
    return judged;
  }
};

// Makes a recorded tensor that of an engine which rounds as `rounds` says, with errors of the other sign: as honest as
// the reference that rounds, and twice as far from it as from right code. `elements` limits it to the first of them.
inline void mirror_rounding(ToySubject& subject, ToyOracle& oracle, const TensorKey& key, const Precision& declared,
                            const Precision& rounds, std::int64_t elements = -1) {
  const RowJudgement row = subject.row(oracle, key, declared);
  const std::vector<double> gold = RowOracle(oracle, declared).evaluate(row, {}).value;
  const Tensor rounded = RowOracle(oracle, rounds).emulate(row, {});
  Tensor mirrored = Tensor::copy_of(row.actual());
  const auto count = elements < 0 ? static_cast<std::int64_t>(gold.size()) : elements;
  for (std::int64_t i = 0; i < count; ++i) {
    mirrored.set(i, 2.0 * gold[static_cast<std::size_t>(i)] - rounded.at(i));
  }
  replace(subject.tensors, key, std::move(mirrored));
}

// Engines that compute as `really` says and declare kF32, without a bug and with one.
inline ToyEngine honest_engine(const Precision& really = kF32) { return ToyEngine(kF32, really); }
inline ToyEngine toy_engine(const Fault& fault, const Precision& really = kF32) {
  ToyEngine engine(kF32, really);
  engine.plant(fault);
  return engine;
}

}  // namespace qdiff::diagnose
