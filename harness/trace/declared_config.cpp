// What a manifest says of the model, beside the model.
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "harness/contract/number_text.h"
#include "harness/trace/manifest.h"

namespace qdiff::trace {
namespace {

std::string shown(double value) { return digits(value, std::numeric_limits<double>::digits10); }
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
  DeclaredConfig declared;
  declared.architecture = config.architecture;
  declared.rms_norm_eps = config.rms_norm_eps;
  declared.rope_theta = config.rope_theta;
  declared.tie_word_embeddings = config.tie_word_embeddings;
  declared.dtype = config.dtype;
  for (const DeclaredNumber& number : kDeclaredNumbers) declared.*number.declared = config.*number.of_model;
  return declared;
}

ConfigDifferences differences(const DeclaredConfig& declared, const ModelConfig& truth) {
  ConfigDifferences found;
  if (declared.architecture != truth.architecture) {
    found.shapes.push_back("architecture is " + std::string(name(declared.architecture)) + " in the manifest, " +
                           std::string(name(truth.architecture)) + " in the model");
  }
  for (const DeclaredNumber& number : kDeclaredNumbers) {
    auto& list = number.decides_shapes ? found.shapes : found.others;
    compare(number.key, declared.*number.declared, truth.*number.of_model, list);
  }
  compare("rms_norm_eps", declared.rms_norm_eps, truth.rms_norm_eps, found.others);
  compare("rope_theta", declared.rope_theta, truth.rope_theta, found.others);
  compare("tie_word_embeddings", declared.tie_word_embeddings, truth.tie_word_embeddings, found.others);
  compare("dtype", declared.dtype, truth.dtype, found.others);
  return found;
}

}  // namespace qdiff::trace
