// Durations as people write them.
#pragma once

#include <string>

namespace qdiff::formats {

// "0.54 s", "3.2 s", "48 s", "3 min 21 s", "2 h 05 min".
std::string duration_text(double seconds);

}  // namespace qdiff::formats
