// The safetensors format: 8 bytes N (little-endian), N bytes of JSON header, then the tensors' bytes.
//
// The rules are those of validate() in safetensors/src/tensor.rs (0.8): tensors in order of their offsets follow each
// other without holes or overlaps from 0 to the end of the file, and each one's size is what its shape and dtype say.
// Stricter than upstream: the header has at most 16 MiB (upstream 100 MB); a tensor at most 64 dimensions; an entry no
// other key than dtype, shape and data_offsets (upstream ignores others); no key occurs twice (upstream takes the
// last). As upstream: trailing spaces in the header, an absent __metadata__, scalars (shape []) and tensors of no
// elements, which share an offset with a neighbour, are valid; values are not looked at, so NaN weights are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "harness/contract/dtype.h"
#include "harness/contract/tensor.h"
#include "harness/formats/atomic_file.h"
#include "harness/formats/input_file.h"

namespace qdiff::formats {

struct SafetensorsEntry {
  std::string name;
  std::string dtype_name;      // as in the header: "BF16", "F8_E4M3"
  std::optional<DType> dtype;  // empty for those that can be listed but not read
  Shape shape;
  std::uint64_t begin = 0;  // bytes, counted from the start of the data
  std::uint64_t end = 0;

  std::uint64_t bytes() const { return end - begin; }
};

struct SafetensorsHeader {
  std::uint64_t data_start = 0;           // byte of the file at which the data starts
  std::vector<SafetensorsEntry> entries;  // in order of their data
  std::map<std::string, std::string> metadata;

  const SafetensorsEntry* find(const std::string& name) const;  // null where there is none

  std::unordered_map<std::string, std::size_t> index;  // name -> place in `entries`
};

// Reads a header from the first bytes of a file, or from all of them, as a fuzzer does: `start` must hold the header
// whole, `file_bytes` is the size of the file. `source` names it in messages. Throws qdiff::InputError, and nothing
// else, for any bytes.
SafetensorsHeader parse_safetensors(std::span<const std::byte> start, std::uint64_t file_bytes,
                                    const std::string& source);

class SafetensorsReader {
 public:
  explicit SafetensorsReader(const std::filesystem::path& path);
  const SafetensorsHeader& header() const { return header_; }
  const std::string& name() const { return file_.name(); }
  // Bytes [first, first + destination.size()) of the tensor. Throws qdiff::InputError where the file has been cut
  // since, std::out_of_range beyond the tensor. Thread-safe.
  void read(const SafetensorsEntry& entry, std::uint64_t first, std::span<std::byte> destination) const;

 private:
  InputFile file_;
  SafetensorsHeader header_;
};

struct SafetensorsTensor {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
};

// Writes a file whose tensors are known beforehand and whose bytes come piece by piece, so that none need be in memory
// whole. Tensors are laid out by falling element size, so that each is aligned, and else in the order given. The file
// appears under its name when finish() is called, and not before.
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::filesystem::path& path, const std::vector<SafetensorsTensor>& tensors,
                    const std::map<std::string, std::string>& metadata = {});
  // The next bytes of that tensor. Throws std::invalid_argument for an unknown name or more bytes than it has.
  void append(const std::string& name, std::span<const std::byte> bytes);
  // Throws std::logic_error where a tensor has not had all its bytes.
  void finish();

 private:
  struct Part {
    std::uint64_t next = 0;  // offset in the file
    std::uint64_t end = 0;
  };
  AtomicFile file_;
  std::unordered_map<std::string, Part> parts_;
};

}  // namespace qdiff::formats
