// `--baseline`, `--waivers` and `--fail-on`: read before anything is judged, applied when all of it is.
#pragma once

#include <optional>
#include <string>

#include "harness/acceptance/acceptance.h"
#include "harness/cli/options.h"
#include "harness/findings/result.h"

namespace qdiff::cli {

// None where no such option was given. `out` is where this run's reports go. Throws InputError where a file cannot be
// read, or the baseline is what the reports would replace.
std::optional<acceptance::Terms> read_terms(const AcceptanceArguments& arguments, const std::string& out,
                                            bool allow_precision);

// By today's date, UTC.
void apply_terms(const std::optional<acceptance::Terms>& terms, findings::RunResult& result);

}  // namespace qdiff::cli
