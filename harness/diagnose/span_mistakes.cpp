#include "harness/diagnose/span_mistakes.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

#include "harness/contract/mistake_laws.h"
#include "harness/contract/number_text.h"
#include "harness/contract/operation_table.h"

namespace qdiff::diagnose {
namespace {

using ParametersOf = std::function<std::optional<Facts>(Op)>;

std::string name_of(Op op) { return std::string(row(op).name); }

std::string list_of(const Mistakes& mistakes) {
  std::string text;
  for (const Mistake& mistake : mistakes) {
    const std::string name = name_of(mistake.op);
    if (text.find(name) == std::string::npos) text += (text.empty() ? "" : ", ") + name;
  }
  return text;
}

std::string words_of(const Facts& parameters) {
  std::string text;
  for (const auto& [name, value] : parameters) {
    const double* number = std::get_if<double>(&value);
    text += (text.empty() ? " (" : "; ") + name + ": " +
            (number != nullptr ? digits(*number, 6) : std::get<std::string>(value));
  }
  return text.empty() ? text : text + ')';
}

std::int64_t columns_of(Op op, const ModelConfig& config) { return weight_shape(op, 0, config)[0]; }

// The operations of a span, and the mistakes found for them so far.
class List {
 public:
  List(std::span<const TensorKey> span, const ModelConfig& config) : config_(config) {
    for (const TensorKey& key : span) {
      if (config.has(row(key.id.op).component)) ops_.insert(key.id.op);
      if (key.id.layer != kNoLayer) layers_.insert(key.id.layer);
    }
  }

  // The law in each operation by itself, and in all of them where there are several.
  void add(MistakeKind kind, const ParametersOf& parameters_of) {
    Mistakes everywhere;
    for (Op op : ops_) {
      if (!has_mechanism(op, kind)) continue;
      const std::optional<Facts> parameters = parameters_of(op);
      if (!parameters) continue;
      everywhere.push_back({kind, *parameters, op});
      alone_.push_back({everywhere.back()});
    }
    if (everywhere.size() > 1) together_.push_back(std::move(everywhere));
  }
  void add_together(Mistakes mistakes) {
    const auto has = [this](const Mistake& mistake) { return ops_.contains(mistake.op); };
    if (!mistakes.empty() && std::ranges::all_of(mistakes, has)) together_.push_back(std::move(mistakes));
  }

  const std::set<Op>& ops() const { return ops_; }
  const ModelConfig& config() const { return config_; }
  // Of a span inside one layer.
  std::optional<int> layer() const { return layers_.size() == 1 ? std::optional(*layers_.begin()) : std::nullopt; }

  std::vector<Mistakes> all() && {
    std::ranges::move(together_, std::back_inserter(alone_));
    return std::move(alone_);
  }

