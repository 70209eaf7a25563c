#include "harness/explain/vector_law.h"

#include <cmath>
#include <cstdlib>

#include "harness/explain/rows.h"

namespace qdiff::explain {

std::string describe(const Law& law, int layer, bool whole_rows) {
  std::string words = short_name(law.source, layer);
  if (law.shift != 0) {
    words += law.shift < 0 ? " of " + std::to_string(-law.shift) + " before"
                           : " of " + std::to_string(law.shift) + " behind";
  }
  if (law.batch_shift != 0) {
    words += std::string(" of batch row b ") + (law.batch_shift < 0 ? "- " : "+ ") +
             std::to_string(std::abs(law.batch_shift));
  }
  if (whole_rows) return words;
  bool own = true;
  for (std::size_t h = 0; h < law.heads.size(); ++h) own &= law.heads[h] == static_cast<std::int64_t>(h);
  if (own) return words;
  std::string table;
  for (std::size_t h = 0; h < law.heads.size(); ++h) table += (h == 0 ? "" : ", ") + std::to_string(law.heads[h]);
  return words + ", heads 0.." + std::to_string(law.heads.size() - 1) + " from " + table;
}

double bits_of(const Law& law) { return 6.0 + std::log2(2.0 + static_cast<double>(std::abs(law.shift))); }

}  // namespace qdiff::explain
