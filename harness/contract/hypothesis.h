// The ten hypotheses of what is wrong, as docs/faults.md and the cases number them.
#pragma once

#include <array>
#include <string_view>

namespace qdiff {

struct Hypothesis {
  std::string_view id;
  std::string_view title;
};
inline constexpr std::array<Hypothesis, 10> kHypotheses = {{
    {"H01", "KV cache indexing and strides"},
    {"H02", "Softmax stability, dtype, scale"},
    {"H03", "RoPE misapplied"},
    {"H04", "Overwritten in place"},
    {"H05", "GQA head mapping"},
    {"H06", "QKV bias"},
    {"H07", "GEMM transpose and strides"},
    {"H08", "Cache length off by one"},
    {"H09", "RMSNorm epsilon and type"},
    {"H10", "Masking"},
}};
// Of a tensor that was right when it was handed out and written again later.
inline constexpr std::string_view kOverwriting = kHypotheses[3].id;

}  // namespace qdiff
