#include <cstdio>
#include <filesystem>

#include "harness/cli/acceptance.h"
#include "harness/cli/commands.h"
#include "harness/cli/delivery.h"
#include "harness/cli/output_folder.h"
#include "harness/cli/selftest_units.h"
#include "harness/cli/shard_folder.h"
#include "harness/cli/text.h"
#include "harness/cli/unit_plan.h"
#include "harness/cli/unit_run.h"
#include "harness/report/report.h"
#include "harness/shards/gathering.h"

namespace qdiff::cli {
namespace {

// Reports go beside no shard's results, whose own they would replace.
void check_is_no_shard(const MergeArguments& arguments) {
  for (const auto& folders : {arguments.folders, arguments.rerun}) {
    for (const std::string& folder : folders) {
      std::error_code error;
      if (!std::filesystem::equivalent(folder, arguments.out, error) || error) continue;
      throw InputError("--out '" + arguments.out + "' is one of the folders that are merged; name another");
    }
  }
}

void check_program(const shards::Plan& plan) {
  if (plan.program == program_name()) return;
  throw InputError("these results were made by " + plan.program + ", and this is " + program_name() +
                   "; merge with the same version");
}

}  // namespace

ExitStatus merge_command(const MergeArguments& arguments) {
  check_output_folder(arguments.out);
  check_is_no_shard(arguments);
  const auto terms = read_terms(arguments.acceptance, arguments.out, false);
  const shards::Gathered gathered = shards::gather(arguments.folders, arguments.rerun);
  check_program(gathered.plan);
  const std::string gaps = to_sentence(gathered.gaps, gathered.plan.units.size());
  const CommandLine whole = read_words(gathered.plan.words);
  if (std::holds_alternative<SelftestArguments>(whole.arguments)) {
    if (terms) throw InputError("what a selftest found has no baseline and no waivers");
    if (gathered.gaps.any()) throw CannotJudgeError(gaps);
    return merge_selftest(gathered, arguments);
  }
  report::check_reports(arguments.out);
  std::vector<std::size_t> units;
  for (std::size_t i = 0; i < gathered.folders.size(); ++i) {
    if (gathered.folders[i]) units.push_back(i);
  }
  if (units.empty()) throw CannotJudgeError(gaps);
  if (terms) acceptance::check_baseline(*terms, false, names_of(gathered.plan, units));

  JoinedUnits joined = join_units(gathered.plan, units, [&](std::size_t i) {
    return *shards::Journal(*gathered.folders[i]).read(gathered.plan.units[i].name);
  });
  if (gathered.gaps.any()) {
    joined.result.verdict = compare::Verdict::kInconclusive;
    joined.result.reason = gaps;
    std::fprintf(stderr, "qdiff: %s\n", one_line(gaps).c_str());
  } else {
    apply_terms(terms, joined.result);
  }
  write_durations(joined.durations, arguments.out);
  const ExitStatus status = deliver(joined.result, arguments.common, arguments.out);
  return gathered.gaps.any() ? ExitStatus::kCannotJudge : status;
}

}  // namespace qdiff::cli
