// A run by units: which there are, what each is expected to take, and how to do it.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "harness/cases/case.h"
#include "harness/cli/options.h"
#include "harness/shards/plan.h"

namespace qdiff::cli {

// A unit as this machine does it.
struct UnitWork {
  std::string model;          // what open_model() takes
  std::string shown_model;    // in reports, and as --model of a command that repeats a finding; empty: the case's own
  std::size_t test_case = 0;  // of PlannedRun::cases
  EngineKind backend = EngineKind::kCpu;
  DType dtype = DType::kBF16;
  diagnose::Mode mode = diagnose::Mode::kBoth;
  std::optional<std::set<int>> layers = {}, steps = {};
  bool is_planted = false;              // --inject has a place in this model
  std::int64_t max_resident_bytes = 0;  // MemoryPlan
  std::string refusal = {};             // why it cannot be done here; empty: it can
};

struct PlannedRun {
  std::vector<cases::Case> cases;
  shards::Plan plan;
  std::vector<UnitWork> work;       // by unit
  std::vector<shards::Cost> costs;  // by unit
};

// Every combination that the suite names, or the command line where there is none; the units of a model stand
// together. Where `durations` knows a unit, it takes what it took.
PlannedRun plan_units(const RunArguments& arguments, const shards::Durations& durations);

// What a case is expected to take on a machine like the one where this was measured; of `work` its mode and layers
// count, and whether the engine reads its weights anew for want of memory.
double expected_seconds(const CaseInput& input, const ModelConfig& config, const UnitWork& work);

// What a unit of the case runs on: the model at `path`, unless `shown` is empty and it is the case's own; of its layers
// those that the case keeps.
std::unique_ptr<WeightSource> open_model_of_unit(const cases::Case& test_case, const std::string& path,
                                                 const std::string& shown);

// Whether --model names a synthetic model, and no path.
inline bool is_synthetic(std::string_view model) { return model.starts_with("synthetic:"); }

// "qdiff 0.1.0"
std::string program_name();

}  // namespace qdiff::cli
