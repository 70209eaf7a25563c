#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include "harness/acceptance/baseline.h"
#include "harness/cli/commands.h"
#include "harness/cli/git_checkout.h"
#include "harness/cli/output_folder.h"
#include "harness/cli/terminal.h"
#include "harness/cli/text.h"
#include "harness/formats/atomic_file.h"
#include "harness/formats/strict_json.h"
#include "harness/model/model.h"
#include "harness/report/report_file.h"
#include "harness/trace/manifest.h"

namespace qdiff::cli {
namespace {

namespace fs = std::filesystem;
using formats::Json;

constexpr int kGood = 0, kBad = 1, kSkipped = 125;

std::string own_path() {
  std::error_code error;
  const fs::path path = fs::read_symlink("/proc/self/exe", error);
  if (error) throw CannotJudgeError("the path of this program cannot be found: " + error.message());
  return path.string();
}

// What builds, records and judges the commit that is checked out, and ends as `git bisect run` wants it.
class CommitScript {
 public:
  CommitScript(const BisectArguments& arguments, fs::path out) : arguments_(arguments), out_(std::move(out)) {}

  std::string script() const { return (out_ / "step.sh").string(); }
  fs::path reports(const std::string& commit) const { return out_ / commit; }
  void write(const std::string& baseline) const { formats::write_file(script(), text(baseline)); }

 private:
  std::string text(const std::string& baseline) const {
    std::string model = arguments_.model;
    if (!model.starts_with("synthetic:")) model = fs::absolute(model).string();
    std::string diagnose = shell_quote(own_path()) + " diagnose --quiet --bad-input-status 125 --model " +
                           shell_quote(model) + " --trace \"$QDIFF_TRACE\" --out \"$folder\"";
    if (arguments_.allow_precision) diagnose += " --allow-precision";
    if (arguments_.common.threads) diagnose += " --threads " + std::to_string(*arguments_.common.threads);
    if (!baseline.empty()) diagnose += " --baseline " + shell_quote(baseline);
    const std::string out = shell_quote(out_.string());
    return "#!/bin/sh\n"
           "# Written by qdiff bisect: judges the commit that is checked out. 0: good, 1: bad, 125: cannot be judged.\n"
           "# What it says of the commit goes to stream 3.\n"
           "unset GITHUB_STEP_SUMMARY\n"
           "commit=$(git rev-parse HEAD) || exit 125\n"
           "folder=" +
           out +
           "/$commit\n"
           "export QDIFF_TRACE=" +
           out +
           "/trace\n"
           "end() {\n" +
           (arguments_.common.quiet ? std::string()
                                    : "  printf 'qdiff: %s: %s\\n' \"$(git log -1 --format='%h %s')\" \"$2\" >&3\n") +
           "  printf '%s %s\\n' \"$commit\" \"$1\" >>" + out +
           "/judged\n"
           "  exit \"$1\"\n"
           "}\n"
           "rm -rf \"$QDIFF_TRACE\"\n"
           "mkdir -p \"$folder\" || exit 125\n"
           ": >\"$folder/log\"\n" +
           work(arguments_.build, "built") + work(arguments_.record, "recorded") + diagnose +
           " </dev/null >>\"$folder/log\" 2>&1\n"
           "case $? in\n"
           "  0) end 0 right ;;\n"
           "  1) end 1 wrong ;;\n"
           "  *) end 125 \"cannot be judged; $folder/log says why\" ;;\n"
           "esac\n";
  }

  static std::string work(const std::optional<std::string>& command, const std::string& done) {
    if (!command) return "";
    return "sh -c " + shell_quote(*command) + " </dev/null >>\"$folder/log\" 2>&1 || end 125 \"cannot be " + done +
           "; $folder/log says why\"\n";
  }

