// The main job: a candidate engine against the reference, layer by layer on identical inputs.
//
// For each case the candidate runs first, freely, every tensor recorded, in buffers poisoned with NaN; then once more
// untapped in buffers poisoned with large finite numbers, which must give the same logits bit for bit. The reference
// then walks the same tokens, and its layer inputs are forced on the candidate (lockstep). Both recordings are judged
// row by row by replay: the reference recomputes each row from the candidate's own recorded inputs.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "harness/contract/engine.h"
#include "harness/contract/oracle.h"
#include "harness/contract/step.h"
#include "harness/diagnose/kept_parts.h"
#include "harness/diagnose/subject.h"
#include "harness/findings/result.h"

namespace qdiff::diagnose {

enum class Mode : std::uint8_t { kLockstep, kFree, kBoth };

struct RunOptions {
  Mode mode = Mode::kBoth;
  // Judged layers, and with kNoLayer embedding and head; none given: all of them.
  std::optional<std::set<int>> layers;
  std::optional<std::set<int>> steps;  // judged steps; none given: all
  bool probing = true;                 // ask of each variant whether these inputs would show it
  std::optional<Injection> inject;     // already planted in the candidate; named in the result
  std::string repeat_arguments;        // appended to each finding's command: " --model M --dtype bfloat16"
  ProgressReport progress;
  KeptParts* kept = nullptr;  // of earlier runs
};

// Everything a run needs. The candidate and the reference engine hold the same weights; the reference engine computes
// in float64.
struct Parties {
  Engine& candidate;
  Engine& reference;
  Oracle& oracle;
  const WeightSource& model;
};

// Throws InputError where a case does not fit the model or a layer filter lies outside it.
findings::RunResult run_cases(std::span<const CaseInput> cases, const Parties& parties, const RunOptions& options);

// Results of several models joined into one, in the order in which they are added. Hypotheses take their strongest
// verdict. What one engine in one type rules out, no other result of that engine and type has.
class Joiner {
 public:
  Joiner();
  ~Joiner();
  void add(findings::RunResult next);
  findings::RunResult finish();  // empty where nothing was added

 private:
  struct State;
  std::unique_ptr<State> state_;
};

findings::RunResult merge(std::vector<findings::RunResult> results);

}  // namespace qdiff::diagnose
