// The keys of a GGUF file beside those of the published Qwen2.5 models, for `qdiff inspect`.
#pragma once

#include <vector>

#include "harness/formats/gguf.h"
#include "harness/model/noted_source.h"

namespace qdiff::model {

// Every key in the file's order; `usual` and `differs` for the architecture "qwen2" alone.
std::vector<FileKey> compare_keys(const formats::GgufHeader& header, const ModelConfig& config);

}  // namespace qdiff::model
