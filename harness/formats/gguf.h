// The GGUF format of llama.cpp, versions 2 and 3, little-endian: a header, metadata (keys with typed values), tensor
// infos, padding, and the tensors' bytes (docs/gguf.md in the repository ggml-org/ggml; read by gguf_init_from_file()
// in ggml/src/gguf.cpp).
//
// Stricter than upstream: keys are 1 to 65535 bytes of [a-z0-9_.-]; strings have at most 1 MiB (upstream 1 GiB), arrays
// 16 Mi elements, and everything before the data 128 MiB; tensor names are 1 to 63 bytes of [A-Za-z0-9_.-]; the
// alignment is a power of two from 8 to 4096 (upstream from 1); booleans are 0 or 1; dimensions are not 0. As upstream:
// arrays of arrays are refused, tensors follow each other without holes or overlaps, each padded to the alignment, and
// what comes after the last one is not looked at.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "harness/contract/tensor.h"
#include "harness/formats/ggml_types.h"
#include "harness/formats/input_file.h"

namespace qdiff::formats {

enum class GgufType : std::uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

// An array stays in the file: a vocabulary of 150,000 strings is read only by those who want it.
struct GgufArray {
  GgufType element_type = GgufType::kUint8;
  std::uint64_t count = 0;
  std::uint64_t begin = 0;  // bytes of the file
  std::uint64_t end = 0;
};

struct GgufKey {
  std::string name;
  GgufType type = GgufType::kUint8;
  // Whole numbers are widened, float32 as well.
  std::variant<std::uint64_t, std::int64_t, double, bool, std::string, GgufArray> value;
  std::uint64_t offset = 0;  // byte of the file, for messages
};

struct GgufTensor {
  std::string name;
  GgmlType type = GgmlType::kF32;
  Shape shape;                         // row-major, so that the last dimension is ggml's ne[0]
  std::uint64_t begin = 0, bytes = 0;  // of the file; without padding
};

struct GgufHeader {
  std::uint32_t version = 0;
  std::uint64_t alignment = 32;
  std::uint64_t data_start = 0;
  std::vector<GgufKey> keys;        // in the file's order
  std::vector<GgufTensor> tensors;  // in the file's order, which is that of their data

  const GgufKey* find_key(const std::string& name) const;        // null where there is none
  const GgufTensor* find_tensor(const std::string& name) const;  // null where there is none

  std::unordered_map<std::string, std::size_t> key_index, tensor_index;  // name -> place
};

// Reads a header from the first bytes of a file, or from all of them, as a fuzzer does: `start` must hold all that
// comes before the data, `file_bytes` is the size of the file. `source` names it in messages. Throws qdiff::InputError,
// and nothing else, for any bytes.
GgufHeader parse_gguf(std::span<const std::byte> start, std::uint64_t file_bytes, const std::string& source);

// What a key holds, in words: 24, 1e-06, "qwen2", 151936 strings.
std::string describe_value(const GgufKey& key);
std::string_view name(GgufType type);  // "uint32"

class GgufReader {
 public:
  explicit GgufReader(const std::filesystem::path& path);
  const GgufHeader& header() const { return header_; }
  const std::string& name() const { return file_.name(); }

  // Bytes [first, first + destination.size()) of the tensor as stored. Throws qdiff::InputError where the file has been
  // cut since, std::out_of_range beyond the tensor. Thread-safe.
  void read(const GgufTensor& tensor, std::uint64_t first, std::span<std::byte> destination) const;

  // The elements of an array of strings, and of one of whole numbers. Throw qdiff::InputError where it holds others.
  std::vector<std::string> strings(const GgufKey& key) const;
  std::vector<std::int64_t> integers(const GgufKey& key) const;

 private:
  const GgufArray& array_of(const GgufKey& key, const char* wanted) const;

  InputFile file_;
  GgufHeader header_;
};

}  // namespace qdiff::formats
