#include "harness/formats/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>

#include "harness/contract/error.h"
#include "harness/formats/atomic_folder.h"
#include "harness/formats/suggest.h"

namespace qdiff::formats {

AtomicFile::AtomicFile(const std::filesystem::path& path) : path_(path) {
  if (path.filename().empty() || path.string().find('\0') != std::string::npos) fail("cannot be written", EINVAL);
  refuse_anything_but_a_file();
  clear_abandoned(path.parent_path());
  // A name of its own rather than one made from `path`, which may be as long as names can be.
  for (int attempt = 0; descriptor_ < 0; ++attempt) {
    temporary_ = path.parent_path() / temporary_name();
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (descriptor_ < 0 && (errno != EEXIST || attempt == 100)) fail("cannot be created", errno);
    if (descriptor_ < 0 || hold_temporary(descriptor_, temporary_)) continue;
    ::close(descriptor_);
    descriptor_ = -1;
  }
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) {
    ::close(descriptor_);
    ::unlink(temporary_.c_str());
  }
}

void AtomicFile::fail(const char* what, int error) const {
  throw InputError(printable(path_.string(), 400) + ": " + what + ": " + std::generic_category().message(error));
}

void AtomicFile::refuse_anything_but_a_file() const {
  struct stat status {};
  if (::lstat(path_.c_str(), &status) != 0) {
    if (errno != ENOENT) fail("cannot be written", errno);
    return;
  }
  if (S_ISREG(status.st_mode)) return;
  throw InputError(printable(path_.string(), 400) + ": is there already and is " +
                   (S_ISLNK(status.st_mode) ? "a symbolic link" : "not a regular file") +
                   ", so it is not written; remove it or choose another name");
}

void AtomicFile::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t put =
        ::pwrite(descriptor_, bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail("cannot be written", errno);
    if (put == 0) fail("cannot be written", EIO);
    done += static_cast<std::size_t>(put);
  }
  end_ = std::max(end_, offset + bytes.size());
}

void AtomicFile::append(std::span<const std::byte> bytes) { write_at(end_, bytes); }

void AtomicFile::append(std::string_view text) { append(std::as_bytes(std::span(text))); }

void AtomicFile::commit() {
  if (::fsync(descriptor_) != 0) fail("cannot be flushed to the disk", errno);
  refuse_anything_but_a_file();
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("cannot be given its name", errno);
  ::close(descriptor_);
  descriptor_ = -1;
  // The new name is in the folder, so the folder is flushed too. Some file systems cannot; the content is safe anyway.
  const std::filesystem::path folder = path_.has_parent_path() ? path_.parent_path() : ".";
  const int directory = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory >= 0) {
    ::fsync(directory);
    ::close(directory);
  }
}

void write_file(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.append(text);
  file.commit();
}

}  // namespace qdiff::formats
