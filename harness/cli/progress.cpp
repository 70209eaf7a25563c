#include "harness/cli/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "harness/cli/text.h"

namespace qdiff::cli {
namespace {

std::size_t terminal_columns() {
  winsize size{};
  constexpr std::size_t kUsual = 80;
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : kUsual;
}

}  // namespace

Progress::Progress(bool quiet) : enabled_(!quiet && isatty(STDERR_FILENO) == 1) {}

void Progress::show(const std::string& what, std::int64_t done, std::int64_t total) {
  if (!enabled_) return;
  const auto now = std::chrono::steady_clock::now();
  if (columns_drawn_ != 0 && now - last_drawn_ < std::chrono::milliseconds(100)) return;
  last_drawn_ = now;
  std::string line = one_line(what);
  if (total > 0) {
    const std::int64_t percent = std::clamp<std::int64_t>(done * 100 / total, 0, 100);
    line = std::to_string(percent) + "% (" + std::to_string(done) + " of " + std::to_string(total) + ")  " + line;
  }
  line.resize(std::min(line.size(), terminal_columns() - 1));  // a wrapped line could not be redrawn
  const std::size_t drawn = line.size();
  // Spaces rather than an escape sequence wipe what the longer line before left.
  if (drawn < columns_drawn_) line.append(columns_drawn_ - drawn, ' ');
  std::fprintf(stderr, "\r%s", line.c_str());
  std::fflush(stderr);
  columns_drawn_ = drawn;
}

void Progress::clear() {
  if (columns_drawn_ == 0) return;
  std::fprintf(stderr, "\r%s\r", std::string(columns_drawn_, ' ').c_str());
  std::fflush(stderr);
  columns_drawn_ = 0;
}

}  // namespace qdiff::cli
