// A trace directory of any engine, as a store of tensors that are read when they are asked for.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "harness/contract/oracle.h"
#include "harness/formats/safetensors.h"
#include "harness/trace/manifest.h"

namespace qdiff::trace {

class Trace final : public TensorStore {
 public:
  // Reads the manifest and the header of each step's file. Throws InputError where one is missing or malformed, or
  // holds a tensor of the table in another dtype than F32, F16 or BF16.
  explicit Trace(const std::filesystem::path& directory);

  const Manifest& manifest() const { return manifest_; }
  bool has(const TensorKey& key) const override { return places_.contains(key); }
  // Reads the tensor at the first call and keeps it until forget(). What a recorder stored in a wider type than the
  // engine held it in, as NumPy needs it of bfloat16, comes in the engine's: a tensor of which every value is one of
  // `activations`. Throws InputError where the file cannot be read or has changed since the trace was opened.
  // Thread-safe.
  TensorView get(const TensorKey& key) const override;
  // Frees what get() has read; all views end.
  void forget() const;
  // The tensors so far that came in the engine's type, which is not the stored one.
  std::set<TensorKey> widened() const;

  const std::filesystem::path& directory() const { return directory_; }
  const std::filesystem::path& file_of(int step) const { return files_[static_cast<std::size_t>(step)]->path; }
  std::vector<TensorKey> keys() const;                                         // by step, then in execution order
  DType dtype(const TensorKey& key) const { return *places_.at(key)->dtype; }  // in which it is stored
  const Shape& shape(const TensorKey& key) const { return places_.at(key)->shape; }
  std::uint64_t bytes() const { return bytes_; }  // of all tensors of the table

  // Tensors whose names are none of the table's; they are never compared.
  struct Unknown {
    int step;
    std::string name;
  };
  const std::vector<Unknown>& unknown() const { return unknown_; }

 private:
  struct File {
    std::filesystem::path path;
    std::uint64_t size;
    formats::SafetensorsHeader header;
  };
  void open_step(std::size_t step, const std::filesystem::path& path);

  std::filesystem::path directory_;
  Manifest manifest_;
  // Files are opened anew for each read: a trace may have more steps than a process may have open files.
  std::vector<std::unique_ptr<File>> files_;
  std::map<TensorKey, const formats::SafetensorsEntry*> places_;
  std::vector<Unknown> unknown_;
  std::uint64_t bytes_ = 0;

  mutable std::mutex mutex_;
  mutable std::map<TensorKey, Tensor> loaded_;
  mutable std::set<TensorKey> widened_;
};

std::unique_ptr<Trace> read_trace(const std::filesystem::path& directory);

// Throws InputError for the first tensor whose layer or shape is not what the steps and the declared config give it.
// Dimensions that the manifest does not declare are not checked. lm_head may hold the last row only: [B,1,V].
void check_shapes(const Trace& trace, const DeclaredConfig& config);

}  // namespace qdiff::trace
