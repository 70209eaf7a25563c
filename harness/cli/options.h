// The command line as data: which command, with which values, already checked as far as that is possible without
// opening a file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "harness/cli/values.h"
#include "harness/contract/engine.h"
#include "harness/contract/mistake.h"
#include "harness/diagnose/run.h"
#include "harness/findings/finding_kind.h"
#include "harness/shards/shard.h"
#include "reference/reference.h"

namespace qdiff::cli {

enum class EngineKind : std::uint8_t { kReference, kCpu, kCuda };
inline const OneOf<EngineKind>& backends() {
  static const OneOf<EngineKind> all(
      {{"cpu", EngineKind::kCpu}, {"cuda", EngineKind::kCuda}, {"reference", EngineKind::kReference}});
  return all;
}
inline const OneOf<diagnose::Mode>& modes() {
  using diagnose::Mode;
  static const OneOf<Mode> all({{"lockstep", Mode::kLockstep}, {"free", Mode::kFree}, {"both", Mode::kBoth}});
  return all;
}
enum class ColorChoice : std::uint8_t { kAuto, kAlways, kNever };

struct CommonArguments {
  std::optional<std::uint64_t> max_memory;  // bytes
  std::optional<int> threads;
  ColorChoice color = ColorChoice::kAuto;
  bool quiet = false;
  std::optional<std::string> reference_cache;                    // a folder; none: what the environment names
  std::uint64_t reference_cache_size = std::uint64_t{20} << 30;  // bytes
  bool all = false;  // show the ten hypotheses and every cause, whatever was found
};

// What a pipeline accepts.
struct AcceptanceArguments {
  std::optional<std::string> baseline, waivers;
  std::optional<std::vector<findings::FindingKind>> fail_on;

  bool given() const { return baseline || waivers || fail_on; }
};

struct RunArguments {
  CommonArguments common;
  std::vector<std::string> cases;     // none: the embedded suite, or the prompt
  std::optional<std::string> prompt;  // the one case: this text, and what the reference writes behind it
  std::int64_t tokens = 12;           // at most so many
  std::optional<std::string> model;   // none: each case's own
  EngineKind backend = EngineKind::kCpu;
  reference::Where reference = reference::Where::kBySize;
  std::string out = "qdiff-report";
  std::optional<DType> dtype;  // none: as the checkpoint
  std::optional<NumberRanges> layers;
  std::optional<NumberRanges> steps;
  diagnose::Mode mode = diagnose::Mode::kBoth;
  std::optional<Injection> inject;
  bool print_gemms = false;
  AcceptanceArguments acceptance;
  // Of a run by units.
  std::optional<std::string> suite;
  std::optional<shards::Shard> shard;
  bool resume = false;
  std::optional<std::string> durations;
};

struct PlanArguments {
  std::string suite;  // empty: the built-in cases
  RunArguments run;
  bool json = false;
};

struct MergeArguments {
  CommonArguments common;
  std::vector<std::string> folders;
  std::vector<std::string> rerun;
  std::string out = "qdiff-report";
  AcceptanceArguments acceptance;
};

struct RecordArguments {
  CommonArguments common;
  std::string model;
  std::string test_case;
  EngineKind engine = EngineKind::kCpu;
  std::string trace;
  std::optional<DType> dtype;
  std::optional<NumberRanges> layers;
  std::optional<NumberRanges> steps;
  diagnose::Mode mode = diagnose::Mode::kFree;  // never kBoth: a trace holds one run
  std::optional<Injection> inject;
  bool print_gemms = false;
};

struct InspectArguments {
  std::string path;
};

enum class Listed : std::uint8_t { kMechanisms, kFaults, kCases, kModels, kTensors };

struct ListArguments {
  Listed listed = Listed::kMechanisms;
  bool json = false;
};

struct CompareArguments {
  CommonArguments common;
  std::string actual, expected;
  std::optional<double> within;    // none: all bits must be equal
  std::optional<std::string> out;  // none: no report is written
};

struct SelftestArguments {
  CommonArguments common;
  EngineKind backend = EngineKind::kCpu;
  bool quick = false;
  std::string only;                                         // what the fault ids begin with, or "novel"; empty: all
  std::optional<std::int64_t> novel, pairs, spoiled, seed;  // none: by `quick`
  std::string out = "qdiff-report";
  std::optional<shards::Shard> shard;
  bool resume = false;
};

struct DiagnoseArguments {
  CommonArguments common;
  std::string model, trace;
  std::vector<std::string> repeats;    // beside those that the manifest names
  std::optional<std::string> weights;  // as the engine holds them
  std::string out = "qdiff-report";
  std::optional<NumberRanges> layers;
  std::optional<NumberRanges> steps;
  bool infer_points = false;
  bool allow_precision = false;
  AcceptanceArguments acceptance;
};

struct ReconcileArguments {
  CommonArguments common;
  std::string model;
  std::string a, b;  // traces
  std::string out = "qdiff-report";
  bool allow_precision = false;
  bool json = false;
};

struct ReduceArguments {
  RunArguments run;                  // one case, and the engine that fails on it
  std::optional<std::string> trace;  // instead of a case
  int tries = 1000;                  // at most so many runs
};

struct FuzzArguments {
  RunArguments run;  // how the engine runs and what is judged; no case
  std::uint64_t seed = 1;
  std::optional<std::int64_t> runs;
  std::optional<double> minutes;
  int tries = 200;  // at most so many runs to shrink a failure
};

struct BisectArguments {
  CommonArguments common;
  std::string good, bad;             // revisions
  std::optional<std::string> build;  // commands of a shell
  std::string record;
  std::string model;
  std::string repository = ".";
  std::string out = "qdiff-bisect";
  bool allow_precision = false;
};

struct CompletionArguments {
  std::string shell;
};

// `--help`, `--version` and `man`: text for standard output, and nothing else to do.
struct PrintText {
  std::string text;
};

struct CommandLine {
  std::string command;  // as given, quoted for a shell: "qdiff run --model /models/qwen"
  std::variant<PrintText, RunArguments, RecordArguments, InspectArguments, CompareArguments, DiagnoseArguments,
               SelftestArguments, CompletionArguments, ListArguments, ReduceArguments, FuzzArguments, PlanArguments,
               MergeArguments, BisectArguments, ReconcileArguments>
      arguments;
};

// Throws InputError for bad usage; the message is one sentence that says what to do, without the program's name.
CommandLine parse_command_line(int argc, const char* const* argv);

// The exit status for bad usage and bad input: 2, or what --bad-input-status says, wherever it stands. It is read from
// the words alone, for a command line that is refused as a whole still says so.
int bad_input_status(int argc, const char* const* argv);

// Arguments that give a finding's command the same candidate as this run: " --model M --dtype float32 --inject …".
// `inject` is the fault or the mistake as it was planted in that candidate.
std::string repeat_arguments(const RunArguments& arguments, const std::optional<Injection>& inject);

// The whole of a run by units, on one machine, as words of a command line; read_words() reads them back.
std::vector<std::string> words_of_units(const RunArguments& arguments);
std::vector<std::string> words_of_units(const SelftestArguments& arguments);
CommandLine read_words(const std::vector<std::string>& words);

}  // namespace qdiff::cli
