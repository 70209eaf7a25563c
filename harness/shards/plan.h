// A plan: the units of work of a run, in the order in which their results are joined. Every machine that is given the
// same inputs makes the same plan and the same shards of it.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "harness/shards/shard.h"

namespace qdiff::shards {

// What one machine does at a stretch, and whose result is kept or lost as a whole.
struct Unit {
  std::string name;              // "toy/bfloat16/cpu/H05-gqa/both", unlike any other of its plan
  std::string model = {};        // as --model takes it
  std::string dtype = {};        // "bfloat16"
  std::string backend = {};      // "cpu"
  std::string test_case = {};    // the case's id
  std::string mode = {};         // "lockstep", "free", "both"
  std::string layers = {};       // that are judged, "0-3"; empty: all
  std::string kept_layers = {};  // of the model, which the case keeps, "0,2"; empty: all
  // Of all that decides its result but the model's weights: equal ones are the same work.
  std::string identity = {};
};

struct Plan {
  std::string program;             // "qdiff 0.1.0"
  std::vector<std::string> words;  // the whole run on one machine: "qdiff", "run", "--suite", "suite.json"
  std::vector<Unit> units;
};

// Throws InputError where two units have the same name.
void check_names(const Plan& plan);

std::string to_json(const Plan& plan);
// The file plan.json in a folder of results. Reading throws InputError where there is none, or one of another form.
inline constexpr std::string_view kPlanMark = "\"qdiff-plan\"";
void write_plan(const Plan& plan, const std::filesystem::path& folder);
Plan read_plan(const std::filesystem::path& folder);
bool has_plan(const std::filesystem::path& folder);
// Its text: of equal plans it is equal.
std::string read_plan_text(const std::filesystem::path& folder);

// What a unit is expected to take.
struct Cost {
  double seconds = 0.0;
  double bytes = 0.0;  // of memory
};

// The units of a shard by their place in the plan, ascending: the costliest first, each to the shard that has least,
// and the first of those.
std::vector<std::size_t> units_of_shard(const std::vector<Cost>& costs, const Shard& shard);

inline constexpr double kMostSeconds = 1e9;  // that anything is said to take

// How long units took, by name: durations.json in a folder of results.
using Durations = std::map<std::string, double>;
std::string to_json(const Durations& durations);
Durations read_durations(const std::filesystem::path& file);

}  // namespace qdiff::shards
