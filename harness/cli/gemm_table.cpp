#include "harness/cli/gemm_table.h"

#include <algorithm>
#include <array>

#include "harness/cli/text.h"
#include "harness/contract/number_text.h"

namespace qdiff::cli {
namespace {

constexpr std::size_t kColumns = 9;
using Line = std::array<std::string, kColumns>;

// "x rows are 200 apart and 196 long"
void check_stride(const char* what, std::int64_t stride, std::int64_t length, std::string& remarks) {
  if (stride == length) return;
  remarks += std::string(remarks.empty() ? "" : "; ") + what + " rows are " + std::to_string(stride) + " apart and " +
             std::to_string(length) + " long";
}

std::string remarks_on(const GemmFacts& gemm) {
  std::string remarks;
  if (gemm.bias_length && *gemm.bias_length != gemm.n) {
    remarks =
        "the bias has " + std::to_string(*gemm.bias_length) + " entries for " + std::to_string(gemm.n) + " columns";
  }
  check_stride("x", gemm.x_stride, gemm.k, remarks);
  check_stride("weight", gemm.weight_stride, gemm.weight_is_n_by_k ? gemm.k : gemm.n, remarks);
  check_stride("out", gemm.out_stride, gemm.n, remarks);
  return remarks;
}

Line line_of(const GemmFacts& gemm) {
  return {gemm.name,
          std::to_string(gemm.layers),
          std::to_string(gemm.n),
          std::to_string(gemm.k),
          gemm.weight_is_n_by_k ? "[n,k] transposed" : "[k,n]",
          std::to_string(gemm.x_stride),
          std::to_string(gemm.weight_stride),
          std::to_string(gemm.out_stride),
          gemm.bias_length ? std::to_string(*gemm.bias_length) : "none"};
}

std::string aligned(const Line& line, const std::array<std::size_t, kColumns>& widths) {
  std::string text;
  for (std::size_t c = 0; c < kColumns; ++c) {
    const std::string space(widths[c] - line[c].size(), ' ');
    text += c == 0 ? line[c] + space : "  " + space + line[c];
  }
  return text;
}

}  // namespace

std::string gemm_table(const std::vector<GemmFacts>& gemms, const ModelConfig& config, const std::string& engine,
                       const std::string& model) {
  std::string text;
  if (gemms.empty()) {
    text = "the " + one_line(engine) + " engine does not tell its GEMMs\n";
  } else {
    text = "GEMMs of the " + one_line(engine) + " engine on " + one_line(model) +
           ": out[M,n] = x[M,k] . weight + bias, M tokens of a step\n";
    std::vector<Line> lines = {{"product", "layers", "n", "k", "weight", "ld x", "ld weight", "ld out", "bias"}};
    for (const GemmFacts& gemm : gemms) lines.push_back(line_of(gemm));
    std::array<std::size_t, kColumns> widths{};
    for (const Line& line : lines) {
      for (std::size_t c = 0; c < kColumns; ++c) widths[c] = std::max(widths[c], line[c].size());
    }
    text += "  " + aligned(lines.front(), widths) + '\n';
    for (std::size_t i = 0; i < gemms.size(); ++i) {
      const std::string remarks = remarks_on(gemms[i]);
      text += (remarks.empty() ? "  " : "! ") + aligned(lines[i + 1], widths) +
              (remarks.empty() ? "" : "  " + remarks) + '\n';
    }
  }
  return text + "  as read from the model: eps " + digits(config.rms_norm_eps, 10) + ", theta " +
         digits(config.rope_theta, 10) + ", head dim " + std::to_string(config.head_dim) + ", " +
         std::to_string(config.num_q_heads) + " query and " + std::to_string(config.num_kv_heads) +
         " key/value heads; q, k and v are " + std::to_string(config.q_width()) + ", " +
         std::to_string(config.kv_width()) + " and " + std::to_string(config.kv_width()) + " wide\n";
}

}  // namespace qdiff::cli
