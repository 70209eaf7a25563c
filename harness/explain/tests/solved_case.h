// One operation of a recording by closed formulas, judged against right code and explained.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "harness/compare/judge.h"
#include "harness/explain/explain.h"
#include "harness/explain/tests/closed_form.h"
#include "harness/explain/tests/expected_theories.h"

namespace qdiff::explain {

inline constexpr std::int64_t kWidth = kHeads * kHeadDim;  // of queries, in the closed form

inline std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

inline const Precision kPrecision = plain_precision(DType::kBF16);

// The scene of one operation of layer 1, each tensor judged against right code.
struct Case {
  ClosedForm oracle{closed_form_config()};
  std::unique_ptr<Recorded> recorded;
  std::size_t num_wrong = 0;
  std::vector<TensorId> span = {};   // of rows that are evaluated together; the last is the one that is explained
  DType kept_inside = DType::kBF16;  // in which the rows inside a span stand
  std::vector<Candidate> named = {};

  std::optional<Theory> explained(Op op, std::uint64_t seed, const Wronging& wrong) {
    recorded = std::make_unique<Recorded>(oracle, seed, wrong, kept_inside);
    std::vector<Instance> instances;
    for (const Step& step : recorded->steps) {
      const TensorKey key{step.index, {op, row(op).scope == qdiff::Scope::kLayer ? 1 : kNoLayer}};
      Instance instance{.key = key,
                        .span = keys_of_span(key),
                        .actual = recorded->store.get(key),
                        .recorded = &recorded->store,
                        .steps = &recorded->steps};
      const Expectation right = oracle.evaluate({.operations = instance.span,
                                                 .recorded = recorded->store,
                                                 .steps = recorded->steps,
                                                 .precision = kPrecision,
                                                 .stored = DType::kBF16});
      instance.wrong = compare::judge({.op = op,
                                       .actual = instance.actual,
                                       .expected = right,
                                       .step = step,
                                       .precision = kPrecision,
                                       .config = oracle.config(),
                                       .operations = instance.span})
                           .outcome != compare::Outcome::kMatch;
      num_wrong += instance.wrong ? 1 : 0;
      instances.push_back(std::move(instance));
    }
    Scene scene(oracle, kPrecision, std::move(instances));
    std::optional<Theory> theory = explain(scene, named);
    check_said(theory);
    return theory;
  }

  std::vector<TensorKey> keys_of_span(const TensorKey& last) const {
    std::vector<TensorKey> keys;
    for (const TensorId& id : span) keys.push_back({last.step, id});
    return keys.empty() ? std::vector<TensorKey>{last} : keys;
  }
};

// Wrongs one operation of layer 1.
inline Wronging at(Op op, std::function<Values(const std::vector<Values>&, const Step&, Values)> wrong) {
  return [op, wrong](const TensorKey& key, const std::vector<Values>& inputs, const Step& step, Values right) {
    const bool here = key.id.op == op && (key.id.layer == 1 || key.id.layer == kNoLayer);
    return here ? wrong(inputs, step, std::move(right)) : right;
  };
}

inline std::string text_of(const Facts& facts, const std::string& name) {
  for (const auto& [key, value] : facts) {
    if (key != name) continue;
    if (const double* number = std::get_if<double>(&value)) return std::to_string(static_cast<int>(*number));
    return std::get<std::string>(value);
  }
  return "";
}

}  // namespace qdiff::explain
