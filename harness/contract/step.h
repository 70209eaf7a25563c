// One step of a sequence batch: the tokens that enter, where they stand, and which of them are padding.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qdiff {

enum class Phase : std::uint8_t { kPrefill, kDecode };
constexpr std::string_view name(Phase phase) { return phase == Phase::kPrefill ? "prefill" : "decode"; }

// Rows of a batch are independent sequences of equal length, padded on the left. Slots count pads: row b's first real
// token stands in slot left_padding[b].
struct Step {
  int index = 0;
  Phase phase = Phase::kPrefill;
  std::vector<std::vector<std::int32_t>> tokens;     // [B][T]
  std::int64_t past_length = 0;                      // cache slots filled before this step
  std::vector<std::vector<std::int64_t>> positions;  // [B][T], what the caller asks for; pads hold 0
  std::vector<std::int64_t> left_padding;            // [B], of the whole sequence

  std::int64_t batch() const { return static_cast<std::int64_t>(tokens.size()); }
  std::int64_t num_tokens() const { return tokens.empty() ? 0 : static_cast<std::int64_t>(tokens.front().size()); }
  std::int64_t valid_length() const { return past_length + num_tokens(); }  // S
  // Token t of row b stands in slot past_length + t.
  bool is_pad(std::int64_t b, std::int64_t t) const {
    return past_length + t < left_padding[static_cast<std::size_t>(b)];
  }
  // Whether some token is no padding. A chunk may hold padding alone: then nobody would compare anything of it.
  bool has_real_tokens() const {
    for (std::int64_t b = 0; b < batch(); ++b) {
      if (!is_pad(b, num_tokens() - 1)) return true;
    }
    return false;
  }
};

// A sequence batch as it enters a model, and what it is called in a report.
struct CaseInput {
  std::string id;  // "H05-gqa"
  std::string title;
  std::optional<std::string> hypothesis;  // that the case is made for
  std::string argument;                   // names the case in a repeat command: "cases/H05-gqa.json"
  std::uint64_t seed = 0;
  std::int64_t capacity = 0;  // cache slots of each row
  std::vector<Step> steps;
};

// Fills `positions` with past_length + 0..T-1 less the row's left padding; pads get 0.
void set_default_positions(Step& step);

// Throws std::invalid_argument, naming step, row and token, unless the steps form one sequence batch: B >= 1, T >= 1,
// all rows equally long, the same B and left_padding in each step, past_length the sum of the T before, every token in
// [0, vocab), every position in [0, max_position), padding >= 0 and shorter than the sequence.
void validate_steps(const std::vector<Step>& steps, std::int64_t vocab, std::int64_t max_position);

}  // namespace qdiff
