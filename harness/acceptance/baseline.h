// An earlier report as a baseline: which findings it has, by where they are and what explains them.
#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "harness/findings/result.h"
#include "harness/formats/limits.h"

namespace qdiff::acceptance {

// Of a report.json: a run in which every tensor of 80 layers and 100 steps is wrong has some 200,000 findings of 60
// values each.
inline constexpr formats::JsonLimits kReportLimits = {std::size_t{512} << 20, 32, 20'000'000, std::size_t{64} << 10};

struct Baseline {
  std::vector<findings::BaselineFinding> findings;
  std::vector<findings::NotCompared> not_compared;
  bool of_trace = false;  // its case is named for a folder, which says nothing
  std::set<std::string> cases;
};

// Throws InputError where that is no report.json of version 1.
Baseline parse_baseline(std::string_view report_json, const std::string& source);
// Of a report's folder.
Baseline read_baseline(const std::filesystem::path& folder);

}  // namespace qdiff::acceptance
