#include "harness/cli/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <utility>

#include "harness/cli/text.h"
#include "harness/cli/values.h"
#include "harness/contract/error.h"
#include "harness/formats/duration.h"

namespace qdiff::cli {
namespace {

std::size_t terminal_columns() {
  winsize size{};
  constexpr std::size_t kUsual = 80;
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : kUsual;
}

double seconds_between_lines() {
  constexpr double kUsual = 30.0;
  const char* given = std::getenv("QDIFF_PROGRESS_SECONDS");
  if (given == nullptr) return kUsual;
  try {
    return parse_tolerance("QDIFF_PROGRESS_SECONDS", given);
  } catch (const InputError&) {
    return kUsual;  // no reason to refuse work
  }
}

double seconds(std::chrono::steady_clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace

std::string progress_bar(double share) {
  constexpr int kWidth = 10;
  const double within = std::clamp(share, 0.0, 1.0);
  const int filled = static_cast<int>(within * kWidth);
  char percent[8];
  std::snprintf(percent, sizeof percent, "%3d%%", static_cast<int>(within * 100.0));
  return '[' + std::string(static_cast<std::size_t>(filled), '=') +
         std::string(static_cast<std::size_t>(kWidth - filled), ' ') + "] " + percent;
}

WholeWork::WholeWork(std::vector<double> parts)
    : parts_(std::move(parts)), sum_(std::accumulate(parts_.begin(), parts_.end(), 0.0)) {}

double WholeWork::share(std::size_t part, double share_of_part) const {
  if (!(sum_ > 0.0)) return 0.0;
  const auto first = parts_.begin();
  const double before = std::accumulate(first, first + static_cast<std::ptrdiff_t>(part), 0.0);
  return std::clamp((before + parts_.at(part) * std::clamp(share_of_part, 0.0, 1.0)) / sum_, 0.0, 1.0);
}

double share_of_run(const std::string& what, std::int64_t done, std::int64_t total) {
  if (!what.starts_with("judging") || total <= 0) return 0.0;
  return static_cast<double>(done) / static_cast<double>(total + 1);  // the head too
}

std::string time_left(double share, double seconds) {
  constexpr double kTooLittle = 0.02;  // of the work: a model that is being read would promise hours
  if (!(share >= kTooLittle) || share >= 1.0) return {};
  return ", about " + formats::duration_text(std::ceil(seconds * (1.0 - share) / share)) + " left";
}

std::string announcement(double seconds, double bytes) {
  constexpr double kLong = 60.0;
  if (!(seconds >= kLong)) return {};
  return "this takes about " + formats::duration_text(std::ceil(seconds)) + " on two cores, and " +
         bytes_text(static_cast<std::uint64_t>(std::min(bytes, 0x1p63))) +
         " of memory; --layers and --steps judge a part of it";
}

Progress::Progress(bool quiet)
    : enabled_(!quiet), terminal_(isatty(STDERR_FILENO) == 1), between_lines_(seconds_between_lines()) {}

void Progress::announce(double seconds, double bytes) {
  const std::string text = announcement(seconds, bytes);
  if (enabled_ && !text.empty()) std::fprintf(stderr, "qdiff: %s\n", text.c_str());
}

void Progress::show(const std::string& what, std::int64_t done, std::int64_t total) {
  if (!enabled_) return;
  const auto now = Clock::now();
  count(what, done, 0.0, now);
  if (is_time_for_a_line(now)) write(line_of(what, done, total, now), now);
}

void Progress::show_whole(const std::string& what, double share, std::int64_t done, std::int64_t total) {
  if (!enabled_) return;
  const auto now = Clock::now();
  count(what, done, share, now);
  if (!is_time_for_a_line(now)) return;
  write(progress_bar(share) + "  " + one_line(what) + ", " +
            formats::duration_text(std::floor(seconds(now - started_))) + left_of_whole(share, done, total, now),
        now);
}

void Progress::count(const std::string& what, std::int64_t done, double share, Clock::time_point now) {
  if (what == counted_ && done >= counted_from_) return;
  counted_ = what;
  counted_since_ = now;
  counted_from_ = done;
  share_before_ = share;
}

// What goes before judging may take any time, of a model that is read over and over: so what moves the whole is
// measured by its own pace. Until there is one, by that of the models before; of the first model, what moves nothing by
// itself.
std::string Progress::left_of_whole(double share, std::int64_t done, std::int64_t total, Clock::time_point now) const {
  const double moved = (share - share_before_) / (1.0 - share_before_);
  if (std::string left = time_left(moved, seconds(now - counted_since_)); !left.empty()) return left;
  std::string left = time_left(share_before_, seconds(counted_since_ - started_));
  return left.empty() ? left_of_this(done, total, now) : left;
}

std::string Progress::left_of_this(std::int64_t done, std::int64_t total, Clock::time_point now) const {
  if (done <= counted_from_ || total <= done) return {};
  const double each = seconds(now - counted_since_) / static_cast<double>(done - counted_from_);
  return ", about " + formats::duration_text(std::ceil(each * static_cast<double>(total - done))) + " left of this";
}

bool Progress::is_time_for_a_line(Clock::time_point now) const {
  if (terminal_) return columns_drawn_ == 0 || now - last_shown_ >= std::chrono::milliseconds(100);
  return now - last_shown_ >= between_lines_;
}

void Progress::write(std::string line, Clock::time_point now) {
  if (terminal_) {
    redraw(std::move(line));
  } else {
    std::fprintf(stderr, "qdiff: %s\n", line.c_str());
  }
  last_shown_ = now;
}

std::string Progress::line_of(const std::string& what, std::int64_t done, std::int64_t total, Clock::time_point now) {
  std::string line;
  if (total > 0) {
    line = progress_bar(static_cast<double>(done) / static_cast<double>(total)) + "  " + std::to_string(done) + " of " +
           std::to_string(total) + "  ";
  }
  return line + one_line(what) + ", " + formats::duration_text(std::floor(seconds(now - started_))) +
         left_of_this(done, total, now);
}

void Progress::redraw(std::string line) {
  line.resize(std::min(line.size(), terminal_columns() - 1));  // a wrapped line could not be redrawn
  const std::size_t drawn = line.size();
  // Spaces rather than an escape sequence wipe what the longer line before left.
  if (drawn < columns_drawn_) line.append(columns_drawn_ - drawn, ' ');
  std::fprintf(stderr, "\r%s", line.c_str());
  std::fflush(stderr);
  columns_drawn_ = drawn;
}

void Progress::clear() {
  if (columns_drawn_ == 0) return;
  std::fprintf(stderr, "\r%s\r", std::string(columns_drawn_, ' ').c_str());
  std::fflush(stderr);
  columns_drawn_ = 0;
}

}  // namespace qdiff::cli
