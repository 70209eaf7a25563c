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
  std::optional<Op> before;
  for (const TensorKey& key : operations) {
    const Op op = key.id.op;
    if (only_moves(op) && &key != &operations.back()) continue;
    if (before && row(*before).fuses_into != op) return false;
    before = op;
  }
  return true;
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

std::set<TensorKey> recorded_inputs(std::span<const TensorKey> operations, const TensorStore& recorded,
                                    const ModelConfig& config) {
  std::set<TensorKey> result;
  for (const TensorKey& key : operations) {
    for (const TensorKey& input : inputs_of(key, config)) {
      const bool evaluated = std::ranges::find(operations, input) != operations.end();
      if (!evaluated && recorded.has(input)) result.insert(input);
    }
  }
  return result;
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
