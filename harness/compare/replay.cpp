#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <set>

#include "harness/compare/decode.h"
#include "harness/compare/judge.h"
#include "harness/compare/layout.h"

namespace qdiff::compare {
namespace {

// The tensors that the row of `key` reads.
std::vector<TensorKey> inputs_of(const TensorKey& key, const ModelConfig& config) {
  std::vector<TensorKey> inputs;
  for (const Input& input : row(key.id.op).inputs) {
    const int step = input.from == From::kPreviousStep ? key.step - 1 : key.step;
    if (step >= 0) inputs.push_back({step, resolve(input, key.id, config)});
  }
  return inputs;
}

// The recorded tensors that a span reads, in execution order.
std::set<TensorKey> recorded_inputs(std::span<const TensorKey> operations, const TensorStore& recorded,
                                    const ModelConfig& config) {
  std::set<TensorKey> result;
  for (const TensorKey& key : operations) {
    for (const TensorKey& input : inputs_of(key, config)) {
      const bool evaluated = std::find(operations.begin(), operations.end(), input) != operations.end();
      if (!evaluated && recorded.has(input)) result.insert(input);
    }
  }
  return result;
}

bool row_has_nan(const TensorView& view, std::int64_t row, std::int64_t width) {
  std::array<double, 512> values;
  for (std::int64_t first = 0; first < width; first += static_cast<std::int64_t>(values.size())) {
    const auto size = static_cast<std::size_t>(std::min<std::int64_t>(width - first, values.size()));
    load_elements(view, static_cast<std::size_t>(row * width + first), {values.data(), size});
    if (std::any_of(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(size),
                    [](double x) { return std::isnan(x); })) {
      return true;
    }
  }
  return false;
}

bool has_nan(const Layout& layout, const TensorView& view) {
  for (std::int64_t r = 0; r < layout.num_rows(); ++r) {
    if (layout.counts(r) && row_has_nan(view, r, layout.num_columns())) return true;
  }
  return false;
}

}  // namespace

bool is_usual_fusion(std::span<const TensorKey> operations) {
  std::vector<Op> ops;
  for (std::size_t i = 0; i < operations.size(); ++i) {
    const Op op = operations[i].id.op;
    const bool moves = op == Op::kEmbedTokens || op == Op::kKCache || op == Op::kVCache;
    if (!moves || i + 1 == operations.size()) ops.push_back(op);
  }
  if (ops.size() <= 1) return true;
  const bool product = ops[0] == Op::kQProjMatmul || ops[0] == Op::kKProjMatmul || ops[0] == Op::kVProjMatmul;
  const bool bias = ops[1] == Op::kQProj || ops[1] == Op::kKProj || ops[1] == Op::kVProj;
  const bool with_bias = ops.size() == 2 && product && bias && row(ops[1]).inputs[0].op == ops[0];
  const auto outside_attention = [](Op op) { return op < Op::kScores || op > Op::kAttnOutput; };
  return with_bias || std::none_of(ops.begin(), ops.end(), outside_attention);
}

std::vector<TensorKey> replay_span(const TensorKey& target, const TensorStore& recorded, const ModelConfig& config) {
  std::set<TensorKey> span{target};
  std::vector<TensorKey> to_visit{target};
  while (!to_visit.empty()) {
    const TensorKey key = to_visit.back();
    to_visit.pop_back();
    for (const TensorKey& input : inputs_of(key, config)) {
      if (!recorded.has(input) && span.insert(input).second) to_visit.push_back(input);
    }
  }
  return {span.begin(), span.end()};  // by step, then execution order: every row after the rows it reads
}

TensorId span_start(std::span<const TensorKey> operations, const TensorStore& recorded, const ModelConfig& config) {
  const std::set<TensorKey> inputs = recorded_inputs(operations, recorded, config);
  if (inputs.empty()) return {Op::kEmbedTokens, kNoLayer};
  return inputs.rbegin()->id;
}

std::optional<Unusable> what_is_unusable(std::span<const TensorKey> operations, const TensorStore& recorded,
                                         const std::vector<Step>& steps, const ModelConfig& config) {
  for (const TensorKey& input : recorded_inputs(operations, recorded, config)) {
    const Step& step = steps[static_cast<std::size_t>(input.step)];
    const TensorView view = recorded.get(input);
    const std::string what = "its recorded input " + tensor_name(input.id);
    if (!shape_fits(input.id.op, view.shape, step, config)) {
      return Unusable{input, what + " has the wrong shape " + to_string(view.shape)};
    }
    if (has_nan(Layout(input.id.op, view.shape, step, config), view)) return Unusable{input, what + " holds NaN"};
  }
  return std::nullopt;
}

}  // namespace qdiff::compare
