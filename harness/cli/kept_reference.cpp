#include "harness/cli/kept_reference.h"

#include <cstdio>
#include <cstdlib>

#include "harness/cli/model_hash.h"
#include "harness/cli/options.h"
#include "harness/cli/text.h"
#include "harness/cli/unit_plan.h"
#include "reference/machine.h"

namespace qdiff::cli {
namespace {

std::optional<std::string> folder_of(const CommonArguments& common) {
  if (common.reference_cache) return common.reference_cache;
  const char* named = std::getenv("QDIFF_REFERENCE_CACHE");
  return named != nullptr && *named != '\0' ? std::optional<std::string>(named) : std::nullopt;
}

}  // namespace

KeptReference::KeptReference(const CommonArguments& common) {
  const auto folder = folder_of(common);
  if (!folder) return;
  store_.emplace(*folder, common.reference_cache_size, [](const std::string& sentence) {
    std::fprintf(stderr, "qdiff: warning: %s\n", one_line(sentence).c_str());
  });
}

std::optional<findings::ReferenceValues> KeptReference::values() const {
  return store_ ? std::optional(values_) : std::nullopt;
}

reference_cache::Cache KeptReference::cache_of(const WeightSource& model) {
  if (model_ != &model) hash_ = model_hash(model);
  model_ = &model;
  return {*store_, program_name() + '\n' + reference_cache::sources_hash() + '\n' + reference::machine() + '\n' + hash_,
          values_};
}

KeptReference::WithParts KeptReference::make_oracle(const WeightSource& model, const reference::Options& options) {
  auto oracle = reference::make_oracle(model, options);
  if (!store_) return {std::move(oracle)};
  auto cached = reference_cache::make_cached_oracle(std::move(oracle), cache_of(model));
  diagnose::KeptParts* parts = cached.get();
  return {std::move(cached), parts};
}

std::unique_ptr<Engine> KeptReference::make_engine(const WeightSource& model, const Precision& precision,
                                                   const reference::Options& options) {
  auto engine = reference::make_engine(model, precision, options);
  if (!store_) return engine;
  return reference_cache::make_cached_engine(std::move(engine), cache_of(model), model.config());
}

}  // namespace qdiff::cli
