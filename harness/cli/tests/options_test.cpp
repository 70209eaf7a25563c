// The command line as data: what is read, and what is refused with which words.
#include "harness/cli/options.h"

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "cmake/catch2.h"
#include "harness/cli/memory.h"
#include "harness/cli/progress.h"
#include "harness/cli/text.h"
#include "harness/contract/error.h"
#include "harness/contract/tests/small_model.h"

namespace qdiff::cli {
namespace {

CommandLine parse(std::vector<std::string> words) {
  words.insert(words.begin(), "qdiff");
  std::vector<const char*> argv;
  for (const std::string& word : words) argv.push_back(word.c_str());
  return parse_command_line(static_cast<int>(argv.size()), argv.data());
}

RunArguments run(std::vector<std::string> words) {
  words.insert(words.begin(), "run");
  return std::get<RunArguments>(parse(std::move(words)).arguments);
}

std::string error_of(const std::vector<std::string>& words) {
  try {
    parse(words);
  } catch (const InputError& error) {
    return error.what();
  }
  return "accepted";
}

TEST_CASE("run without options is the main job") {
  const RunArguments arguments = run({});
  CHECK(arguments.cases.empty());
  CHECK_FALSE(arguments.model.has_value());
  CHECK(arguments.backend == EngineKind::kCpu);
  CHECK(arguments.out == "qdiff-report");
  CHECK(arguments.mode == diagnose::Mode::kBoth);
  CHECK_FALSE(arguments.common.quiet);
  CHECK(repeat_arguments(arguments, arguments.inject).empty());
}

TEST_CASE("the bar of a share") {
  CHECK(progress_bar(0.0) == "[          ]   0%");
  CHECK(progress_bar(0.55) == "[=====     ]  55%");
  CHECK(progress_bar(1.0) == "[==========] 100%");
  CHECK(progress_bar(7.0) == "[==========] 100%");
}

TEST_CASE("how much of all work is done, and how long the rest takes") {
  CHECK(announcement(59.0, 1e9).empty());
  CHECK(announcement(3120.0, 0x1p31) ==
        "this takes about 52 min 00 s on two cores, and 2.0 GiB of memory; --layers and --steps judge a part of it");
  const WholeWork work({1.0, 6.0, 3.0});
  CHECK(work.share(0, 0.0) == 0.0);
  CHECK(work.share(1, 0.5) == Approx(0.4));
  CHECK(work.share(2, 1.0) == 1.0);
  CHECK(work.share(1, 7.0) == Approx(0.7));
  CHECK(WholeWork().share(0, 0.5) == 0.0);
  CHECK(WholeWork({0.0, 2.0}).share(0, 1.0) == 0.0);
  CHECK(time_left(0.25, 67.0) == ", about 3 min 21 s left");
  CHECK(time_left(0.001, 67.0).empty());
  CHECK(time_left(1.0, 67.0).empty());
  // The layers that are judged are most of a run; what comes before them is not counted.
  CHECK(share_of_run("reference", 3, 4) == 0.0);
  CHECK(share_of_run("judging layers", 12, 24) == Approx(0.48));
  CHECK(share_of_run("judging the head", 24, 24) == Approx(0.96));
}

TEST_CASE("what a pipeline accepts") {
  using findings::FindingKind;
  CHECK_FALSE(run({}).acceptance.given());
  const AcceptanceArguments all =
      run({"--baseline", "old", "--waivers", "w.json", "--fail-on", "precision,logic,precision"}).acceptance;
  CHECK(all.baseline == "old");
  CHECK(all.waivers == "w.json");
  CHECK(all.fail_on == std::vector{FindingKind::kPrecision, FindingKind::kLogic});
  CHECK(run({"--fail-on", "logic"}).acceptance.fail_on == std::vector{FindingKind::kLogic});
  CHECK(run({"--fail-on", "any"}).acceptance.fail_on->size() == findings::kFindingKindNames.size());
  CHECK(error_of({"run", "--fail-on", "logik"}) ==
        "--fail-on 'logik': must be any, logic, precision or recording; did you mean \"logic\"?");
  CHECK_THAT(error_of({"run", "--fail-on", "logic,"}), StartsWith("--fail-on '': must be"));
  CHECK(error_of({"diagnose", "--model", "m", "--trace", "t", "--allow-precision", "--fail-on", "any"}) ==
        "--allow-precision and --fail-on with precision contradict each other; leave one out");
  CHECK(error_of({"diagnose", "--model", "m", "--trace", "t", "--allow-precision", "--fail-on", "logic"}) ==
        "accepted");
}

int status_for(std::vector<std::string> words) {
  words.insert(words.begin(), "qdiff");
  std::vector<const char*> argv;
  for (const std::string& word : words) argv.push_back(word.c_str());
  return bad_input_status(static_cast<int>(argv.size()), argv.data());
}

TEST_CASE("the status of bad input is read wherever it stands, and never that of a verdict") {
  CHECK(status_for({"run"}) == 2);
  CHECK(status_for({"run", "--bad-input-status", "125", "--oops"}) == 125);
  CHECK(status_for({"rnu", "--bad-input-status=125"}) == 125);
  CHECK(status_for({"run", "--", "--bad-input-status=125"}) == 2);
  for (const char* value : {"0", "1", "256", "x", ""}) {
    INFO(value);
    CHECK(status_for({"run", "--bad-input-status", value}) == 2);
    CHECK_THAT(error_of({"run", "--bad-input-status", value}),
               ContainsSubstring("must be a whole number from 2 to 255"));
  }
  CHECK(error_of({"run", "--bad-input-status", "125"}) == "accepted");
}

TEST_CASE("diagnose with every option, and with as few as there must be") {
  const auto few = std::get<DiagnoseArguments>(parse({"diagnose", "--model", "m", "--trace", "t"}).arguments);
  CHECK(few.model == "m");
  CHECK(few.trace == "t");
  CHECK(few.out == "qdiff-report");
  CHECK_FALSE(few.layers.has_value());
  CHECK_FALSE(few.infer_points);
  CHECK_FALSE(few.allow_precision);
  const auto all = std::get<DiagnoseArguments>(
      parse({"diagnose", "--model", "m", "--trace", "t", "--out", "o", "--layers", "1-2", "--steps", "0,3",
             "--infer-points", "--allow-precision", "--max-memory", "2G", "--threads", "1", "--quiet"})
          .arguments);
  CHECK(all.out == "o");
  CHECK(all.layers->below(9) == std::set<int>{1, 2});
  CHECK(all.steps->below(9) == std::set<int>{0, 3});
  CHECK(all.infer_points);
  CHECK(all.allow_precision);
  CHECK(all.common.max_memory == std::uint64_t{2} << 30);
  CHECK(error_of({"diagnose", "--model", "m"}) != "accepted");
  CHECK(error_of({"diagnose", "--model", "m", "--trace", ""}) != "accepted");
}

TEST_CASE("run with every option") {
  const RunArguments arguments =
      run({"a.json",   "--model",         "my model",     "--backend=cuda", "--out",     "o",      "--dtype",
           "float16",  "--layers",        "0-2,5",        "--steps",        "1",         "--mode", "free",
           "--inject", "H03.theta=1e4@7", "--max-memory", "1.5GiB",         "--threads", "3",      "--color",
           "always",   "--quiet",         "b.json",       "--reference",    "gpu"});
  CHECK(arguments.cases == std::vector<std::string>{"a.json", "b.json"});
  CHECK(arguments.backend == EngineKind::kCuda);
  CHECK(arguments.reference == reference::Where::kGpu);
  CHECK(arguments.dtype == DType::kF16);
  CHECK(arguments.layers->below(100) == std::set<int>{0, 1, 2, 5});
  CHECK(arguments.layers->below(2) == std::set<int>{0, 1});
  CHECK(arguments.layers->largest() == 5);
  CHECK(arguments.steps->below(100) == std::set<int>{1});
  CHECK(arguments.mode == diagnose::Mode::kFree);
  const Fault& fault = std::get<Fault>(*arguments.inject);
  CHECK(fault.id == FaultId::kTheta);
  CHECK(fault.value == 1e4);
  CHECK(fault.layer == 7);
  CHECK(arguments.common.max_memory == std::uint64_t{3} << 29);
  // More than there are cores are not used.
  CHECK(arguments.common.threads == std::min(3, std::max(1, static_cast<int>(std::thread::hardware_concurrency()))));
  CHECK(arguments.common.color == ColorChoice::kAlways);
  CHECK(arguments.common.quiet);
  CHECK(repeat_arguments(arguments, arguments.inject) ==
        " --model 'my model' --backend cuda --dtype float16 --inject H03.theta=10000@7");
}

TEST_CASE("record takes layers, steps and one mode") {
  const auto record = [](std::vector<std::string> more) {
    std::vector<std::string> words = {"record", "--model", "m", "--case", "c", "--engine", "cpu", "--trace", "t"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  const auto plain = std::get<RecordArguments>(parse(record({})).arguments);
  CHECK_FALSE(plain.layers.has_value());
  CHECK_FALSE(plain.steps.has_value());
  CHECK(plain.mode == diagnose::Mode::kFree);
  const auto some =
      std::get<RecordArguments>(parse(record({"--layers", "0,2", "--steps", "1", "--mode", "lockstep"})).arguments);
  CHECK(some.layers->below(9) == std::set<int>{0, 2});
  CHECK(some.steps->below(9) == std::set<int>{1});
  CHECK(some.mode == diagnose::Mode::kLockstep);
  CHECK_THAT(error_of(record({"--mode", "both"})), ContainsSubstring("a trace holds one run"));
}

TEST_CASE("the command is kept as a shell reads it") {
  CHECK(parse({"run", "it's", "--model", "a b"}).command == "qdiff run 'it'\\''s' --model 'a b'");
  CHECK(shell_quote("") == "''");
  CHECK(shell_quote("synthetic:toy-d64,seed=1") == "synthetic:toy-d64,seed=1");
  CHECK(shell_quote("~/x") == "'~/x'");
  CHECK(shell_quote("$(date)") == "'$(date)'");
  CHECK(shell_quote("it's\na\ttab \\ \x7F") == "$'it\\'s\\na\\011tab \\\\ \\177'");
}

TEST_CASE("a prompt stands instead of cases, and needs a model") {
  const auto run = std::get<RunArguments>(parse({"run", "--model", "m.gguf", "--prompt", "a text"}).arguments);
  CHECK(run.prompt == "a text");
  CHECK(run.tokens == 12);
  CHECK(std::get<RunArguments>(parse({"run", "--model", "m", "--prompt", "a", "--tokens", "3"}).arguments).tokens == 3);
  CHECK_THAT(error_of({"run", "--prompt", "a"}), ContainsSubstring("--prompt needs --model"));
  CHECK_THAT(error_of({"run", "--model", "m", "--prompt", ""}), ContainsSubstring("--prompt is empty"));
  CHECK_THAT(error_of({"run", "H05-gqa", "--model", "m", "--prompt", "a"}), ContainsSubstring("instead of cases"));
  CHECK_THAT(error_of({"run", "--model", "m", "--tokens", "3"}), ContainsSubstring("--prompt"));
  for (const char* wrong : {"0", "-1", "4097", "x", "1.5"}) {
    CHECK_THAT(error_of({"run", "--model", "m", "--prompt", "a", "--tokens", wrong}), ContainsSubstring("--tokens"));
  }
}

TEST_CASE("values that are refused, in words that name the option") {
  const std::vector<std::pair<const char*, std::vector<const char*>>> refused = {
      {"--layers",
       {"", "-1", "x", "1-", "-", "1,,2", "1,", ",1", "3-1", "0-3x", " 1", "1 ", "+1", "1.0", "0x1", "1e2",
        "2147483647", "99999999999999999999"}},
      {"--steps", {"", "-1", "all", "1;2"}},
      {"--dtype", {"", "fp32", "float64", "BF16", "float32 "}},
      {"--mode", {"", "lock", "BOTH"}},
      {"--backend", {"", "torch", "gpu", "CPU"}},
      {"--reference", {"", "cpu", "cuda", "GPU"}},
      {"--color", {"", "yes"}},
      {"--threads", {"", "0", "-1", "1.5", "1025", "many", "1 "}},
      {"--max-memory",
       {"", "0", "-1G", "nan", "inf", "1e3", "G", "1X", "1GG", "1 G", "99999999999T", "1.5.2G", "0x10"}},
      {"--inject",
       {"",
        "H05",
        "H05.",
        "5.modulo",
        "H5.modulo",
        "Habc.x",
        "H03.theta=",
        "H03.theta=nan",
        "H03.theta=inf",
        "H03.theta=1e999",
        "H03.theta=1x",
        "H03.theta= 1",
        "H05.modulo@",
        "H05.modulo@-1",
        "H05.modulo@x",
        "H05.modulo@1.5",
        "H03.theta=1@",
        "bias",
        "bias@self_attn.q_proj",
        "bias:coefficient=2@mlp.act"}},
      {"--model", {""}},
      {"--out", {""}},
  };
  for (const auto& [option, texts] : refused) {
    for (const char* text : texts) {
      INFO(option << " '" << text << "'");
      CHECK_THAT(error_of({"run", std::string(option) + "=" + text}), ContainsSubstring(option));
    }
  }
}

TEST_CASE("usage that is refused, with the nearest name") {
  CHECK_THAT(error_of({}), ContainsSubstring("no command"));
  CHECK_THAT(error_of({"rnu"}), ContainsSubstring("did you mean \"run\"?"));
  CHECK_THAT(error_of({"--quiet", "run"}), ContainsSubstring("'--quiet' before a command"));
  CHECK_THAT(error_of({"run", "--modle", "x"}), ContainsSubstring("did you mean \"--model\"?"));
  CHECK_THAT(error_of({"run", "--modle=x"}), ContainsSubstring("unknown option '--modle'"));
  CHECK_THAT(error_of({"run", "-q"}), ContainsSubstring("unknown option '-q'"));
  CHECK_THAT(error_of({"run", "--model"}), ContainsSubstring("--model"));
  CHECK_THAT(error_of({"run", "--model", "--quiet"}), ContainsSubstring("--model needs a value"));
  CHECK_THAT(error_of({"run", "--model", "a", "--model", "b"}), ContainsSubstring("--model"));
  CHECK_THAT(error_of({"run", "--mode", "bth"}), ContainsSubstring("did you mean \"both\"?"));
  CHECK_THAT(error_of({"run", "--quiet=maybe"}), ContainsSubstring("--quiet"));
  CHECK_THAT(error_of({"run", ""}), ContainsSubstring("CASE is empty"));
  CHECK_THAT(error_of({"record", "--model", "m", "--engine", "cpu", "--trace", "t"}), ContainsSubstring("--case"));
  CHECK_THAT(error_of({"record", "--modle", "m"}), ContainsSubstring("did you mean \"--model\"?"));
  CHECK_THAT(error_of({"inspect"}), ContainsSubstring("PATH is missing ("));
  CHECK(error_of({"list"}) == "WHAT is missing (mechanisms faults cases models tensors); see 'qdiff list --help'");
  CHECK(error_of({"completion"}) == "SHELL is missing (bash, zsh or fish); see 'qdiff completion --help'");
  CHECK_THAT(error_of({"compare", "a"}), ContainsSubstring("B is missing (The trace that it is held against)"));
  CHECK_THAT(error_of({"diagnose", "m", "t"}),
             ContainsSubstring("unexpected argument 'm'; did you mean \"--model m\"?"));
  CHECK_THAT(error_of({"diagnose", "--model", "m", "t"}), ContainsSubstring("did you mean \"--trace t\"?"));
  CHECK_THAT(error_of({"help"}), ContainsSubstring("did you mean \"--help\"?"));
  CHECK_THAT(error_of({"version"}), ContainsSubstring("did you mean \"--version\"?"));
  CHECK_THAT(error_of({"inspect", "a", "b"}), ContainsSubstring("unexpected argument 'b'"));
  for (const char* option : {"--layers", "--quiet", "--color", "--threads", "--max-memory"}) {
    CHECK_THAT(error_of({"inspect", "a", option}), ContainsSubstring("unknown option '" + std::string(option) + "'"));
  }
  CHECK_THAT(error_of({"serve", "--help"}), ContainsSubstring("unknown command 'serve' (see 'qdiff --help')"));
}

TEST_CASE("reconcile takes a model and two traces") {
  const auto reconcile = [](std::vector<std::string> words) {
    words.insert(words.begin(), {"reconcile", "--model", "m"});
    return std::get<ReconcileArguments>(parse(std::move(words)).arguments);
  };
  const ReconcileArguments plain = reconcile({"a", "b"});
  CHECK(plain.model == "m");
  CHECK(plain.a == "a");
  CHECK(plain.b == "b");
  CHECK(plain.out == "qdiff-report");
  CHECK_FALSE(plain.json);
  CHECK_FALSE(plain.allow_precision);
  const ReconcileArguments full = reconcile({"--json", "a", "--allow-precision", "b", "--out=o", "--threads", "1"});
  CHECK(full.json);
  CHECK(full.allow_precision);
  CHECK(full.out == "o");
  CHECK(full.common.threads == 1);
  CHECK_THAT(error_of({"reconcile", "--model", "m", "a"}), ContainsSubstring("reconcile --help"));
  CHECK_THAT(error_of({"reconcile", "a", "b"}), ContainsSubstring("--model"));
  CHECK_THAT(error_of({"reconcile", "--model", "m", "a", "b", "c"}), ContainsSubstring("unexpected argument 'c'"));
}

TEST_CASE("J13 compare takes two traces, a tolerance and a place for its report") {
  const auto compare = [](std::vector<std::string> words) {
    words.insert(words.begin(), "compare");
    return std::get<CompareArguments>(parse(std::move(words)).arguments);
  };
  const CompareArguments plain = compare({"a", "b"});
  CHECK(plain.actual == "a");
  CHECK(plain.expected == "b");
  CHECK_FALSE(plain.within.has_value());
  CHECK_FALSE(plain.out.has_value());
  const CompareArguments full = compare({"a", "--within", "1e-3", "b", "--out=o", "--quiet", "--color", "never"});
  CHECK(full.expected == "b");
  CHECK(full.within == 1e-3);
  CHECK(full.out == "o");
  CHECK(full.common.quiet);
  CHECK(compare({"a", "b", "--within", "0"}).within == 0.0);
  for (const char* text :
       {"", "-1", "-0.1", "nan", "NaN", "inf", "Infinity", "-inf", "1e999", "x", "0.1x", " 1", "1%"}) {
    INFO(text);
    CHECK_THAT(error_of({"compare", "a", "b", std::string("--within=") + text}), ContainsSubstring("--within"));
  }
  CHECK_THAT(error_of({"compare", "a", "b", "--within", "-1"}), ContainsSubstring("--within"));
  CHECK_THAT(error_of({"compare", "a"}), ContainsSubstring("compare --help"));
  CHECK_THAT(error_of({"compare", "a", ""}), ContainsSubstring("B is empty"));
  CHECK_THAT(error_of({"compare", "a", "b", "c"}), ContainsSubstring("unexpected argument 'c'"));
  CHECK_THAT(error_of({"compare", "a", "b", "--out="}), ContainsSubstring("--out is empty"));
  CHECK_THAT(error_of({"compare", "a", "b", "--withn", "1"}), ContainsSubstring("did you mean \"--within\"?"));
}

TEST_CASE("help is given whatever else is wrong, and an unknown option is named before a bad value") {
  const auto text = [](const std::vector<std::string>& words) {
    return std::get<PrintText>(parse(words).arguments).text;
  };
  const std::string help = text({"run", "--help"});
  CHECK_THAT(help, ContainsSubstring("--inject"));
  CHECK(text({"run", "--layers", "x", "--help"}) == help);
  CHECK(text({"run", "--help", "--modle", "x"}) == help);
  CHECK(text({"run", "--prompt", "a", "-h"}) == help);
  CHECK_THAT(text({"record", "-h"}), ContainsSubstring("--engine"));
  CHECK_THAT(text({"--help"}), ContainsSubstring("qdiff COMMAND --help"));
  CHECK_THAT(error_of({"run", "--layers", "x", "--modle", "m"}), ContainsSubstring("did you mean \"--model\"?"));
}

TEST_CASE("a mechanism is injected as a report gives it, and repeated so") {
  const std::string text = "bias:coefficient=2@self_attn.q_proj;layers=0;tokens=3 and up";
  const RunArguments arguments = run({"--backend", "reference", "--inject", text});
  CHECK(to_string(*arguments.inject) == text);
  CHECK(repeat_arguments(arguments, arguments.inject) == " --backend reference --inject '" + text + "'");
  const NumberRanges other = parse_ranges("--layers", "1");
  CHECK_THROWS_WITH(check_injection_is_among(*arguments.inject, other), ContainsSubstring("layer 0 is not among"));
  CHECK_NOTHROW(check_injection_is_among(*arguments.inject, parse_ranges("--layers", "0-1")));
}

TEST_CASE("list takes one kind of thing") {
  const auto list = [](std::vector<std::string> words) {
    return std::get<ListArguments>(parse(std::move(words)).arguments);
  };
  CHECK(list({"list", "faults"}).listed == Listed::kFaults);
  CHECK_FALSE(list({"list", "faults"}).json);
  CHECK(list({"list", "mechanisms", "--json"}).json);
  CHECK_THAT(error_of({"list", "bugs"}), ContainsSubstring("must be mechanisms, faults, cases, models or tensors"));
  CHECK(error_of({"list"}) != "accepted");
}

TEST_CASE("arguments after -- are cases") {
  CHECK(run({"--quiet", "--", "a.json"}).cases == std::vector<std::string>{"a.json"});
}

TEST_CASE("a fault that the table lacks is refused with the nearest that it has") {
  CHECK_THROWS_WITH(parse_fault("--inject", "H05.module=1"), ContainsSubstring("did you mean \"H05.modulo\"?"));
}

TEST_CASE("text from files cannot command a terminal or break a line") {
  CHECK(one_line("a\nb\tc\r") == "a b c ");
  CHECK(one_line("\x1b[31mred\a").find('\x1b') == std::string::npos);
  CHECK(one_line("\xC2\x9B"
                 "2J")
            .find('\x9B') == std::string::npos);
  CHECK(one_line("\xE2\x80\xAE"
                 "abc")
            .find("\xE2\x80\xAE") == std::string::npos);
  CHECK(one_line(std::string(1'000'000, 'x')).size() < 5000);
  CHECK(one_line("größer: θ") == "größer: θ");
}

TEST_CASE("sizes in words") {
  CHECK(bytes_text(0) == "0 B");
  CHECK(bytes_text(1023) == "1023 B");
  CHECK(bytes_text(1536) == "1.5 KiB");
  CHECK(bytes_text(std::uint64_t{20} << 30) == "20 GiB");
}

// ---- Memory ----

ModelConfig large_model() {  // the shapes of Qwen2.5-7B
  ModelConfig config = testing::small_config(28, 4, 128, 3584, 18944, false, 152064);
  config.num_layers = 28;
  return config;
}

PlannedCase planned(std::int64_t batch, std::int64_t num_tokens) {
  Step step;
  step.tokens.assign(static_cast<std::size_t>(batch), std::vector<std::int32_t>(static_cast<std::size_t>(num_tokens)));
  step.left_padding.assign(static_cast<std::size_t>(batch), 0);
  return {.steps = {step}, .capacity = num_tokens, .recordings = 2};
}

TEST_CASE("an engine whose weights do not fit streams them, and what still does not fit is refused") {
  constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
  const MemoryPlan roomy = plan_run(large_model(), DType::kBF16, {planned(1, 16)}, 64 * kGiB);
  CHECK(roomy.max_resident_bytes == 0);
  CHECK(roomy.total() > 15e9);  // 7.6 billion weights of two bytes
  const MemoryPlan tight = plan_run(large_model(), DType::kBF16, {planned(1, 16)}, 12 * kGiB);
  CHECK(tight.max_resident_bytes > 0);
  CHECK(tight.total() < 12e9);
  CHECK_NOTHROW(check_memory(tight, 12 * kGiB, true));
  CHECK_THROWS_WITH(check_memory(tight, kGiB, true), ContainsSubstring("--max-memory allows 1.0 GiB"));
  CHECK_THROWS_WITH(check_memory(tight, kGiB, false), ContainsSubstring("this machine has"));
}

TEST_CASE("J09: a case beyond any memory is refused, and its sum does not wrap") {
  PlannedCase endless = planned(1, 1);
  endless.capacity = std::int64_t{1} << 62;
  const MemoryPlan plan = plan_run(large_model(), DType::kF32, {endless, endless}, std::uint64_t{1} << 40);
  CHECK(plan.total() > 1e20);
  CHECK_THROWS_AS(check_memory(plan, std::uint64_t{1} << 62, true), InputError);
  CHECK(plan_record(large_model(), DType::kF32, planned(64, 512), false, std::uint64_t{1} << 40).total() >
        plan_record(large_model(), DType::kF32, planned(1, 512), false, std::uint64_t{1} << 40).total());
}

TEST_CASE("scores that are computed and judged on a GPU take no memory of the machine") {
  PlannedCase on_host = planned(3, 4096), on_gpu = on_host;
  on_gpu.scores_on_gpu = true;
  const auto total = [](const PlannedCase& one) {
    return plan_run(large_model(), DType::kF16, {one}, std::uint64_t{1} << 40).total();
  };
  constexpr double kScores = 3.0 * 28 * 4096 * 4096;
  CHECK(total(on_host) - total(on_gpu) > 100.0 * kScores);
}

TEST_CASE("judging scores takes more than judging what else is as large, and the reference beside it its weights") {
  const auto judging = [](const std::vector<Step>& steps) {
    for (const auto& part : plan_diagnose(large_model(), {.steps = steps}).parts) {
      if (part.what == "judging the largest tensors") return part.bytes;
    }
    return 0.0;
  };
  constexpr double kScores = 28.0 * 8192 * 8192, kLogits = 16.0 * 152064;
  CHECK(judging(planned(1, 8192).steps) > 180.0 * kScores);  // as measured
  CHECK(judging(planned(1, 16).steps) == 64.0 * kLogits);
  // Tensors of several steps are judged at once, up to a number of elements.
  std::vector<Step> several(3, planned(1, 16).steps[0]), many(64, planned(1, 16).steps[0]);
  CHECK(judging(several) > 2.9 * 64.0 * kLogits);
  CHECK(judging(many) > judging(several));
  CHECK(judging(many) < 10.0 * 64.0 * kLogits);
  const double layer = plan_diagnose(large_model(), {.steps = planned(1, 1).steps}).parts[2].bytes;
  CHECK(bytes_beside(large_model(), planned(1, 1).steps) > 0.5 * layer);
  CHECK(bytes_beside(large_model(), planned(1, 512).steps) >
        bytes_beside(large_model(), planned(1, 1).steps) + 512.0 * 152064 * 20);
}

TEST_CASE("recording the reference counts the scores and probabilities that it hands out in float32") {
  constexpr std::int64_t kTokens = 4096;
  const MemoryPlan plan = plan_record(large_model(), DType::kBF16, planned(1, kTokens), true, std::uint64_t{1} << 60);
  const double squares = 2.0 * 28 * 28 * kTokens * kTokens * sizeof(float);  // layers, heads
  CHECK(plan.parts[1].what == "the tensors of a step");
  CHECK(plan.parts[1].bytes > squares);
  CHECK(plan.parts[1].bytes < 1.5 * squares);
}

}  // namespace
}  // namespace qdiff::cli
