// Writing a file so that a reader sees the old one or the new one, never a part: bytes go to a temporary name in the
// same folder, are flushed, and the name is then changed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

namespace qdiff::formats {

class AtomicFile {
 public:
  // Creates the temporary file. Throws qdiff::InputError where the folder cannot be written, or where `path` is there
  // already and is anything but a regular file: a symbolic link is refused, not followed.
  explicit AtomicFile(const std::filesystem::path& path);
  // Without commit() the temporary file is removed and `path` stays as it was.
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  // Throws qdiff::InputError with the system's reason (disk full, I/O error ...).
  void write_at(std::uint64_t offset, std::span<const std::byte> bytes);
  void append(std::span<const std::byte> bytes);
  void append(std::string_view text);

  // Flushes to the disk and gives the file its name.
  void commit();

 private:
  [[noreturn]] void fail(const char* what, int error) const;
  void refuse_anything_but_a_file() const;

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
  std::uint64_t end_ = 0;
};

void write_file(const std::filesystem::path& path, std::string_view text);

}  // namespace qdiff::formats
