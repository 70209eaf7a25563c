// How a run's result reaches those who asked: standard output, GitHub Actions, the report folder, the exit status.
#pragma once

#include <string>

#include "harness/cli/options.h"
#include "harness/contract/error.h"
#include "harness/findings/result.h"

namespace qdiff::cli {

// Prints the result unless `common.quiet`, tells GitHub Actions where GITHUB_ACTIONS is "true", prints the inferred
// points where there are some, and writes the reports to `out`. The page for GITHUB_STEP_SUMMARY that cannot be written
// is a warning: the verdict stands.
ExitStatus deliver(const findings::RunResult& result, const CommonArguments& common, const std::string& out);

}  // namespace qdiff::cli
