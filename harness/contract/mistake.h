// A mistake: one point of the grammar of docs/mechanisms.md, which is a mechanism with its parameters, at an operation,
// within a scope. Reports say what was solved for in these terms, and an engine can be told to compute so. As text:
//
//   bias:coefficient=2@self_attn.q_proj;layers=0;phase=decode;tokens=3 and up
//
// Before the "@" stands what a report gives in `mechanism` and `parameters`, behind it the tensor and what the report
// gives in `layers` and `scope`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "harness/contract/config.h"
#include "harness/contract/fault.h"
#include "harness/contract/operation_table.h"
#include "harness/contract/step.h"

namespace qdiff {

// The mechanisms that can be planted, in the order of kMistakes.
enum class MistakeKind : std::uint8_t {
  kCopyZeros,
  kCopyTensor,
  kCopyVectors,
  kFactor,
  kSoftCap,
  kSource,
  kSum,
  kNormBlocks,
  kNormEps,
  kNormWeight,
  kBias,
  kBiasRows,
  kProductRows,
  kProductInputOrder,
  kProductCoefficients,
  kProductGroups,
  kRotationPosition,
  kRotationTable,
  kRotationCache,
  kVisible,
  kHeadsMoved,
  kHeadsLayout,
  kHeadsRead,
  kGateFunction,
};
inline constexpr std::size_t kNumMistakeKinds = static_cast<std::size_t>(MistakeKind::kGateFunction) + 1;

// A parameter of a mechanism. What its value looks like is said in `form`.
struct MistakeParameter {
  std::string_view name;  // one that ends in " *" stands for all names that begin so: "inputs *"
  bool is_number = false;
  bool needed = true;  // of those that are not needed one at least has to be given, where a mechanism has no other
  std::string_view form;
};

struct MistakeFacts {
  MistakeKind kind;
  std::string_view name;                  // "bias.rows", as in docs/mechanisms.md
  std::string_view what;                  // what an engine computes with it, in one line
  FixedList<Arithmetic, 11> arithmetics;  // operations that have it; empty: all
  FixedList<MistakeParameter, 4> parameters;
  std::string_view hypothesis;  // "H07"; empty: of none of the ten by itself
};
const MistakeFacts& facts(MistakeKind kind);

// Names and values in the order in which they were given.
using Facts = std::vector<std::pair<std::string, std::variant<double, std::string>>>;

// Indices along one axis, as reports write them: "3 and up", "below 7", "1, 3..5"; all where nothing is written.
struct Selection {
  enum class Kind : std::uint8_t { kAll, kFrom, kBelow, kOnly };
  Kind kind = Kind::kAll;
  std::int64_t bound = 0;               // of kFrom the first inside, of kBelow the first outside
  std::vector<std::int64_t> only = {};  // of kOnly, ascending

  bool holds(std::int64_t index) const;
  bool operator==(const Selection&) const = default;
};
std::string to_string(const Selection& selection);  // empty for all
std::optional<Selection> parse_selection(std::string_view text);

// Where a mistake is made; right code holds elsewhere. A token is counted from the first real one of its batch row, in
// a cache it is the slot. A column is one of its head where the tensor has heads, of `scores` and `probs` it is the
// slot.
struct MistakeScope {
  std::optional<Phase> phase;
  Selection layers, steps, batch_rows, tokens, heads, columns;
  bool operator==(const MistakeScope&) const = default;
};

struct Mistake {
  MistakeKind kind;
  Facts parameters = {};
  Op op = Op::kEmbedTokens;
  MistakeScope scope = {};

  const double* number(std::string_view parameter) const;     // nullptr where it is not given
  const std::string* text(std::string_view parameter) const;  // the same
  bool operator==(const Mistake&) const = default;
};

std::string to_string(const Mistake& mistake);  // the form above; formats/mistake_text.h reads it back
// Whether the operation has that mechanism.
bool has_mechanism(Op op, MistakeKind kind);
std::optional<MistakeKind> parse_mistake_kind(std::string_view name);

// What an engine is told to compute wrongly: a known bug, or a mistake.
using Injection = std::variant<Fault, Mistake>;
std::string to_string(const Injection& injection);

}  // namespace qdiff