  const BisectArguments& arguments_;
  fs::path out_;
};

// The first finding that is new, or the first divergence where nothing was known before; null where there is none.
Json first_finding(const fs::path& reports) {
  const Json report = formats::read_json_file(reports / "report.json", acceptance::kReportLimits);
  const Json& accepted = report.at("acceptance");
  if (accepted.is_null()) {
    Json first = report.at("first_divergence");
    if (!first.is_null()) first["explanation"] = report.at("explanation");
    return first;
  }
  const Json& findings = report.at("findings");
  for (std::size_t i = 0; i < findings.size(); ++i) {
    if (accepted.at("states").at(i) == "new") return findings[i];
  }
  return nullptr;
}

void print_finding(const Json& finding) {
  print_field("first at", finding.at("tensor").get<std::string>());
  print_field("where", "step " + std::to_string(finding.at("step").get<int>()) + " (" +
                           finding.at("phase").get<std::string>() + ")");
  const Json& explanation = finding.at("explanation");
  std::string cause = "unexplained";
  for (const char* key : {"mechanism", "variant"}) {
    if (explanation.at(key).is_string()) cause = explanation.at(key).get<std::string>();
  }
  if (explanation.at("verdict").is_string()) cause += " (" + explanation.at("verdict").get<std::string>() + ')';
  print_field("cause", cause);
}

struct JudgedCommits {
  std::size_t commits = 0, not_judged = 0;
};

JudgedCommits read_judged(const fs::path& file) {
  std::map<std::string, int> status_of;
  std::ifstream lines(file);
  std::string commit;
  for (int status = 0; lines >> commit >> status;) status_of[commit] = status;
  JudgedCommits judged{.commits = status_of.size()};
  for (const auto& [name, status] : status_of) judged.not_judged += status != kGood && status != kBad;
  return judged;
}

class Bisection {
 public:
  explicit Bisection(const BisectArguments& arguments)
      : arguments_(arguments),
        out_(fs::absolute(arguments.out).lexically_normal()),
        checkout_(arguments.repository),
        step_(arguments, out_),
        good_(checkout_.commit("--good", arguments.good)),
        bad_(checkout_.commit("--bad", arguments.bad)) {
    if (!checkout_.is_ancestor(good_, bad_) || good_ == bad_) {
      throw InputError("--good '" + arguments.good + "' is no ancestor of --bad '" + arguments.bad +
                       "'; name a commit that lies before it");
    }
  }

  ExitStatus run() {
    prepare_folder();
    const int good = judge("--good", good_, "");
    // What was wrong at the good commit is known, and only what is new makes a commit bad.
    const std::string baseline = good == kBad ? step_.reports(good_).string() : "";
    if (!baseline.empty() && !arguments_.common.quiet) {
      std::fprintf(stderr, "qdiff: the good commit diverges too; what is wrong there counts as known\n");
    }
    if (judge("--bad", bad_, baseline) == kGood) return say_that_nothing_is_new(baseline);
    checkout_.bisect(good_, bad_, step_.script(), (out_ / "git.log").string());
    const std::vector<std::string> candidates = checkout_.candidates();
    return candidates.size() == 1 ? deliver(candidates.front()) : say_that_some_are_left(candidates);
  }

 private:
  void prepare_folder() const {
    const fs::path trace = out_ / "trace";
    if (fs::exists(trace) && !fs::exists(trace / trace::kManifestName)) {
      throw InputError("--out: " + trace.string() +
                       " is there and no trace, and would be replaced; choose another place");
    }
    report::make_folder(out_);
    formats::write_file(out_ / "judged", "");
  }

  int judge(const std::string& option, const std::string& commit, const std::string& baseline) {
    step_.write(baseline);
    checkout_.check_out(commit);
    const int status =
        run_shell("cd " + shell_quote(checkout_.top()) + " && sh " + shell_quote(step_.script()) + " 3>&2");
    if (status == kGood || status == kBad) return status;
    if (status != kSkipped) throw CannotJudgeError("the search was interrupted; the checkout is as it was");
    throw CannotJudgeError(option + ' ' + checkout_.subject(commit) + " cannot be built, recorded or judged; " +
                           (step_.reports(commit) / "log").string() + " says why");
  }

  ExitStatus say_that_nothing_is_new(const std::string& baseline) const {
    if (!arguments_.common.quiet) {
      std::printf("MATCH  %s: nothing diverges%s, so there is no bad commit\n",
                  one_line(checkout_.subject(bad_)).c_str(),
                  baseline.empty() ? "" : " that does not at the good commit");
    }
    return ExitStatus::kMatch;
  }

  ExitStatus deliver(const std::string& first_bad) const {
    const Json finding = first_finding(step_.reports(first_bad));
    const JudgedCommits judged = read_judged(out_ / "judged");
    std::printf("FIRST BAD  %s\n", one_line(checkout_.subject(first_bad)).c_str());
    print_field("commit", first_bad);
    print_field("author", checkout_.authorship(first_bad));
    if (!finding.is_null()) print_finding(finding);
    print_field("judged",
                std::to_string(judged.commits) + " commits" +
                    (judged.not_judged > 0 ? ", " + std::to_string(judged.not_judged) + " of them in vain" : ""));
    print_field("reports", (fs::path(arguments_.out) / first_bad).string());
    return ExitStatus::kDiverged;
  }

  ExitStatus say_that_some_are_left(const std::vector<std::string>& candidates) const {
    std::printf(
        "UNDECIDED  one of these is the first bad commit, and those between cannot be built, recorded or judged:\n");
    for (const std::string& commit : candidates) std::printf("  %s\n", one_line(checkout_.subject(commit)).c_str());
    return ExitStatus::kCannotJudge;
  }

  const BisectArguments& arguments_;
  fs::path out_;
  GitCheckout checkout_;
  CommitScript step_;
  std::string good_, bad_;
};

}  // namespace

ExitStatus bisect_command(const BisectArguments& arguments) {
  model::open_model(arguments.model);  // before an hour of builds
  check_output_folder(arguments.out);
  return Bisection(arguments).run();
}

}  // namespace qdiff::cli
