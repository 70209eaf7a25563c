// A selftest by units: on one of many machines, and from the results of all of them.
#pragma once

#include "harness/cli/options.h"
#include "harness/contract/error.h"
#include "harness/selftest/selftest.h"
#include "harness/shards/gathering.h"

namespace qdiff::cli {

// Runs the selftest that the arguments describe, with this ledger: by units, or, where it is null, at once.
selftest::Result run_selftest(const SelftestArguments& arguments, selftest::Ledger* ledger);

// Prints the table and writes selftest.json.
ExitStatus deliver_selftest(const selftest::Result& result, const SelftestArguments& arguments);

// `qdiff selftest` of a shard, or with --resume.
ExitStatus run_selftest_by_units(const SelftestArguments& arguments, const shards::Shard& shard);

// From gathered results that have no gaps. `out` and what is printed are the merge's.
ExitStatus merge_selftest(const shards::Gathered& gathered, const MergeArguments& merge);

}  // namespace qdiff::cli
