// Text for people and for shells.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace qdiff::cli {

// One line that a terminal shows and does not obey: line breaks become spaces, other control characters are escaped.
std::string one_line(std::string_view text);

// `argument` as a POSIX shell reads it back, on one line, quoted only where it must be.
std::string shell_quote(std::string_view argument);

// The name of a folder, whatever way it is named: "t", "t/", "." within it.
std::string folder_name(const std::string& path);

// "1.5 GiB", "640 KiB", "12 B".
std::string bytes_text(std::uint64_t bytes);

}  // namespace qdiff::cli
