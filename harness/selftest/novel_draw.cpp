#include "harness/selftest/novel_draw.h"

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "harness/contract/fault_table.h"
#include "harness/contract/mistake_laws.h"
#include "harness/contract/number_text.h"
#include "harness/contract/wording.h"

namespace qdiff::selftest {
namespace {

using enum MistakeKind;

ModelConfig small_config(Draws& draw) {
  ModelConfig config;
  config.num_kv_heads = draw.between(1, 4);
  config.num_q_heads = config.num_kv_heads * draw.between(1, 4);
  config.head_dim = draw.one_in(3) ? 64 : 32;
  config.hidden = draw.one_in(4) ? config.q_width() : 8 * draw.between(8, 24);
  config.intermediate = 8 * draw.between(8, 36);
  config.num_layers = draw.between(2, 3);
  config.vocab = draw.between(60, 300);
  config.rms_norm_eps = 1e-6;
  config.rope_theta = draw.one_in(3) ? 1e4 : 1e6;
  config.tie_word_embeddings = draw.one_in(2);
  config.max_position_embeddings = 4096;
  return config;
}

CaseInput small_input(Draws& draw, const ModelConfig& config) {
  const auto batch = static_cast<std::size_t>(draw.between(1, 2));
  const std::int64_t num_prefills = draw.between(1, 2), num_decodes = draw.between(1, 2);
  const auto prefill_length = [&] { return draw.between(5, 14); };
  const auto token = [&] { return draw.between(0, config.vocab - 1); };
  const auto padding = [&](std::int64_t) { return batch == 1 || draw.one_in(2) ? 0 : draw.between(1, 4); };
  CaseInput input = draw_steps("novel", batch, num_prefills, num_decodes, prefill_length, token, padding);
  input.capacity = input.steps.back().valid_length() + draw.between(0, 9);
  return input;
}

// ---- Parameters ----

// Tokens and slots are primes beyond any width: only tensors that are as large in every step are as large here.
Shape sample_shape(Op op, const ModelConfig& config) { return output_shape(op, config, 2, 1'000'003, 2'000'003); }

// Of a token, or of a slot of a cache.
std::int64_t columns_of(Op op, const ModelConfig& config) { return num_elements(output_shape(op, config, 1, 1, 1)); }

std::int64_t heads_of(Op op, const ModelConfig& config) {
  for (Dim dim : row(op).shape) {
    if (dim == Dim::kQHeads || dim == Dim::kQWidth) return config.num_q_heads;
    if (dim == Dim::kKvHeads || dim == Dim::kKvWidth) return config.num_kv_heads;
  }
  return 1;
}

bool are_scores(Op op) { return row(op).shape[1] == Dim::kQHeads; }

// Operations of the same scope that run before, with as many elements.
std::vector<Op> sources_before(Op before, const Shape& shape, const ModelConfig& config) {
  std::vector<Op> ops;
  for (const OperationRow& other : kOperationTable) {
    const bool fits = num_elements(sample_shape(other.op, config)) == num_elements(shape);
    if (other.scope == row(before).scope && runs_before({other.op, 0}, {before, 0}) && fits) ops.push_back(other.op);
  }
  return ops;
}

double draw_factor(Draws& draw) {
  constexpr std::array kFactors = {2.0, 0.5, -1.0, 3.0, 0.25, 1.25, 0.1};
  return draw.one_of(kFactors);
}

std::vector<std::int64_t> divisors(std::int64_t n, std::int64_t least, std::int64_t most) {
  std::vector<std::int64_t> found;
  for (std::int64_t d = least; d <= std::min(n, most); ++d) {
    if (n % d == 0) found.push_back(d);
  }
  return found;
}

std::string head_table(Draws& draw, std::int64_t heads, std::int64_t of) {
  if (heads == of && draw.one_in(3)) return std::to_string(heads - 1) + " - h";
  if (heads == of && draw.one_in(2)) {
    return "(h + " + std::to_string(draw.between(1, heads - 1)) + ") % " + std::to_string(heads);
  }
  std::string table;
  for (std::int64_t h = 0; h < heads; ++h) table += (h == 0 ? "" : " ") + std::to_string(draw.below(of));
  return table;
}

// Runs of columns out of the same or another matrix.
std::string column_runs(Draws& draw, Op op, const ModelConfig& config, const std::vector<Op>& sources) {
  const Op source = draw.one_in(2) && !sources.empty() ? draw.one_of(sources) : op;
  const std::int64_t width = std::min(columns_of(op, config), columns_of(source, config));
  const std::int64_t count = draw.between(2, std::max<std::int64_t>(2, width / 3));
  const std::int64_t first = draw.between(0, width - count), from = draw.between(0, width - count);
  std::string text = "columns " + std::to_string(first) + ".." + std::to_string(first + count - 1) + " hold columns " +
                     std::to_string(from) + ".." + std::to_string(from + count - 1);
  if (source != op) text += " of " + std::string(row(source).name);
  return text;
}

std::string shifted(const std::string& what, std::int64_t shift) {
  if (shift == 0) return what;
  return what + (shift < 0 ? " - " : " + ") + std::to_string(std::abs(shift));
}

// Whether the operations read the same input and are of one arithmetic.
std::vector<Op> siblings(Op op) {
  std::vector<Op> ops;
  for (const OperationRow& other : kOperationTable) {
    const bool alike = other.op != op && other.arithmetic == row(op).arithmetic && other.scope == row(op).scope;
    const bool same_input = row(op).arithmetic == Arithmetic::kBias ||
                            (!other.inputs.empty() && other.inputs[0].op == row(op).inputs[0].op);
    if (alike && same_input) ops.push_back(other.op);
  }
  return ops;
}

std::string table_entry(Draws& draw, bool cosine) {
  const std::string own = cosine ? "cosine of p" : "sine of p", other = cosine ? "sine of p" : "cosine of p";
  switch (draw.below(4)) {
    case 0:
      return draw.one_in(2) ? "0" : "1";
    case 1:
      return other;
    case 2:
      return shifted(own, draw.between(1, 5));
    default:
      return shifted(own, -draw.between(1, 3));
  }
}

std::string vector_law(Draws& draw, Op op, const ModelConfig& config, std::int64_t batch) {
  std::vector<Op> sources = {op};
  const std::int64_t heads = heads_of(op, config), width = columns_of(op, config) / heads;
  for (const OperationRow& other : kOperationTable) {
    const bool fits = other.scope == row(op).scope && runs_before({other.op, 0}, {op, 0}) && !are_scores(other.op);
    if (fits && columns_of(other.op, config) / heads_of(other.op, config) == width) sources.push_back(other.op);
  }
  const Op source = draw.one_of(sources);
  const std::int64_t of = heads_of(source, config);
  std::string text(row(source).name);
  if (const std::int64_t shift = draw.between(-2, 1); shift != 0) {
    text += " of " + std::to_string(std::abs(shift)) + (shift < 0 ? " before" : " behind");
  }
  if (batch > 1 && draw.one_in(3)) text += draw.one_in(2) ? " of batch row b + 1" : " of batch row b - 1";
  if (heads > 1) {
    const bool own = of == heads && draw.one_in(2);
    text += ", heads 0.." + std::to_string(heads - 1) + " from ";
    for (std::int64_t h = 0; h < heads; ++h) text += (h == 0 ? "" : ", ") + std::to_string(own ? h : draw.below(of));
  }
  return text;
}

std::string visible_law(Draws& draw) {
  if (draw.one_in(4)) return "exactly what it should hide (the mask is inverted)";
  // Bounds of which one alone is wrong are bugs of the fault table, but for a few.
  const std::string window = "the last " + std::to_string(draw.between(2, 6)) + " slots up to its own";
  switch (draw.below(4)) {
    case 0:
      return "from " + window + " to the last slot there is";
    case 1:
      return "from slot 0 to the last slot there is";
    case 2:
      return "from its first token to its own slot + " + std::to_string(draw.between(2, 3));
    default:
      return "from its first token to its own slot - " + std::to_string(draw.between(2, 3));
  }
}

// Adds what the mechanism needs; false where this operation has no room for it.
bool draw_parameters(Draws& draw, const ModelConfig& config, const CaseInput& input, Mistake& mistake) {
  const Op op = mistake.op;
  const auto number = [&](const std::string& name, double value) { mistake.parameters.emplace_back(name, value); };
  const auto words = [&](const std::string& name, std::string value) {
    mistake.parameters.emplace_back(name, std::move(value));
  };
  const std::int64_t columns = columns_of(op, config), heads = heads_of(op, config);
  switch (mistake.kind) {
    case kCopyZeros:
    case kNormEps:
      if (mistake.kind == kNormEps) words("eps", "outside the root");
      return true;
    case kCopyTensor: {
      const std::vector<Op> sources = sources_before(op, sample_shape(op, config), config);
      if (sources.empty()) return false;
      words("source", std::string(row(draw.one_of(sources)).name));
      return true;
    }
    case kCopyVectors:
      if (are_scores(op)) return false;
      words("source", vector_law(draw, op, config, input.steps.front().batch()));
      return true;
    case kFactor:
      number("factor", draw_factor(draw));
      return true;
    case kSoftCap: {
      constexpr std::array kCaps = {0.5, 1.0, 2.0, 5.0, 30.0};
      number("cap", draw.one_of(kCaps));
      return true;
    }
    case kSource: {
      std::vector<std::pair<std::string, Op>> choices;
      for (const Input& own : row(op).inputs) {
        if (own.from != From::kHere) continue;
        for (Op source : sources_before(op, sample_shape(own.op, config), config)) {
          if (source != own.op) choices.emplace_back(row(own.op).name, source);
        }
      }
      if (choices.empty()) return false;
      const auto& [right, source] = draw.one_of(choices);
      words("input", right);
      words("source", std::string(row(source).name));
      return true;
    }
    case kSum: {
      constexpr std::array kCoefficients = {0.0, 1.0, 2.0, -1.0, 0.5};
      number(std::string(row(row(op).inputs[0].op).name), draw.one_of(kCoefficients));
      number(std::string(row(row(op).inputs[1].op).name), draw.one_of(kCoefficients));
      if (draw.one_in(2)) number("input_layernorm", draw.one_of(std::array{1.0, 2.0, -1.0, 0.5}));
      return true;
    }
    case kNormBlocks: {
      const std::vector<std::int64_t> blocks = divisors(config.hidden, 2, 16);
      if (blocks.empty()) return false;
      number("blocks", static_cast<double>(draw.one_of(blocks)));
      return true;
    }
    case kNormWeight: {
      const std::string layer = std::to_string(draw.below(config.num_layers));
      constexpr std::array kNorms = {"input_layernorm", "post_attention_layernorm"};
      words("weight",
            draw.one_in(4) ? "model.norm.weight" : "model.layers." + layer + '.' + draw.one_of(kNorms) + ".weight");
      return true;
    }
    case kBias: {
      const Op other = draw.one_of(siblings(op));
      if (draw.one_in(3) && columns_of(other, config) >= columns) {
        words("source", std::string(row(other).name) + ".bias");
      } else {
        constexpr std::array kCoefficients = {2.0, 3.0, -1.0, 0.5, 0.25};
        number("coefficient", draw.one_of(kCoefficients));
      }
      return true;
    }
    case kBiasRows:
      words("rows", column_runs(draw, op, config, siblings(op)));
      return true;
    case kProductRows:
      if (draw.one_in(3)) {
        const std::vector<std::int64_t> blocks = divisors(columns, 2, 8);
        if (blocks.empty()) return false;
        const std::int64_t block = draw.one_of(blocks);
        std::vector<std::int64_t> order;
        for (std::int64_t i = 0; i < block; ++i) order.push_back(i);
        for (std::int64_t i = block - 1; i > 0; --i)
          std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(draw.below(i + 1))]);
        words("rows", joined(order, " "));
        number("block", static_cast<double>(block));
      } else {
        words("rows", column_runs(draw, op, config, siblings(op)));
      }
      return true;
    case kProductInputOrder: {
      const std::int64_t width = weight_shape(op, 0, config)[1];
      const std::vector<std::int64_t> blocks = divisors(width, 4, 64);
      if (blocks.empty()) return false;
      const std::int64_t block = draw.one_of(blocks);
      const std::vector<std::int64_t> apart = divisors(block, 2, block / 2);
      const std::string of = "blocks of " + std::to_string(block);
      words("order", apart.empty() || draw.one_in(4) ? of + ", backwards"
                                                     : of + ", where elements " + std::to_string(draw.one_of(apart)) +
                                                           " apart were taken as neighbours");
      return true;
    }
    case kProductCoefficients: {
      const std::int64_t width = weight_shape(op, 0, config)[1];
      const std::int64_t first = draw.below(width), last = draw.between(first, width - 1);
      number("inputs " + std::to_string(first) + ".." + std::to_string(last),
             draw.one_of(std::array{0.0, 0.0, 2.0, -1.0}));
      return true;
    }
    case kProductGroups: {
      const std::vector<std::int64_t> groups = divisors(weight_shape(op, 0, config)[1], 16, 128);
      if (groups.empty()) return false;
      number("group", static_cast<double>(draw.one_of(groups)));
      number("offset", draw.one_of(std::array{0.02, 0.05}));
      return true;
    }
    case kRotationPosition:
      words("position", draw.one_of(std::vector<std::string>{
                            "position " + std::to_string(draw.between(1, 9)),
                            shifted("its position", draw.between(2, 5)), shifted("its position", -draw.between(1, 3)),
                            "its cache slot", "2 times its position", "-1 times its position"}));
      return true;
    case kRotationTable:
      words("cosine", draw.one_in(2) ? "cosine of p" : table_entry(draw, true));
      words("sine",
            draw.one_in(2) && *mistake.text("cosine") != "cosine of p" ? "sine of p" : table_entry(draw, false));
      return true;
    case kRotationCache:
      words("rotated", std::string(row(row(op).inputs[1].op).name));
      return true;
    case kVisible:
      words("visible", visible_law(draw));
      return true;
    case kHeadsMoved:
      if (heads < 2) return false;
      words("head", head_table(draw, heads, heads));
      return true;
    case kHeadsLayout:
      if (heads < 2) return false;
      words("held as", draw.one_in(2) ? "[B,H,T,d]" : "[B,T,H,d]");
      return true;
    case kHeadsRead: {
      if (config.num_kv_heads < 2) return false;
      const auto& inputs = row(op).inputs;
      words("head of " + std::string(row(inputs[inputs.size() - 1].op).name),
            head_table(draw, config.num_q_heads, config.num_kv_heads));
      return true;
    }
    case kGateFunction: {
      std::vector<std::string> functions = gate_functions();
      std::erase(functions, "the gate itself");  // X.no_silu
      functions.push_back("SiLU of at most " + shortest(draw.one_of(std::array{0.5, 1.0, 2.0})));
      words("function", draw.one_of(functions));
      return true;
    }
  }
  return false;
}

