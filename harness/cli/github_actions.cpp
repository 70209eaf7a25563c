#include "harness/cli/github_actions.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <system_error>

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

}  // namespace

bool in_github_actions() {
  const char* value = std::getenv("GITHUB_ACTIONS");
  return value != nullptr && std::string_view(value) == "true";
}

void tell_github_actions(const findings::RunResult& result, bool quiet) {
  if (!quiet) std::fputs(report::github_commands(result).c_str(), stdout);
  const char* path = std::getenv("GITHUB_STEP_SUMMARY");
  if (path != nullptr && *path != '\0') append(path, report::github_summary(result));
}

}  // namespace qdiff::cli
