#include "reference/evaluation.h"

#include <algorithm>
#include <cmath>

#include "reference/arithmetic/arithmetic.h"
#include "reference/mistakes.h"

namespace qdiff::reference {
namespace {

// How a unit is evaluated whose last row has the arithmetic.
struct Evaluation {
  Arithmetic arithmetic;
  Evaluate* evaluate;
};
constexpr std::array kEvaluations = {
    Evaluation{Arithmetic::kLookup, evaluate_lookup},
    Evaluation{Arithmetic::kNorm, evaluate_norm},
    Evaluation{Arithmetic::kProduct, evaluate_product},
    Evaluation{Arithmetic::kBias, evaluate_bias},
    Evaluation{Arithmetic::kRotate, evaluate_rotate},
    Evaluation{Arithmetic::kAppend, evaluate_append},
    Evaluation{Arithmetic::kScores, evaluate_attention},
    Evaluation{Arithmetic::kSoftmax, evaluate_attention},
    Evaluation{Arithmetic::kWeightedSum, evaluate_attention},
    Evaluation{Arithmetic::kGate, evaluate_gate},
    Evaluation{Arithmetic::kAdd, evaluate_add},
};
constexpr bool evaluations_are_in_enum_order() {
  for (std::size_t i = 0; i < kNumArithmetics; ++i) {
    if (static_cast<std::size_t>(kEvaluations[i].arithmetic) != i) return false;
  }
  return kEvaluations.size() == kNumArithmetics;
}
static_assert(evaluations_are_in_enum_order(), "kEvaluations must stand in the order of enum Arithmetic");

// What the mistakes of the setting make of a row's value.
at::Tensor mistaken(at::Tensor value, Op op, std::span<const at::Tensor> inputs, const Setting& setting) {
  Setting right = setting;
  right.mistakes = nullptr;
  for (const PlantedMistake& mistake : *setting.mistakes) {
    if (mistake.acts_on(op, setting)) value = mistake({op, inputs, right, value});
  }
  return value;
}

// Rows of a component that the model lacks compute nothing: what stands before them is evaluated, or passed on.
Evaluated evaluate(Unit unit, std::span<const at::Tensor> inputs, const Setting& setting, const NoiseModel* model) {
  const auto is_present = [&](Op op) { return setting.config().has(row(op).component); };
  while (unit.last != unit.first && !is_present(unit.last)) unit.last = *fused_before(unit.last);
  if (!is_present(unit.last)) return {inputs[0], model == nullptr ? Noise() : no_noise(inputs[0])};
  Evaluated result =
      kEvaluations[static_cast<std::size_t>(arithmetic_of(unit.last))].evaluate(unit, inputs, setting, model);
  if (setting.mistakes != nullptr) result.value = mistaken(std::move(result.value), unit.last, inputs, setting);
  return result;
}

// Variance of results below the smallest normal number, of which nothing may be left: GPUs, Metal and XLA's code for
// CPUs take such numbers for 0, and exponentials of vector libraries end there.
at::Tensor flushed(const at::Tensor& value) {
  const double smallest_normal = std::ldexp(1.0, 1 - facts(DType::kF32).max_exponent);
  return value.masked_fill(value.abs().lt(smallest_normal).logical_not(), 0.0).square();
}

}  // namespace

std::optional<Op> fused_before(Op op) {
  for (const OperationRow& operation : kOperationTable) {
    if (operation.fuses_into == op) return operation.op;
  }
  return std::nullopt;
}

std::vector<Input> unit_inputs(const Unit& unit) {
  std::vector<Op> rows;
  for (std::optional<Op> op = unit.first; op; op = row(*op).fuses_into) {
    rows.push_back(*op);
    if (op == unit.last) break;
  }
  std::vector<Input> inputs;
  for (Op op : rows) {
    for (const Input& input : row(op).inputs) {
      const bool own = input.from == From::kHere && std::ranges::find(rows, input.op) != rows.end();
      if (!own) inputs.push_back(input);
    }
  }
  return inputs;
}

at::Tensor evaluate_unit(const Unit& unit, std::span<const at::Tensor> inputs, const Setting& setting) {
  return evaluate(unit, inputs, setting, nullptr).value;
}

Evaluated evaluate_unit_with_noise(const Unit& unit, std::span<const at::Tensor> inputs, const Setting& setting,
                                   std::optional<DType> stored) {
  const NoiseModel model(setting.precision, stored);
  Evaluated result = evaluate(unit, inputs, setting, &model);
  if (!only_moves(unit.last)) result.noise.independent = result.noise.independent + flushed(result.value);
  return result;
}

}  // namespace qdiff::reference
