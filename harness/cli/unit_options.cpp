// The commands and options of runs by units: plan, merge, and what they ask of run.
#include <memory>

#include "harness/cli/option_kinds.h"

namespace qdiff::cli {
namespace {

void add_suite(CLI::App& command, RunArguments& run, const std::string& description) {
  add_value(command, "--suite", run.suite, "FILE", parse_path, description);
}

}  // namespace

void add_unit_options(CLI::App& command, RunArguments& run) {
  add_suite(command, run,
            "Instead of cases: every combination of the models, types, engines and cases that this file names");
  add_shard_options(command, run);
  add_value(command, "--durations", run.durations, "FILE", parse_path,
            "durations.json of an earlier run: shards are made equally long by it; each machine needs the same");
}

void check_unit_options(const CLI::App& command, const RunArguments& run) {
  const auto refuse_beside = [&](const std::string& option, std::initializer_list<const char*> others,
                                 const std::string& why) {
    for (const char* other : others) {
      if (command.get_option(other)->count() > 0) {
        throw InputError(option + " and " + other + " do not go together: " + why);
      }
    }
  };
  if (run.suite) {
    refuse_beside("--suite", {"--model", "--dtype", "--backend", "--mode", "--layers", "--steps"},
                  "the suite says what is run");
    if (!run.cases.empty()) throw InputError("--suite stands instead of cases; leave '" + run.cases.front() + "' out");
  }
  for (const char* option : {"--suite", "--shard", "--resume", "--durations"}) {
    if (command.get_option(option)->count() == 0) continue;
    refuse_beside(option, {"--prompt", "--print-gemms"}, "work by units has cases alone");
  }
}

void add_plan(CLI::App& app, CommandLine& line) {
  const auto plan = std::make_shared<PlanArguments>();
  CLI::App& command =
      add_command(app, line, plan, "plan", "List the units of work of a suite, and what each is expected to take");
  add_place(command, "SUITE", plan->suite, "A suite file (default: all built-in cases, each on its own model)");
  add_suite(command, plan->run, "The same suite file, written as 'qdiff run' takes it");
  add_value(command, "--shard", plan->run.shard, "I/N", shards::parse_shard,
            "Only the units of the I-th of N parts (default: all)");
  add_value(command, "--durations", plan->run.durations, "FILE", parse_path,
            "durations.json of an earlier run, instead of estimates");
  command.add_flag("--json", plan->json, "The same as a JSON array");
  command.footer(
      "Examples:\n"
      "  qdiff plan suite.json\n"
      "  qdiff plan suite.json --shard 3/8 --durations last/durations.json\n\n"
      "Exit status:\n"
      "  0    listed\n"
      "  2    bad usage, a bad suite, or a model or case that is not there\n");
  command.callback([plan, &line] {
    if (!plan->suite.empty()) {
      if (plan->run.suite) throw InputError("--suite and '" + plan->suite + "' both name a suite; leave one out");
      plan->run.suite = plan->suite;
    }
    line.arguments = *plan;
  });
}

void add_merge(CLI::App& app, CommandLine& line) {
  const auto merge = std::make_shared<MergeArguments>();
  CLI::App& command = add_command(app, line, merge, "merge", "Join the results of many machines to the report of one");
  add_place(command, "DIR", merge->folders, "Folders that shards of one run were given with --out")->required();
  const auto read_rerun = [](const std::string& flag, const std::string& text) {
    return std::vector<std::string>{parse_path(flag, text)};
  };
  add_value(command, "--rerun", merge->rerun, "DIR", read_rerun,
            "A folder of units that were run again: they stand in the place of those in the others");
  add_out(command, merge->out, "Where the reports go (default: qdiff-report)");
  add_acceptance(command, merge->acceptance);
  add_all(command, merge->common);
  add_output_options(command, merge->common);
  add_bad_input_status(command);
  command.footer(
      std::string("Units that are missing, that were run twice, or whose results contradict each other are named, and "
                  "the status is\n125.\n\n"
                  "Example:\n"
                  "  qdiff merge shard-1 shard-2 shard-3 --out report\n\n") +
      kExitStatuses);
}

std::vector<std::string> words_of_units(const RunArguments& arguments) {
  std::vector<std::string> words = {"qdiff", "run"};
  const auto add = [&](const char* option, const std::string& value) { words.insert(words.end(), {option, value}); };
  words.insert(words.end(), arguments.cases.begin(), arguments.cases.end());
  if (arguments.suite) {
    // Where a machine keeps the suite is its own affair.
    const std::size_t slash = arguments.suite->starts_with('/') ? arguments.suite->rfind('/') + 1 : 0;
    add("--suite", arguments.suite->substr(slash));
  } else {
    add("--shard", "1/1");
  }
  if (arguments.model) add("--model", *arguments.model);
  if (arguments.backend != EngineKind::kCpu) add("--backend", backends().word(arguments.backend));
  if (arguments.dtype) add("--dtype", std::string(name(*arguments.dtype)));
  if (arguments.mode != diagnose::Mode::kBoth) add("--mode", modes().word(arguments.mode));
  if (arguments.layers) add("--layers", arguments.layers->text);
  if (arguments.steps) add("--steps", arguments.steps->text);
  if (arguments.inject) add("--inject", to_string(*arguments.inject));
  return words;
}

std::vector<std::string> words_of_units(const SelftestArguments& arguments) {
  std::vector<std::string> words = {"qdiff", "selftest"};
  const auto add = [&](const char* option, const std::string& value) { words.insert(words.end(), {option, value}); };
  const auto add_number = [&](const char* option, const std::optional<std::int64_t>& number) {
    if (number) add(option, std::to_string(*number));
  };
  if (arguments.quick) words.emplace_back("--quick");
  if (arguments.backend == EngineKind::kCuda) add("--backend", "cuda");
  if (!arguments.only.empty()) add("--only", arguments.only);
  add_number("--novel", arguments.novel);
  add_number("--pairs", arguments.pairs);
  add_number("--spoiled", arguments.spoiled);
  add_number("--seed", arguments.seed);
  return words;
}

CommandLine read_words(const std::vector<std::string>& words) {
  std::vector<const char*> pointers;
  for (const std::string& word : words) pointers.push_back(word.c_str());
  return parse_command_line(static_cast<int>(pointers.size()), pointers.data());
}

}  // namespace qdiff::cli
