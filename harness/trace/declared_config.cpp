// What a manifest says of the model, beside the model.
#include <limits>
#include <locale>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "harness/trace/manifest.h"

namespace qdiff::trace {
namespace {

std::string shown(double value) {
  std::ostringstream text;
  text.imbue(std::locale::classic());
  text.precision(std::numeric_limits<double>::max_digits10 - 2);
  text << value;
  return text.str();
}
std::string shown(std::int64_t value) { return std::to_string(value); }
std::string shown(bool value) { return value ? "true" : "false"; }
std::string shown(DType value) { return std::string(name(value)); }

template <typename T>
void compare(const char* key, const std::optional<T>& declared, T truth, std::vector<std::string>& list) {
  if (declared && !(*declared == truth)) {
    list.push_back(std::string("the trace's ") + key + " is " + shown(*declared) + ", the model's is " + shown(truth));
  }
}

}  // namespace

DeclaredConfig declare(const ModelConfig& config) {
  return {.architecture = config.architecture,
          .hidden = config.hidden,
          .num_layers = config.num_layers,
          .num_q_heads = config.num_q_heads,
          .num_kv_heads = config.num_kv_heads,
          .head_dim = config.head_dim,
          .intermediate = config.intermediate,
          .vocab = config.vocab,
          .max_position_embeddings = config.max_position_embeddings,
          .rms_norm_eps = config.rms_norm_eps,
          .rope_theta = config.rope_theta,
          .tie_word_embeddings = config.tie_word_embeddings,
          .dtype = config.dtype};
}

ConfigDifferences differences(const DeclaredConfig& declared, const ModelConfig& truth) {
  ConfigDifferences found;
  if (declared.architecture != truth.architecture) {
    found.shapes.push_back("architecture is " + std::string(name(declared.architecture)) + " in the manifest, " +
                           std::string(name(truth.architecture)) + " in the model");
  }
  compare("hidden_size", declared.hidden, truth.hidden, found.shapes);
  compare("num_hidden_layers", declared.num_layers, truth.num_layers, found.shapes);
  compare("num_attention_heads", declared.num_q_heads, truth.num_q_heads, found.shapes);
  compare("num_key_value_heads", declared.num_kv_heads, truth.num_kv_heads, found.shapes);
  compare("head_dim", declared.head_dim, truth.head_dim, found.shapes);
  compare("intermediate_size", declared.intermediate, truth.intermediate, found.shapes);
  compare("vocab_size", declared.vocab, truth.vocab, found.shapes);
  compare("max_position_embeddings", declared.max_position_embeddings, truth.max_position_embeddings, found.others);
  compare("rms_norm_eps", declared.rms_norm_eps, truth.rms_norm_eps, found.others);
  compare("rope_theta", declared.rope_theta, truth.rope_theta, found.others);
  compare("tie_word_embeddings", declared.tie_word_embeddings, truth.tie_word_embeddings, found.others);
  compare("dtype", declared.dtype, truth.dtype, found.others);
  return found;
}

}  // namespace qdiff::trace
