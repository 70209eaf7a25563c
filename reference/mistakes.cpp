#include "reference/mistakes.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "harness/contract/mistake_laws.h"
#include "reference/mistake_parts.h"

namespace qdiff::reference {
namespace {

using enum Op;

TensorKey key_of(const NamedTensor& named, const Setting& setting) {
  const bool layered = row(named.op).scope == Scope::kLayer;
  return {setting.step.index, {named.op, layered ? named.layer.value_or(setting.layer) : kNoLayer}};
}

// Whether `named` is the residual stream that an operation takes.
bool is_residual(const NamedTensor& named) {
  const auto& inputs = row(kInputLayernorm).inputs;
  return named.op == inputs[0].op || named.op == kEmbedTokens;
}

// The place among the operation's inputs; none where it is not one of them.
std::optional<std::size_t> input_index(Op op, const NamedTensor& named) {
  const auto& inputs = row(op).inputs;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].from == From::kResidual && is_residual(named)) return i;
    if (inputs[i].from == From::kHere && inputs[i].op == named.op) return i;
  }
  return std::nullopt;
}

NamedTensor source_of(const Mistake& mistake, const ModelConfig& config) {
  const NamedTensor source = *parse_named_tensor(*mistake.text("source"));
  const TensorId own{mistake.op, row(mistake.op).scope == Scope::kLayer ? 0 : kNoLayer};
  const bool layered = row(source.op).scope == Scope::kLayer;
  if (!layered || !source.layer) {
    if (row(source.op).scope == Scope::kLayer && row(mistake.op).scope != Scope::kLayer) {
      refuse(mistake, "say of which layer " + std::string(row(source.op).name) + " is, with \" of layer 0\" behind it");
    }
    if (!runs_before({source.op, layered ? 0 : kNoLayer}, own)) {
      refuse(mistake,
             std::string(row(source.op).name) + " is made no earlier than " + std::string(row(mistake.op).name));
    }
  } else if (*source.layer >= config.num_layers) {
    refuse(mistake, "there is no layer " + std::to_string(*source.layer));
  }
  return source;
}

// ---- The result, put somewhere else ----

at::Tensor moved_heads(const at::Tensor& x, Op op, const std::vector<std::int64_t>& table, const ModelConfig& config) {
  const at::Tensor index = at::tensor(table, of_type(at::kLong));
  if (are_scores(op)) return x.index_select(1, index);
  return as_vectors(x, op, config).index_select(2, index).reshape(x.sizes());
}

std::vector<std::int64_t> table_of(const Mistake& mistake, const std::string& parameter, std::int64_t heads,
                                   std::int64_t of) {
  const HeadLaw law = *parse_head_law(*mistake.text(parameter));
  if (law.kind == HeadLaw::Kind::kTable && static_cast<std::int64_t>(law.table.size()) != heads) {
    refuse(mistake, "there are " + std::to_string(heads) + " heads; give each of them one");
  }
  std::vector<std::int64_t> table;
  for (std::int64_t h = 0; h < heads; ++h) {
    table.push_back(law.at(h, of));
    if (table.back() < 0 || table.back() >= of) {
      refuse(mistake, "head " + std::to_string(h) + " would take head " + std::to_string(table.back()) + " of " +
                          std::to_string(of));
    }
  }
  return table;
}

