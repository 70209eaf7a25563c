// The command lines of what narrows a failure down.
#include <memory>

#include "harness/cli/option_kinds.h"

namespace qdiff::cli {
namespace {

void add_tries(CLI::App& app, int& tries, const std::string& usual) {
  constexpr std::int64_t kMostTries = 1'000'000;
  add_value(app, "--tries", tries, "N", whole<int>(1, kMostTries),
            "How many runs it makes at most to shrink a failure (default: " + usual + ")");
}

// Throws InputError where the command line has an option that says how an engine runs.
void refuse_engine_options(const CLI::App& command, const std::string& why) {
  for (const char* option : {"--backend", "--dtype", "--inject", "--mode", "--reference", "--max-memory"}) {
    if (command.count(option) > 0) throw InputError(std::string(option) + ' ' + why);
  }
}

}  // namespace

void add_reduce(CLI::App& app, CommandLine& line) {
  const auto reduce = std::make_shared<ReduceArguments>();
  RunArguments& run = reduce->run;
  run.out = "qdiff-reduced";
  CLI::App& command =
      add_command(app, line, reduce, "reduce", "Shrink a failing case or trace while it fails in the same way");
  add_place(command, "CASE", run.cases, "Case file, or the name of a built-in case, on which the engine diverges");
  add_value(command, "--trace", reduce->trace, "DIR", parse_path, "Instead of a case: a trace that diverges");
  add_value(command, "--model", run.model, "MODEL", parse_path,
            "Hugging Face directory, .gguf file, or synthetic:NAME[,seed=N][,profile=P] (default: the case's own)");
  add_judged_engine(command, run);
  add_dtype_and_inject(command, run);
  add_mode(command, run.mode);
  add_tries(command, reduce->tries, "1000");
  add_out(command, run.out, "Where the reduced case goes, as DIR/ID-reduced.json (default: qdiff-reduced)");
  add_common(command, run.common);
  add_bad_input_status(command);
  command.footer(
      "It leaves out layers, rows, steps and tokens as long as the first wrong tensor is one of the same operation\n"
      "and has the same cause. Of a trace, rows, layers and what comes last can be left out.\n\n"
      "Examples:\n"
      "  qdiff reduce H05-gqa --inject H05.modulo\n"
      "  qdiff reduce long.json --model ~/models/Qwen2.5-0.5B --backend cuda\n"
      "  qdiff reduce --model ~/models/Qwen2.5-0.5B --trace trace/ --out small\n\n"
      "Exit status:\n"
      "  0    nothing diverges, so there is nothing to reduce\n"
      "  1    it diverges, and a smaller case is written\n"
      "  2    bad usage or bad input\n"
      "  125  cannot judge here: no such device, or inconclusive\n");
  command.callback([reduce, &command, &line] {
    const RunArguments& given = reduce->run;
    if (reduce->trace && !given.cases.empty()) {
      throw InputError("--trace stands instead of a case; leave '" + given.cases.front() + "' out");
    }
    if (given.cases.size() > 1) throw InputError("one case is reduced at a time; leave '" + given.cases[1] + "' out");
    if (!reduce->trace && given.cases.empty()) throw InputError("name a case, or a trace with --trace");
    if (reduce->trace && !given.model) throw InputError("--trace needs --model: the model that the engine ran");
    if (reduce->trace)
      refuse_engine_options(command, "says how an engine runs, and a trace is what one computed; leave it out");
    line.arguments = *reduce;
  });
}

void add_fuzz(CLI::App& app, CommandLine& line) {
  const auto fuzz = std::make_shared<FuzzArguments>();
  RunArguments& run = fuzz->run;
  run.out = "qdiff-fuzz";
  CLI::App& command =
      add_command(app, line, fuzz, "fuzz", "Judge an engine on random cases, and shrink those that fail");
  add_value(command, "--seed", fuzz->seed, "N", whole<std::uint64_t>(0, kLargestSeed),
            "Seed of the first case, those of the others follow: same seed, same cases (default: 1)");
  constexpr std::int64_t kMostRuns = 1'000'000'000;
  CLI::Option* runs =
      add_value(command, "--runs", fuzz->runs, "N", whole(1, kMostRuns), "So many cases (default: 100)");
  const auto read_minutes = [](const std::string& flag, const std::string& text) {
    const double minutes = parse_tolerance(flag, text);
    if (minutes == 0.0) throw InputError(flag + " '" + text + "' leaves no time for a case");
    return minutes;
  };
  add_value(command, "--minutes", fuzz->minutes, "N", read_minutes, "Instead: as many cases as begin within this time")
      ->excludes(runs);
  add_value(command, "--model", run.model, "MODEL", parse_path,
            "One model for all cases, as of 'qdiff run' (default: random shapes, profiles and weights)");
  add_judged_engine(command, run);
  add_engine_options(command, run);
  add_layers_and_steps(command, run, "Judge only these layers, as 0-3 or 0,2; failures are then kept as they are",
                       "Judge only these steps of each case, as 0,4; failures are then kept as they are");
  add_mode(command, run.mode);
  add_tries(command, fuzz->tries, "200");
  add_out(command, run.out, "Where failing cases go, as DIR/fuzz-SEED-reduced.json (default: qdiff-fuzz)");
  add_common(command, run.common);
  command.footer(
      "Of failures with the same cause at the same operation, the first is shrunk and kept.\n\n"
      "Examples:\n"
      "  qdiff fuzz --runs 1000 --backend cuda\n"
      "  qdiff fuzz --minutes 30 --seed 7 --dtype bfloat16\n"
      "  qdiff fuzz --inject H08.read_minus_one      see a planted bug being found\n\n"
      "Exit status:\n"
      "  0    every case matches\n"
      "  1    at least one diverges\n"
      "  2    bad usage or bad input\n"
      "  125  cannot judge here: no such device, a planted fault that never ran, or nothing but inconclusive cases\n");
}

void add_bisect(CLI::App& app, CommandLine& line) {
  const auto bisect = std::make_shared<BisectArguments>();
  CLI::App& command =
      add_command(app, line, bisect, "bisect", "Find the commit with which an engine began to diverge, and why");
  const auto read_text = text_or("");
  add_value(command, "--good", bisect->good, "REV", read_text, "A commit of the engine that was right")->required();
  add_value(command, "--bad", bisect->bad, "REV", read_text, "A later one that is wrong")->required();
  add_value(command, "--build", bisect->build, "CMD", read_text,
            "Shell command that builds the commit that is checked out (default: nothing to build)");
  add_value(command, "--record", bisect->record, "CMD", read_text,
            "Shell command that runs the engine and writes its trace to the folder \"$QDIFF_TRACE\"")
      ->required();
  add_model(command, bisect->model, "Hugging Face directory or .gguf file that the engine runs, or synthetic:NAME");
  add_value(command, "--repository", bisect->repository, "DIR", parse_path,
            "A folder in the engine's checkout (default: the current one)");
  command.add_flag("--allow-precision", bisect->allow_precision, "Undeclared roundings make no commit bad");
  add_out(command, bisect->out, "Where the trace and each commit's reports and log go (default: qdiff-bisect)");
  add_threads(command, bisect->common, "Threads to judge with, at most one a core (default: all cores)");
  command.add_flag("--quiet", bisect->common.quiet, "No line for each commit; the result alone");
  add_bad_input_status(command);
  command.footer(
      "Both commands run in the root of the checkout, which has no changes and is afterwards as it was. A commit that\n"
      "cannot be built, recorded or judged is skipped. What is wrong at the good commit already counts as known.\n\n"
      "Example:\n"
      "  qdiff bisect --good v1.2 --bad main --build make --record './engine --trace \"$QDIFF_TRACE\"' \\\n"
      "    --model ~/models/Qwen2.5-0.5B\n\n"
      "Exit status:\n"
      "  0    nothing diverges at the bad commit that did not at the good one\n"
      "  1    the first bad commit is found\n"
      "  2    bad usage or bad input\n"
      "  125  the good or the bad commit, or those around the first bad one, cannot be built, recorded or judged\n");
}

}  // namespace qdiff::cli
