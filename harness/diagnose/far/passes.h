// Whole forward passes of the reference over one case, each with a bug of its own or with none, walked layer by layer
// side by side, so that a layer's weights are read once for a group of them.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>

#include "harness/contract/engine.h"
#include "harness/contract/oracle.h"
#include "harness/diagnose/subject.h"

namespace qdiff::diagnose {

struct Pass {
  std::optional<Variant> variant = {};         // none: right code
  std::optional<Variant> beside = {};          // a second one
  std::uint64_t nudge = 0;                     // other than 0: rounds the residual stream in a way of its own
  bool ran = true;                             // false: the variant cannot be planted here
  std::map<TensorKey, double> distance = {};   // from the candidate, by target
  std::map<TensorKey, double> from_gold = {};  // by target
  double worst_row = 0.0;                      // of the rows' and elements' errors beside their bounds, over targets
  double divergence = 0.0;                     // summed over tokens
  std::int64_t same_top_tokens = 0;
  bool settled = false;   // went no further than the first step of a target, for that decided it
  std::size_t order = 0;  // in which it was planted
};

// How far passes go.
struct Course {
  const CaseInput& input;
  int first_target_step = 0;
  int last_step = 0;
  int end_layer = 0;
  bool needs_head = false;
};

// Called with each tensor as soon as it is computed.
using TakeTensor = std::function<void(Pass& pass, const TensorKey& key, const TensorView& tensor)>;

// Whether a pass whose first target steps are done is decided, and need not go on.
using IsSettled = std::function<bool(const Pass& pass)>;

// Where `is_settled` is given, passes pause behind the first step that has a target, and those that are settled end
// there.
void walk(Engine& engine, std::span<Pass> passes, const Course& course, const TakeTensor& take,
          const ProgressReport& progress, const std::string& what, const IsSettled& is_settled = {});

}  // namespace qdiff::diagnose