Wrong copied_vectors(const Mistake& mistake, const ModelConfig& config) {
  const VectorLaw law = *parse_vector_law(*mistake.text("source"));
  const Op op = mistake.op;
  if (are_scores(op) || are_scores(law.source)) refuse(mistake, "scores and probs hold no vectors");
  const std::int64_t heads = heads_of(op, config), of = heads_of(law.source, config);
  if (columns_of(op, config) / heads != columns_of(law.source, config) / of) {
    refuse(mistake, "vectors of " + std::string(row(law.source).name) + " have another width");
  }
  std::vector<std::int64_t> table = law.heads;
  for (std::int64_t h = 0; h < heads && law.heads.empty(); ++h) table.push_back(std::min(h, of - 1));
  if (static_cast<std::int64_t>(table.size()) != heads ||
      std::ranges::any_of(table, [of](std::int64_t h) { return h >= of; })) {
    refuse(mistake, "there are " + std::to_string(heads) + " heads, and " + std::to_string(of) + " in the source");
  }
  const auto first_slot = [](Op of_op, const Step& step, std::int64_t positions) {
    return arithmetic_of(of_op) == Arithmetic::kAppend ? 0 : step.valid_length() - positions;
  };
  return [=](const Operation& operation) {
    const Setting& setting = operation.setting;
    at::Tensor y = as_vectors(operation.right, op, setting.config()).clone();
    const std::int64_t batch = y.size(0), own_first = first_slot(op, setting.step, y.size(1));
    for (int s = 0; s <= setting.step.index; ++s) {
      if (law.source == op && s == setting.step.index) break;  // of itself what earlier steps hold
      const Step& step = setting.around->steps()[static_cast<std::size_t>(s)];
      const at::Tensor x =
          as_vectors(setting.around->tensor({s, {law.source, setting.layer}}), law.source, setting.config());
      const std::int64_t source_first = first_slot(law.source, step, x.size(1));
      for (std::int64_t p = 0; p < y.size(1); ++p) {
        const std::int64_t from = own_first + p + law.shift - source_first;
        if (from < 0 || from >= x.size(1)) continue;
        for (std::int64_t b = 0; b < batch; ++b) {
          const std::int64_t from_row = b + law.batch_shift;
          if (from_row < 0 || from_row >= batch) continue;
          const at::Tensor vectors = x.select(0, from_row).select(0, from);
          y.select(0, b).select(0, p).copy_(vectors.index_select(0, at::tensor(table, of_type(at::kLong))));
        }
      }
    }
    return y.reshape(operation.right.sizes());
  };
}

Wrong exchanged_layout(const Mistake& mistake) {
  const bool heads_first = *mistake.text("held as") == "[B,H,T,d]";
  return [heads_first](const Operation& operation) {
    const at::Tensor x = as_vectors(operation.right, operation.op, operation.setting.config()).contiguous();
    const std::int64_t b = x.size(0), t = x.size(1), h = x.size(2), d = x.size(3);
    const at::Tensor y = heads_first ? x.transpose(1, 2).contiguous().view({b, t, h, d})
                                     : x.view({b, h, t, d}).transpose(1, 2).contiguous();
    return y.reshape(operation.right.sizes());
  };
}

// ---- Norms, rotations, attention, gates, sums ----

Wrong blockwise_norm(const Mistake& mistake, const ModelConfig& config) {
  const auto blocks = static_cast<std::int64_t>(*mistake.number("blocks"));
  if (config.hidden % blocks != 0) {
    refuse(mistake, "its " + std::to_string(config.hidden) + " columns are no multiple of " + std::to_string(blocks));
  }
  return told([blocks](Parameters& parameters, const Setting&) {
    parameters.norm.norm = [blocks](const at::Tensor& x, const at::Tensor& w, const NormRule& rule,
                                    const Rounding& rounding) {
      const at::Tensor parts = x.unflatten(-1, {blocks, -1});
      const at::Tensor mean_square = rounding.accumulated(parts.square().mean(-1, /*keepdim=*/true));
      return w *
             rounding.at(RoundingPoint::kRmsNormNormalized, (parts * at::rsqrt(mean_square + rule.eps)).flatten(-2));
    };
  });
}

Wrong norm_with_eps_outside() {
  return told([](Parameters& parameters, const Setting&) {
    parameters.norm.norm = [](const at::Tensor& x, const at::Tensor& w, const NormRule& rule,
                              const Rounding& rounding) {
      const at::Tensor root = at::sqrt(rounding.accumulated(x.square().mean(-1, /*keepdim=*/true)));
      return w * rounding.at(RoundingPoint::kRmsNormNormalized, x / (root + rule.eps));
    };
  });
}

