// A free run's tokens in the words of the model's vocabulary.
#pragma once

#include "harness/compare/result.h"
#include "harness/model/tokenizer.h"

namespace qdiff::cli {

// Fills the texts of `run`, for people: on one line, with control characters and broken UTF-8 escaped.
void put_words(const model::Tokenizer& tokenizer, compare::FreeRun& run);

}  // namespace qdiff::cli
