// A git checkout through which `qdiff bisect` walks, and which is afterwards as it was.
#pragma once

#include <string>
#include <vector>

namespace qdiff::cli {

// Runs a shell command with this process's standard streams and waits for it. Returns its exit status; 128 and more
// where a signal ended it. An interrupt ends the command and not this process.
int run_shell(const std::string& command);

class GitCheckout {
 public:
  // Throws InputError where `folder` is in no checkout, where tracked files are changed, or where a bisection is under
  // way.
  explicit GitCheckout(const std::string& folder);
  // Goes back to the branch or commit that was checked out, and ends a bisection that start() began. What goes wrong is
  // said on standard error.
  ~GitCheckout();
  GitCheckout(const GitCheckout&) = delete;
  GitCheckout& operator=(const GitCheckout&) = delete;

  const std::string& top() const { return top_; }
  // The full name of a commit. Throws InputError where there is none.
  std::string commit(const std::string& option, const std::string& revision) const;
  bool is_ancestor(const std::string& commit, const std::string& of) const;
  std::string subject(const std::string& commit) const;     // "3fa2b1c Make attention faster"
  std::string authorship(const std::string& commit) const;  // "A. U. Thor, 2026-11-29"

  void check_out(const std::string& commit);
  // Bisects between the two; `script` judges the commit that is checked out. What git says goes to the file `log`;
  // stream 3 of the script is this process's standard error.
  // Throws CannotJudgeError where an interrupt ended it.
  void bisect(const std::string& good, const std::string& bad, const std::string& script, const std::string& log);
  // After that: the commits of which one is the first bad one, the newest first. One where git has found it.
  std::vector<std::string> candidates() const;

 private:
  struct Answer {
    int status = 0;
    std::string text;  // what it printed, without the last line's end
  };
  std::string command(const std::string& arguments) const;
  Answer ask(const std::string& arguments) const;
  std::string must(const std::string& arguments) const;  // throws InputError where it fails

  std::string top_;
  std::string original_;  // branch or commit
  bool moved_ = false;
  bool bisecting_ = false;
};

}  // namespace qdiff::cli