Wrong norm_with_other_weight(const Mistake& mistake, const ModelConfig& config) {
  const std::string& weight = *mistake.text("weight");
  if (weight == "1 + w") {
    return told([](Parameters& parameters, const Setting&) {
      parameters.norm.norm = [](const at::Tensor& x, const at::Tensor& w, const NormRule& rule,
                                const Rounding& rounding) {
        const at::Tensor mean_square = rounding.accumulated(x.square().mean(-1, /*keepdim=*/true));
        return (w + 1.0) * rounding.at(RoundingPoint::kRmsNormNormalized, x * at::rsqrt(mean_square + rule.eps));
      };
    });
  }
  const TensorId other =
      *parse_tensor_name(std::string_view(weight).substr(0, weight.size() - std::string_view(".weight").size()));
  if (other.layer >= config.num_layers) refuse(mistake, "there is no layer " + std::to_string(other.layer));
  return [other](const Operation& operation) {
    Setting setting = operation.setting;
    setting.layer = other.layer;
    return evaluate_row(other.op, operation.inputs, setting);
  };
}

Wrong other_position(const Mistake& mistake) {
  const PositionLaw law = *parse_position_law(*mistake.text("position"));
  return told([law](Parameters& parameters, const Setting& setting) {
    auto positions = setting.step.positions;
    for (std::size_t b = 0; b < positions.size(); ++b) {
      for (std::size_t t = 0; t < positions[b].size(); ++t) {
        std::int64_t& position = positions[b][t];
        const auto place = static_cast<std::int64_t>(t);
        switch (law.kind) {
          case PositionLaw::Kind::kConstant:
            position = law.number;
            break;
          case PositionLaw::Kind::kPlus:
            position += law.number;
            break;
          case PositionLaw::Kind::kPlaceInStep:
            position = place;
            break;
          case PositionLaw::Kind::kSlot:
            position = setting.step.past_length + place;
            break;
          case PositionLaw::Kind::kOfFirstRow:
            position = setting.step.positions[0][t];
            break;
          case PositionLaw::Kind::kTimes:
            position *= law.number;
            break;
        }
      }
    }
    parameters.rope.positions = std::move(positions);
  });
}

// Entries for angles [B,T,d] of a position, whose pairs have `frequency` [d].
at::Tensor entries(const TableEntry& entry, const at::Tensor& angles, const at::Tensor& frequency) {
  const at::Tensor shifted = angles + frequency * static_cast<double>(entry.shift);
  switch (entry.kind) {
    case TableEntry::Kind::kCosine:
      return at::cos(shifted);
    case TableEntry::Kind::kSine:
      return at::sin(shifted);
    case TableEntry::Kind::kOne:
      return at::ones_like(angles);
    case TableEntry::Kind::kZero:
      break;
  }
  return at::zeros_like(angles);
}

Wrong other_table(const Mistake& mistake) {
  const TableEntry cosine = *parse_table_entry(*mistake.text("cosine")),
                   sine = *parse_table_entry(*mistake.text("sine"));
  return told([cosine, sine](Parameters& parameters, const Setting&) {
    parameters.rope.rope = [cosine, sine](const at::Tensor& x, const at::Tensor& angles, Op, const Setting& setting) {
      const std::int64_t d = x.size(-1), half = d / 2;
      const at::Tensor exponents = at::arange(0, d, 2, of_type(x.scalar_type())) / d;
      const at::Tensor frequency = (1.0 / at::pow(setting.config().rope_theta, exponents)).repeat({2});
      const auto table = [&](const TableEntry& entry) {
        return setting.rounding.at(RoundingPoint::kRopeTable, entries(entry, angles, frequency)).unsqueeze(2);
      };
      const at::Tensor partner = at::cat({-x.narrow(-1, half, half), x.narrow(-1, 0, half)}, -1);
      return setting.rounding.at(RoundingPoint::kRopeProducts, x * table(cosine)) +
             setting.rounding.at(RoundingPoint::kRopeProducts, partner * table(sine));
    };
  });
}

