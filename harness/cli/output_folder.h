// Where reports go.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace qdiff::cli {

// Throws InputError where reports could not be written to `out`, before hours of work whose result would have no place.
void check_output_folder(const std::string& out);

// Throws InputError where `file` is there and was not written by qdiff: `mark` stands near the start of all that were.
void check_own_file(const std::filesystem::path& file, std::string_view mark);

// Throws InputError where it cannot be made.
void make_output_folder(const std::string& out);

}  // namespace qdiff::cli
