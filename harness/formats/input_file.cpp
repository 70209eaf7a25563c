#include "harness/formats/input_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "harness/contract/error.h"
#include "harness/formats/limits.h"
#include "harness/formats/suggest.h"

namespace qdiff::formats {
namespace {

constexpr std::size_t kLongestName = 400;

std::string reason(int error) { return std::generic_category().message(error); }

}  // namespace

InputFile::InputFile(const std::filesystem::path& path) : name_(printable(path.string(), kLongestName)) {
  if (path.string().find('\0') != std::string::npos) {
    throw InputError(name_ + ": cannot be opened: the name holds a NUL byte");
  }
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (descriptor_ < 0) throw InputError(name_ + ": cannot be opened: " + reason(errno));
  struct stat status {};
  const bool regular = ::fstat(descriptor_, &status) == 0 && S_ISREG(status.st_mode);
  size_ = regular ? static_cast<std::uint64_t>(status.st_size) : 0;
  if (regular && size_ <= kMaxFileBytes) return;
  ::close(descriptor_);
  if (!regular) throw InputError(name_ + ": is not a regular file; give the path of a file");
  throw InputError(name_ + ": has " + std::to_string(size_) + " bytes, more than the limit of " +
                   std::to_string(kMaxFileBytes));
}

InputFile::~InputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

InputFile::InputFile(InputFile&& other) noexcept
    : name_(std::move(other.name_)), descriptor_(std::exchange(other.descriptor_, -1)), size_(other.size_) {}

void InputFile::read(std::uint64_t offset, std::span<std::byte> destination) const {
  std::size_t done = 0;
  while (done < destination.size()) {
    const std::uint64_t at = offset + done;
    if (at > kMaxFileBytes) throw InputError(name_ + ": no byte " + std::to_string(at) + " in a file of this size");
    const ssize_t got =
        ::pread(descriptor_, destination.data() + done, destination.size() - done, static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw InputError(name_ + ": cannot be read at byte " + std::to_string(at) + ": " + reason(errno));
    if (got == 0) {
      throw InputError(name_ + ": ends at byte " + std::to_string(at) + ", " +
                       std::to_string(destination.size() - done) + " bytes early; was it cut while being read?");
    }
    done += static_cast<std::size_t>(got);
  }
}

bool path_exists(const std::filesystem::path& path) {
  std::error_code error;
  const bool exists = std::filesystem::exists(path, error);
  if (error) throw InputError(printable(path.string(), kLongestName) + ": cannot be opened: " + error.message());
  return exists;
}

std::string read_text_file(const std::filesystem::path& path, std::size_t max_bytes) {
  const InputFile file(path);
  if (file.size() > max_bytes) {
    throw InputError(file.name() + ": has " + std::to_string(file.size()) + " bytes, but at most " +
                     std::to_string(max_bytes) + " are read of such a file");
  }
  std::string text(static_cast<std::size_t>(file.size()), '\0');
  file.read(0, std::as_writable_bytes(std::span(text)));
  return text;
}

}  // namespace qdiff::formats
