#include "harness/cli/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <limits>
#include <memory>

#include "harness/cli/text.h"
#include "harness/contract/error.h"
#include "harness/formats/suggest.h"

#ifndef QDIFF_VERSION
#error "QDIFF_VERSION is defined by this room's CMakeLists.txt"
#endif

namespace qdiff::cli {
namespace {

constexpr const char* kExitStatuses =
    "Exit status:\n"
    "  0    match: everything that was judged is right\n"
    "  1    diverged: at least one tensor is wrong\n"
    "  2    bad usage or bad input: nothing was judged\n"
    "  125  cannot judge here: no such device, nothing left to judge, or inconclusive\n";

constexpr const char* kCommandsToCome[] = {"bisect", "reduce", "fuzz", "merge"};

// The texts of one command line as CLI11 collects them, before they are checked. Option texts are optional so that an
// empty argument ("--model ''") differs from none.
struct Texts {
  std::vector<std::string> cases;
  std::optional<std::string> model, backend, reference, engine, test_case, trace, out, dtype, layers, steps, mode,
      inject, max_memory, threads, color, within, only, prompt, tokens;
  std::string path, actual, expected;
  bool quiet = false, quick = false, print_gemms = false, infer_points = false, allow_precision = false;
};

CLI::Option* add_text(CLI::App& app, const std::string& flag, std::optional<std::string>& text,
                      const std::string& value_name, const std::string& description) {
  auto store = [&text](const std::string& value) { text = value; };
  return app.add_option_function<std::string>(flag, store, description)->type_name(value_name);
}

void add_output_options(CLI::App& app, Texts& texts) {
  add_text(app, "--color", texts.color, "WHEN", "auto, always or never (default: auto, colour on a terminal only)");
  app.add_flag("--quiet", texts.quiet, "No progress line, and no report on standard output");
}

void add_common(CLI::App& app, Texts& texts) {
  add_text(app, "--max-memory", texts.max_memory, "SIZE",
           "Refuse work that would need more than this, as 512M or 4G (default: what the machine has)");
  add_text(app, "--threads", texts.threads, "N", "Threads to use (default: all cores)");
  add_output_options(app, texts);
}

void add_engine_options(CLI::App& app, Texts& texts) {
  add_text(app, "--dtype", texts.dtype, "DTYPE",
           "float32, bfloat16 or float16: weights and tensors of the engine (default: as the checkpoint)");
  add_text(app, "--inject", texts.inject, "FAULT",
           "Hnn.name[=value][@layer]: the engine computes with that known bug planted, as H05.modulo");
  app.add_flag("--print-gemms", texts.print_gemms, "First print the engine's matrix products: shapes, strides, biases");
}

CLI::App* add_diagnose(CLI::App& app, Texts& texts) {
  CLI::App* diagnose = app.add_subcommand("diagnose", "Judge a trace of any engine against the reference");
  add_text(*diagnose, "--model", texts.model, "MODEL",
           "Hugging Face directory or .gguf file that the engine ran, or synthetic:NAME[,seed=N][,profile=P]")
      ->required();
  add_text(*diagnose, "--trace", texts.trace, "DIR", "The trace's folder, which holds its manifest.json")->required();
  add_text(*diagnose, "--out", texts.out, "DIR", "Where the reports go (default: qdiff-report)");
  add_text(*diagnose, "--layers", texts.layers, "LIST", "Judge only these layers, as 0-3 or 0,2");
  add_text(*diagnose, "--steps", texts.steps, "LIST", "Judge only these steps, as 0,4");
  diagnose->add_flag("--infer-points", texts.infer_points,
                     "Propose, on standard output, the compute.points that would declare every rounding found");
  diagnose->add_flag("--allow-precision", texts.allow_precision,
                     "Undeclared roundings are reported, but the exit status leaves them aside");
  add_common(*diagnose, texts);
  diagnose->footer(
      std::string("Any tensor may be missing from a trace; the more there are, the narrower the finding.\n\n"
                  "Examples:\n"
                  "  qdiff diagnose --model ~/models/Qwen2.5-0.5B --trace trace/\n"
                  "  qdiff diagnose --model ~/models/Qwen2.5-0.5B --trace trace/ --infer-points\n\n") +
      kExitStatuses);
  return diagnose;
}

CLI::App* add_selftest(CLI::App& app, Texts& texts) {
  CLI::App* selftest = app.add_subcommand("selftest", "Plant every known bug and score what the diagnosis makes of it");
  selftest->add_flag("--quick", texts.quick, "A part of it, in a minute or two: each fault once, in bfloat16");
  add_text(*selftest, "--backend", texts.backend, "NAME",
           "cpu: bugs in the CPU engine and in the reference; cuda: in the CUDA engine alone (default: cpu)");
  add_text(*selftest, "--only", texts.only, "TEXT", "Faults whose id begins so, as H03; no honest runs and no doses");
  add_text(*selftest, "--out", texts.out, "DIR", "Where selftest.json goes (default: qdiff-report)");
  add_text(*selftest, "--threads", texts.threads, "N", "Faults to plant side by side (default: all cores)");
  selftest->add_flag("--quiet", texts.quiet, "No progress line, and no table on standard output");
  selftest->footer(
      "Examples:\n"
      "  qdiff selftest --quick\n"
      "  qdiff selftest --out scores\n\n"
      "Exit status:\n"
      "  0    all goals are met\n"
      "  1    at least one is not; the table ends with every miss and its reason\n"
      "  2    bad usage: nothing was run\n");
  return selftest;
}

std::unique_ptr<CLI::App> make_app(Texts& texts) {
  auto app = std::make_unique<CLI::App>(
      "qdiff finds the first wrong tensor of a Qwen2.5 inference engine, and the known bug that explains it.", "qdiff");
  app->set_version_flag("--version", "qdiff " QDIFF_VERSION, "Print the version and stop");
  app->require_subcommand(1);
  app->footer(std::string("Examples:\n"
                          "  qdiff run                                   judge the CPU engine with the built-in cases\n"
                          "  qdiff run --model ~/models/Qwen2.5-0.5B     the same cases on a checkpoint\n"
                          "  qdiff run H05-gqa --inject H05.modulo       see a planted bug being found\n"
                          "  qdiff diagnose --model M --trace DIR        judge a trace of any engine\n"
                          "  qdiff inspect ~/models/Qwen2.5-0.5B         what a model, trace or case holds\n"
                          "  qdiff compare before/ after/                two traces side by side, without a model\n"
                          "  qdiff COMMAND --help                        all options of a command\n\n") +
              kExitStatuses);

  CLI::App* run = app->add_subcommand("run", "Judge an engine against the reference, layer by layer");
  run->add_option("CASE", texts.cases, "Case files, or names of built-in cases (default: all built-in cases)")
      ->type_name("");
  add_text(*run, "--model", texts.model, "MODEL",
           "Hugging Face directory, .gguf file, or synthetic:NAME[,seed=N][,profile=P] (default: each case's own)");
  add_text(*run, "--prompt", texts.prompt, "TEXT",
           "Instead of cases: this text in the model's own tokens, and what the reference writes behind it");
  add_text(*run, "--tokens", texts.tokens, "N", "With --prompt: how many tokens it writes at most (default: 12)");
  add_text(*run, "--backend", texts.backend, "NAME", "cpu or cuda: the engine to judge (default: cpu)");
  add_text(
      *run, "--reference", texts.reference, "WHERE",
      "host or gpu: where the reference computes; auto: a large model on a GPU, where there is one (default: auto)");
  add_text(*run, "--out", texts.out, "DIR", "Where the reports go (default: qdiff-report)");
  add_engine_options(*run, texts);
  add_text(*run, "--layers", texts.layers, "LIST", "Judge only these layers, as 0-3 or 0,2");
  add_text(*run, "--steps", texts.steps, "LIST", "Judge only these steps of each case, as 0,4");
  add_text(*run, "--mode", texts.mode, "MODE",
           "lockstep: each layer gets the reference's input; free: the engine feeds itself; both (default: both)");
  add_common(*run, texts);
  run->footer(std::string("Examples:\n"
                          "  qdiff run --model ~/models/Qwen2.5-0.5B --out report\n"
                          "  qdiff run cases/H05-gqa.json --layers 0 --steps 0 --dtype float32\n"
                          "  qdiff run H05-gqa --inject H05.modulo\n"
                          "  qdiff run --model model.gguf --prompt 'The capital of France is'\n\n") +
              kExitStatuses);

  CLI::App* record = app->add_subcommand("record", "Run an engine on a case and write its tensors as a trace");
  add_text(*record, "--model", texts.model, "MODEL",
           "Hugging Face directory, .gguf file, or synthetic:NAME[,seed=N][,profile=P]")
      ->required();
  add_text(*record, "--case", texts.test_case, "CASE", "Case file, or the name of a built-in case")->required();
  add_text(*record, "--engine", texts.engine, "NAME", "reference, cpu or cuda")->required();
  add_text(*record, "--trace", texts.trace, "DIR", "The trace to write; replaces an older trace, nothing else")
      ->required();
  add_engine_options(*record, texts);
  add_text(*record, "--layers", texts.layers, "LIST", "Write only these layers, as 0-3 or 0,2");
  add_text(*record, "--steps", texts.steps, "LIST", "Write the tensors of these steps alone, as 0,4");
  add_text(*record, "--mode", texts.mode, "MODE",
           "free: the engine feeds itself; lockstep: each layer gets the reference's input (default: free)");
  add_common(*record, texts);
  record->footer(
      std::string("Example:\n"
                  "  qdiff record --model synthetic:qwen2.5-0.5b --case H05-gqa --engine cpu --trace t\n\n"
                  "Exit status:\n"
                  "  0    the trace is written\n"
                  "  2    bad usage or bad input: nothing was written\n"
                  "  125  no such device, or the planted fault never ran\n"));

  CLI::App* inspect = app->add_subcommand("inspect", "Say what a model, a trace or a case file holds");
  inspect
      ->add_option("PATH", texts.path, "Model directory, .gguf file or synthetic: model, trace directory, or case file")
      ->type_name("")
      ->required();
  inspect->footer(
      "Examples:\n"
      "  qdiff inspect ~/models/Qwen2.5-0.5B\n"
      "  qdiff inspect synthetic:qwen2.5-0.5b,seed=3\n"
      "  qdiff inspect trace/\n\n"
      "Exit status:\n"
      "  0    it is well-formed\n"
      "  2    it is not, and the message says where\n");

  CLI::App* compare = app->add_subcommand("compare", "Lay two traces side by side, without a model");
  compare->add_option("A", texts.actual, "The trace in question")->type_name("")->required();
  compare->add_option("B", texts.expected, "The trace that it is held against")->type_name("")->required();
  add_text(*compare, "--within", texts.within, "R",
           "Accept a relative RMS error up to R, across element types too (default: all bits equal)");
  add_text(*compare, "--out", texts.out, "DIR", "Also write compare.json there");
  add_output_options(*compare, texts);
  compare->footer(
      "No rounding is known without a model, so nothing is judged: 'qdiff run' does that.\n\n"
      "Examples:\n"
      "  qdiff compare before/ after/\n"
      "  qdiff compare ours/ theirs/ --within 0.01 --out report\n\n"
      "Exit status:\n"
      "  0    all bits equal, or all within R\n"
      "  1    at least one tensor differs; NaN and infinities always do, unless their bits are equal\n"
      "  2    bad usage or bad input: nothing was compared\n"
      "  125  the traces have no tensor in common\n");
  CLI::App* diagnose = add_diagnose(*app, texts);
  CLI::App* selftest = add_selftest(*app, texts);
  for (CLI::App* command : {run, record, inspect, compare, diagnose, selftest}) command->allow_extras();
  return app;
}

std::vector<std::string> command_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands({})) names.push_back(command->get_name());
  return names;
}

