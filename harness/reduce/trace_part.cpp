#include "harness/reduce/trace_part.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "harness/trace/trace_writer.h"

namespace qdiff::reduce {
namespace {

// Which of the whole trace's steps each kept step was, and which of its tokens are kept.
struct KeptStep {
  int whole = 0;
  Indices tokens;
};

std::vector<KeptStep> kept_steps(const std::vector<Step>& whole, const Inputs& inputs) {
  std::vector<KeptStep> kept;
  for (const Step& step : whole) {
    Indices tokens;
    for (const std::size_t slot : inputs.slots) {
      const std::int64_t token = static_cast<std::int64_t>(slot) - step.past_length;
      if (token >= 0 && token < step.num_tokens()) tokens.push_back(static_cast<std::size_t>(token));
    }
    if (!tokens.empty()) kept.push_back({step.index, std::move(tokens)});
  }
  return kept;
}

// The elements with these indices along each axis, in row-major order.
Tensor gathered(const TensorView& view, const std::vector<Indices>& axes) {
  Shape shape;
  for (const Indices& axis : axes) shape.push_back(static_cast<std::int64_t>(axis.size()));
  Tensor result(view.dtype, shape);
  const std::size_t size = size_of(view.dtype);
  const auto* from = static_cast<const std::byte*>(view.data);
  std::byte* to = result.bytes().data();
  Indices at(axes.size(), 0);
  for (std::int64_t i = 0; i < result.size(); ++i, to += size) {
    std::size_t element = 0;
    for (std::size_t axis = 0; axis < axes.size(); ++axis) {
      element = element * static_cast<std::size_t>(view.shape[axis]) + axes[axis][at[axis]];
    }
    std::memcpy(to, from + element * size, size);
    for (std::size_t axis = axes.size(); axis-- > 0;) {
      if (++at[axis] < axes[axis].size()) break;
      at[axis] = 0;
    }
  }
  return result;
}

Tensor part_of_tensor(const TensorView& view, Op op, const Inputs& inputs, const KeptStep& step, const Step& whole) {
  Indices seen;
  for (const std::size_t slot : inputs.slots) {
    if (static_cast<std::int64_t>(slot) < whole.valid_length()) seen.push_back(slot);
  }
  std::vector<Indices> axes;
  for (std::size_t axis = 0; axis < view.shape.size(); ++axis) {
    const Dim dim = row(op).shape[axis];
    const bool last_row_alone = dim == Dim::kT && view.shape[axis] != whole.num_tokens();
    if (dim == Dim::kB) {
      axes.push_back(inputs.rows);
    } else if (dim == Dim::kT && !last_row_alone) {
      axes.push_back(step.tokens);
    } else if (dim == Dim::kS) {
      axes.push_back(seen);
    } else {
      axes.push_back(all_indices(static_cast<std::size_t>(view.shape[axis])));
    }
  }
  return gathered(view, axes);
}

bool is_kept(const TensorId& id, const Inputs& inputs, std::int64_t num_layers) {
  const auto keeps = [&](int layer) { return std::ranges::count(inputs.layers, layer) > 0; };
  if (id.layer == kNoLayer) return id.op == Op::kEmbedTokens || keeps(static_cast<int>(num_layers) - 1);
  return keeps(id.layer) || (id.op == Op::kOutput && keeps(id.layer + 1));
}

}  // namespace

Inputs inputs_of(const trace::Trace& trace, std::int64_t num_layers) {
  return whole_case(trace.manifest().steps, trace.manifest().cache_capacity.value_or(0), num_layers);
}

trace::Recording part_of(const trace::Trace& trace, const Inputs& inputs, std::int64_t num_layers) {
  trace::Recording part;
  const std::vector<KeptStep> steps = kept_steps(trace.manifest().steps, inputs);
  for (const TensorKey& key : trace.keys()) {
    if (!is_kept(key.id, inputs, num_layers)) continue;
    const auto step = std::ranges::find(steps, key.step, &KeptStep::whole);
    if (step == steps.end()) continue;
    const Step& whole = trace.manifest().steps[static_cast<std::size_t>(key.step)];
    const TensorView view = trace.get(key);
    // The row of a step that lost its last tokens is no longer its last.
    const bool lacks_row = may_be_last_row_alone(key.id.op) && view.shape[1] != whole.num_tokens() &&
                           step->tokens.back() + 1 != static_cast<std::size_t>(whole.num_tokens());
    if (!lacks_row) {
      part.put({static_cast<int>(step - steps.begin()), key.id}, part_of_tensor(view, key.id.op, inputs, *step, whole));
    }
    trace.forget();
  }
  return part;
}

void write_part(const trace::Trace& trace, const Inputs& inputs, std::int64_t num_layers,
                const std::filesystem::path& directory) {
  trace::Manifest about = trace.manifest();
  about.positions_requested = false;  // the writer sees for itself whether they are the usual ones
  trace::write_trace(directory, std::move(about), inputs.steps, part_of(trace, inputs, num_layers));
}

}  // namespace qdiff::reduce
