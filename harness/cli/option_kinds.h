// The options that several commands have, and the ways to read a value.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <string>
#include <thread>

#include "harness/cli/options.h"
#include "harness/contract/error.h"
#include "harness/contract/wording.h"

namespace qdiff::cli {

inline constexpr std::int64_t kLargestSeed = std::int64_t{1} << 53;  // that JSON's numbers hold

inline constexpr const char* kBadInputStatus = "--bad-input-status";

inline constexpr const char* kExitStatuses =
    "Exit status:\n"
    "  0    match: everything that was judged is right\n"
    "  1    diverged: at least one tensor is wrong\n"
    "  2    bad usage or bad input: nothing was judged\n"
    "  125  cannot judge here: no such device, nothing left to judge, or inconclusive\n";

// Adds an option that fills `value` with what `read(flag, text)` returns; `read` throws InputError for a bad text.
// Where it knows the words that it takes, those stand in --help for `value_name`.
template <typename Value, typename Read>
CLI::Option* add_value(CLI::App& app, const std::string& flag, Value& value, std::string value_name, Read read,
                       const std::string& description) {
  const auto store = [&value, flag, read](const std::string& text) {
    if (text.starts_with("--")) {  // "--model --quiet": CLI11 takes the second option as the first one's value
      throw InputError(flag + " needs a value, but '" + text + "' follows it; write " + flag + "=" + text +
                       " if that is the value");
    }
    value = read(flag, text);
  };
  if constexpr (requires { read.words(); }) {
    value_name = joined(read.words(), "|");
  }
  return app.add_option_function<std::string>(flag, store, description)->type_name(value_name);
}

// A reader of whole numbers in [smallest, largest].
template <typename Number = std::int64_t>
auto whole(std::int64_t smallest, std::int64_t largest) {
  return [=](const std::string& flag, const std::string& text) {
    return static_cast<Number>(parse_whole(flag, text, smallest, largest));
  };
}

// A reader of any text but none; `advice` stands behind "is empty".
inline auto text_or(const char* advice) {
  return [=](const std::string& flag, const std::string& text) {
    if (text.empty()) throw InputError(flag + " is empty" + advice);
    return text;
  };
}

// A command; what it was given is left in `line` once all of it is read.
template <typename Arguments>
CLI::App& add_command(CLI::App& app, CommandLine& line, const std::shared_ptr<Arguments>& given,
                      const std::string& name, const std::string& description) {
  return *app.add_subcommand(name, description)->callback([given, &line] { line.arguments = *given; });
}

// Adds an argument that is known by its place: one path, or a list of them.
template <typename Value>
CLI::Option* add_place(CLI::App& app, const std::string& place, Value& value, const std::string& description) {
  const auto check = [place](const std::string& text) { parse_path(place, text); };
  return app.add_option(place, value, description)->type_name("")->each(check);
}

// An option that may be given several times, with a path each.
inline void add_places(CLI::App& app, const std::string& flag, std::vector<std::string>& values,
                       const std::string& description) {
  app.add_option(flag, values, description)
      ->type_name("DIR")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->each([flag](const std::string& text) { parse_path(flag, text); });
}

inline CLI::Option* add_model(CLI::App& app, std::string& model, const std::string& description) {
  return add_value(app, "--model", model, "MODEL", parse_path, description)->required();
}

template <typename Out>
void add_out(CLI::App& app, Out& out, const std::string& description) {
  add_value(app, "--out", out, "DIR", parse_path, description);
}

template <typename Arguments>
void add_layers_and_steps(CLI::App& app, Arguments& arguments, const std::string& layers, const std::string& steps) {
  add_value(app, "--layers", arguments.layers, "LIST", parse_ranges, layers);
  add_value(app, "--steps", arguments.steps, "LIST", parse_ranges, steps);
}

inline void add_threads(CLI::App& app, CommonArguments& common, const std::string& description) {
  constexpr std::int64_t kMostThreads = 1024;
  const auto read = [](const std::string& flag, const std::string& text) {
    // More than there are cores only hinder each other: 1024 on two cores took thirty times as long.
    const auto cores = static_cast<std::int64_t>(std::max(1U, std::thread::hardware_concurrency()));
    return static_cast<int>(std::min(parse_whole(flag, text, 1, kMostThreads), cores));
  };
  add_value(app, "--threads", common.threads, "N", read, description);
}

inline void add_output_options(CLI::App& app, CommonArguments& common) {
  const auto read = one_of<ColorChoice>(
      {{"auto", ColorChoice::kAuto}, {"always", ColorChoice::kAlways}, {"never", ColorChoice::kNever}});
  add_value(app, "--color", common.color, "WHEN", read,
            "When to colour the report (default: auto, on a terminal only)");
  app.add_flag("--quiet", common.quiet, "No progress line, and no report on standard output");
}

inline void add_all(CLI::App& app, CommonArguments& common) {
  app.add_flag("--all", common.all, "Show the ten hypotheses, and every cause, however many there are");
}

inline void add_common(CLI::App& app, CommonArguments& common) {
  add_value(app, "--max-memory", common.max_memory, "SIZE", parse_size,
            "Refuse work that would need more than this, as 512M or 4G (default: what the machine has)");
  add_threads(app, common, "Threads to use, at most one a core (default: all cores)");
  add_output_options(app, common);
}

inline void add_reference_cache(CLI::App& app, CommonArguments& common) {
  add_value(app, "--reference-cache", common.reference_cache, "DIR", parse_path,
            "Keep what the reference computes there, and read it where another run has kept it; machines may share the "
            "folder (default: what QDIFF_REFERENCE_CACHE names, else nothing is kept)");
  add_value(app, "--reference-cache-size", common.reference_cache_size, "SIZE", parse_size,
            "The most that is kept there, as 512M or 50G: what was used longest ago goes first (default: 20G)");
}

inline int parse_bad_input_status(const std::string& text) {
  constexpr std::int64_t kFirst = 2, kLast = 255;  // never that of a match or of a divergence
  return static_cast<int>(parse_whole(kBadInputStatus, text, kFirst, kLast));
}

// `git bisect run` takes 125 for a commit that cannot be told, and 2 for a bad one.
inline void add_bad_input_status(CLI::App& app) {
  // main() reads the value from the words.
  const auto check = [](const std::string& text) { parse_bad_input_status(text); };
  app.add_option_function<std::string>(
         kBadInputStatus, check, "The exit status for bad usage and bad input instead of 2: 125 under git bisect run")
      ->type_name("N");
}

inline void add_acceptance(CLI::App& app, AcceptanceArguments& acceptance) {
  add_value(app, "--baseline", acceptance.baseline, "DIR", parse_path,
            "The folder of an earlier run's reports: what it has is known, and only new findings fail");
  add_value(app, "--waivers", acceptance.waivers, "FILE", parse_path,
            "Findings to live with, each with its reason, link and last day; one that is expired or that no longer "
            "occurs fails");
  add_value(app, "--fail-on", acceptance.fail_on, "KINDS", parse_kinds,
            "logic, precision, or any: the kinds of finding that fail, separated by commas (default: any)");
}

template <typename Arguments>
void add_dtype_and_inject(CLI::App& app, Arguments& arguments) {
  const auto read = one_of<DType>({{"float32", DType::kF32}, {"bfloat16", DType::kBF16}, {"float16", DType::kF16}});
  add_value(app, "--dtype", arguments.dtype, "DTYPE", read,
            "The type of the engine's weights and tensors (default: as the checkpoint)");
  add_value(app, "--inject", arguments.inject, "FAULT", parse_injection,
            "Hnn.name[=value][@layer]: the engine computes with that known bug planted, as H05.modulo; or a mechanism "
            "that a report gives, as 'bias:coefficient=2@self_attn.q_proj;phase=decode', planted in the reference");
}

template <typename Arguments>
void add_engine_options(CLI::App& app, Arguments& arguments) {
  add_dtype_and_inject(app, arguments);
  app.add_flag("--print-gemms", arguments.print_gemms,
               "First print the engine's matrix products: shapes, strides, biases");
}

// Of run and reduce: which engine is judged, and where the reference computes.
inline void add_judged_engine(CLI::App& app, RunArguments& run) {
  add_value(app, "--backend", run.backend, "NAME", backends(),
            "The engine to judge; the reference is held against itself (default: cpu)");
  using reference::Where;
  add_value(app, "--reference", run.reference, "WHERE",
            one_of<Where>({{"host", Where::kHost}, {"gpu", Where::kGpu}, {"auto", Where::kBySize}}),
            "host or gpu: where the reference computes; auto: a large model on a GPU, where there is one (default: "
            "auto)");
}

inline void add_backend(CLI::App& app, EngineKind& backend, const std::string& description) {
  const auto read = one_of<EngineKind>({{"cpu", EngineKind::kCpu}, {"cuda", EngineKind::kCuda}});
  add_value(app, "--backend", backend, "NAME", read, description);
}

inline void add_mode(CLI::App& app, diagnose::Mode& mode,
                     const std::string& description =
                         "lockstep: each layer gets the reference's input; free: the "
                         "engine feeds itself; both (default: both)") {
  add_value(app, "--mode", mode, "MODE", modes(), description);
}

// The options by which a run is one of many machines' part, and goes on after it was killed.
template <typename Arguments>
void add_shard_options(CLI::App& app, Arguments& arguments) {
  add_value(app, "--shard", arguments.shard, "I/N", shards::parse_shard,
            "Do the I-th of N parts of the work alone, for 'qdiff merge' (default: what the scheduler says, as "
            "SLURM_ARRAY_TASK_ID; else all)");
  app.add_flag("--resume", arguments.resume, "Go on with what an earlier run has left in the folder of --out");
}

// The commands that narrow a failure down, in narrowing_options.cpp.
void add_reduce(CLI::App& app, CommandLine& line);
void add_fuzz(CLI::App& app, CommandLine& line);
void add_bisect(CLI::App& app, CommandLine& line);

// Two traces of the same tokens, in reconcile_options.cpp.
void add_reconcile(CLI::App& app, CommandLine& line);

// Runs by units, in unit_options.cpp. The check throws InputError where options of `run` do not go together.
void add_unit_options(CLI::App& command, RunArguments& run);
void check_unit_options(const CLI::App& command, const RunArguments& run);
void add_plan(CLI::App& app, CommandLine& line);
void add_merge(CLI::App& app, CommandLine& line);

}  // namespace qdiff::cli
