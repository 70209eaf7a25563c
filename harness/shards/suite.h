// A suite file: models, types, engines and cases, of which every combination is a unit (schema/suite.schema.json).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "harness/contract/dtype.h"

namespace qdiff::shards {

struct SuiteModel {
  std::string name;  // in the names of units
  std::string path;  // as the file has it: as --model takes it; of a path, from the suite's folder
};

// What a file does not name is not in the names of its units, and empty here.
struct Suite {
  std::vector<SuiteModel> models;     // empty: each case's own
  std::vector<DType> dtypes;          // empty: as the checkpoint
  std::vector<std::string> backends;  // "cpu", "cuda", "reference"; empty: cpu
  std::vector<std::string> modes;     // "lockstep", "free", "both"; empty: both
  std::vector<std::string> cases;     // files, from the suite's folder, or names of built-in cases; empty: all of these
  std::optional<std::int64_t> layers_per_unit;  // in lockstep alone; none: all layers are one unit
};

// Throws InputError that names the field, its value and what it must be.
Suite parse_suite(std::string_view text, const std::string& source);
Suite read_suite(const std::filesystem::path& file);

}  // namespace qdiff::shards
