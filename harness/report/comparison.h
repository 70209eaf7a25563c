// Reports of two traces side by side (`qdiff compare`): text for the person who asked, JSON for programs.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

#include "harness/compare/pairwise.h"
#include "harness/report/report.h"

namespace qdiff::report {

// The two traces as the command line names them.
struct ComparedNames {
  std::string actual;
  std::string expected;
};

inline constexpr std::size_t kMostTableLines = 20;

// A headline, the first tensor that differs, where the error jumps, what one side lacks, and at most kMostTableLines
// tensors: those that differ most, in execution order.
std::string format_comparison(const compare::PairwiseResult& result, const ComparedNames& names,
                              const TerminalOptions& options);

std::string comparison_json(const compare::PairwiseResult& result, const ComparedNames& names);

// Throws qdiff::InputError where a file that qdiff did not write has its name in `out`.
void check_comparison(const std::filesystem::path& out);

// Writes compare.json under `out`, by the rules of write_reports().
void write_comparison(const compare::PairwiseResult& result, const ComparedNames& names,
                      const std::filesystem::path& out);

}  // namespace qdiff::report