// The row of the table that rotates keys writes the heads of a cache.
Op rotation_of_keys() {
  for (const OperationRow& operation : kOperationTable) {
    if (operation.arithmetic == Arithmetic::kRotate && operation.shape[2] == Dim::kKvHeads) return operation.op;
  }
  throw std::logic_error("the table has no rotation of keys");
}

Wrong rotated_cache(const Mistake& mistake) {
  const NamedTensor written = *parse_named_tensor(*mistake.text("rotated"));
  if (input_index(mistake.op, written) != std::size_t{1}) {
    refuse(mistake, "what right code writes there is " + std::string(row(row(mistake.op).inputs[1].op).name));
  }
  return [](const Operation& operation) {
    Tensors inputs(operation.inputs.begin(), operation.inputs.end());
    const std::vector<at::Tensor> keys = {inputs[1].flatten(2)};
    inputs[1] = evaluate_row(rotation_of_keys(), keys, operation.setting);
    return evaluate_row(operation.op, inputs, operation.setting);
  };
}

Wrong other_slots(const Mistake& mistake) {
  const VisibleLaw law = *parse_visible_law(*mistake.text("visible"));
  return told([law](Parameters& parameters, const Setting& setting) {
    parameters.attention.inverted = law.inverted;
    parameters.attention.visible = [law, step = &setting.step](std::int64_t b, std::int64_t t) {
      const std::int64_t pad = step->left_padding[static_cast<std::size_t>(b)], own = step->past_length + t;
      SlotRange range{pad, own + law.beside};
      if (law.first == VisibleLaw::First::kSlotZero) range.first = 0;
      if (law.first == VisibleLaw::First::kWindow) range.first = std::max(pad, own - law.window + 1);
      if (law.last == VisibleLaw::Last::kEnd) range.last = step->valid_length() - 1;
      return range;
    };
  });
}

Wrong other_heads_read(const Mistake& mistake, const ModelConfig& config) {
  const auto& [name, law] = mistake.parameters.front();
  const NamedTensor cache = *parse_named_tensor(std::string_view(name).substr(std::string_view("head of ").size()));
  const auto& inputs = row(mistake.op).inputs;
  if (mistake.parameters.size() != 1 || cache.op != inputs[inputs.size() - 1].op) {
    refuse(mistake, "it reads heads of " + std::string(row(inputs[inputs.size() - 1].op).name) + " alone");
  }
  const auto table = table_of(mistake, name, config.num_q_heads, config.num_kv_heads);
  return told([table](Parameters& parameters, const Setting&) { parameters.attention.kv_head = table; });
}

Wrong other_gate(const Mistake& mistake) {
  const auto function = *parse_gate_function(*mistake.text("function"));
  return [function](const Operation& operation) {
    const at::Tensor& gate = operation.inputs[0];
    const auto at_element = [&](std::int64_t, double x) { return function(x); };
    return map_elements(gate, at_element).to(gate.scalar_type()) * operation.inputs[1];
  };
}

Wrong other_terms(const Mistake& mistake, const ModelConfig& config, std::set<Op>& remembered) {
  struct Term {
    NamedTensor tensor;
    std::optional<std::size_t> input;
    double coefficient;
  };
  std::vector<Term> terms;
  for (const auto& [name, value] : mistake.parameters) {
    const NamedTensor named = *parse_named_tensor(name);
    const auto input = input_index(mistake.op, named);
    if (!input) {
      const TensorId id{named.op, row(named.op).scope == Scope::kLayer ? 0 : kNoLayer};
      if (!runs_before(id, {mistake.op, 0}) || sample_shape(named.op, config) != sample_shape(mistake.op, config)) {
        refuse(mistake, std::string(row(named.op).name) + " is no tensor of that shape made before");
      }
      remembered.insert(named.op);
    }
    terms.push_back({named, input, std::get<double>(value)});
  }
  return [terms](const Operation& operation) {
    at::Tensor sum = at::zeros_like(operation.right);
    for (const Term& term : terms) {
      const Setting& setting = operation.setting;
      const at::Tensor value =
          term.input ? operation.inputs[*term.input] : setting.around->tensor(key_of(term.tensor, setting));
      sum = sum + value * term.coefficient;
    }
    return sum;
  };
}

