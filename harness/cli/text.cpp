#include "harness/cli/text.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "harness/contract/number_text.h"
#include "harness/formats/suggest.h"

namespace qdiff::cli {

std::string one_line(std::string_view text) {
  constexpr std::size_t kLongestLine = 4000;  // of bytes; names from files may be of any length
  std::string line(text);
  std::replace_if(
      line.begin(), line.end(), [](char c) { return c == '\n' || c == '\r' || c == '\t'; }, ' ');
  return formats::printable(line, kLongestLine);
}

std::string shell_quote(std::string_view argument) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:=,@%+";  // none is special to a POSIX shell
  if (!argument.empty() && argument.find_first_not_of(kPlain) == std::string_view::npos) return std::string(argument);
  // A line break in a prompt, say, must survive a terminal: $'…' of POSIX 2024, which bash and zsh have long known.
  const auto is_control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; };
  if (std::ranges::any_of(argument, is_control)) {
    std::string escaped = "$'";
    for (char c : argument) {
      char octal[8];
      std::snprintf(octal, sizeof octal, "\\%03o", static_cast<unsigned>(static_cast<unsigned char>(c)));
      if (c == '\n') {
        escaped += "\\n";
      } else if (is_control(c)) {
        escaped += octal;
      } else {
        if (c == '\'' || c == '\\') escaped += '\\';
        escaped += c;
      }
    }
    return escaped + "'";
  }
  std::string quoted = "'";
  for (char c : argument) {
    if (c == '\'') {
      quoted += "'\\''";
    } else {
      quoted += c;
    }
  }
  return quoted + "'";
}

std::string folder_name(const std::string& path) {
  std::filesystem::path folder = std::filesystem::absolute(path).lexically_normal();
  if (folder.filename().empty()) folder = folder.parent_path();
  return folder.filename().string();
}

std::string bytes_text(std::uint64_t bytes) {
  constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  if (bytes < 1024) return std::to_string(bytes) + " B";
  double value = static_cast<double>(bytes) / 1024.0;
  std::size_t unit = 0;
  for (; value >= 1024.0 && unit + 1 < std::size(kUnits); ++unit) value /= 1024.0;
  return decimals(value, value < 10.0 ? 1 : 0) + ' ' + kUnits[unit];
}

}  // namespace qdiff::cli
