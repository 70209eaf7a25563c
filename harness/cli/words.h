// A free run's tokens in the words of the model's vocabulary.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "harness/findings/result.h"
#include "harness/model/tokenizer.h"

namespace qdiff::cli {

// For people: on one line, with control characters and broken UTF-8 escaped.
std::string words(const model::Tokenizer& tokenizer, const std::vector<std::int64_t>& tokens);

// Fills the texts of the runs; of a model whose tokenizer is null there are none.
void put_words(const model::Tokenizer* tokenizer, std::vector<findings::FreeRun>& runs);

}  // namespace qdiff::cli
