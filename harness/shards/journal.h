// The results of units in a folder, one file each, written in one piece when the unit is done. Whatever kills a run
// leaves whole files behind or none.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "harness/shards/plan.h"

namespace qdiff::shards {

// What a result says of itself beside what was found.
struct Entry {
  std::string unit;      // its name
  std::string identity;  // Unit::identity
  std::string program;   // Plan::program
  std::string inputs;    // ContentHash of the model's weights; empty where there are none
  double seconds = 0.0;
  std::string content = {};  // ContentHash of what was found
};

struct UnitResult {
  Entry entry;
  std::string found;  // one line, whatever the kind of plan makes of it
};

class Journal {
 public:
  // The folder `units` in a folder of results.
  explicit Journal(const std::filesystem::path& folder) : folder_(folder / "units") {}

  std::filesystem::path file_of(const std::string& unit) const;
  // Replaces an older result of the unit.
  void write(const UnitResult& result) const;
  // Nothing where there is no file of that unit. Throws InputError, naming the file, where it is no whole result of
  // that unit: bytes are missing or changed, or it is another unit's.
  std::optional<UnitResult> read(const std::string& unit) const;
  // The names of the units of which there are results, sorted. Files of killed runs are none.
  std::vector<std::string> units() const;
  // Removes the results of these units, and no other file.
  void remove(const std::vector<std::string>& units) const;

 private:
  std::filesystem::path folder_;
};

}  // namespace qdiff::shards
