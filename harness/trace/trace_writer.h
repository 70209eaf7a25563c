// Writes a trace directory, step by step, so that one step's tensors are in memory at a time. The directory appears
// under its name, whole, when it is committed; whatever happens before, the name holds what it held.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "harness/trace/manifest.h"
#include "harness/trace/recording.h"

namespace qdiff::trace {

class TraceWriter {
 public:
  // Throws InputError where `directory` is there already and is anything but an empty folder or a trace that holds
  // nothing else, or where its parent cannot be written.
  explicit TraceWriter(const std::filesystem::path& directory);
  // Without commit() nothing is left behind.
  ~TraceWriter();
  TraceWriter(const TraceWriter&) = delete;
  TraceWriter& operator=(const TraceWriter&) = delete;

  // Writes the step's tensors among those of `tensors`. Steps come in order.
  void write_step(const Step& step, const Recording& tensors);

  // `about` without steps and files: they are those that write_step() got. Replaces an older trace of that name.
  void commit(Manifest about);

 private:
  std::filesystem::path directory_;
  std::filesystem::path temporary_;
  int lock_ = -1;  // says that temporary_ is in use
  bool replaces_ = false;
  std::vector<Step> steps_;
  std::vector<std::string> files_;
};

// Throws as the writer would where `directory` is there already and would not be replaced; makes nothing.
void check_place(const std::filesystem::path& directory);

// All steps of a recording at once.
void write_trace(const std::filesystem::path& directory, Manifest about, const std::vector<Step>& steps,
                 const Recording& tensors);

}  // namespace qdiff::trace