 private:
  const ModelConfig& config_;
  std::set<Op> ops_;
  std::set<int> layers_;
  std::vector<Mistakes> alone_, together_;
};

// Tensors that `op` may be exchanged with: of the same arithmetic, from the same input, as wide.
std::vector<Op> siblings_of(Op op, const List& list) {
  std::vector<Op> siblings;
  for (Op other : list.ops()) {
    const bool alike = other != op && arithmetic_of(other) == arithmetic_of(op) &&
                       arithmetic_of(op) == Arithmetic::kProduct && row(other).inputs[0].op == row(op).inputs[0].op;
    if (alike && columns_of(other, list.config()) == columns_of(op, list.config())) siblings.push_back(other);
  }
  return siblings;
}

void add_data(List& list) {
  list.add(MistakeKind::kCopyZeros, [](Op) { return Facts{}; });
  const auto& config = list.config();
  const double root_head = std::sqrt(static_cast<double>(config.head_dim));
  const double root_hidden = std::sqrt(static_cast<double>(config.hidden));
  for (double factor : {2.0, 0.5, -1.0, root_head, 1.0 / root_head, root_hidden, 1.0 / root_hidden}) {
    const bool of_hidden = factor == root_hidden || factor == 1.0 / root_hidden;
    list.add(MistakeKind::kFactor, [=](Op op) -> std::optional<Facts> {
      if (of_hidden && arithmetic_of(op) != Arithmetic::kLookup && arithmetic_of(op) != Arithmetic::kNorm) return {};
      return Facts{{"factor", factor}};
    });
  }
}

void add_norms(List& list) {
  for (std::int64_t blocks : {2, 4, 8}) {
    if (list.config().hidden % blocks != 0) continue;
    list.add(MistakeKind::kNormBlocks, [=](Op) { return Facts{{"blocks", static_cast<double>(blocks)}}; });
  }
  list.add(MistakeKind::kNormWeight, [](Op) { return Facts{{"weight", std::string("1 + w")}}; });
  if (!list.layer()) return;
  // The weight of the other norm of the layer, and those of the layers beside it.
  std::set<Op> norms;
  for (Op op : list.ops()) {
    if (arithmetic_of(op) == Arithmetic::kNorm && row(op).scope == Scope::kLayer) norms.insert(op);
  }
  for (const int beside : {0, -1, 1}) {
    const int layer = *list.layer() + beside;
    if (layer < 0 || layer >= list.config().num_layers) continue;
    list.add(MistakeKind::kNormWeight, [&](Op op) -> std::optional<Facts> {
      if (!norms.contains(op)) return {};
      Op weight = op;
      if (beside == 0) {
        const auto other = std::ranges::find_if(norms, [op](Op norm) { return norm != op; });
        if (other == norms.end()) return {};
        weight = *other;
      }
      return Facts{{"weight", tensor_name({weight, layer}) + ".weight"}};
    });
  }
}

void add_biases(List& list) {
  for (double coefficient : {0.0, 2.0, -1.0}) {
    list.add(MistakeKind::kBias, [=](Op) { return Facts{{"coefficient", coefficient}}; });
  }
}

// Rows of one matrix, or of a bias, where those of another belong.
Facts rows_of(std::int64_t count, Op source) {
  const std::string columns = "columns 0.." + std::to_string(count - 1);
  return {{"rows", columns + " hold " + columns + " of " + name_of(source)}};
}

// q, k and v as one matrix whose rows one side takes head group by head group, and the other one after the other. By
// head of [q, k, v]: which one of these stands there.
std::vector<std::int64_t> fused_heads(const ModelConfig& config, bool held_by_group) {
  const std::int64_t q = config.num_q_heads, kv = config.num_kv_heads, group = config.group_size();
  std::vector<std::int64_t> by_group;  // heads of [q, k, v] in the order of groups
  for (std::int64_t g = 0; g < kv; ++g) {
    for (std::int64_t h = 0; h < group; ++h) by_group.push_back(g * group + h);
    by_group.push_back(q + g);
    by_group.push_back(q + kv + g);
  }
  if (held_by_group) return by_group;
  std::vector<std::int64_t> taken(by_group.size());
  for (std::size_t i = 0; i < by_group.size(); ++i) {
    taken[static_cast<std::size_t>(by_group[i])] = static_cast<std::int64_t>(i);
  }
  return taken;
}

// The operations of q, k and v that have an arithmetic, in that order.
std::vector<Op> three_of(Arithmetic arithmetic, const List& list) {
  std::vector<Op> three;
  for (Op op : list.ops()) {
    const auto& shape = row(op).shape;
    const Dim width = shape[shape.size() - 1];
    if (arithmetic_of(op) == arithmetic && (width == Dim::kQWidth || width == Dim::kKvWidth)) three.push_back(op);
  }
  return three;
}

void add_fused(List& list) {
  const ModelConfig& config = list.config();
  const std::vector<std::int64_t> first_head = {0, config.num_q_heads, config.num_q_heads + config.num_kv_heads,
                                                config.num_q_heads + 2 * config.num_kv_heads};
  for (const bool held_by_group : {true, false}) {
    const std::vector<std::int64_t> heads = fused_heads(config, held_by_group);
    Mistakes mistakes;
    for (const auto& [arithmetic, kind] :
         {std::pair(Arithmetic::kProduct, MistakeKind::kProductRows), {Arithmetic::kBias, MistakeKind::kBiasRows}}) {
      const std::vector<Op> three = three_of(arithmetic, list);
      for (std::size_t i = 0; i < three.size() && three.size() == 3; ++i) {
        std::string rows;
        for (std::int64_t h = first_head[i]; h < first_head[i + 1]; ++h) {
          const std::int64_t from = heads[static_cast<std::size_t>(h)];
          if (from == h) continue;
          const std::size_t source = from >= first_head[2] ? 2 : from >= first_head[1] ? 1 : 0;
          rows += (rows.empty() ? "head " : ", head ") + std::to_string(h - first_head[i]) + " holds head " +
                  std::to_string(from - first_head[source]) + " of " + name_of(three[source]);
        }
        if (!rows.empty()) mistakes.push_back({kind, {{"rows", rows}}, three[i]});
      }
    }
    list.add_together(std::move(mistakes));
  }
}

// Rows of q or k as files of llama.cpp hold them, for heads of `of` rows: dimension i of each half behind that of the
// other; `undone`: the way back.
std::vector<std::int64_t> interleaved(std::int64_t of, bool undone) {
  std::vector<std::int64_t> table;
  for (std::int64_t i = 0; i < of; ++i)
    table.push_back(undone ? i % (of / 2) * 2 + i / (of / 2) : i % 2 * (of / 2) + i / 2);
  return table;
}

// Rows of q and k permuted within heads for the file and not back, twice, or back by the wrong number of heads
// (transformers, models/llama: permute_for_rope, and its inverse in the reader of GGUF files).
void add_permuted_rows(List& list) {
  const ModelConfig& config = list.config();
  const auto table_text = [](const std::vector<std::int64_t>& table) {
    std::string text;
    for (std::int64_t entry : table) text += (text.empty() ? "" : " ") + std::to_string(entry);
    return text;
  };
  const auto add = [&](const std::vector<std::int64_t>& table) {
    list.add(MistakeKind::kProductRows, [&](Op op) -> std::optional<Facts> {
      const std::vector<Op> three = three_of(Arithmetic::kProduct, list);
      if (three.size() != 3 || (op != three[0] && op != three[1])) return {};
      return Facts{{"block", static_cast<double>(table.size())}, {"rows", table_text(table)}};
    });
  };
  const std::int64_t d = config.head_dim;
  for (const bool undone : {false, true}) add(interleaved(d, undone));
  // Of k with the number of query heads: blocks of d K / H rows.
  const std::int64_t narrow = config.kv_width() / config.num_q_heads;
  if (narrow < 2 || narrow % 2 != 0 || narrow == d || d % narrow != 0) return;
  for (const bool undone : {false, true}) {
    const std::vector<std::int64_t> whole = interleaved(d, !undone), part = interleaved(narrow, undone);
    std::vector<std::int64_t> both;
    for (std::int64_t i = 0; i < d; ++i) {
      both.push_back(whole[static_cast<std::size_t>(i / narrow * narrow + part[static_cast<std::size_t>(i % narrow)])]);
    }
    add(both);
  }
}

void add_products(List& list) {
  list.add(MistakeKind::kProductRows, [&](Op op) -> std::optional<Facts> {
    const std::vector<Op> siblings = siblings_of(op, list);
    if (siblings.size() != 1) return {};
    return rows_of(columns_of(op, list.config()), siblings.front());
  });
  add_fused(list);
  add_permuted_rows(list);
  for (std::int64_t block : {16, 32, 64, 128, 256}) {
    for (std::int64_t apart : {std::int64_t{2}, block / 2}) {
      const std::string order = "blocks of " + std::to_string(block) + ", where elements " + std::to_string(apart) +
                                " apart were taken as neighbours";
      list.add(MistakeKind::kProductInputOrder, [&](Op op) -> std::optional<Facts> {
        if (weight_shape(op, 0, list.config())[1] % block != 0) return {};
        return Facts{{"order", order}};
      });
    }
  }
}

void add_rotations(List& list) {
  for (const char* position :
       {"its position + 1", "its position - 1", "its place in the step", "its cache slot", "position 0",
        "the position of batch row 0", "-1 times its position", "2 times its position"}) {
    list.add(MistakeKind::kRotationPosition, [=](Op) { return Facts{{"position", std::string(position)}}; });
  }
}

void add_attention(List& list) {
  for (const char* visible :
       {"exactly what it should hide (the mask is inverted)", "from slot 0 to its own slot",
        "from its first token to its own slot - 1", "from its first token to its own slot + 1",
        "from its first token to the last slot there is", "from slot 0 to the last slot there is"}) {
    list.add(MistakeKind::kVisible, [=](Op) { return Facts{{"visible", std::string(visible)}}; });
  }
  const ModelConfig& config = list.config();
  const std::int64_t kv = config.num_kv_heads, group = config.group_size();
  if (kv > 1) {
    std::string from_end;
    for (std::int64_t h = 0; h < config.num_q_heads; ++h) {
      from_end += (h == 0 ? "" : " ") + std::to_string(kv - 1 - h / group);
    }
    std::vector<std::string> laws = {"h % " + std::to_string(kv), "0", from_end};
    if (group > 1) laws.push_back("h / " + std::to_string(group + 1));
    for (const std::string& law : laws) {
      list.add(MistakeKind::kHeadsRead, [&](Op op) {
        const auto& inputs = row(op).inputs;
        return Facts{{"head of " + name_of(inputs[inputs.size() - 1].op), law}};
      });
    }
  }
  if (config.num_q_heads > 1) {
    const auto moved = [&](const std::string& law, Dim dim) {
      list.add(MistakeKind::kHeadsMoved, [&](Op op) -> std::optional<Facts> {
        const auto& shape = row(op).shape;
        if (std::ranges::find(shape, dim) == shape.end()) return {};
        return Facts{{"head", law}};
      });
    };
    const std::int64_t heads = config.num_q_heads;
    for (Dim dim : {Dim::kQHeads, Dim::kQWidth}) {
      moved(std::to_string(heads - 1) + " - h", dim);
      moved("(h + 1) % " + std::to_string(heads), dim);
    }
  }
  for (const char* layout : {"[B,H,T,d]", "[B,T,H,d]"}) {
    list.add(MistakeKind::kHeadsLayout, [=](Op) { return Facts{{"held as", std::string(layout)}}; });
  }
}

// Sums with other coefficients, terms that are another tensor, and inputs that were taken elsewhere in the layer.
void add_sums(List& list) {
  struct Terms {
    double residual, branch;
  };
  for (const Terms& terms : {Terms{2.0, 1.0}, {0.0, 1.0}, {1.0, 0.0}, {1.0, 2.0}, {1.0, -1.0}, {1.0, 0.5}}) {
    list.add(MistakeKind::kSum, [&](Op op) {
      const auto& inputs = row(op).inputs;
      return Facts{{name_of(inputs[0].op), terms.residual}, {name_of(inputs[1].op), terms.branch}};
    });
  }
  // What a norm gave goes on as the residual.
  list.add(MistakeKind::kSource, [&](Op op) -> std::optional<Facts> {
    if (arithmetic_of(op) != Arithmetic::kAdd) return {};
    std::optional<Op> norm;  // the last one before it
    for (Op other : list.ops()) {
      if (arithmetic_of(other) == Arithmetic::kNorm && runs_before({other, 0}, {op, 0})) norm = other;
    }
    if (!norm) return {};
    return Facts{{"input", name_of(row(op).inputs[0].op)}, {"source", name_of(*norm)}};
  });
  if (!list.layer()) return;
  // Both branches read the residual stream as it entered the layer.
  const TensorId entering =
      resolve(Input{Op::kOutput, From::kResidual}, {Op::kInputLayernorm, *list.layer()}, list.config());
  const std::string entered = entering.layer == kNoLayer
                                  ? name_of(entering.op)
                                  : name_of(entering.op) + " of layer " + std::to_string(entering.layer);
  list.add(MistakeKind::kSource, [&](Op op) -> std::optional<Facts> {
    const auto& inputs = row(op).inputs;
    const bool is_second_norm =
        arithmetic_of(op) == Arithmetic::kNorm && row(op).scope == Scope::kLayer && inputs[0].from == From::kHere;
    if (!is_second_norm) return {};
    return Facts{{"input", name_of(inputs[0].op)}, {"source", entered}};
  });
}

// Keys and values exchanged on the way to their caches.
void add_exchanged_cache_inputs(List& list) {
  Mistakes mistakes;
  const std::vector<Op> three = three_of(list.config().qkv_bias ? Arithmetic::kBias : Arithmetic::kProduct, list);
  if (three.size() != 3) return;
  const Op keys = Op::kKProj, values = Op::kVProj;
  for (Op op : list.ops()) {
    const auto& inputs = row(op).inputs;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const Op input = inputs[i].op;
      if (inputs[i].from != From::kHere || (input != keys && input != values)) continue;
      if (arithmetic_of(op) != Arithmetic::kRotate && arithmetic_of(op) != Arithmetic::kAppend) continue;
      mistakes.push_back(
          {MistakeKind::kSource, {{"input", name_of(input)}, {"source", name_of(input == keys ? values : keys)}}, op});
    }
  }
  list.add_together(std::move(mistakes));
}

void add_gates(List& list) {
  for (const std::string& function : gate_functions()) {
    list.add(MistakeKind::kGateFunction, [&](Op) { return Facts{{"function", function}}; });
  }
}

}  // namespace

Mistakes in_phase(Mistakes mistakes, Phase phase) {
  for (Mistake& mistake : mistakes) mistake.scope.phase = phase;
  return mistakes;
}

std::string sentence_of(const Mistakes& mistakes) {
  const Mistake& first = mistakes.front();
  std::string text = list_of(mistakes) + ": " + std::string(facts(first.kind).what) + words_of(first.parameters);
  if (first.scope.phase) text += ", in " + std::string(name(*first.scope.phase)) + " alone";
  return text;
}

std::vector<Mistakes> span_mistakes(std::span<const TensorKey> span, const ModelConfig& config) {
  List list(span, config);
  add_sums(list);
  add_norms(list);
  add_biases(list);
  add_rotations(list);
  add_attention(list);
  add_gates(list);
  add_exchanged_cache_inputs(list);
  add_products(list);
  add_data(list);
  return std::move(list).all();
}

}  // namespace qdiff::diagnose
