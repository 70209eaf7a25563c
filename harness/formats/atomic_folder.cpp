#include "harness/formats/atomic_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <string_view>
#include <system_error>
#include <vector>

#include "harness/contract/error.h"
#include "harness/formats/suggest.h"

namespace qdiff::formats {
namespace {

namespace fs = std::filesystem;

bool all_digits(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

// The names that temporary_name() makes; traces have "trace-" before the numbers.
bool is_temporary_name(std::string_view name) {
  constexpr std::string_view kStart = ".qdiff-", kTrace = "trace-", kEnd = ".tmp";
  if (!name.starts_with(kStart) || !name.ends_with(kEnd)) return false;
  name = name.substr(kStart.size(), name.size() - kStart.size() - kEnd.size());
  if (name.starts_with(kTrace)) name.remove_prefix(kTrace.size());
  const std::size_t dash = name.find('-');
  return dash != std::string_view::npos && all_digits(name.substr(0, dash)) && all_digits(name.substr(dash + 1));
}

bool is_at(int descriptor, const fs::path& path) {
  struct stat held {
  }, there{};
  return ::fstat(descriptor, &held) == 0 && ::lstat(path.c_str(), &there) == 0 && held.st_ino == there.st_ino &&
         held.st_dev == there.st_dev;
}

}  // namespace

std::string temporary_name() {
  static std::atomic<unsigned> counter{0};
  return ".qdiff-" + std::to_string(::getpid()) + '-' + std::to_string(counter.fetch_add(1)) + ".tmp";
}

bool hold_temporary(int descriptor, const fs::path& path) {
  if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0) return errno != EWOULDBLOCK;
  return is_at(descriptor, path);
}

int make_held_folder(const fs::path& path) {
  if (::mkdir(path.c_str(), 0777) != 0) return -1;
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (descriptor >= 0 && hold_temporary(descriptor, path)) return descriptor;
  if (descriptor >= 0) ::close(descriptor);
  errno = EEXIST;  // somebody was quicker: the name is as good as taken
  return -1;
}

void clear_abandoned(const fs::path& folder) {
  std::error_code error;
  std::vector<fs::path> left;
  for (fs::directory_iterator entry(folder.empty() ? "." : folder, error), end; !error && entry != end;
       entry.increment(error)) {
    if (is_temporary_name(entry->path().filename().string())) left.push_back(entry->path());
  }
  for (const fs::path& path : left) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (descriptor < 0) continue;
    if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0 && is_at(descriptor, path)) fs::remove_all(path, error);
    ::close(descriptor);
  }
}

AtomicFolder::AtomicFolder(const fs::path& path) : path_(path) {
  const fs::path parent = path.has_parent_path() ? path.parent_path() : fs::path(".");
  clear_abandoned(parent);
  constexpr int kMostAttempts = 100;
  for (int attempt = 0; lock_ < 0; ++attempt) {
    temporary_ = parent / temporary_name();
    lock_ = make_held_folder(temporary_);
    if (lock_ >= 0 || (errno == EEXIST && attempt < kMostAttempts)) continue;
    throw InputError(printable(parent.string(), 400) +
                     ": cannot be written: " + std::generic_category().message(errno));
  }
}

AtomicFolder::~AtomicFolder() {
  std::error_code ignored;
  fs::remove_all(temporary_, ignored);
  if (lock_ >= 0) ::close(lock_);
}

bool AtomicFolder::commit() {
  if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, path_.c_str(), RENAME_EXCHANGE) == 0) return true;
  return errno == ENOENT && ::rename(temporary_.c_str(), path_.c_str()) == 0;
}

}  // namespace qdiff::formats
