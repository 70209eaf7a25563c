#include "harness/trace/trace_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "harness/contract/error.h"
#include "harness/formats/atomic_file.h"
#include "harness/formats/atomic_folder.h"
#include "harness/formats/safetensors.h"
#include "harness/formats/strict_json.h"
#include "harness/formats/suggest.h"

namespace qdiff::trace {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void refuse_folder(const fs::path& path, const std::string& what) {
  throw InputError(formats::printable(path.string(), 400) + ": " + what);
}

[[noreturn]] void fail(const fs::path& path, const char* what, int error) {
  refuse_folder(path, std::string(what) + ": " + std::generic_category().message(error));
}

// Absolute, without a trailing separator, so that parent and name are well defined.
fs::path target_of(const fs::path& given) {
  if (given.empty()) throw InputError("the trace needs a folder's name");
  fs::path path = fs::absolute(given).lexically_normal();
  if (path.filename().empty()) path = path.parent_path();
  if (path.filename().empty()) refuse_folder(given, "is no place for a trace; name a folder of its own");
  return path;
}

bool is_trace_file(const std::string& name) {
  return name == kManifestName || (name.starts_with("step-") && name.ends_with(".safetensors"));
}

bool says_that_it_is_a_trace(const fs::path& manifest) {
  try {
    const formats::Json document = formats::read_json_file(manifest, kManifestLimits);
    return document.is_object() && document.contains("format") && document.at("format") == "qdiff-trace";
  } catch (const InputError&) {
    return false;
  }
}

// Whether a trace is there that may be replaced; throws for anything else that is not an empty folder.
bool is_older_trace(const fs::path& directory) {
  struct stat status {};
  if (::lstat(directory.c_str(), &status) != 0) {
    if (errno == ENOENT) return false;
    fail(directory, "cannot be written", errno);
  }
  if (S_ISLNK(status.st_mode))
    refuse_folder(directory, "is a symbolic link, so no trace is written there; choose another name");
  if (!S_ISDIR(status.st_mode)) refuse_folder(directory, "is there already and is no folder; choose another name");
  std::error_code error;
  bool empty = true;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
    empty = false;
    if (!is_trace_file(entry->path().filename().string())) {
      refuse_folder(directory, "holds " + formats::printable(entry->path().filename().string()) +
                                   ", which is no part of a trace, so it is not replaced; choose another name");
    }
  }
  if (error) fail(directory, "cannot be read", error.value());
  if (!empty && !says_that_it_is_a_trace(directory / kManifestName)) {
    refuse_folder(directory, "is there already and is no trace, so it is not replaced; choose another name");
  }
  return !empty;
}

// Removes a folder of trace files; what else may have come into it stays, and the folder with it.
void remove_trace_files(const fs::path& directory) {
  std::error_code ignored;
  std::vector<fs::path> files;
  for (fs::directory_iterator entry(directory, ignored), end; !ignored && entry != end; entry.increment(ignored)) {
    if (is_trace_file(entry->path().filename().string())) files.push_back(entry->path());
  }
  for (const fs::path& file : files) fs::remove(file, ignored);
  ::rmdir(directory.c_str());
}

// Puts `temporary` in the place of `directory`, which is there; the older one is then called `temporary`.
void exchange(const fs::path& temporary, const fs::path& directory) {
  if (::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, directory.c_str(), RENAME_EXCHANGE) == 0) return;
  if (errno != EINVAL && errno != ENOSYS) fail(directory, "cannot be replaced", errno);
  // A file system that cannot exchange two names: for a moment there is no trace under the name.
  const fs::path older = temporary.string() + ".older";
  if (::rename(directory.c_str(), older.c_str()) != 0) fail(directory, "cannot be replaced", errno);
  if (::rename(temporary.c_str(), directory.c_str()) != 0) {
    const int error = errno;
    ::rename(older.c_str(), directory.c_str());
    fail(directory, "cannot be replaced", error);
  }
  ::rename(older.c_str(), temporary.c_str());
}

}  // namespace

void check_place(const fs::path& directory) { is_older_trace(target_of(directory)); }

TraceWriter::TraceWriter(const fs::path& directory) : directory_(target_of(directory)) {
  replaces_ = is_older_trace(directory_);
  std::error_code error;
  fs::create_directories(directory_.parent_path(), error);
  if (error) fail(directory_.parent_path(), "cannot be made", error.value());
  const fs::path parent = directory_.parent_path();
  formats::clear_abandoned(parent);
  constexpr int kMostAttempts = 100;
  for (int attempt = 0; lock_ < 0; ++attempt) {
    const fs::path path = parent / formats::temporary_name();
    lock_ = formats::make_held_folder(path);
    if (lock_ >= 0) temporary_ = path;
    if (lock_ < 0 && (errno != EEXIST || attempt == kMostAttempts)) fail(parent, "cannot be written", errno);
  }
}

TraceWriter::~TraceWriter() {
  if (!temporary_.empty()) remove_trace_files(temporary_);
  if (lock_ >= 0) ::close(lock_);
}

void TraceWriter::write_step(const Step& step, const Recording& tensors) {
  if (step.index != static_cast<int>(steps_.size())) throw std::logic_error("TraceWriter: steps come in order");
  std::vector<TensorKey> keys;
  std::vector<formats::SafetensorsTensor> parts;
  for (const TensorKey& key : tensors.keys()) {
    if (key.step != step.index) continue;
    const TensorView view = tensors.get(key);
    keys.push_back(key);
    parts.push_back({tensor_name(key.id), view.dtype, view.shape});
  }
  files_.push_back(step_file_name(steps_.size()));
  steps_.push_back(step);
  formats::SafetensorsWriter writer(temporary_ / files_.back(), parts);
  for (const TensorKey& key : keys) {
    const TensorView view = tensors.get(key);
    writer.append(tensor_name(key.id), {static_cast<const std::byte*>(view.data), view.bytes()});
  }
  writer.finish();
}

void TraceWriter::commit(Manifest about) {
  about.steps = steps_;
  about.files = files_;
  for (Step usual : steps_) {
    const auto asked = usual.positions;
    set_default_positions(usual);
    about.positions_requested |= asked != usual.positions;
  }
  formats::write_file(temporary_ / kManifestName, to_json(about));
  if (replaces_) {
    exchange(temporary_, directory_);
    remove_trace_files(temporary_);
  } else if (::rename(temporary_.c_str(), directory_.c_str()) != 0) {  // takes the place of an empty folder, too
    fail(directory_, "cannot be given its name", errno);
  }
  temporary_.clear();
}

void write_trace(const fs::path& directory, Manifest about, const std::vector<Step>& steps, const Recording& tensors) {
  TraceWriter writer(directory);
  for (const Step& step : steps) writer.write_step(step, tensors);
  writer.commit(std::move(about));
}

}  // namespace qdiff::trace
