// Two traces of the same tokens, a trainer's and a server's: how far apart their log-probabilities are, how much of it
// the roundings of both explain, and what either has wrong.
#pragma once

#include <array>

#include "harness/diagnose/trace_run.h"
#include "harness/findings/reconciliation.h"

namespace qdiff::diagnose {

struct ReconciledTrace {
  const trace::Trace& trace;
  TraceOptions options;  // of its diagnosis
};

struct ReconcileParties {
  const WeightSource& model;
  Oracle& oracle;
  ReferenceMaker make_reference;
};

// Throws InputError where a trace does not fit the model, or the two do not hold the same tokens.
findings::Reconciliation reconcile(const ReconcileParties& parties,
                                   const std::array<ReconciledTrace, findings::kNumSides>& traces);

// The entries of `compute.points` that findings of kind precision name, as far as a type is what they say.
Precision declaring(Precision declared, const std::map<std::string, std::string>& points);

}  // namespace qdiff::diagnose
