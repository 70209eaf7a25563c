#include "harness/contract/mistake.h"

#include <algorithm>
#include <array>

#include "harness/contract/mistake_laws.h"
#include "harness/contract/number_text.h"

namespace qdiff {
namespace {

namespace mistake_table {

using enum MistakeKind;
using A = Arithmetic;
using Arithmetics = FixedList<Arithmetic, 11>;
using Parameters = FixedList<MistakeParameter, 4>;

constexpr bool kNumber = true, kWords = false, kNeeded = true, kOrAnother = false;
constexpr Arithmetics kAll = {};
constexpr std::string_view kTensorForm = "a tensor of the same layer, as self_attn.k_proj";
constexpr std::string_view kHeadForm = "h % 3, h / 5, 14 - h, (h + 1) % 15, 2, or a head for each, as 1 0 2";
constexpr std::string_view kEntryForm = "0, 1, cosine of p, sine of p + 3";
constexpr std::string_view kRowsForm = "columns 3..7 hold columns 11..15 of self_attn.k_proj, head 0 holds head 1";

// By kind: name, what, operations, parameters, hypothesis.
constexpr std::array<MistakeFacts, kNumMistakeKinds> kMistakes = {{
    {kCopyZeros, "copy.zeros", "the tensor holds zeros", kAll, {}, ""},
    {kCopyTensor, "copy.tensor", "the tensor holds another one of as many elements, made before it", kAll,
     Parameters{MistakeParameter{"source", kWords, kNeeded, kTensorForm}}, ""},
    {kCopyVectors, "copy.vectors", "rows, or heads of them, hold those of another place, where there are such", kAll,
     Parameters{MistakeParameter{"source", kWords, kNeeded,
                                 "self_attn.k_rope of 2 before of batch row b + 1, heads 0..3 from 1, 0, 3, 2"}},
     ""},
    {kFactor, "factor", "right code's value times a constant, one for all or one for each head", kAll,
     Parameters{MistakeParameter{"factor", kNumber, kOrAnother, "a finite number"},
                MistakeParameter{"factor of head *", kNumber, kOrAnother, "a finite number"}},
     ""},
    {kSoftCap, "soft_cap", "c * tanh(x / c) of right code's x",
     Arithmetics{A::kNorm, A::kProduct, A::kBias, A::kScores, A::kWeightedSum, A::kGate, A::kAdd},
     Parameters{MistakeParameter{"cap", kNumber, kNeeded, "a positive number"}}, ""},
    {kSource, "source", "another tensor of as many elements is read in an input's place",
     Arithmetics{A::kNorm, A::kProduct, A::kBias, A::kRotate, A::kAppend, A::kScores, A::kSoftmax, A::kWeightedSum,
                 A::kGate, A::kAdd},
     Parameters{MistakeParameter{"input", kWords, kNeeded, "an input of the operation, as self_attn.q_proj"},
                MistakeParameter{"source", kWords, kNeeded, kTensorForm}},
     ""},
    {kSum, "sum", "the terms of a sum with other coefficients, or other terms", Arithmetics{A::kAdd},
     Parameters{MistakeParameter{"*", kNumber, kNeeded, "the coefficient of the tensor of that name"}}, "H04"},
    {kNormBlocks, "norm.blocks", "the mean square of each of so many blocks of columns by itself",
     Arithmetics{A::kNorm},
     Parameters{MistakeParameter{"blocks", kNumber, kNeeded, "a divisor of the width, 2 or more"},
                MistakeParameter{"columns of a block", kNumber, kOrAnother, "follows from blocks"}},
     "H09"},
    {kNormEps, "norm.eps", "epsilon is added to the root", Arithmetics{A::kNorm},
     Parameters{MistakeParameter{"eps", kWords, kNeeded, "outside the root"}}, "H09"},
    {kNormWeight, "norm.weight", "the weight of another norm, or 1 + w", Arithmetics{A::kNorm},
     Parameters{MistakeParameter{"weight", kWords, kNeeded, "1 + w, or as model.layers.1.input_layernorm.weight"}},
     "H09"},
    {kBias, "bias", "the bias so many times, or that of another projection", Arithmetics{A::kBias},
     Parameters{MistakeParameter{"coefficient", kNumber, kOrAnother, "a finite number"},
                MistakeParameter{"source", kWords, kOrAnother, "as self_attn.k_proj.bias"}},
     "H06"},
    {kBiasRows, "bias.rows", "columns take other elements of the biases", Arithmetics{A::kBias},
     Parameters{MistakeParameter{"rows", kWords, kNeeded, kRowsForm}}, "H06"},
    {kProductRows, "product.rows",
     "columns are made with other rows of the weights, or with permuted ones in each block", Arithmetics{A::kProduct},
     Parameters{MistakeParameter{"rows", kWords, kNeeded, kRowsForm},
                MistakeParameter{"block", kNumber, kOrAnother, "rows is then a permutation of so many, as 1 0 3 2"}},
     "H07"},
    {kProductInputOrder, "product.input_order", "the inputs are taken in another order within blocks",
     Arithmetics{A::kProduct},
     Parameters{MistakeParameter{"order", kWords, kNeeded,
                                 "blocks of 32, where elements 16 apart were taken as neighbours; blocks of 8, "
                                 "backwards"},
                MistakeParameter{"block", kNumber, kOrAnother, "follows from order"}},
     "H07"},
    {kProductCoefficients, "product.coefficients", "some inputs count so many times, or not at all",
     Arithmetics{A::kProduct},
     Parameters{
         MistakeParameter{"inputs *", kNumber, kNeeded, "a finite number, for inputs of a name as inputs 64..127"}},
     "H07"},
    {kProductGroups, "product.groups", "weights are off by a constant in each group of so many inputs",
     Arithmetics{A::kProduct},
     Parameters{MistakeParameter{"group", kNumber, kNeeded, "a divisor of the number of inputs, 2 or more"},
                MistakeParameter{"offset", kNumber, kNeeded, "a positive number, the constants' root mean square"}},
     "H07"},
    {kRotationPosition, "rotation.position", "turned by the angles of another position", Arithmetics{A::kRotate},
     Parameters{MistakeParameter{"position", kWords, kNeeded,
                                 "position 0, its position + 1, its place in the step, its cache slot, the position of "
                                 "batch row 0, 2 times its position"}},
     "H03"},
    {kRotationTable, "rotation.table", "cosines and sines are other entries of their tables, or constants",
     Arithmetics{A::kRotate},
     Parameters{MistakeParameter{"cosine", kWords, kNeeded, kEntryForm},
                MistakeParameter{"sine", kWords, kNeeded, kEntryForm}},
     "H03"},
    {kRotationCache, "rotation.cache", "new slots of a cache hold what was to be written after a rotation more",
     Arithmetics{A::kAppend},
     Parameters{MistakeParameter{"rotated", kWords, kNeeded, "what is written there by right code"}}, "H03"},
    {kVisible, "visible", "a query sees other slots", Arithmetics{A::kScores},
     Parameters{MistakeParameter{"visible", kWords, kNeeded,
                                 "exactly what it should hide (the mask is inverted); from its first token, slot 0 or "
                                 "the last 8 slots up to its own to its own slot, its own slot - 1 or the last slot "
                                 "there is"}},
     "H10"},
    {kHeadsMoved, "heads.moved", "each head holds what right code has in another",
     Arithmetics{A::kProduct, A::kBias, A::kRotate, A::kAppend, A::kScores, A::kSoftmax, A::kWeightedSum},
     Parameters{MistakeParameter{"head", kWords, kNeeded, kHeadForm}}, "H05"},
    {kHeadsLayout, "heads.layout", "memory of [B,H,T,d] is taken for [B,T,H,d], or the other way round",
     Arithmetics{A::kProduct, A::kBias, A::kRotate, A::kWeightedSum},
     Parameters{MistakeParameter{"held as", kWords, kNeeded, "[B,H,T,d] or [B,T,H,d]"},
                MistakeParameter{"taken for", kWords, kOrAnother, "the other one"}},
     ""},
    {kHeadsRead, "heads.read", "each query head reads another key or value head",
     Arithmetics{A::kScores, A::kWeightedSum}, Parameters{MistakeParameter{"head of *", kWords, kNeeded, kHeadForm}},
     "H05"},
    {kGateFunction, "gate.function", "another function in SiLU's place", Arithmetics{A::kGate},
     Parameters{MistakeParameter{"function", kWords, kNeeded,
                                 "as GELU, GELU by tanh, ReLU, the sigmoid, tanh, 1, SiLU of at most 6"}},
     ""},
}};
constexpr bool mistakes_are_in_enum_order() {
  for (std::size_t i = 0; i < kNumMistakeKinds; ++i) {
    if (static_cast<std::size_t>(kMistakes[i].kind) != i) return false;
  }
  return true;
}
static_assert(mistakes_are_in_enum_order(), "kMistakes must stand in the order of enum MistakeKind");

}  // namespace mistake_table

using mistake_table::kMistakes;

bool has_heads(Op op) {
  const auto& dims = row(op).shape;
  return std::ranges::any_of(dims, [](Dim dim) {
    return dim == Dim::kQHeads || dim == Dim::kKvHeads || dim == Dim::kQWidth || dim == Dim::kKvWidth;
  });
}

std::string runs_text(const std::vector<std::int64_t>& numbers) {
  std::string text;
  for (std::size_t i = 0; i < numbers.size();) {
    std::size_t j = i;
    while (j + 1 < numbers.size() && numbers[j + 1] == numbers[j] + 1) ++j;
    if (!text.empty()) text += ", ";
    text += std::to_string(numbers[i]);
    if (j > i) text += (j == i + 1 ? ", " : "..") + std::to_string(numbers[j]);
    i = j + 1;
  }
  return text;
}

}  // namespace

const MistakeFacts& facts(MistakeKind kind) { return kMistakes[static_cast<std::size_t>(kind)]; }

std::optional<MistakeKind> parse_mistake_kind(std::string_view name) {
  for (const MistakeFacts& facts : kMistakes) {
    if (facts.name == name) return facts.kind;
  }
  return std::nullopt;
}

bool has_mechanism(Op op, MistakeKind kind) {
  const auto& arithmetics = facts(kind).arithmetics;
  const bool fits = arithmetics.empty() || std::ranges::find(arithmetics, arithmetic_of(op)) != arithmetics.end();
  const bool of_heads = kind == MistakeKind::kHeadsMoved || kind == MistakeKind::kHeadsLayout;
  return fits && (!of_heads || has_heads(op));
}

bool Selection::holds(std::int64_t index) const {
  switch (kind) {
    case Kind::kFrom:
      return index >= bound;
    case Kind::kBelow:
      return index < bound;
    case Kind::kOnly:
      return std::ranges::binary_search(only, index);
    case Kind::kAll:
      break;
  }
  return true;
}

std::string to_string(const Selection& selection) {
  switch (selection.kind) {
    case Selection::Kind::kFrom:
      return std::to_string(selection.bound) + " and up";
    case Selection::Kind::kBelow:
      return "below " + std::to_string(selection.bound);
    case Selection::Kind::kOnly:
      return runs_text(selection.only);
    case Selection::Kind::kAll:
      break;
  }
  return "";
}

std::optional<Selection> parse_selection(std::string_view text) {
  using Kind = Selection::Kind;
  if (const auto from = match_numbers(text, "# and up"); from && from->front() >= 0) {
    return Selection{Kind::kFrom, from->front()};
  }
  if (const auto below = match_numbers(text, "below #"); below && below->front() > 0) {
    return Selection{Kind::kBelow, below->front()};
  }
  Selection some{Kind::kOnly};
  while (true) {
    const std::size_t comma = text.find(',');
    std::string_view part = text.substr(0, comma);
    while (part.starts_with(' ')) part.remove_prefix(1);
    const auto one = match_numbers(part, "#"), range = match_numbers(part, "#..#");
    if (!one && !range) return std::nullopt;
    const std::int64_t first = one ? one->front() : range->front(), last = one ? first : range->back();
    if (first < 0 || last < first) return std::nullopt;
    for (std::int64_t i = first; i <= last; ++i) some.only.push_back(i);
    if (comma == std::string_view::npos) break;
    text.remove_prefix(comma + 1);
  }
  std::ranges::sort(some.only);
  some.only.erase(std::unique(some.only.begin(), some.only.end()), some.only.end());
  return some;
}

const double* Mistake::number(std::string_view parameter) const {
  for (const auto& [name, value] : parameters) {
    if (name == parameter) return std::get_if<double>(&value);
  }
  return nullptr;
}

const std::string* Mistake::text(std::string_view parameter) const {
  for (const auto& [name, value] : parameters) {
    if (name == parameter) return std::get_if<std::string>(&value);
  }
  return nullptr;
}

std::string to_string(const Mistake& mistake) {
  std::string text(facts(mistake.kind).name);
  for (std::size_t i = 0; i < mistake.parameters.size(); ++i) {
    const auto& [name, value] = mistake.parameters[i];
    const double* number = std::get_if<double>(&value);
    text += (i == 0 ? ":" : ";") + name + '=' + (number != nullptr ? shortest(*number) : std::get<std::string>(value));
  }
  text += '@' + std::string(row(mistake.op).name);
  const MistakeScope& scope = mistake.scope;
  const auto add = [&](const char* key, const std::string& value) {
    if (!value.empty()) text += ';' + std::string(key) + '=' + value;
  };
  add("layers", to_string(scope.layers));
  if (scope.phase) add("phase", std::string(name(*scope.phase)));
  add("steps", to_string(scope.steps));
  add("batch_rows", to_string(scope.batch_rows));
  add("tokens", to_string(scope.tokens));
  add("heads", to_string(scope.heads));
  add("columns", to_string(scope.columns));
  return text;
}

std::string to_string(const Injection& injection) {
  if (const auto* fault = std::get_if<Fault>(&injection)) return to_string(*fault);
  return to_string(std::get<Mistake>(injection));
}

}  // namespace qdiff
