// The judgement of a trace that any engine wrote: each recorded tensor recomputed from those recorded before it. What
// lies too far behind the last recorded tensor (logits alone, say) is held against whole forward passes instead, one
// for each known bug (far/ranking.h).
#pragma once

#include <functional>
#include <optional>
#include <set>
#include <string>

#include "harness/contract/engine.h"
#include "harness/contract/oracle.h"
#include "harness/contract/weights.h"
#include "harness/diagnose/far/ranking.h"
#include "harness/diagnose/judging.h"
#include "harness/findings/result.h"
#include "harness/trace/trace_reader.h"

namespace qdiff::diagnose {

struct TraceParties {
  const trace::Trace& trace;
  const WeightSource& model;
  Oracle& oracle;
  ReferenceMaker make_reference;
};

struct TraceOptions {
  std::string id = {};                       // names the trace in reports: its folder's name
  std::string command = {};                  // repeats the diagnosis: "qdiff diagnose --model M --trace DIR"
  std::optional<std::set<int>> layers = {};  // judged layers; none given: all of them, embedding and head too
  std::optional<std::set<int>> steps = {};   // judged steps; none given: all
  bool allow_precision = false;              // findings of kind precision leave the verdict as it is
  bool infer_points = false;                 // propose the points that would declare all undeclared roundings
  bool beside_reference = false;             // walk the whole forward pass too, to lay its next tokens beside
  bool probing = true;                       // ask of each variant whether these inputs would show it
  ProgressReport progress = {};
  std::function<void()> before_judging = {};      // the trace is found to fit the model
  KeptParts* kept = nullptr;                      // of earlier runs
  std::vector<const trace::Trace*> repeats = {};  // further recordings of the same input
};

// The steps of a trace as one case.
CaseInput case_of(const trace::Manifest& manifest, const std::string& id);

// Whether replay does not reach the tensor: its span goes over too many layers (kMostLayersOfSpan).
bool is_far(const std::vector<TensorKey>& span);

// Throws InputError where the trace does not fit the model (trace_checks.h) or a filter lies outside it.
findings::RunResult judge_trace(const TraceParties& parties, const TraceOptions& options);

}  // namespace qdiff::diagnose
