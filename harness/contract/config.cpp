#include "harness/contract/config.h"

#include <cmath>
#include <utility>

#include "harness/contract/number_text.h"
#include "harness/contract/wording.h"

namespace qdiff {
namespace {

[[noreturn]] void refuse_field(const char* field, const std::string& value, const char* rule) {
  throw std::invalid_argument(std::string("model config: ") + field + " is " + value + ", but " + rule);
}

void check_positive(const char* field, std::int64_t value) {
  // 2^31 keeps every product of two dimensions inside 64 bits, and every dimension inside LibTorch's and cuBLAS' int.
  if (value < 1 || value > (std::int64_t{1} << 31) - 1) {
    refuse_field(field, std::to_string(value), "must be between 1 and 2147483647");
  }
}

void check_number(const char* field, double value, bool zero_allowed) {
  if (!std::isfinite(value) || value < 0.0 || (value == 0.0 && !zero_allowed)) {
    refuse_field(field, std::to_string(value),
                 zero_allowed ? "must be finite and not negative" : "must be finite and positive");
  }
}

}  // namespace

std::optional<Architecture> parse_architecture(std::string_view name) {
  for (const ArchitectureFacts& known : kArchitectures) {
    if (known.name == name) return known.architecture;
  }
  return std::nullopt;
}

std::string known_architectures() {
  return joined(kArchitectures, " and ", [](const ArchitectureFacts& known) {
    return '"' + std::string(known.name) + "\" (" + std::string(known.models) + ')';
  });
}

void ModelConfig::validate() const {
  check_positive("hidden size", hidden);
  check_positive("number of layers", num_layers);
  check_positive("number of attention heads", num_q_heads);
  check_positive("number of key/value heads", num_kv_heads);
  check_positive("head dimension", head_dim);
  check_positive("intermediate size", intermediate);
  check_positive("vocabulary size", vocab);
  check_positive("max_position_embeddings", max_position_embeddings);
  if (num_q_heads % num_kv_heads != 0) {
    refuse_field("number of attention heads", std::to_string(num_q_heads),
                 ("must be a multiple of the number of key/value heads, " + std::to_string(num_kv_heads)).c_str());
  }
  if (head_dim % 2 != 0) refuse_field("head dimension", std::to_string(head_dim), "rotary embedding needs an even one");
  check_positive("width of q (heads times head dimension)", q_width());
  check_number("rms_norm_eps", rms_norm_eps, true);
  check_number("rope_theta", rope_theta, false);
}

std::string to_string(const ModelConfig& c) {
  std::string text(name(c.architecture));
  const std::pair<const char*, std::int64_t> sizes[] = {
      {"D", c.hidden},   {"L", c.num_layers},   {"H", c.num_q_heads}, {"K", c.num_kv_heads},
      {"d", c.head_dim}, {"I", c.intermediate}, {"V", c.vocab}};
  for (const auto& [letter, size] : sizes) text += std::string(" ") + letter + '=' + std::to_string(size);
  return text + " eps=" + digits(c.rms_norm_eps, 6) + " theta=" + digits(c.rope_theta, 6) +
         (c.tie_word_embeddings ? " tied " : " untied ") + std::string(name(c.dtype));
}

}  // namespace qdiff
