// One line on the terminal that says how far long work has come. Silent unless standard error is a terminal, so that
// logs and pipes hold results only.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace qdiff::cli {

class Progress {
 public:
  explicit Progress(bool quiet);
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Redraws the line, at most ten times a second.
  void show(const std::string& what, std::int64_t done, std::int64_t total);
  // Leaves an empty line for what is printed next.
  void clear();

 private:
  bool enabled_;
  std::size_t columns_drawn_ = 0;
  std::chrono::steady_clock::time_point last_drawn_{};
};

}  // namespace qdiff::cli
