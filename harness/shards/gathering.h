// The results of many machines, gathered for one report: whether each unit of the plan has one, and no second one.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "harness/shards/journal.h"
#include "harness/shards/plan.h"

namespace qdiff::shards {

// What keeps folders of results from being a whole run.
struct Gaps {
  std::vector<std::string> empty;          // folders in which no shard has begun
  std::vector<std::string> missing;        // units without a result
  std::vector<std::string> duplicate;      // with the same result in two folders: they were run twice
  std::vector<std::string> contradicting;  // with two results, or on two versions of a model

  bool any() const { return !empty.empty() || !missing.empty() || !duplicate.empty() || !contradicting.empty(); }
};
// "no shard has begun in c/; 2 of 72 units have no result: a, b; 1 unit has two different results: c"
std::string to_sentence(const Gaps& gaps, std::size_t num_units);

struct Gathered {
  Plan plan;
  std::vector<std::optional<std::filesystem::path>> folders;  // by unit: which holds its result; none: missing
  Gaps gaps;
};

// Units in `rerun` stand in the place of those in the other folders. Throws InputError, with its name, for a folder of
// another plan and a result that is damaged or is none of the plan, and where no folder has a plan.
Gathered gather(const std::vector<std::string>& folders, const std::vector<std::string>& rerun);

// Throws InputError, naming the file, unless the result was made for this unit of this plan.
void check_is_of(const UnitResult& result, const Unit& unit, const Plan& plan, const std::filesystem::path& file);

}  // namespace qdiff::shards
