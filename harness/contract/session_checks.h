// What must hold of a session and of every step that it is given, whichever engine runs it: checks of the data alone.
// `engine` names the one that refuses ("cpu engine"). All throw InputError.
#pragma once

#include <string>

#include "harness/contract/config.h"
#include "harness/contract/engine.h"
#include "harness/contract/step.h"

namespace qdiff {

// At least one row and one slot, and padding of [0, capacity) for each row; the returned options have it written out
// where none was given.
SessionOptions checked_session(SessionOptions options, const std::string& engine);

// The session's batch and padding, rows of equally many tokens within its capacity, every token in [0, vocab) and every
// position in [0, max_position_embeddings).
void check_step(const Step& step, const SessionOptions& session, const ModelConfig& config, const std::string& engine);

}  // namespace qdiff
