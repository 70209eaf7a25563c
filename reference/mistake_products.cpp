// Mistakes of products and of the biases behind them: other rows of the weights, other inputs, other constants.
#include <algorithm>
#include <cmath>

#include "harness/contract/mistake_laws.h"
#include "harness/contract/splitmix64.h"
#include "reference/mistake_parts.h"

namespace qdiff::reference {
namespace {

std::int64_t in_width(Op op, const ModelConfig& config) { return weight_shape(op, 0, config)[1]; }

struct Span {
  std::int64_t first, count, from;
  std::optional<Op> source;
};

// In columns; each within the tensor and within its source, of `width_of(op)` columns.
template <typename WidthOf>
std::vector<Span> spans_of(const Mistake& mistake, const ModelConfig& config, WidthOf width_of) {
  std::vector<Span> spans;
  const std::vector<ColumnRun> runs = *parse_column_runs(*mistake.text("rows"));
  for (const ColumnRun& run : runs) {
    const std::int64_t unit = run.of_heads ? config.head_dim : 1;
    const Span span{run.first * unit, (run.last - run.first + 1) * unit, run.from * unit, run.source};
    if (run.source && arithmetic_of(*run.source) != arithmetic_of(mistake.op)) {
      refuse(mistake, std::string(row(*run.source).name) + " has no such rows");
    }
    if (span.first + span.count > width_of(mistake.op) ||
        span.from + span.count > width_of(run.source.value_or(mistake.op))) {
      refuse(mistake, "there are " + std::to_string(width_of(mistake.op)) + " columns, and " +
                          std::to_string(width_of(run.source.value_or(mistake.op))) + " in the source");
    }
    spans.push_back(span);
  }
  return spans;
}

at::Tensor bias_weight(const TensorId& id, const Setting& setting) {
  return setting.weights.get(weight_name(id, 0, setting.config()), setting.form());
}

}  // namespace

Wrong other_rows(const Mistake& mistake, const ModelConfig& config) {
  const auto width_of = [&](Op op) { return columns_of(op, config); };
  if (const double* block = mistake.number("block")) {
    const auto size = static_cast<std::int64_t>(*block);
    if (width_of(mistake.op) % size != 0) {
      refuse(mistake,
             "its " + std::to_string(width_of(mistake.op)) + " columns are no multiple of " + std::to_string(size));
    }
    const HeadLaw law = *parse_head_law(*mistake.text("rows"));
    return [law, size](const Operation& operation) {
      std::vector<std::int64_t> from;
      for (std::int64_t c = 0; c < operation.right.size(-1); ++c) {
        from.push_back(c / size * size + law.table[static_cast<std::size_t>(c % size)]);
      }
      return operation.right.index_select(-1, at::tensor(from, of_type(at::kLong)));
    };
  }
  const std::vector<Span> spans = spans_of(mistake, config, width_of);
  for (const Span& span : spans) {
    if (span.source && row(*span.source).inputs[0].op != row(mistake.op).inputs[0].op) {
      refuse(mistake, std::string(row(*span.source).name) + " reads another input");
    }
  }
  return [spans](const Operation& operation) {
    at::Tensor y = operation.right.clone();
    for (const Span& span : spans) {
      const at::Tensor from =
          span.source ? evaluate_row(*span.source, operation.inputs, operation.setting) : operation.right;
      y.narrow(-1, span.first, span.count).copy_(from.narrow(-1, span.from, span.count));
    }
    return y;
  };
}

Wrong permuted_inputs(const Mistake& mistake, const ModelConfig& config) {
  const std::vector<std::int64_t> order = *parse_input_order(*mistake.text("order"));
  const auto block = static_cast<std::int64_t>(order.size());
  const std::int64_t width = in_width(mistake.op, config);
  if (width % block != 0) {
    refuse(mistake, "its " + std::to_string(width) + " inputs are no multiple of " + std::to_string(block));
  }
  std::vector<std::int64_t> from;
  for (std::int64_t i = 0; i < width; ++i) {
    from.push_back(i / block * block + order[static_cast<std::size_t>(i % block)]);
  }
  return reading([from](const at::Tensor& x) { return x.index_select(-1, at::tensor(from, of_type(at::kLong))); });
}

Wrong scaled_inputs(const Mistake& mistake, const ModelConfig& config) {
  const std::int64_t width = in_width(mistake.op, config);
  std::vector<double> coefficients(static_cast<std::size_t>(width), 1.0);
  for (const auto& [name, value] : mistake.parameters) {
    const auto [first, last] = *parse_inputs_range(name);
    if (last >= width) refuse(mistake, "there are inputs 0 to " + std::to_string(width - 1));
    std::fill(coefficients.begin() + first, coefficients.begin() + last + 1, std::get<double>(value));
  }
  return reading([coefficients](const at::Tensor& x) {
    return x * at::tensor(coefficients, of_type(at::kDouble)).to(x.scalar_type());
  });
}

Wrong offset_groups(const Mistake& mistake, const ModelConfig& config) {
  const auto group = static_cast<std::int64_t>(*mistake.number("group"));
  const std::int64_t width = in_width(mistake.op, config), columns = columns_of(mistake.op, config);
  if (width % group != 0) {
    refuse(mistake, "its " + std::to_string(width) + " inputs are no multiple of " + std::to_string(group));
  }
  SplitMix64 draw(static_cast<std::uint64_t>(group));
  std::vector<double> offsets;  // [groups, columns], uniform
  for (std::int64_t i = 0; i < width / group * columns; ++i) {
    constexpr std::int64_t kSteps = 1 << 20;
    const double unit = static_cast<double>(draw.between(-kSteps, kSteps)) / static_cast<double>(kSteps);
    offsets.push_back(std::sqrt(3.0) * *mistake.number("offset") * unit);
  }
  return [=](const Operation& operation) {
    const at::Tensor& x = operation.inputs.front();
    const at::Tensor sums = x.unflatten(-1, {width / group, group}).sum(-1);
    const at::Tensor delta =
        at::tensor(offsets, of_type(at::kDouble)).view({width / group, columns}).to(x.scalar_type());
    return operation.right + at::matmul(sums, delta);
  };
}

Wrong other_bias(const Mistake& mistake, const ModelConfig& config) {
  const double* coefficient = mistake.number("coefficient");
  std::optional<NamedTensor> source;
  if (const std::string* text = mistake.text("source")) {
    source = parse_named_tensor(std::string_view(*text).substr(0, text->size() - std::string_view(".bias").size()));
    if (arithmetic_of(source->op) != Arithmetic::kBias)
      refuse(mistake, std::string(row(source->op).name) + " has no bias");
    if (columns_of(source->op, config) < columns_of(mistake.op, config)) refuse(mistake, "that bias is shorter");
    if (source->layer.value_or(0) >= config.num_layers) refuse(mistake, "there is no such layer");
  }
  return told([source, factor = coefficient == nullptr ? 1.0 : *coefficient](Parameters& parameters, const Setting&) {
    parameters.bias = [source, factor](const at::Tensor& bias, Op, const Setting& setting) {
      const at::Tensor taken =
          source ? bias_weight({source->op, source->layer.value_or(setting.layer)}, setting).narrow(0, 0, bias.size(0))
                 : bias;
      return factor == 0.0 ? at::Tensor() : taken * factor;
    };
  });
}

Wrong other_bias_rows(const Mistake& mistake, const ModelConfig& config) {
  const std::vector<Span> spans = spans_of(mistake, config, [&](Op op) { return columns_of(op, config); });
  return told([spans](Parameters& parameters, const Setting&) {
    parameters.bias = [spans](const at::Tensor& bias, Op, const Setting& setting) {
      at::Tensor other = bias.clone();
      for (const Span& span : spans) {
        const at::Tensor from = span.source ? bias_weight({*span.source, setting.layer}, setting) : bias;
        other.narrow(0, span.first, span.count).copy_(from.narrow(0, span.from, span.count));
      }
      return other;
    };
  });
}

}  // namespace qdiff::reference
