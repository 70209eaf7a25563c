#include "harness/cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "harness/cli/text.h"

namespace qdiff::cli {

bool use_color(ColorChoice choice) {
  if (choice != ColorChoice::kAuto) return choice == ColorChoice::kAlways;
  const char* no_color = std::getenv("NO_COLOR");  // https://no-color.org
  const char* terminal = std::getenv("TERM");
  const bool wanted = no_color == nullptr || *no_color == '\0';
  const bool able = terminal != nullptr && std::string_view(terminal) != "dumb";
  return wanted && able && isatty(STDOUT_FILENO) == 1;
}

int output_columns() {
  winsize size{};
  constexpr int kWithoutTerminal = 100;
  return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : kWithoutTerminal;
}

void print_field(const char* label, const std::string& text) {
  if (!text.empty()) std::printf("  %-9s %s\n", label, one_line(text).c_str());
}

}  // namespace qdiff::cli
