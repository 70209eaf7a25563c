// The reference behind a store: what it has computed once, by whichever machine, is read.
//
// A value is known by all that it follows from: the program, the reference's and the judge's sources, the model, what
// is asked, the case's steps, and the recorded tensors that it is computed from, by their bytes. An engine whose
// tensors have other bits is another input; the same engine in the next run is the same. What a variant read beside an
// operation's own inputs is kept with the value, and compared before it is used.
//
// Of a tensor that is judged, the judgement is kept (diagnose/kept_parts.h). What is asked to explain a wrong one, and
// the reference's own forward pass, are kept as tensors.
#pragma once

#include <memory>
#include <string>

#include "harness/contract/engine.h"
#include "harness/contract/oracle.h"
#include "harness/diagnose/kept_parts.h"
#include "harness/findings/reference_values.h"
#include "harness/reference_cache/store.h"

namespace qdiff::reference_cache {

struct Cache {
  Store& store;
  std::string reference;              // which reference: program, version, model
  findings::ReferenceValues& values;  // counted here, in tensors
};

// Of the sources that decide what the reference computes and what the judge makes of it.
std::string sources_hash();

class CachedOracle : public Oracle, public diagnose::KeptParts {};

// Asks `inner` for what the store does not have. What `cache` refers to must outlive it. Throws as `inner` does.
std::unique_ptr<CachedOracle> make_cached_oracle(std::unique_ptr<Oracle> inner, const Cache& cache);

// The same of an engine: parts of a step are read, unless something is planted or a sink wants each tensor. A session
// holds the inputs of parts that were read until `inner` has to go on from there.
std::unique_ptr<Engine> make_cached_engine(std::unique_ptr<Engine> inner, const Cache& cache,
                                           const ModelConfig& config);

}  // namespace qdiff::reference_cache
