// The oracle: what a tensor should have been, and how much honest rounding would move it. The reference implements it;
// the judge and the diagnosis know nothing else of the reference.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "harness/contract/fault_table.h"
#include "harness/contract/mistake.h"
#include "harness/contract/operation_table.h"
#include "harness/contract/precision.h"
#include "harness/contract/step.h"
#include "harness/contract/tensor.h"

namespace qdiff {

// The candidate's recorded tensors of one case, all steps.
class TensorStore {
 public:
  virtual ~TensorStore() = default;
  virtual bool has(const TensorKey& key) const = 0;
  // A host view; valid as long as the store is. Throws std::out_of_range unless has(key).
  virtual TensorView get(const TensorKey& key) const = 0;
};

struct Query {
  // Operations to evaluate, in order; the last one is the target. Inputs that are not in this list are recorded.
  std::span<const TensorKey> operations;
  const TensorStore& recorded;
  const std::vector<Step>& steps;  // of the whole case
  const Precision& precision;      // the candidate's declaration
  DType stored;                    // dtype in which the candidate holds the target
  const Variant* variant = nullptr;
  std::int64_t capacity = 0;  // cache slots of a row; 0: not known, taken to be those of the whole case
  double unwritten = 0.0;     // what memory holds that nobody wrote, where that is known; most engines clear it
  bool with_noise = true;     // false: the value alone is wanted, and both deviations stay empty
  // emulate() alone: a declared attention.probs rounds exp(score - maximum) and the sum divides last, as in flash
  // attention (Dao 2022, algorithm 1); false: it rounds the quotient, as where softmax is an operation of its own.
  bool divides_last = false;
  const Variant* beside = nullptr;  // a second bug that the same engine has, beside `variant`
  // Made where their scopes hold, one after the other; of layers and tensors that the operations name. With them the
  // expected rounding is measured on an ensemble, and no variant stands beside them.
  std::span<const Mistake> mistakes = {};
};

// Row-major in the target's shape. `value` is gold: fp64 throughout, weights rounded once to Precision::weights and
// nothing else rounded but what is data movement (kKvCache).
// The error of a correct engine of that precision, before its final rounding to the stored dtype, has at each element
// variance sigma_independent^2 + sigma_shared^2; the shared part moves a whole row, head or tensor together.
// Both are 0 where data only moves. The final rounding itself is the judge's to add.
struct Expectation {
  Shape shape;
  std::vector<double> value;
  std::vector<float> sigma_independent;
  std::vector<float> sigma_shared;
  // Data only moves: the candidate must equal `value` rounded to the stored dtype. Where sigma_independent is not 0 (a
  // cache in 8 bits computes codes and multiplies them out) it is the most that correct engines differ by before that.
  bool exact = false;
  // Under a variant: 1 where nothing is expected (memory that nobody wrote, a query that sees nothing). Such elements
  // have value and deviations 0 and are not compared. Empty: nowhere. Gold has none.
  std::vector<std::uint8_t> unknown = {};
};

// A variant asks for a tensor that the candidate did not record: it can be neither shown nor refuted.
class NotEvaluable : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Oracle {
 public:
  virtual ~Oracle() = default;
  virtual const ModelConfig& config() const = 0;

  // Throws NotEvaluable for a variant that needs what is not recorded.
  // Gold with its expected rounding: analytic for one operation (and for the usual fusions: matmul with bias, scores
  // with softmax and P.V, cache writes before them); for longer spans from an ensemble of perturbed evaluations.
  virtual Expectation evaluate(const Query& query) = 0;
  // The same of several queries, in their order. Those of one projection share a pass over its weights.
  virtual std::vector<Expectation> evaluate_all(std::span<const Query> queries) {
    std::vector<Expectation> expectations;
    for (const Query& query : queries) expectations.push_back(evaluate(query));
    return expectations;
  }
  // What an engine that rounds exactly at the declared points would put out, rounded to the stored dtype.
  virtual std::vector<double> emulate(const Query& query) = 0;

  virtual const std::vector<VariantFacts>& catalogue() const = 0;
};

}  // namespace qdiff
