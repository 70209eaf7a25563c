#include "harness/diagnose/pattern.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace qdiff::diagnose {
namespace {

// An element counts as wrong here beyond half a spacing plus this many expected deviations. It only chooses words; the
// verdict is the judge's.
constexpr double kClearlyWrong = 8.0;

bool is_wrong(double actual, double gold, double sigma, DType stored) {
  if (std::isnan(gold) || std::isinf(gold)) return !(actual == gold || (std::isnan(actual) && std::isnan(gold)));
  if (!std::isfinite(actual)) return true;
  const double half = 0.5 * std::max(spacing(stored, actual), spacing(stored, gold));
  return !(std::fabs(actual - gold) <= half + kClearlyWrong * sigma);
}

// "3", "1 and 4", "1, 2 and 4", "2..9 and 12"; at most six runs, then how many more.
std::string list_runs(const std::vector<std::int64_t>& indices) {
  std::vector<std::string> runs;
  for (std::size_t i = 0; i < indices.size();) {
    std::size_t last = i;
    while (last + 1 < indices.size() && indices[last + 1] == indices[last] + 1) ++last;
    if (last >= i + 2) {
      runs.push_back(std::to_string(indices[i]) + ".." + std::to_string(indices[last]));
    } else {
      for (std::size_t k = i; k <= last; ++k) runs.push_back(std::to_string(indices[k]));
    }
    i = last + 1;
  }
  constexpr std::size_t kMostRuns = 6;
  std::string text;
  for (std::size_t i = 0; i < std::min(runs.size(), kMostRuns); ++i) {
    const bool is_last = i + 1 == std::min(runs.size(), kMostRuns);
    if (i > 0) text += is_last && runs.size() <= kMostRuns ? " and " : ", ";
    text += runs[i];
  }
  if (runs.size() > kMostRuns) text += " and " + std::to_string(runs.size() - kMostRuns) + " more";
  return text;
}

// One axis of the tensor, as the reader knows it: for each index how many elements were compared and how many were
// wrong.
struct Axis {
  std::string one, many;  // "head", "heads"
  std::vector<std::int64_t> compared, wrong;

  Axis(std::string singular, std::int64_t size)
      : one(singular),
        many(std::move(singular) + "s"),
        compared(static_cast<std::size_t>(size)),
        wrong(static_cast<std::size_t>(size)) {}
  void count(std::int64_t index, bool is_wrong) {
    ++compared[static_cast<std::size_t>(index)];
    if (is_wrong) ++wrong[static_cast<std::size_t>(index)];
  }
  // Empty where the axis has one index.
  std::string describe() const {
    std::vector<std::int64_t> touched;
    std::int64_t present = 0;
    for (std::size_t i = 0; i < wrong.size(); ++i) {
      if (compared[i] > 0) ++present;
      if (wrong[i] > 0) touched.push_back(static_cast<std::int64_t>(i));
    }
    if (present <= 1) return "";
    if (static_cast<std::int64_t>(touched.size()) == present) return "every " + one;
    return (touched.size() == 1 ? one : many) + ' ' + list_runs(touched) + " of " + std::to_string(wrong.size());
  }
};

// Whether columns of this op are heads side by side.
std::int64_t heads_in_columns(Op op, const ModelConfig& config) {
  switch (op) {
    case Op::kQProjMatmul:
    case Op::kQProj:
    case Op::kAttnOutput:
      return config.num_q_heads;
    case Op::kKProjMatmul:
    case Op::kVProjMatmul:
    case Op::kKProj:
    case Op::kVProj:
      return config.num_kv_heads;
    default:
      return 0;
  }
}

}  // namespace

std::string describe_pattern(Op op, const TensorView& actual, const Expectation& expected, const Step& step,
                             const ModelConfig& config) {
  if (actual.shape != expected.shape || actual.shape.size() < 3) return "";
  const auto& dims = row(op).shape;
  const Shape& shape = actual.shape;
  const std::int64_t rank = static_cast<std::int64_t>(shape.size());
  const std::int64_t folded_heads = heads_in_columns(op, config);

  Axis batch("batch row", shape[0]);
  Axis token(dims[1] == Dim::kS ? "slot" : "token row", dims[1] == Dim::kQHeads ? shape[2] : shape[1]);
  const std::int64_t num_heads = folded_heads > 0 ? folded_heads
                                 : rank == 4      ? (dims[1] == Dim::kQHeads ? shape[1] : shape[2])
                                                  : 0;
  Axis head("head", std::max<std::int64_t>(num_heads, 1));
  const std::int64_t columns = folded_heads > 0 ? config.head_dim : shape.back();
  Axis column(rank == 4 || folded_heads > 0 ? (dims[1] == Dim::kQHeads ? "key slot" : "dimension") : "column", columns);

  std::int64_t wrong_total = 0;
  double worst = 0.0;
  std::vector<std::int64_t> index(shape.size(), 0);
  const auto total = static_cast<std::size_t>(num_elements(shape));
  for (std::size_t i = 0; i < total; ++i) {
    const std::int64_t b = index[0];
    const bool scores_like = dims[1] == Dim::kQHeads;
    const std::int64_t t = scores_like ? index[2] : index[1];
    const bool pad = dims[1] == Dim::kS ? t < step.left_padding[static_cast<std::size_t>(b)] : step.is_pad(b, t);
    if (!pad) {
      const double a = load_element(actual.data, actual.dtype, i);
      const double g = expected.value[i];
      const double sigma =
          std::hypot(static_cast<double>(expected.sigma_independent[i]), static_cast<double>(expected.sigma_shared[i]));
      const bool wrong = is_wrong(a, g, sigma, actual.dtype);
      if (wrong) {
        ++wrong_total;
        if (std::isfinite(a) && std::isfinite(g) && sigma > 0) worst = std::max(worst, std::fabs(a - g) / sigma);
      }
      const std::int64_t last = index.back();
      batch.count(b, wrong);
      token.count(t, wrong);
      if (num_heads > 0) {
        head.count(folded_heads > 0 ? last / config.head_dim : (scores_like ? index[1] : index[2]), wrong);
      }
      column.count(folded_heads > 0 ? last % config.head_dim : last, wrong);
    }
    for (std::size_t axis = shape.size(); axis-- > 0;) {
      if (++index[axis] < shape[axis]) break;
      index[axis] = 0;
    }
  }
  if (wrong_total == 0) return "";

  std::string text;
  auto add = [&](const std::string& part) {
    if (!part.empty()) text += (text.empty() ? "" : ", ") + part;
  };
  if (num_heads > 0) add(head.describe());
  add(batch.describe());
  add(token.describe());
  add(column.describe());
  if (text.empty()) text = "one element";
  return text;
}

}  // namespace qdiff::diagnose
