// How far long work has come, on standard error: one line that is redrawn on a terminal, a line of its own each half
// minute in a pipe or a log.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace qdiff::cli {

// Work in parts that take unlike times: how much of all of it is done.
class WholeWork {
 public:
  WholeWork() = default;
  // What each part is expected to take, in whatever unit: their proportions count.
  explicit WholeWork(std::vector<double> parts);
  // From 0 to 1, where of `part` that share is done and of those before it all.
  double share(std::size_t part, double share_of_part) const;

 private:
  std::vector<double> parts_;
  double sum_ = 0.0;
};
// How much of a run of one model is done while diagnose::run_cases() says that: judging takes most of it, and nothing
// else is counted.
double share_of_run(const std::string& what, std::int64_t done, std::int64_t total);
// What is left of work of which `share` was done in so many seconds: ", about 3 min 20 s left". Empty where too little
// is done to tell.
std::string time_left(double share, double seconds);

class Progress {
 public:
  // `quiet`: says nothing. The environment's QDIFF_PROGRESS_SECONDS is the time between two lines in a pipe.
  explicit Progress(bool quiet);
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Says before long work begins what it is expected to take; nothing of work that is done in a minute.
  void announce(double seconds, double bytes);
  // Redraws the line, at most ten times a second, or writes the next one where it is time. `total` 0: not known.
  void show(const std::string& what, std::int64_t done, std::int64_t total);
  // The same for work as a whole, of which that share is done; and of `what`, so much.
  void show_whole(const std::string& what, double share, std::int64_t done, std::int64_t total);
  // What shows that, each `what` behind `before`.
  std::function<void(const std::string& what, std::int64_t done, std::int64_t total)> showing(std::string before = "") {
    return [this, before = std::move(before)](const std::string& what, std::int64_t done, std::int64_t total) {
      show(before + what, done, total);
    };
  }
  // Leaves an empty line for what is printed next.
  void clear();

 private:
  using Clock = std::chrono::steady_clock;

  bool is_time_for_a_line(Clock::time_point now) const;
  // Notes where `what` begins.
  void count(const std::string& what, std::int64_t done, double share, Clock::time_point now);
  std::string left_of_whole(double share, std::int64_t done, std::int64_t total, Clock::time_point now) const;
  std::string left_of_this(std::int64_t done, std::int64_t total, Clock::time_point now) const;
  void write(std::string line, Clock::time_point now);
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
  double share_before_ = 0.0;  // of the whole, when this count began
  std::size_t columns_drawn_ = 0;
};

// "this takes about 52 min and 2.1 GiB of memory; ..."; empty for less than a minute.
std::string announcement(double seconds, double bytes);

// "[=====     ]  50%" of a share from 0 to 1.
std::string progress_bar(double share);

}  // namespace qdiff::cli
