#include "harness/cli/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <sstream>

#include "harness/cli/completion.h"
#include "harness/cli/man_page.h"
#include "harness/cli/option_kinds.h"
#include "harness/cli/text.h"
#include "harness/contract/error.h"
#include "harness/contract/wording.h"
#include "harness/formats/suggest.h"

#ifndef QDIFF_VERSION
#error "QDIFF_VERSION is defined by this room's CMakeLists.txt"
#endif

namespace qdiff::cli {
namespace {

constexpr const char* kAbout =
    "qdiff finds the first wrong tensor of a Qwen2.5 or Llama inference engine, and the bug that explains it.";

constexpr char kBetweenChoices = '|';

// ---- The commands. Each leaves what it was given in `line`, once all of it is read. ----

void add_run(CLI::App& app, CommandLine& line) {
  const auto run = std::make_shared<RunArguments>();
  CLI::App& command = add_command(app, line, run, "run", "Judge an engine against the reference, layer by layer");
  add_place(command, "CASE", run->cases, "Case files, or names of built-in cases (default: all built-in cases)");
  add_value(command, "--model", run->model, "MODEL", parse_path,
            "Hugging Face directory, .gguf file, or synthetic:NAME[,seed=N][,profile=P] (default: each case's own)");
  CLI::Option* prompt =
      add_value(command, "--prompt", run->prompt, "TEXT", text_or("; give it a text"),
                "Instead of cases: this text in the model's own tokens, and what the reference writes behind it");
  constexpr std::int64_t kMostTokens = 4096;
  add_value(command, "--tokens", run->tokens, "N", whole(1, kMostTokens),
            "With --prompt: how many tokens it writes at most (default: 12)")
      ->needs(prompt);
  add_judged_engine(command, *run);
  add_out(command, run->out, "Where the reports go (default: qdiff-report)");
  add_engine_options(command, *run);
  add_layers_and_steps(command, *run, "Judge only these layers, as 0-3 or 0,2",
                       "Judge only these steps of each case, as 0,4");
  add_mode(command, run->mode);
  add_unit_options(command, *run);
  add_acceptance(command, run->acceptance);
  add_reference_cache(command, run->common);
  add_all(command, run->common);
  add_common(command, run->common);
  add_bad_input_status(command);
  command.footer(std::string("Examples:\n"
                             "  qdiff run --model ~/models/Qwen2.5-0.5B --out report\n"
                             "  qdiff run cases/H05-gqa.json --layers 0 --steps 0 --dtype float32\n"
                             "  qdiff run H05-gqa --inject H05.modulo\n"
                             "  qdiff run --model model.gguf --prompt 'The capital of France is'\n\n") +
                 kExitStatuses);
  command.callback([run, &command, &line] {
    check_unit_options(command, *run);
    if (run->prompt && !run->cases.empty()) {
      throw InputError("--prompt stands instead of cases; leave '" + run->cases.front() + "' out");
    }
    if (run->prompt && !run->model) {
      throw InputError("--prompt needs --model: a text has tokens in a model's own vocabulary");
    }
    line.arguments = *run;
  });
}

void add_record(CLI::App& app, CommandLine& line) {
  const auto record = std::make_shared<RecordArguments>();
  CLI::App& command =
      add_command(app, line, record, "record", "Run an engine on a case and write its tensors as a trace");
  add_model(command, record->model, "Hugging Face directory, .gguf file, or synthetic:NAME[,seed=N][,profile=P]");
  add_value(command, "--case", record->test_case, "CASE", parse_path, "Case file, or the name of a built-in case")
      ->required();
  const auto read_engine = one_of<EngineKind>(
      {{"reference", EngineKind::kReference}, {"cpu", EngineKind::kCpu}, {"cuda", EngineKind::kCuda}});
  add_value(command, "--engine", record->engine, "NAME", read_engine, "The engine to record")->required();
  add_value(command, "--trace", record->trace, "DIR", parse_path,
            "The trace to write; replaces an older trace, nothing else")
      ->required();
  add_engine_options(command, *record);
  add_layers_and_steps(command, *record, "Write only these layers, as 0-3 or 0,2",
                       "Write the tensors of these steps alone, as 0,4");
  add_mode(command, record->mode,
           "free: the engine feeds itself; lockstep: each layer gets the reference's input (default: free)");
  add_common(command, record->common);
  add_bad_input_status(command);
  command.footer(
      "Example:\n"
      "  qdiff record --model synthetic:qwen2.5-0.5b --case H05-gqa --engine cpu --trace t\n\n"
      "Exit status:\n"
      "  0    the trace is written\n"
      "  2    bad usage or bad input: nothing was written\n"
      "  125  no such device, or the planted fault never ran\n");
  command.callback([record, &line] {
    if (record->mode == diagnose::Mode::kBoth) {
      throw InputError("--mode 'both': a trace holds one run; record lockstep and free into two folders");
    }
    line.arguments = *record;
  });
}

void add_inspect(CLI::App& app, CommandLine& line) {
  const auto inspect = std::make_shared<InspectArguments>();
  CLI::App& command = add_command(app, line, inspect, "inspect", "Say what a model, a trace or a case file holds");
  add_place(command, "PATH", inspect->path,
            "Model directory, .gguf file or synthetic: model, trace directory, or case file")
      ->required();
  command.footer(
      "Examples:\n"
      "  qdiff inspect ~/models/Qwen2.5-0.5B\n"
      "  qdiff inspect synthetic:qwen2.5-0.5b,seed=3\n"
      "  qdiff inspect trace/\n\n"
      "Exit status:\n"
      "  0    it is well-formed\n"
      "  2    it is not, and the message says where\n");
}

void add_list(CLI::App& app, CommandLine& line) {
  const auto list = std::make_shared<ListArguments>();
  CLI::App& command =
      add_command(app, line, list, "list", "List what there is by name, for --inject, --case and --model");
  const auto read = one_of<Listed>({{"mechanisms", Listed::kMechanisms},
                                    {"faults", Listed::kFaults},
                                    {"cases", Listed::kCases},
                                    {"models", Listed::kModels},
                                    {"tensors", Listed::kTensors}});
  command
      .add_option_function<std::string>(
          "WHAT", [list, read](const std::string& text) { list->listed = read("list", text); }, "What to list")
      ->type_name("mechanisms|faults|cases|models|tensors")
      ->required();
  command.add_flag("--json", list->json, "The same as a JSON array");
  command.footer(
      "Examples:\n"
      "  qdiff list faults\n"
      "  qdiff list mechanisms --json\n\n"
      "Exit status:\n"
      "  0    listed\n"
      "  2    bad usage\n");
}

void add_compare(CLI::App& app, CommandLine& line) {
  const auto compare = std::make_shared<CompareArguments>();
  CLI::App& command = add_command(app, line, compare, "compare", "Lay two traces side by side, without a model");
  add_place(command, "A", compare->actual, "The trace in question")->required();
  add_place(command, "B", compare->expected, "The trace that it is held against")->required();
  add_value(command, "--within", compare->within, "R", parse_tolerance,
            "Accept a relative RMS error up to R, across element types too (default: all bits equal)");
  add_out(command, compare->out, "Also write compare.json there");
  add_output_options(command, compare->common);
  add_bad_input_status(command);
  command.footer(
      "No rounding is known without a model, so nothing is judged: 'qdiff run' does that.\n\n"
      "Examples:\n"
      "  qdiff compare before/ after/\n"
      "  qdiff compare ours/ theirs/ --within 0.01 --out report\n\n"
      "Exit status:\n"
      "  0    all bits equal, or all within R\n"
      "  1    at least one tensor differs; NaN and infinities always do, unless their bits are equal\n"
      "  2    bad usage or bad input: nothing was compared\n"
      "  125  the traces have no tensor in common\n");
}

void add_diagnose(CLI::App& app, CommandLine& line) {
  const auto diagnose = std::make_shared<DiagnoseArguments>();
  CLI::App& command = add_command(app, line, diagnose, "diagnose", "Judge a trace of any engine against the reference");
  add_model(command, diagnose->model,
            "Hugging Face directory or .gguf file that the engine ran, or synthetic:NAME[,seed=N][,profile=P]");
  add_value(command, "--trace", diagnose->trace, "DIR", parse_path, "The trace's folder, which holds its manifest.json")
      ->required();
  add_places(command, "--repeat", diagnose->repeats,
             "Another recording of the same input, as often as there are: what differs from run to run is named first");
  add_value(command, "--weights", diagnose->weights, "PATH", parse_path,
            "The weights as the engine holds them, a .safetensors file or a folder of some: which are not the model's");
  add_out(command, diagnose->out, "Where the reports go (default: qdiff-report)");
  add_layers_and_steps(command, *diagnose, "Judge only these layers, as 0-3 or 0,2", "Judge only these steps, as 0,4");
  command.add_flag("--infer-points", diagnose->infer_points,
                   "Propose, on standard output, the compute.points that would declare every rounding found");
  command.add_flag("--allow-precision", diagnose->allow_precision,
                   "Undeclared roundings are reported, but the exit status leaves them aside");
  add_acceptance(command, diagnose->acceptance);
  add_reference_cache(command, diagnose->common);
  add_all(command, diagnose->common);
  add_common(command, diagnose->common);
  add_bad_input_status(command);
  command.footer(std::string("Any tensor may be missing from a trace; the more there are, the narrower the finding.\n\n"
                             "Examples:\n"
                             "  qdiff diagnose --model ~/models/Qwen2.5-0.5B --trace trace/\n"
                             "  qdiff diagnose --model ~/models/Qwen2.5-0.5B --trace trace/ --infer-points\n\n") +
                 kExitStatuses);
  command.callback([diagnose, &line] {
    const auto& kinds = diagnose->acceptance.fail_on;
    if (diagnose->allow_precision && kinds && std::ranges::count(*kinds, findings::FindingKind::kPrecision) > 0) {
      throw InputError("--allow-precision and --fail-on with precision contradict each other; leave one out");
    }
    line.arguments = *diagnose;
  });
}

void add_selftest(CLI::App& app, CommandLine& line) {
  const auto selftest = std::make_shared<SelftestArguments>();
  CLI::App& command =
      add_command(app, line, selftest, "selftest", "Plant every known bug and score what the diagnosis makes of it");
  command.add_flag("--quick", selftest->quick, "A part of it, in a minute or two: each fault once, in bfloat16");
  add_backend(command, selftest->backend,
              "cpu: bugs in the CPU engine and in the reference; cuda: in the CUDA engine alone (default: cpu)");
  add_value(command, "--only", selftest->only, "TEXT", text_or("; give what the ids of faults begin with, as H03"),
            "Faults whose id begins so, as H03, or novel: those that no table lists; no honest runs and no doses");
  const auto read_count = whole(0, 1'000'000);
  add_value(command, "--novel", selftest->novel, "N", read_count,
            "So many faults drawn at random from mechanisms, parameters and scopes (default: 600, quick 12)");
  add_value(command, "--pairs", selftest->pairs, "N", read_count, "So many pairs of them (default: 300, quick 4)");
  add_value(command, "--spoiled", selftest->spoiled, "N", read_count,
            "So many recordings of right code spoiled at random places (default: 1000, quick 20)");
  add_value(command, "--seed", selftest->seed, "N", whole(0, kLargestSeed),
            "Seed of the first of these (default: 7000000)");
  add_shard_options(command, *selftest);
  add_out(command, selftest->out, "Where selftest.json goes (default: qdiff-report)");
  add_threads(command, selftest->common, "Faults to plant side by side (default: all cores)");
  command.add_flag("--quiet", selftest->common.quiet, "No progress line, and no table on standard output");
  command.footer(
      "Examples:\n"
      "  qdiff selftest --quick\n"
      "  qdiff selftest --out scores\n\n"
      "Exit status:\n"
      "  0    all goals are met\n"
      "  1    at least one is not; the table ends with every miss and its reason\n"
      "  2    bad usage: nothing was run\n");
}

void add_completion(CLI::App& app, CommandLine& line) {
  const auto completion = std::make_shared<CompletionArguments>();
  CLI::App& command = add_command(app, line, completion, "completion", "Print the completion script of a shell");
  add_place(command, "SHELL", completion->shell, "bash, zsh or fish")->required();
  command.footer(
      "Examples:\n"
      "  source <(qdiff completion bash)\n"
      "  qdiff completion zsh > ~/.zfunc/_qdiff\n"
      "  qdiff completion fish > ~/.config/fish/completions/qdiff.fish\n\n"
      "Exit status:\n"
      "  0    the script is printed\n"
      "  2    there is none for this shell\n");
}

void add_man(CLI::App& app, CommandLine& line) {
  CLI::App& command = *app.add_subcommand("man", "Print the manual page");
  command.footer(
      "Example:\n"
      "  qdiff man | man -l -\n\n"
      "Exit status:\n"
      "  0    the page is printed\n");
  command.callback([&line] { line.arguments = PrintText{man_page(describe_commands(), QDIFF_VERSION)}; });
}

void add_commands(CLI::App& app, CommandLine& line) {
  app.set_version_flag("--version", "qdiff " QDIFF_VERSION, "Print the version and stop");
  app.require_subcommand(1);
  app.footer(std::string("Examples:\n"
                         "  qdiff run                                   judge the CPU engine with the built-in cases\n"
                         "  qdiff run --model ~/models/Qwen2.5-0.5B     the same cases on a checkpoint\n"
                         "  qdiff run H05-gqa --inject H05.modulo       see a planted bug being found\n"
                         "  qdiff diagnose --model M --trace DIR        judge a trace of any engine\n"
                         "  qdiff inspect ~/models/Qwen2.5-0.5B         what a model, trace or case holds\n"
                         "  qdiff compare before/ after/                two traces side by side, without a model\n"
                         "  qdiff COMMAND --help                        all options of a command\n\n") +
             kExitStatuses);
  add_run(app, line);
  add_record(app, line);
  add_inspect(app, line);
  add_list(app, line);
  add_compare(app, line);
  add_diagnose(app, line);
  add_reconcile(app, line);
  add_reduce(app, line);
  add_fuzz(app, line);
  add_bisect(app, line);
  add_selftest(app, line);
  add_plan(app, line);
  add_merge(app, line);
  add_completion(app, line);
  add_man(app, line);
}

// ---- What --help says, as data ----

OptionFacts facts_of(const CLI::Option& option) {
  OptionFacts facts{.name = option.get_positional() ? option.get_single_name() : "--" + option.get_lnames().front(),
                    .value = option.get_type_name(),
                    .description = option.get_description(),
                    .required = option.get_required()};
  if (option.get_positional()) {
    facts.value = facts.name;
    facts.many = option.get_items_expected_max() > 1;
    return facts;
  }
  if (option.get_items_expected_max() == 0) facts.value.clear();  // a flag
  if (facts.value.find(kBetweenChoices) == std::string::npos) return facts;
  std::istringstream words(facts.value);
  for (std::string word; std::getline(words, word, kBetweenChoices);) facts.choices.push_back(word);
  return facts;
}

CommandFacts facts_of(const CLI::App& app, const std::string& name) {
  CommandFacts facts{
      .name = name, .description = app.get_description(), .options = {}, .places = {}, .footer = app.get_footer()};
  for (const CLI::Option* option : app.get_options()) {
    (option->get_positional() ? facts.places : facts.options).push_back(facts_of(*option));
  }
  return facts;
}

// ---- What is wrong with the words, said better than CLI11 would ----

// A missing or misspelt command, with the nearest name.
void check_command_name(const CLI::App& app, int argc, const char* const* argv) {
  if (argc < 2) throw InputError("no command given; see 'qdiff --help'");
  const std::string word = argv[1];
  if (word == "--help" || word == "-h" || word == "--version") return;
  auto names = texts_of(app.get_subcommands({}), [](const CLI::App* command) { return command->get_name(); });
  if (std::ranges::find(names, word) != names.end()) return;
  names.insert(names.end(), {"--help", "--version"});
  if (word.starts_with('-')) {
    throw InputError("unknown option '" + word +
                     "' before a command; write 'qdiff COMMAND [options]', see 'qdiff --help'" +
                     formats::suggestion(word, names));
  }
  throw InputError("unknown command '" + word + "' (see 'qdiff --help')" + formats::suggestion(word, names));
}

std::string see_help(const CLI::App& command) {
  return std::string("see '") + (command.get_parent() == nullptr ? "" : "qdiff ") + command.get_name() + " --help'";
}

// An unknown option, with the nearest name, or an argument too many.
void check_extras(const CLI::App& command) {
  std::vector<std::string> extras = command.remaining();
  std::erase(extras, "--");  // it only ends the options
  if (extras.empty()) return;
  const std::string see = see_help(command);
  const auto option = std::ranges::find_if(extras, [](const auto& word) { return word.starts_with('-'); });
  if (option == extras.end()) {
    const auto known = command.get_options();
    const auto lacks = std::ranges::find_if(
        known, [](const CLI::Option* of) { return of->get_required() && !of->get_positional() && of->count() == 0; });
    const std::string meant =
        lacks == known.end() ? "" : "did you mean \"" + (*lacks)->get_name() + ' ' + extras.front() + "\"? ";
    throw InputError("unexpected argument '" + extras.front() + "'; " + meant + see);
  }
  std::vector<std::string> names;
  for (const CLI::Option* known : command.get_options()) {
    for (const std::string& name : known->get_lnames()) names.push_back("--" + name);
  }
  const std::string name = option->substr(0, option->find('='));
  throw InputError("unknown option '" + name + "' (" + see + ")" + formats::suggestion(name, names));
}

// "--layers=": CLI11 says only that something is missing.
void check_values_given(int argc, const char* const* argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--") return;
    if (word.starts_with("--") && word.find('=') == word.size() - 1) {
      throw InputError(word.substr(0, word.size() - 1) + " is empty; give it a value, or leave it out");
    }
  }
}

// CLI11 says that one is required, and not what may stand there.
void check_places_given(const CLI::App& command) {
  for (const CLI::Option* place : command.get_options()) {
    if (!place->get_positional() || !place->get_required() || place->count() > 0) continue;
    std::string what = place->get_type_name();
    const bool has_choices = what.find(kBetweenChoices) != std::string::npos;
    if (has_choices) std::ranges::replace(what, kBetweenChoices, ' ');
    throw InputError(place->get_single_name() + " is missing (" + (has_choices ? what : place->get_description()) +
                     "); " + see_help(command));
  }
}

// CLI11 says how many were required and received.
void check_given_once(const CLI::App& command) {
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_items_expected_max() == 1 && option->count() > 1) {
      throw InputError(option->get_name() + " is given " + std::to_string(option->count()) + " times; give it once");
    }
  }
}

}  // namespace

