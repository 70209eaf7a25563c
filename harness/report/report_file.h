// Files of a report: what qdiff wrote may be replaced, what others wrote is kept.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace qdiff::report {

struct ReportFile {
  std::filesystem::path path;
  std::string text;
  std::string_view mark;  // stands near the start of every such file that qdiff wrote
};

// Throws InputError where a file is there in which the mark is missing.
void check_own_file(const std::filesystem::path& path, std::string_view mark);

// Throws InputError where the folder is not there and cannot be made.
void make_folder(const std::filesystem::path& folder);

// Makes the folder, checks what is there, and replaces it as a whole. A symbolic link is refused.
void write_report_file(const ReportFile& file);

}  // namespace qdiff::report
