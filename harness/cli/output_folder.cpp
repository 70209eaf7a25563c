#include "harness/cli/output_folder.h"

#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "harness/contract/error.h"
#include "harness/formats/atomic_folder.h"
#include "harness/report/report.h"

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
  const fs::path trial = path / formats::temporary_name();
  const int held = formats::make_held_folder(trial);
  if (held < 0) {
    throw InputError("--out '" + out + "': " + path.string() +
                     " cannot be written: " + std::generic_category().message(errno));
  }
  fs::remove(trial, error);
  ::close(held);
  for (const auto& [file, what] : {std::pair{"manifest.json", "trace"}, std::pair{"config.json", "model"}}) {
    if (!fs::exists(fs::symlink_status(fs::path(out) / file, error))) continue;
    throw InputError("--out '" + out + "': the folder holds a " + what + " (" + file +
                     "), which it would no longer be; choose another place for the reports");
  }
}

void check_report_folder(const std::string& out) {
  check_output_folder(out);
  report::check_reports(out);
}

}  // namespace qdiff::cli
