// The engines and the oracle that a run on one model needs.
#pragma once

#include <memory>

#include "harness/cli/engines.h"
#include "harness/cli/kept_reference.h"
#include "harness/contract/oracle.h"
#include "harness/diagnose/run.h"
#include "reference/reference.h"

namespace qdiff::cli {

class RunParties {
 public:
  RunParties(const WeightSource& model, EngineKind backend, const EngineSettings& settings, reference::Where where,
             KeptReference& kept);

  Engine& candidate() { return *candidate_; }
  Engine& reference() { return *reference_; }
  diagnose::KeptParts* kept_parts() { return kept_parts_; }
  diagnose::Parties get() { return {*candidate_, *reference_, *oracle_, model_}; }

 private:
  const WeightSource& model_;
  std::unique_ptr<Engine> candidate_, reference_;
  std::unique_ptr<Oracle> oracle_;
  diagnose::KeptParts* kept_parts_ = nullptr;
};

}  // namespace qdiff::cli
