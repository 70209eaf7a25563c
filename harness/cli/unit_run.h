// Does units and joins what they found: the same way on one machine and, by `qdiff merge`, from many.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "harness/cli/options.h"
#include "harness/contract/error.h"
#include "harness/findings/result.h"
#include "harness/shards/journal.h"
#include "harness/shards/plan.h"

namespace qdiff::cli {

// The arguments with the shard that the scheduler says, where none is given. Nothing where neither they nor a scheduler
// ask for units.
std::optional<RunArguments> asked_by_units(const RunArguments& arguments);

ExitStatus run_by_units(const RunArguments& arguments);

struct JoinedUnits {
  findings::RunResult result;
  shards::Durations durations;
};

// What these units of the plan found, as one result. `result_of` reads each; several threads call it at once.
JoinedUnits join_units(const shards::Plan& plan, const std::vector<std::size_t>& units,
                       const std::function<shards::UnitResult(std::size_t)>& result_of);

// Of a run in which something was planted that never ran where it differs: what matched, matched for no reason.
void doubt_planting(findings::RunResult& result);

std::vector<std::string> names_of(const shards::Plan& plan, const std::vector<std::size_t>& units);

}  // namespace qdiff::cli