std::string repeat_arguments(const RunArguments& arguments, const std::optional<Injection>& inject) {
  std::string text;
  if (arguments.model) text += " --model " + shell_quote(*arguments.model);
  if (arguments.backend != EngineKind::kCpu) text += " --backend " + backends().word(arguments.backend);
  if (arguments.dtype) text += " --dtype " + std::string(name(*arguments.dtype));
  if (inject) text += " --inject " + shell_quote(to_string(*inject));
  return text;
}

std::vector<CommandFacts> describe_commands() {
  CommandLine line{.command = "", .arguments = PrintText{}};
  CLI::App app(kAbout, "qdiff");
  add_commands(app, line);
  std::vector<CommandFacts> commands = {facts_of(app, "")};
  for (const CLI::App* command : app.get_subcommands({})) commands.push_back(facts_of(*command, command->get_name()));
  return commands;
}

int bad_input_status(int argc, const char* const* argv) {
  constexpr int kUsual = static_cast<int>(ExitStatus::kBadInput);
  const std::string_view option = kBadInputStatus;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--") break;
    std::string value;
    if (word == option && i + 1 < argc) value = argv[i + 1];
    if (word.starts_with(option) && word.substr(option.size()).starts_with('=')) value = word.substr(option.size() + 1);
    if (value.empty()) continue;
    try {
      return parse_bad_input_status(value);
    } catch (const InputError&) {
      return kUsual;  // said by the reader of the command line
    }
  }
  return kUsual;
}

