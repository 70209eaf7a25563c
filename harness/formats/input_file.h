// A regular file opened for reading, by range. Nothing is mapped: a file that is cut short while it is read gives an
// error, where a mapping would give SIGBUS.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace qdiff::formats {

class InputFile {
 public:
  // Links are followed. Throws qdiff::InputError where the path is no regular file (a directory, a FIFO, a device), is
  // larger than kMaxFileBytes or cannot be opened.
  explicit InputFile(const std::filesystem::path& path);
  ~InputFile();
  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&&) = delete;
  InputFile(const InputFile&) = delete;

  const std::string& name() const { return name_; }  // for messages: printable
  std::uint64_t size() const { return size_; }       // when it was opened

  // Reads exactly destination.size() bytes. Throws qdiff::InputError where the file ends before. Thread-safe.
  void read(std::uint64_t offset, std::span<std::byte> destination) const;

 private:
  std::string name_;
  int descriptor_ = -1;
  std::uint64_t size_ = 0;
};

// Whether there is anything of that name, links followed. Throws qdiff::InputError where the system cannot tell (links
// that lead in a circle, a folder that may not be searched): such a place is not an absent one.
bool path_exists(const std::filesystem::path& path);

// The whole file. Throws qdiff::InputError where it has more than `max_bytes`.
std::string read_text_file(const std::filesystem::path& path, std::size_t max_bytes);

}  // namespace qdiff::formats
