// GitHub Actions: what it shows of a run beside the log. https://docs.github.com/actions/reference/workflow-commands
#pragma once

#include <string>

#include "harness/findings/result.h"

namespace qdiff::cli {

bool in_github_actions();  // GITHUB_ACTIONS is "true"

// Prints the run's workflow commands, unless `quiet`, and appends its page to the file that GITHUB_STEP_SUMMARY names.
// A page that cannot be written is a warning: the verdict stands.
void tell_github_actions(const findings::RunResult& result, bool quiet);

}  // namespace qdiff::cli