CommandLine parse_command_line(int argc, const char* const* argv) {
  CommandLine line{.command = "qdiff", .arguments = PrintText{}};
  for (int i = 1; i < argc; ++i) line.command += ' ' + shell_quote(argv[i]);
  CLI::App app(kAbout, "qdiff");
  add_commands(app, line);
  check_command_name(app, argc, argv);
  const auto asked = [&app]() -> const CLI::App& {
    return app.get_subcommands().empty() ? app : *app.get_subcommands().front();
  };
  std::optional<InputError> refused;
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForVersion&) {
    line.arguments = PrintText{"qdiff " QDIFF_VERSION "\n"};
    return line;
  } catch (const CLI::ParseError& error) {  // also where help is asked for
    refused = InputError(std::string(error.what()) + "; " + see_help(asked()));
  } catch (const InputError& error) {
    refused = error;
  }
  if (!refused) return line;
  if (asked().get_help_ptr()->count() > 0) {  // help is given whatever else is wrong
    line.arguments = PrintText{app.help()};
    return line;
  }
  check_extras(asked());  // a misspelt option often shows first as a required one that is missing
  check_values_given(argc, argv);
  check_given_once(asked());
  check_places_given(asked());
  throw InputError(*refused);
}

}  // namespace qdiff::cli
