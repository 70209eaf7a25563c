// The laws that parameters of a mistake hold as words, in the words of reports (docs/mechanisms.md), and what they
// mean. Each reader gives nothing for a text that is none.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "harness/contract/operation_table.h"

namespace qdiff {

// "h % 3", "h / 5", "14 - h", "(h + 1) % 15", "2", or the table itself, "1 0 2 2".
struct HeadLaw {
  enum class Kind : std::uint8_t { kModulo, kDividedBy, kFromEnd, kShifted, kConstant, kTable };
  Kind kind = Kind::kConstant;
  std::int64_t number = 0;
  std::int64_t modulus = 0;  // of kShifted
  std::vector<std::int64_t> table = {};

  // The head that head `h` of `heads` takes, out of `of`; a quotient beyond the last is the last one.
  std::int64_t at(std::int64_t h, std::int64_t of) const;
};
std::optional<HeadLaw> parse_head_law(std::string_view text);

// "position 3", "its position + 1", "its place in the step", "its cache slot", "the position of batch row 0",
// "-1 times its position".
struct PositionLaw {
  enum class Kind : std::uint8_t { kConstant, kPlus, kPlaceInStep, kSlot, kOfFirstRow, kTimes };
  Kind kind = Kind::kConstant;
  std::int64_t number = 0;
};
std::optional<PositionLaw> parse_position_law(std::string_view text);

// What stands in a table of cosines or sines: "0", "1", "cosine of p", "sine of p + 3".
struct TableEntry {
  enum class Kind : std::uint8_t { kZero, kOne, kCosine, kSine };
  Kind kind = Kind::kZero;
  std::int64_t shift = 0;
};
std::optional<TableEntry> parse_table_entry(std::string_view text);

// "exactly what it should hide (the mask is inverted)", "from its first token to the last slot there is", where the
// first is also "slot 0" or "the last 8 slots up to its own", the last also "its own slot", "its own slot - 1".
struct VisibleLaw {
  enum class First : std::uint8_t { kFirstToken, kSlotZero, kWindow };
  enum class Last : std::uint8_t { kOwn, kEnd };
  bool inverted = false;
  First first = First::kFirstToken;
  std::int64_t window = 0;
  Last last = Last::kOwn;
  std::int64_t beside = 0;  // added to kOwn
};
std::optional<VisibleLaw> parse_visible_law(std::string_view text);

// How inputs are permuted: "blocks of 32, where elements 16 apart were taken as neighbours", "blocks of 8, backwards".
// Element i of a block is element order[i] of it.
std::optional<std::vector<std::int64_t>> parse_input_order(std::string_view text);

// Neighbouring columns, or heads, that hold others: "columns 3..7 hold columns 11..15", "head 0 holds head 1 of
// self_attn.k_proj".
struct ColumnRun {
  bool of_heads = false;
  std::int64_t first = 0, last = 0;
  std::int64_t from = 0;          // the first of the others
  std::optional<Op> source = {};  // none: the same tensor
};
std::optional<std::vector<ColumnRun>> parse_column_runs(std::string_view text);

// "self_attn.k_rope of 2 before of batch row b + 1, heads 0..3 from 1, 0, 3, 2": vector (b, p, h) is vector
// (b + batch_shift, p + shift, heads[h]) of the source.
struct VectorLaw {
  Op source = Op::kEmbedTokens;
  std::int64_t shift = 0;
  std::int64_t batch_shift = 0;
  std::vector<std::int64_t> heads = {};  // empty: each its own
};
std::optional<VectorLaw> parse_vector_law(std::string_view text);

// A function in SiLU's place, by the words that reports have for it; nothing where there is no such function.
std::optional<std::function<double(double)>> parse_gate_function(std::string_view text);
const std::vector<std::string>& gate_functions();  // those without a number of their own

// A tensor of a layer by its name in the table, "self_attn.q_proj"; with " of layer 3" behind it, of that layer.
struct NamedTensor {
  Op op = Op::kEmbedTokens;
  std::optional<int> layer = {};
};
std::optional<NamedTensor> parse_named_tensor(std::string_view text);

// "inputs 64..127": the first and the last.
std::optional<std::pair<std::int64_t, std::int64_t>> parse_inputs_range(std::string_view text);

// The whole numbers at the places of "#" in the pattern, where the text is the pattern otherwise.
std::optional<std::vector<std::int64_t>> match_numbers(std::string_view text, std::string_view pattern);

}  // namespace qdiff
