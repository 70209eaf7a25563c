// Reports of two traces of the same tokens (`qdiff reconcile`): text for the person who asked, JSON for programs.
#pragma once

#include <filesystem>
#include <string>

#include "harness/findings/reconciliation.h"
#include "harness/report/report.h"

namespace qdiff::report {

// A headline, what each side has wrong, and the tokens that differ most.
std::string format_reconciliation(const findings::Reconciliation& result, const TerminalOptions& options);

std::string reconciliation_json(const findings::Reconciliation& result);

// Throws qdiff::InputError where something that qdiff did not write stands in its way in `out`.
void check_reconciliation(const std::filesystem::path& out);

// Writes reconcile.json under `out`, and the reports of each trace's diagnosis under `out`/A and `out`/B, by the rules
// of write_reports().
void write_reconciliation(const findings::Reconciliation& result, const std::filesystem::path& out);

}  // namespace qdiff::report
