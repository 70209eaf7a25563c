// Values in a folder that machines may share: each a file under its key, written in one piece, checked when
// it is read, and removed when the folder has grown too large and it was used longest ago.
//
//   FOLDER/3f/3f0c5a1be29d8877.safetensors    words in __metadata__, among them a checksum of each tensor
//   FOLDER/a0/a0671b20c35d9e48.json           a line with the text's checksum, and the text
//
// Nothing that goes wrong with such a file stops a run: a value that cannot be read is computed, one that cannot be
// written is not kept, and each is said once.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "harness/contract/tensor.h"
#include "harness/formats/safetensors.h"

namespace qdiff::reference_cache {

using Words = std::map<std::string, std::string>;

// A tensor to be kept; the bytes are the caller's.
struct Part {
  std::string name;
  DType dtype = DType::kF64;
  Shape shape;
  std::span<const std::byte> bytes;
};

// What was read is not what was written.
class Damaged : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A file of the store, open. Its words are checked; its tensors are when they are read.
class Found {
 public:
  Found(const std::filesystem::path& path, const std::string& key);

  const Words& words() const { return reader_.header().metadata; }
  const std::string& word(const std::string& name) const;  // throws Damaged where there is none
  bool has(const std::string& name) const { return reader_.header().find(name) != nullptr; }
  const formats::SafetensorsEntry& entry(const std::string& name) const;  // throws Damaged where there is none
  // Throws Damaged where the bytes are others than were written, or are more or fewer than there is place for.
  void read(const std::string& name, std::span<std::byte> destination) const;

 private:
  formats::SafetensorsReader reader_;
};

class Store {
 public:
  using Warn = std::function<void(const std::string& sentence)>;
  // Throws InputError where the folder cannot be made, or something else has its name.
  Store(const std::filesystem::path& folder, std::uint64_t most_bytes, Warn warn);

  // Calls use(found) with the value of that key, if it is there, which counts as its latest use. False where it is not
  // there, is damaged (which is said, and the file removed), or `use` says so.
  bool find(const std::string& key, const std::function<bool(const Found& found)>& use);
  void keep(const std::string& key, const Words& words, const std::vector<Part>& parts);

  // The same of a text; `use` may throw InputError where it is none that it knows.
  bool find_text(const std::string& key, const std::function<bool(const std::string& text)>& use);
  void keep_text(const std::string& key, const std::string& text);

 private:
  std::filesystem::path file_of(const std::string& key, std::string_view suffix) const;
  bool use_file(const std::filesystem::path& path, const std::function<bool()>& use);
  void write_file(const std::filesystem::path& path, std::uint64_t bytes, const std::function<void()>& write);
  void warn_once(const std::string& what, const std::string& sentence);
  bool has_room_for(std::uint64_t bytes);

  std::filesystem::path folder_;
  std::uint64_t most_bytes_;
  Warn warn_;
  std::set<std::string> warned_;
  std::set<std::string> used_;          // names of files that were found or written
  std::optional<std::uint64_t> bytes_;  // of all files: when they were last counted, and what was written since
  bool writes_ = true;                  // until a file could not be written
  bool is_full_ = false;                // of what this run has used itself
};

}  // namespace qdiff::reference_cache
