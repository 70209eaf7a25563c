#include "harness/contract/session_checks.h"

#include "harness/contract/error.h"

namespace qdiff {
namespace {

std::string range(std::int64_t end) { return " is not in [0, " + std::to_string(end) + ")"; }

}  // namespace

SessionOptions checked_session(SessionOptions options, const std::string& engine) {
  const auto refuse = [&](const std::string& what) { throw InputError(engine + ": " + what); };
  if (options.batch < 1) refuse("a session of batch " + std::to_string(options.batch) + "; it needs at least 1 row");
  if (options.capacity < 1) {
    refuse("a session of capacity " + std::to_string(options.capacity) +
           "; the cache needs a slot for every token of the sequence");
  }
  if (options.left_padding.empty()) options.left_padding.assign(static_cast<std::size_t>(options.batch), 0);
  if (static_cast<std::int64_t>(options.left_padding.size()) != options.batch) {
    refuse("left_padding has " + std::to_string(options.left_padding.size()) + " entries for a batch of " +
           std::to_string(options.batch) + "; give one for each row");
  }
  for (std::int64_t pads : options.left_padding) {
    if (pads < 0 || pads >= options.capacity) {
      refuse("left_padding " + std::to_string(pads) + range(options.capacity) + ", the session's slots");
    }
  }
  return options;
}

void check_step(const Step& step, const SessionOptions& session, const ModelConfig& config, const std::string& engine) {
  const auto refuse = [&](const std::string& what) {
    throw InputError(engine + ", step " + std::to_string(step.index) + ": " + what);
  };
  if (step.batch() != session.batch) {
    refuse("has " + std::to_string(step.batch()) + " rows, but the session was opened for a batch of " +
           std::to_string(session.batch));
  }
  if (step.num_tokens() < 1) refuse("has no tokens");
  if (step.past_length < 0) refuse("past_length " + std::to_string(step.past_length) + " is negative");
  if (step.valid_length() > session.capacity) {
    refuse("needs " + std::to_string(step.valid_length()) + " cache slots, but the session's capacity is " +
           std::to_string(session.capacity) + "; open it with a larger one");
  }
  if (step.left_padding != session.left_padding) refuse("left_padding differs from the session's");
  if (step.positions.size() != step.tokens.size()) refuse("positions must have one row for each row of tokens");
  for (std::size_t b = 0; b < step.tokens.size(); ++b) {
    const std::string place = " in row " + std::to_string(b);
    if (static_cast<std::int64_t>(step.tokens[b].size()) != step.num_tokens()) {
      refuse("rows differ in length" + place + "; pad them on the left");
    }
    if (step.positions[b].size() != step.tokens[b].size()) refuse("positions and tokens differ in length" + place);
    for (std::int32_t token : step.tokens[b]) {
      if (token < 0 || token >= config.vocab) refuse("token " + std::to_string(token) + place + range(config.vocab));
    }
    for (std::int64_t position : step.positions[b]) {
      if (position < 0 || position >= config.max_position_embeddings) {
        refuse("position " + std::to_string(position) + place + range(config.max_position_embeddings));
      }
    }
  }
}

}  // namespace qdiff
