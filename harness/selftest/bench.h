// A model with all that a trial needs of it: engines, oracle, and what a clean engine records of each case.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "harness/cases/case.h"
#include "harness/contract/engine.h"
#include "harness/contract/oracle.h"
#include "harness/contract/weights.h"
#include "harness/diagnose/record.h"
#include "harness/diagnose/run.h"
#include "harness/selftest/shifts.h"

namespace qdiff::selftest {

// Makes what this room cannot include. Calls come from several threads at once; what is made stays with its thread.
struct Makers {
  using MakeEngine = std::function<std::unique_ptr<Engine>(const WeightSource&, DType)>;
  // Engines under test, by name, in the order in which they are scored.
  std::vector<std::pair<std::string, MakeEngine>> engines;
  MakeEngine gold;  // in float64; the dtype is that of its weights
  // The reference that rounds so, for whole passes beside logits.
  std::function<std::unique_ptr<Engine>(const WeightSource&, const Precision&)> reference;
  std::function<std::unique_ptr<Oracle>(const WeightSource&)> oracle;
};

class Bench {
 public:
  // The model of `spec`, as engine `engine` of the makers runs it in `dtype`.
  Bench(const std::string& spec, const Makers& makers, std::size_t engine, DType dtype);

  const WeightSource& weights() const { return *weights_; }
  const ModelConfig& config() const { return weights_->config(); }
  Oracle& oracle() { return *oracle_; }
  const VariantFacts* facts_of(FaultId variant) const;
  std::vector<FaultId> plantable_faults() const { return planted_->plantable_faults(); }

  // Both are made when they are first asked for.
  Shifts& shifts(const cases::Case& test_case);
  const CaseInput& input(const cases::Case& test_case) { return recorded(test_case).input; }

  // The main job with the fault planted; with `probing` it also says which variants the case refutes. Throws InputError
  // where the engine cannot run with it.
  findings::RunResult run(const cases::Case& test_case, const Fault& fault, diagnose::Mode mode, bool probing);
  const TensorStore& recording(const cases::Case& test_case) { return recorded(test_case).tensors.tensors; }
  const Precision& precision() const { return clean_->precision(); }

 private:
  struct CaseRecording {
    CaseInput input;
    diagnose::Recorded tensors;
    std::unique_ptr<Shifts> shifts;
  };
  CaseRecording& recorded(const cases::Case& test_case);

  std::unique_ptr<WeightSource> weights_;
  std::unique_ptr<Engine> clean_, planted_, gold_;
  std::unique_ptr<Oracle> oracle_;
  std::map<std::string, CaseRecording> recordings_;  // by case id
};

}  // namespace qdiff::selftest