std::vector<std::string> long_options(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

// What CLI11 would report as a missing subcommand or an extra argument, with the nearest name.
void check_command_name(const CLI::App& app, int argc, const char* const* argv) {
  if (argc < 2) throw InputError("no command given; see 'qdiff --help'");
  const std::string word = argv[1];
  if (word == "--help" || word == "-h" || word == "--version") return;
  std::vector<std::string> names = command_names(app);
  if (std::find(names.begin(), names.end(), word) != names.end()) return;
  for (const char* name : kCommandsToCome) {
    if (word == name) {
      throw InputError("command '" + word + "' is not part of this version (" QDIFF_VERSION "); see 'qdiff --help'");
    }
  }
  if (word.starts_with('-')) {
    throw InputError("unknown option '" + word +
                     "' before a command; write 'qdiff COMMAND [options]', see 'qdiff --help'");
  }
  throw InputError("unknown command '" + word + "' (see 'qdiff --help')" + formats::suggestion(word, names));
}

void check_extras(const CLI::App& command) {
  std::vector<std::string> extras = command.remaining();
  std::erase(extras, "--");  // it only ends the options
  if (extras.empty()) return;
  const std::string see = "see 'qdiff " + command.get_name() + " --help'";
  const auto option =
      std::find_if(extras.begin(), extras.end(), [](const auto& word) { return word.starts_with('-'); });
  if (option == extras.end()) throw InputError("unexpected argument '" + extras.front() + "'; " + see);
  const std::string name = option->substr(0, option->find('='));
  throw InputError("unknown option '" + name + "' (" + see + ")" + formats::suggestion(name, long_options(command)));
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

// "--model --quiet": CLI11 takes the second option as the first one's value.
void check_not_an_option(const std::string& option, const std::optional<std::string>& text) {
  if (text && text->starts_with("--")) {
    throw InputError(option + " needs a value, but '" + *text + "' follows it; write " + option + "=" + *text +
                     " if that is the value");
  }
}

void check_path(const std::string& option, const std::optional<std::string>& text) {
  if (text && text->empty()) throw InputError(option + " is empty; give a path or a name");
}

std::optional<DType> dtype_of(const Texts& texts) {
  if (!texts.dtype) return std::nullopt;
  return parse_dtype_option("--dtype", *texts.dtype);
}

std::optional<Fault> fault_of(const Texts& texts) {
  if (!texts.inject) return std::nullopt;
  return parse_fault("--inject", *texts.inject);
}

diagnose::Mode mode_of(const std::string& text) {
  return static_cast<diagnose::Mode>(parse_choice("--mode", text, {"lockstep", "free", "both"}));
}

CommonArguments common_of(const Texts& texts) {
  constexpr std::int64_t kMostThreads = 1024;
  CommonArguments common;
  if (texts.max_memory) common.max_memory = parse_size("--max-memory", *texts.max_memory);
  if (texts.threads) common.threads = static_cast<int>(parse_whole("--threads", *texts.threads, 1, kMostThreads));
  if (texts.color) {
    common.color = static_cast<ColorChoice>(parse_choice("--color", *texts.color, {"auto", "always", "never"}));
  }
  common.quiet = texts.quiet;
  return common;
}

void read_prompt(const Texts& texts, RunArguments& arguments) {
  constexpr std::int64_t kMostTokens = 4096;
  if (!texts.prompt) {
    if (texts.tokens) throw InputError("--tokens says how many are written behind --prompt; give that too");
    return;
  }
  if (texts.prompt->empty()) throw InputError("--prompt is empty; give it a text");
  if (!texts.cases.empty())
    throw InputError("--prompt stands instead of cases; leave '" + texts.cases.front() + "' out");
  if (!texts.model) throw InputError("--prompt needs --model: a text has tokens in a model's own vocabulary");
  arguments.prompt = texts.prompt;
  if (texts.tokens) arguments.tokens = parse_whole("--tokens", *texts.tokens, 1, kMostTokens);
}

EngineKind backend_of(const Texts& texts) {
  constexpr std::array kKinds = {EngineKind::kCpu, EngineKind::kCuda};
  return texts.backend ? kKinds[parse_choice("--backend", *texts.backend, {"cpu", "cuda"})] : EngineKind::kCpu;
}

RunArguments run_of(const Texts& texts) {
  RunArguments arguments;
  arguments.common = common_of(texts);
  arguments.cases = texts.cases;
  for (const std::string& test_case : texts.cases) check_path("CASE", test_case);
  arguments.model = texts.model;
  read_prompt(texts, arguments);
  arguments.backend = backend_of(texts);
  if (texts.reference) {
    arguments.reference =
        static_cast<reference::Where>(parse_choice("--reference", *texts.reference, {"host", "gpu", "auto"}));
  }
  if (texts.out) arguments.out = *texts.out;
  arguments.dtype = dtype_of(texts);
  if (texts.layers) arguments.layers = parse_ranges("--layers", *texts.layers);
  if (texts.steps) arguments.steps = parse_ranges("--steps", *texts.steps);
  if (texts.mode) arguments.mode = mode_of(*texts.mode);
  arguments.inject = fault_of(texts);
  arguments.print_gemms = texts.print_gemms;
  return arguments;
}

RecordArguments record_of(const Texts& texts) {
  RecordArguments arguments;
  arguments.common = common_of(texts);
  arguments.model = *texts.model;
  arguments.test_case = *texts.test_case;
  arguments.engine = static_cast<EngineKind>(parse_choice("--engine", *texts.engine, {"reference", "cpu", "cuda"}));
  arguments.trace = *texts.trace;
  arguments.dtype = dtype_of(texts);
  if (texts.layers) arguments.layers = parse_ranges("--layers", *texts.layers);
  if (texts.steps) arguments.steps = parse_ranges("--steps", *texts.steps);
  if (texts.mode) arguments.mode = mode_of(*texts.mode);
  if (arguments.mode == diagnose::Mode::kBoth) {
    throw InputError("--mode 'both': a trace holds one run; record lockstep and free into two folders");
  }
  arguments.inject = fault_of(texts);
  arguments.print_gemms = texts.print_gemms;
  return arguments;
}

CompareArguments compare_of(const Texts& texts) {
  CompareArguments arguments;
  arguments.common = common_of(texts);
  check_path("A", texts.actual);
  check_path("B", texts.expected);
  arguments.actual = texts.actual;
  arguments.expected = texts.expected;
  arguments.out = texts.out;
  if (texts.within) arguments.within = parse_tolerance("--within", *texts.within);
  return arguments;
}

SelftestArguments selftest_of(const Texts& texts) {
  SelftestArguments arguments;
  arguments.common = common_of(texts);
  arguments.backend = backend_of(texts);
  arguments.quick = texts.quick;
  arguments.only = texts.only.value_or("");
  if (texts.out) arguments.out = *texts.out;
  return arguments;
}

DiagnoseArguments diagnose_of(const Texts& texts) {
  DiagnoseArguments arguments;
  arguments.common = common_of(texts);
  arguments.model = *texts.model;
  arguments.trace = *texts.trace;
  if (texts.out) arguments.out = *texts.out;
  if (texts.layers) arguments.layers = parse_ranges("--layers", *texts.layers);
  if (texts.steps) arguments.steps = parse_ranges("--steps", *texts.steps);
  arguments.infer_points = texts.infer_points;
  arguments.allow_precision = texts.allow_precision;
  return arguments;
}

std::string command_text(int argc, const char* const* argv) {
  std::string text = "qdiff";
  for (int i = 1; i < argc; ++i) text += ' ' + shell_quote(argv[i]);
  return text;
}

void check_texts(const Texts& texts) {
  const std::pair<const char*, const std::optional<std::string>*> paths[] = {
      {"--model", &texts.model}, {"--case", &texts.test_case}, {"--trace", &texts.trace}, {"--out", &texts.out}};
  for (const auto& [option, text] : paths) check_path(option, *text);
  const std::pair<const char*, const std::optional<std::string>*> values[] = {{"--model", &texts.model},
                                                                              {"--backend", &texts.backend},
                                                                              {"--reference", &texts.reference},
                                                                              {"--engine", &texts.engine},
                                                                              {"--case", &texts.test_case},
                                                                              {"--trace", &texts.trace},
                                                                              {"--out", &texts.out},
                                                                              {"--dtype", &texts.dtype},
                                                                              {"--layers", &texts.layers},
                                                                              {"--steps", &texts.steps},
                                                                              {"--mode", &texts.mode},
                                                                              {"--inject", &texts.inject},
                                                                              {"--max-memory", &texts.max_memory},
                                                                              {"--threads", &texts.threads},
                                                                              {"--color", &texts.color},
                                                                              {"--within", &texts.within},
                                                                              {"--only", &texts.only},
                                                                              {"--prompt", &texts.prompt},
                                                                              {"--tokens", &texts.tokens}};
  for (const auto& [option, text] : values) check_not_an_option(option, *text);
}

}  // namespace

std::string repeat_arguments(const RunArguments& arguments) {
  std::string text;
  if (arguments.model) text += " --model " + shell_quote(*arguments.model);
  if (arguments.backend == EngineKind::kCuda) text += " --backend cuda";
  if (arguments.dtype) text += " --dtype " + std::string(name(*arguments.dtype));
  if (arguments.inject) text += " --inject " + shell_quote(to_string(*arguments.inject));
  return text;
}

CommandLine parse_command_line(int argc, const char* const* argv) {
  Texts texts;
  const auto app = make_app(texts);
  check_command_name(*app, argc, argv);
  CommandLine line{.command = command_text(argc, argv), .arguments = PrintText{}};
  const CLI::App* command = app.get();
  try {
    app->parse(argc, argv);
    command = app->get_subcommands().front();
  } catch (const CLI::CallForHelp&) {
    const auto chosen = app->get_subcommands();
    line.arguments = PrintText{chosen.empty() ? app->help() : chosen.front()->help("qdiff")};
    return line;
  } catch (const CLI::CallForVersion&) {
    line.arguments = PrintText{"qdiff " QDIFF_VERSION "\n"};
    return line;
  } catch (const CLI::ParseError& error) {
    // A misspelt option often shows first as a required one that is missing.
    const auto chosen = app->get_subcommands();
    if (!chosen.empty()) check_extras(*chosen.front());
    check_values_given(argc, argv);
    const std::string where = chosen.empty() ? "" : chosen.front()->get_name() + " ";
    throw InputError(std::string(error.what()) + "; see 'qdiff " + where + "--help'");
  }
  check_extras(*command);
  check_texts(texts);
  if (command->get_name() == "run") {
    line.arguments = run_of(texts);
  } else if (command->get_name() == "record") {
    line.arguments = record_of(texts);
  } else if (command->get_name() == "compare") {
    line.arguments = compare_of(texts);
  } else if (command->get_name() == "selftest") {
    line.arguments = selftest_of(texts);
  } else if (command->get_name() == "diagnose") {
    line.arguments = diagnose_of(texts);
  } else {
    check_path("PATH", texts.path);
    line.arguments = InspectArguments{.path = texts.path};
  }
  return line;
}

}  // namespace qdiff::cli
