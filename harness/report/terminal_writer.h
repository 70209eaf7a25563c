// Lines for a terminal: labels, colours, wrapping. Text from files is made harmless here.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

#include "harness/findings/result.h"
#include "harness/report/report.h"
#include "harness/report/text.h"

namespace qdiff::report {

inline constexpr std::size_t kLabelWidth = 10;
inline constexpr int kNarrowest = 60;

// Select Graphic Rendition codes of ECMA-48.
inline constexpr std::string_view kBold = "1", kRed = "31", kGreen = "32", kYellow = "33", kFaint = "2";

class Writer {
 public:
  explicit Writer(const TerminalOptions& options)
      : color_(options.color), width_(static_cast<std::size_t>(std::max(options.width, kNarrowest))) {}

  std::size_t width() const { return width_; }
  void blank() { text_ += '\n'; }
  void line(const std::string& text) { text_ += text + '\n'; }

  // Text from files passes through here, and only here.
  std::string painted(std::string_view code, std::string_view text) const {
    if (!color_) return terminal_text(text);
    return "\x1b[" + std::string(code) + 'm' + terminal_text(text) + "\x1b[0m";
  }
  std::string plain(std::string_view text) const { return terminal_text(text); }

  // "  label     text", the text wrapped.
  void field(const std::string& label, const std::string& text) {
    if (text.empty()) return;
    line("  " + painted(kFaint, padded_to(label, kLabelWidth)) +
         wrapped(terminal_text(text), width_ - kLabelWidth - 2, std::string(kLabelWidth + 2, ' ')));
  }
  // The same in one line, however long: a command is copied, a name is searched for.
  void whole_field(const std::string& label, const std::string& text, std::string_view code = {}) {
    if (text.empty()) return;
    line("  " + painted(kFaint, padded_to(label, kLabelWidth)) + (code.empty() ? plain(text) : painted(code, text)));
  }

  std::string take() { return std::move(text_); }

 private:
  bool color_;
  std::size_t width_;
  std::string text_;
};

inline std::string_view color_of(compare::Verdict verdict) {
  using compare::Verdict;
  return verdict == Verdict::kMatch ? kGreen : verdict == Verdict::kDiverged ? kRed : kYellow;
}

// "DIVERGED"
inline std::string headline_of(compare::Verdict verdict) {
  std::string text(compare::name(verdict));
  std::transform(text.begin(), text.end(), text.begin(), [](char c) { return static_cast<char>(c - 'a' + 'A'); });
  return text;
}

}  // namespace qdiff::report
