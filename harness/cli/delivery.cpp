#include "harness/cli/delivery.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <system_error>

#include "harness/cli/commands.h"
#include "harness/cli/terminal.h"
#include "harness/cli/text.h"
#include "harness/report/report.h"

namespace qdiff::cli {
namespace {

void append(const std::string& path, const std::string& text) {
  std::FILE* file = std::fopen(path.c_str(), "abe");
  bool written = file != nullptr && std::fwrite(text.data(), 1, text.size(), file) == text.size();
  int error = errno;
  if (file != nullptr && std::fclose(file) != 0 && written) {
    error = errno;
    written = false;
  }
  if (written) return;
  std::fprintf(
      stderr, "qdiff: warning: %s\n",
      one_line("GITHUB_STEP_SUMMARY '" + path + "' cannot be written: " + std::generic_category().message(error))
          .c_str());
}

bool in_github_actions() {
  const char* value = std::getenv("GITHUB_ACTIONS");
  return value != nullptr && std::string_view(value) == "true";
}

// https://docs.github.com/actions/reference/workflow-commands
void tell_github_actions(const findings::RunResult& result, bool quiet) {
  if (!quiet) std::fputs(report::github_commands(result).c_str(), stdout);
  const char* path = std::getenv("GITHUB_STEP_SUMMARY");
  if (path != nullptr && *path != '\0') append(path, report::github_summary(result));
}

}  // namespace

ExitStatus deliver(const findings::RunResult& result, const CommonArguments& common, const std::string& out) {
  const bool on_github = in_github_actions();
  if (!common.quiet) {
    const std::string text = report::format_terminal(
        result, {.color = use_color(common.color), .width = output_columns(), .reports = out, .all = common.all});
    std::fputs(on_github ? report::without_github_commands(text).c_str() : text.c_str(), stdout);
  }
  if (on_github) tell_github_actions(result, common.quiet);
  // Whoever reads the points takes what stands last.
  if (result.inferred_points) std::fputs(report::points_json(*result.inferred_points).c_str(), stdout);
  std::fflush(stdout);
  report::write_reports(result, out);  // last: a disk that is full by now must not lose the verdict
  return result.acceptance ? status_of(result.acceptance->verdict) : status_of(result.verdict);
}

}  // namespace qdiff::cli