Wrong scaled(const Mistake& mistake, const ModelConfig& config) {
  const std::int64_t heads = heads_of(mistake.op, config);
  std::vector<double> factors(static_cast<std::size_t>(heads), 1.0);
  for (const auto& [name, value] : mistake.parameters) {
    if (name == "factor") {
      std::ranges::fill(factors, std::get<double>(value));
      continue;
    }
    const std::int64_t head = match_numbers(name, "factor of head #")->front();
    if (head < 0 || head >= heads) refuse(mistake, "there are heads 0 to " + std::to_string(heads - 1));
    factors[static_cast<std::size_t>(head)] = std::get<double>(value);
  }
  return [factors](const Operation& operation) {
    const at::Tensor by_head = at::tensor(factors, of_type(at::kDouble)).to(operation.right.scalar_type());
    if (are_scores(operation.op)) {  // what is hidden stays so, whatever the sign
      return at::where(at::isinf(operation.right), operation.right, operation.right * by_head.view({1, -1, 1, 1}));
    }
    const at::Tensor vectors = as_vectors(operation.right, operation.op, operation.setting.config());
    return (vectors * by_head.view({1, 1, -1, 1})).reshape(operation.right.sizes());
  };
}

Wrong wrong_of(const Mistake& mistake, const ModelConfig& config, std::set<Op>& remembered) {
  switch (mistake.kind) {
    case MistakeKind::kCopyZeros:
      return [](const Operation& operation) { return at::zeros_like(operation.right); };
    case MistakeKind::kCopyTensor: {
      const NamedTensor source = source_of(mistake, config);
      if (num_elements(sample_shape(source.op, config)) != num_elements(sample_shape(mistake.op, config))) {
        refuse(mistake, std::string(row(source.op).name) + " has another number of elements");
      }
      remembered.insert(source.op);
      return [source](const Operation& operation) {
        const Setting& setting = operation.setting;
        return setting.around->tensor(key_of(source, setting)).reshape(operation.right.sizes());
      };
    }
    case MistakeKind::kCopyVectors:
      remembered.insert(parse_vector_law(*mistake.text("source"))->source);
      return copied_vectors(mistake, config);
    case MistakeKind::kFactor:
      return scaled(mistake, config);
    case MistakeKind::kSoftCap:
      return [cap = *mistake.number("cap")](const Operation& operation) {
        const at::Tensor& x = operation.right;
        return at::where(at::isinf(x), x, at::tanh(x / cap) * cap);
      };
    case MistakeKind::kSource: {
      const NamedTensor source = source_of(mistake, config), input = *parse_named_tensor(*mistake.text("input"));
      const auto index = input_index(mistake.op, input);
      if (!index) {
        refuse(mistake, std::string(row(mistake.op).name) + " does not read " + std::string(row(input.op).name));
      }
      if (num_elements(sample_shape(source.op, config)) != num_elements(sample_shape(input.op, config))) {
        refuse(mistake, std::string(row(source.op).name) + " has another number of elements");
      }
      remembered.insert(source.op);
      return [source, index](const Operation& operation) {
        const Setting& setting = operation.setting;
        Tensors inputs(operation.inputs.begin(), operation.inputs.end());
        inputs[*index] = setting.around->tensor(key_of(source, setting)).reshape(inputs[*index].sizes());
        return evaluate_row(operation.op, inputs, setting);
      };
    }
    case MistakeKind::kSum:
      return other_terms(mistake, config, remembered);
    case MistakeKind::kNormBlocks:
      return blockwise_norm(mistake, config);
    case MistakeKind::kNormEps:
      return norm_with_eps_outside();
    case MistakeKind::kNormWeight:
      return norm_with_other_weight(mistake, config);
    case MistakeKind::kBias:
      return other_bias(mistake, config);
    case MistakeKind::kBiasRows:
      return other_bias_rows(mistake, config);
    case MistakeKind::kProductRows:
      return other_rows(mistake, config);
    case MistakeKind::kProductInputOrder:
      return permuted_inputs(mistake, config);
    case MistakeKind::kProductCoefficients:
      return scaled_inputs(mistake, config);
    case MistakeKind::kProductGroups:
      return offset_groups(mistake, config);
    case MistakeKind::kRotationPosition:
      return other_position(mistake);
    case MistakeKind::kRotationTable:
      return other_table(mistake);
    case MistakeKind::kRotationCache:
      return rotated_cache(mistake);
    case MistakeKind::kVisible:
      return other_slots(mistake);
    case MistakeKind::kHeadsMoved: {
      const std::int64_t heads = heads_of(mistake.op, config);
      return [table = table_of(mistake, "head", heads, heads)](const Operation& operation) {
        return moved_heads(operation.right, operation.op, table, operation.setting.config());
      };
    }
    case MistakeKind::kHeadsLayout:
      return exchanged_layout(mistake);
    case MistakeKind::kHeadsRead:
      return other_heads_read(mistake, config);
    case MistakeKind::kGateFunction:
      return other_gate(mistake);
  }
  throw std::logic_error("a mechanism without its function");
}