// ---- Scopes ----

Selection draw_selection(Draws& draw, std::int64_t size) {
  using Kind = Selection::Kind;
  const std::int64_t bound = draw.between(1, size - 1);
  switch (draw.below(3)) {
    case 0:
      return {Kind::kFrom, bound};
    case 1:
      return {Kind::kBelow, bound};
    default:
      break;
  }
  Selection some{Kind::kOnly};
  for (std::int64_t i = 0; i < size; ++i) {
    if (draw.one_in(3)) some.only.push_back(i);
  }
  if (some.only.empty()) some.only.push_back(draw.below(size));
  return some;
}

void draw_scope(Draws& draw, const ModelConfig& config, const CaseInput& input, Mistake& mistake) {
  MistakeScope& scope = mistake.scope;
  if (row(mistake.op).scope == Scope::kLayer)
    scope.layers = {Selection::Kind::kOnly, 0, {draw.below(config.num_layers)}};
  if (draw.one_in(2)) return;  // everywhere in that layer
  const std::int64_t heads = heads_of(mistake.op, config), length = input.steps.back().valid_length();
  switch (draw.below(6)) {
    case 0:
    case 1:
      scope.phase = draw.one_in(2) ? Phase::kPrefill : Phase::kDecode;
      return;
    case 2:
      scope.tokens = {draw.one_in(2) ? Selection::Kind::kFrom : Selection::Kind::kBelow, draw.between(1, length - 2)};
      return;
    case 3:
      if (heads > 1) scope.heads = draw_selection(draw, heads);
      return;
    case 4:
      if (!are_scores(mistake.op)) scope.columns = draw_selection(draw, columns_of(mistake.op, config) / heads);
      return;
    default:
      if (input.steps.front().batch() > 1) scope.batch_rows = {Selection::Kind::kOnly, 0, {draw.below(2)}};
      return;
  }
}

