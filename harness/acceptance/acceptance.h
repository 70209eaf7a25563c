// Whether a pipeline accepts a run: which of its findings are new, and whether the waivers still hold.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "harness/acceptance/baseline.h"
#include "harness/acceptance/waivers.h"
#include "harness/findings/result.h"

namespace qdiff::acceptance {

struct Terms {
  std::vector<findings::FindingKind> fail_on;       // kinds of finding that are refused
  std::optional<std::string> baseline_folder = {};  // as given
  std::optional<Baseline> baseline = {};
  std::string waivers_file = {};  // as given
  std::vector<Waiver> waivers = {};
};

// Throws InputError where the baseline is the report of another kind of run, or has none of these cases. To be asked
// before anything is judged.
void check_baseline(const Terms& terms, bool of_trace, const std::vector<std::string>& cases);

// Holds the run against the terms. A finding is the baseline's where case, mode, step, tensor, kind and the name of
// what explains it are the same; the case of a trace, which is its folder's name, is not looked at.
findings::Acceptance accept(const findings::RunResult& result, const Terms& terms, const Date& today);

}  // namespace qdiff::acceptance
