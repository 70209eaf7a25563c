#include "harness/model/model.h"

#include "harness/contract/error.h"
#include "harness/model/gguf_model.h"
#include "harness/model/huggingface.h"
#include "harness/model/synthetic.h"

namespace qdiff::model {

std::unique_ptr<WeightSource> open_model(const std::string& spec) {
  constexpr std::string_view kSynthetic = "synthetic:";
  if (spec.empty()) {
    throw InputError(
        "no model is given; give a Hugging Face directory, a .gguf file, or synthetic:NAME as in synthetic:toy-d64");
  }
  if (spec.starts_with(kSynthetic)) {
    return make_synthetic(parse_synthetic_spec(std::string_view(spec).substr(kSynthetic.size())));
  }
  if (is_gguf(spec)) return open_gguf(spec);  // what cannot be opened, its reader says
  return open_huggingface(spec);
}

}  // namespace qdiff::model
