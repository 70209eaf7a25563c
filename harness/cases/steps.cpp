#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "harness/cases/case.h"
#include "harness/contract/error.h"
#include "harness/contract/splitmix64.h"

namespace qdiff::cases {
namespace {

std::uint64_t mixed(std::uint64_t x) { return splitmix64(x + kGoldenGamma); }

std::uint64_t draw(std::uint64_t seed, std::uint64_t stream, std::int64_t slot) {
  return mixed(mixed(mixed(seed) ^ stream) ^ static_cast<std::uint64_t>(slot));
}

// Ids [first, first + count).
struct IdRange {
  std::int64_t first = 0;
  std::int64_t count = 0;
};

IdRange id_range(const Case& test_case, std::int64_t row, std::int64_t slot, std::int64_t vocab) {
  if (!test_case.special_tokens) return {0, vocab};
  const auto [every, last_ids] = *test_case.special_tokens;
  const std::int64_t special = std::min(last_ids, vocab);
  if ((slot + row + 1) % every == 0) return {vocab - special, special};
  return {0, std::max<std::int64_t>(1, vocab - special)};
}

// Row 0 draws its token at each slot, and every further row stands a stride, drawn too, behind the row before. With a
// stride that has no factor in common with the range, rows differ at every slot wherever the range is wide enough:
// equal tokens would hide a row that reads another row's cache.
std::int32_t generated_token(const Case& test_case, std::int64_t row, std::int64_t slot, std::int64_t vocab) {
  const IdRange range = id_range(test_case, row, slot, vocab);
  const auto count = static_cast<std::uint64_t>(range.count);
  if (count == 1) return static_cast<std::int32_t>(range.first);
  std::uint64_t stride = 1 + draw(test_case.seed, 1, slot) % (count - 1);
  while (std::gcd(stride, count) != 1) ++stride;  // ends at count - 1 at the latest
  const std::uint64_t offset = draw(test_case.seed, 0, slot) % count;
  return static_cast<std::int32_t>(range.first) +
         static_cast<std::int32_t>((offset + static_cast<std::uint64_t>(row) * stride) % count);
}

}  // namespace

std::vector<Step> make_steps(const Case& test_case, const ModelConfig& config) {
  std::vector<Step> steps;
  std::int64_t past_length = 0;
  for (const CaseStep& wanted : test_case.steps) {
    Step step;
    step.index = static_cast<int>(steps.size());
    step.phase = wanted.phase;
    step.past_length = past_length;
    step.left_padding = test_case.left_padding;
    step.tokens = wanted.tokens;
    if (step.tokens.empty()) {
      for (std::int64_t row = 0; row < test_case.batch; ++row) {
        std::vector<std::int32_t> ids;
        for (std::int64_t t = 0; t < wanted.num_tokens; ++t) {
          ids.push_back(generated_token(test_case, row, past_length + t, config.vocab));
        }
        step.tokens.push_back(std::move(ids));
      }
    }
    set_default_positions(step);
    for (std::size_t b = 0; b < wanted.positions.size(); ++b) {
      for (std::size_t t = 0; t < wanted.positions[b].size(); ++t) {
        const bool pad = step.is_pad(static_cast<std::int64_t>(b), static_cast<std::int64_t>(t));
        if (!pad) step.positions[b][t] = wanted.positions[b][t];
      }
    }
    past_length += wanted.num_tokens;
    steps.push_back(std::move(step));
  }
  try {
    validate_steps(steps, config.vocab, config.max_position_embeddings);
  } catch (const std::invalid_argument& error) {
    throw InputError(test_case.argument + ": " + error.what() + "; the model has " + std::to_string(config.vocab) +
                     " token ids and " + std::to_string(config.max_position_embeddings) + " positions");
  }
  return steps;
}

CaseInput input_of(const Case& test_case, const ModelConfig& config) {
  return {.id = test_case.id,
          .title = test_case.title,
          .hypothesis = test_case.hypothesis,
          .argument = test_case.argument,
          .seed = test_case.seed,
          .capacity = test_case.capacity,
          .steps = make_steps(test_case, config)};
}

}  // namespace qdiff::cases