// A row of the fault table with another value: a factor of one operation that is the bug's parameter.
bool is_known_bug(const Mistake& mistake) {
  return mistake.kind == kFactor && std::ranges::any_of(fault_table(), [&](const VariantFacts& bug) {
           return bug.ops == std::vector{mistake.op} && bug.changes.size() == 1 &&
                  bug.changes.front().law == Law::kTimes && !bug.changes.front().number;
         });
}

}  // namespace

RandomCase draw_small_case(std::uint64_t seed) {
  Draws draw(seed);
  const ModelConfig config = small_config(draw);
  RandomCase drawn;
  drawn.profile = draw.one_in(2) ? model::Profile::kQwen : model::Profile::kPlain;
  drawn.input = small_input(draw, config);
  drawn.weights = model::make_synthetic(config, seed, drawn.profile);
  return drawn;
}

std::optional<Mistake> draw_mistake(Draws& draw, const ModelConfig& config, const CaseInput& input) {
  Mistake mistake{.kind = static_cast<MistakeKind>(draw.below(static_cast<std::int64_t>(kNumMistakeKinds)))};
  std::vector<Op> ops;
  for (const OperationRow& operation : kOperationTable) {
    // The first tensor has nothing before it to be wrong about but its own rows.
    if (has_mechanism(operation.op, mistake.kind) && operation.scope != Scope::kBeforeLayers)
      ops.push_back(operation.op);
  }
  mistake.op = draw.one_of(ops);
  if (!draw_parameters(draw, config, input, mistake) || is_known_bug(mistake)) return std::nullopt;
  draw_scope(draw, config, input, mistake);
  return mistake;
}

}  // namespace qdiff::selftest
