#include "harness/cli/output_folder.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "harness/contract/error.h"

namespace qdiff::cli {

namespace fs = std::filesystem;

void check_output_folder(const std::string& out) {
  fs::path path = fs::absolute(out);
  std::error_code error;
  fs::file_status status = fs::status(path, error);
  while (status.type() == fs::file_type::not_found && !fs::is_symlink(path) && path.has_relative_path()) {
    path = path.parent_path();
    status = fs::status(path, error);
  }
  if (status.type() == fs::file_type::none) {
    throw InputError("--out '" + out + "': " + path.string() + " cannot be used: " + error.message());
  }
  if (!fs::is_directory(status)) {
    throw InputError("--out '" + out + "': " + path.string() +
                     " is not a folder; choose another place for the reports");
  }
  if (::access(path.c_str(), W_OK | X_OK) != 0) {
    throw InputError("--out '" + out + "': " + path.string() +
                     " cannot be written: " + std::generic_category().message(errno));
  }
  if (fs::exists(fs::symlink_status(fs::path(out) / "manifest.json", error))) {
    throw InputError("--out '" + out +
                     "': the folder holds a trace, which it would no longer be; choose another place for the reports");
  }
}

// As harness/report/write.cpp does for the reports of a run.
void check_own_file(const fs::path& file, std::string_view mark) {
  std::error_code error;
  if (!fs::is_regular_file(fs::symlink_status(file, error))) return;
  std::array<char, 512> start{};
  std::ifstream stream(file, std::ios::binary);
  stream.read(start.data(), start.size());
  const std::string_view text(start.data(), static_cast<std::size_t>(stream.gcount()));
  if (text.find(mark) != std::string_view::npos) return;
  throw InputError(file.string() +
                   ": the file was not written by qdiff and is kept; move it away, or name another folder with --out");
}

void make_output_folder(const std::string& out) {
  std::error_code error;
  fs::create_directories(out, error);
  if (!error && fs::is_directory(out, error)) return;
  throw InputError("--out '" + out + "': the folder for reports cannot be made" +
                   (error ? " (" + error.message() + ")" : std::string()) + "; name another");
}

}  // namespace qdiff::cli
