// Opens what `--model` names: a Hugging Face directory, a GGUF file or a synthetic model.
#pragma once

#include <memory>
#include <string>

#include "harness/contract/weights.h"

namespace qdiff::model {

// `spec` is a directory of Hugging Face files (huggingface.h), a GGUF file or the first of a split set (gguf_model.h),
// or "synthetic:NAME[,option=value...]" (synthetic.h). At open every weight of the operation table is known to be there
// with its right shape; values are read later, by range. Throws qdiff::InputError where the model is not one, is not
// complete, or is not supported.
std::unique_ptr<WeightSource> open_model(const std::string& spec);

}  // namespace qdiff::model
