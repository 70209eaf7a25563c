#include "harness/formats/duration.h"

#include <cmath>
#include <cstdint>
#include <cstdio>

#include "harness/contract/number_text.h"

namespace qdiff::formats {

std::string duration_text(double seconds) {
  constexpr double kMinute = 60.0, kHour = 3600.0;
  // Rounded first, so that 59.7 is no "60 s".
  if (!(seconds >= 9.95)) return digits(seconds, 2) + " s";
  const double whole = std::round(seconds);
  if (whole < kMinute) return std::to_string(static_cast<int>(whole)) + " s";
  char text[40];
  if (whole < kHour) {
    const int all = static_cast<int>(whole);
    std::snprintf(text, sizeof text, "%d min %02d s", all / 60, all % 60);
    return text;
  }
  const auto minutes = static_cast<std::int64_t>(std::round(seconds / kMinute));
  std::snprintf(text, sizeof text, "%lld h %02d min", static_cast<long long>(minutes / 60),
                static_cast<int>(minutes % 60));
  return text;
}

}  // namespace qdiff::formats
