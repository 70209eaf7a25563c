// The commands, one file each. Each returns the exit status, and throws InputError or CannotJudgeError where main()
// turns the message into one line.
#pragma once

#include <string>

#include "harness/cli/options.h"
#include "harness/contract/error.h"
#include "harness/findings/result.h"

namespace qdiff::cli {

ExitStatus run_command(const RunArguments& arguments, const std::string& command);
ExitStatus record_command(const RecordArguments& arguments);
ExitStatus inspect_command(const InspectArguments& arguments);
ExitStatus diagnose_command(const DiagnoseArguments& arguments, const std::string& command);
ExitStatus reconcile_command(const ReconcileArguments& arguments, const std::string& command);
ExitStatus compare_command(const CompareArguments& arguments);
ExitStatus list_command(const ListArguments& arguments);
ExitStatus selftest_command(const SelftestArguments& arguments, const std::string& command);
ExitStatus reduce_command(const ReduceArguments& arguments);
ExitStatus fuzz_command(const FuzzArguments& arguments);
ExitStatus plan_command(const PlanArguments& arguments);
ExitStatus merge_command(const MergeArguments& arguments);
ExitStatus bisect_command(const BisectArguments& arguments);
ExitStatus completion_command(const CompletionArguments& arguments);

inline ExitStatus status_of(compare::Verdict verdict) {
  switch (verdict) {
    case compare::Verdict::kMatch:
      return ExitStatus::kMatch;
    case compare::Verdict::kDiverged:
      return ExitStatus::kDiverged;
    case compare::Verdict::kInconclusive:
      break;
  }
  return ExitStatus::kCannotJudge;
}

inline ExitStatus status_of(findings::AcceptanceVerdict verdict) {
  using findings::AcceptanceVerdict;
  if (verdict == AcceptanceVerdict::kAccepted) return ExitStatus::kMatch;
  return verdict == AcceptanceVerdict::kRefused ? ExitStatus::kDiverged : ExitStatus::kCannotJudge;
}

}  // namespace qdiff::cli
