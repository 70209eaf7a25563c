// How far long work has come, on standard error: one line that is redrawn on a terminal, a line of its own each half
// minute in a pipe or a log.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace qdiff::cli {

class Progress {
 public:
  // `quiet`: says nothing. The environment's QDIFF_PROGRESS_SECONDS is the time between two lines in a pipe.
  explicit Progress(bool quiet);
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Redraws the line, at most ten times a second, or writes the next one where it is time. `total` 0: not known.
  void show(const std::string& what, std::int64_t done, std::int64_t total);
  // Leaves an empty line for what is printed next.
  void clear();

 private:
  using Clock = std::chrono::steady_clock;

  std::string line_of(const std::string& what, std::int64_t done, std::int64_t total, Clock::time_point now);
  void redraw(std::string line);

  bool enabled_;
  bool terminal_;
  std::chrono::duration<double> between_lines_;
  Clock::time_point started_ = Clock::now();
  Clock::time_point last_shown_ = started_;
  // The work that is counted now: each count starts anew.
  std::string counted_;
  Clock::time_point counted_since_ = started_;
  std::int64_t counted_from_ = 0;
  std::size_t columns_drawn_ = 0;
};

// "[=====     ]  50%" of a share from 0 to 1.
std::string progress_bar(double share);

}  // namespace qdiff::cli