void check_scope(const Mistake& mistake, const ModelConfig& config) {
  const auto check = [&](const Selection& selection, std::int64_t size, const std::string& what) {
    const std::int64_t largest = selection.kind == Selection::Kind::kOnly   ? selection.only.back()
                                 : selection.kind == Selection::Kind::kFrom ? selection.bound
                                                                            : 0;
    if (largest < size) return;
    refuse(mistake, "there is no " + what + ' ' + std::to_string(largest) + "; there are " + what + "s 0 to " +
                        std::to_string(size - 1));
  };
  const bool layered = row(mistake.op).scope == Scope::kLayer;
  if (!layered && mistake.scope.layers.kind != Selection::Kind::kAll) {
    refuse(mistake, std::string(row(mistake.op).name) + " lies outside the layers");
  }
  check(mistake.scope.layers, config.num_layers, "layer");
  const std::int64_t heads = heads_of(mistake.op, config);
  check(mistake.scope.heads, heads, "head");
  if (!are_scores(mistake.op)) check(mistake.scope.columns, columns_of(mistake.op, config) / heads, "column");
}

}  // namespace

void check_mistake(const Mistake& mistake, const ModelConfig& config) { PlantedMistake(mistake, config); }

PlantedMistake::PlantedMistake(Mistake mistake, const ModelConfig& config) : mistake_(std::move(mistake)) {
  if (!config.has(row(mistake_.op).component)) refuse(mistake_, "this model has no such operation");
  check_scope(mistake_, config);
  wrong_ = wrong_of(mistake_, config, remembered_);
}

bool PlantedMistake::acts_on(Op op, const Setting& setting) const {
  return op == mistake_.op && (setting.layer == kNoLayer || mistake_.scope.layers.holds(setting.layer));
}

at::Tensor PlantedMistake::operator()(const Operation& operation) const {
  const at::Tensor mask = scope_mask(mistake_.scope, operation.op, operation.setting, operation.right.sizes());
  if (!mask.any().item<bool>()) return operation.right;
  at::Tensor inside = mask;
  // What an earlier step has written to a cache stays as it is.
  if (arithmetic_of(operation.op) == Arithmetic::kAppend) {
    const std::int64_t past = operation.setting.step.past_length;
    inside = mask.clone();
    inside.narrow(1, 0, past).fill_(false);
  }
  return at::where(inside, wrong_(operation), operation.right);
}

}  // namespace qdiff::reference
