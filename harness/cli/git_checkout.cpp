#include "harness/cli/git_checkout.h"

#include <sys/wait.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "harness/cli/text.h"
#include "harness/contract/error.h"

namespace qdiff::cli {
namespace {

constexpr int kSignalled = 128;  // a shell's status for a command that a signal ended is this and the signal's number

int status_of_wait(int waited) {
  if (waited == -1) return kSignalled;
  return WIFEXITED(waited) ? WEXITSTATUS(waited) : kSignalled + WTERMSIG(waited);
}

// This process ignores signals that a command may count on.
class UsualSignals {
 public:
  UsualSignals() {
    for (std::size_t i = 0; i < kSignals.size(); ++i) before_[i] = std::signal(kSignals[i], SIG_DFL);
  }
  ~UsualSignals() {
    for (std::size_t i = 0; i < kSignals.size(); ++i) std::signal(kSignals[i], before_[i]);
  }
  UsualSignals(const UsualSignals&) = delete;
  UsualSignals& operator=(const UsualSignals&) = delete;

 private:
  static constexpr std::array<int, 2> kSignals = {SIGPIPE, SIGXFSZ};
  std::array<void (*)(int), 2> before_{};
};

}  // namespace

int run_shell(const std::string& command) {
  const UsualSignals usual;
  std::fflush(nullptr);
  return status_of_wait(std::system(command.c_str()));
}

GitCheckout::GitCheckout(const std::string& folder) : top_(folder) {
  top_ = must("rev-parse --show-toplevel");
  if (top_.empty()) throw InputError(folder + ": this repository has no files checked out");
  const std::string changed = must("status --porcelain --untracked-files=no");
  if (!changed.empty()) {
    throw InputError(top_ + ": tracked files are changed (" + changed.substr(0, changed.find('\n')) +
                     " and perhaps others); commit or stash them first");
  }
  const std::filesystem::path started = must("rev-parse --git-path BISECT_START");
  if (std::filesystem::exists(started.is_absolute() ? started : top_ / started)) {
    throw InputError(top_ + ": a bisection is under way; end it with 'git bisect reset'");
  }
  const Answer branch = ask("symbolic-ref --quiet --short HEAD");
  original_ = branch.status == 0 ? branch.text : must("rev-parse HEAD");
}

GitCheckout::~GitCheckout() {
  if (bisecting_) ask("bisect reset");
  if (!moved_) return;
  const Answer back = ask("checkout --quiet " + shell_quote(original_));
  if (back.status == 0) return;
  std::fprintf(stderr, "qdiff: warning: %s could not be checked out again: %s\n", one_line(original_).c_str(),
               one_line(back.text).c_str());
}

std::string GitCheckout::command(const std::string& arguments) const {
  return "git -C " + shell_quote(top_) + ' ' + arguments;
}

GitCheckout::Answer GitCheckout::ask(const std::string& arguments) const {
  const UsualSignals usual;
  std::FILE* pipe = ::popen((command(arguments) + " 2>&1").c_str(), "r");
  if (pipe == nullptr) throw InputError("git cannot be run");
  Answer answer;
  std::array<char, 4096> buffer{};
  for (std::size_t read = 0; (read = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) {
    answer.text.append(buffer.data(), read);
  }
  answer.status = status_of_wait(::pclose(pipe));
  while (answer.text.ends_with('\n')) answer.text.pop_back();
  return answer;
}

std::string GitCheckout::must(const std::string& arguments) const {
  Answer answer = ask(arguments);
  if (answer.status != 0) throw InputError(top_ + ": git says: " + answer.text);
  return std::move(answer.text);
}

std::string GitCheckout::commit(const std::string& option, const std::string& revision) const {
  Answer answer = ask("rev-parse --verify --quiet --end-of-options " + shell_quote(revision + "^{commit}"));
  if (answer.status != 0) throw InputError(option + " '" + revision + "': there is no such commit in " + top_);
  return std::move(answer.text);
}

bool GitCheckout::is_ancestor(const std::string& commit, const std::string& of) const {
  return ask("merge-base --is-ancestor " + commit + ' ' + of).status == 0;
}

std::string GitCheckout::subject(const std::string& commit) const { return must("log -1 --format='%h %s' " + commit); }

std::string GitCheckout::authorship(const std::string& commit) const {
  return must("log -1 --date=short --format='%an, %ad' " + commit);
}

void GitCheckout::check_out(const std::string& commit) {
  moved_ = true;
  must("checkout --quiet --detach " + commit);
}

void GitCheckout::bisect(const std::string& good, const std::string& bad, const std::string& script,
                         const std::string& log) {
  moved_ = bisecting_ = true;
  must("bisect start " + bad + ' ' + good);
  // It ends with another status where only commits are left that cannot be judged.
  const int status =
      run_shell(command("bisect run sh " + shell_quote(script) + " 3>&2 >" + shell_quote(log) + " 2>&1"));
  if (status >= kSignalled) throw CannotJudgeError("the search was interrupted; the checkout is as it was");
}

std::vector<std::string> GitCheckout::candidates() const {
  std::string text = must("rev-list refs/bisect/bad --not $(" +
                          command("for-each-ref --format='%(refname)' 'refs/bisect/good-*'") + ')');
  std::vector<std::string> commits;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) commits.push_back(line);
  return commits;
}

}  // namespace qdiff::cli
