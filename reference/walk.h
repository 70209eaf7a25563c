// A query's operations in order, as units, and where the inputs of each come from: an earlier unit of the query, or the
// candidate's recording.
#pragma once

#include <map>
#include <vector>

#include "harness/contract/oracle.h"
#include "reference/evaluation.h"
#include "reference/mistakes.h"

namespace qdiff::reference {

struct PlacedUnit {
  Unit unit;
  int step = 0;
  int layer = kNoLayer;

  TensorKey output() const { return {step, {unit.last, layer}}; }
};

// Projections join their bias, scores and probs join what follows them, where both are operations of the query. A row
// that a mistake acts on stands alone.
std::vector<PlacedUnit> join_into_units(std::span<const TensorKey> operations, std::span<const Mistake> mistakes = {});

struct UnitInput {
  TensorKey key;
  bool exists = true;  // false: the cache before the first step
};
std::vector<UnitInput> inputs_of(const PlacedUnit& placed, const ModelConfig& config);

class Walk {
 public:
  Walk(const Query& query, const Rounding& rounding, WeightStore& weights);

  const std::vector<PlacedUnit>& units() const { return units_; }
  const Query& query() const { return query_; }
  const ModelConfig& config() const { return weights_.config(); }
  const Step& step(const PlacedUnit& placed) const { return query_.steps[static_cast<std::size_t>(placed.step)]; }
  Setting setting(const PlacedUnit& placed, std::int64_t copies, const Surroundings* around) const {
    return setting(placed, copies, around, rounding_);
  }
  Setting setting(const PlacedUnit& placed, std::int64_t copies, const Surroundings* around,
                  const Rounding& rounding) const;

  // The tensor in the type computed in, rounded where the next operation is declared to take it in a narrower type.
  // Throws InputError where it is not recorded or has a shape that its step does not give it.
  at::Tensor recorded(const TensorKey& key) const;
  // Logits that the candidate handed out for the last row alone are evaluated for that row alone.
  void keep_wanted_rows(const PlacedUnit& placed, std::vector<at::Tensor>& inputs) const;
  // The type whose rounding the recorded copy has and the tensor that was used had not (Precision::taken_as).
  std::optional<DType> rounded_after_use(const TensorKey& key) const;

 private:
  const Query& query_;
  const Rounding& rounding_;
  WeightStore& weights_;
  std::vector<PlacedUnit> units_;
  std::vector<PlantedMistake> mistakes_;
};

using Values = std::map<TensorKey, at::Tensor>;

// The case as a fault sees it: what the walk has computed by now, else what is recorded.
class WalkSurroundings final : public Surroundings {
 public:
  WalkSurroundings(const Walk& walk, const Values& computed) : walk_(walk), computed_(computed) {}
  at::Tensor tensor(const TensorKey& key) const override;
  const std::vector<Step>& steps() const override { return walk_.query().steps; }
  std::int64_t capacity() const override;
  bool is_full(const Step& step) const override { return step.valid_length() == walk_.query().capacity; }
  double unwritten() const override { return walk_.query().unwritten; }

 private:
  const Walk& walk_;
  const Values& computed_;
};

// Inputs of a unit from `computed` where it has them, else from the recording.
std::vector<at::Tensor> gather_inputs(const Walk& walk, const PlacedUnit& placed, const Values& computed,
                                      const ModelConfig& config);

}  // namespace qdiff::reference
