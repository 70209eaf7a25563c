#include "harness/cli/parties.h"

namespace qdiff::cli {

namespace {

// For an engine beside which the reference computes.
EngineSettings beside_reference(EngineSettings settings, EngineKind backend, reference::Where where,
                                const ModelConfig& config) {
  if (backend == EngineKind::kCuda) settings.left_on_device = reference::device_bytes(where, config);
  return settings;
}

}  // namespace
RunParties::RunParties(const WeightSource& model, EngineKind backend, const EngineSettings& settings,
                       reference::Where where, KeptReference& kept)
    : model_(model),
      candidate_(make_engine(backend, model, beside_reference(settings, backend, where, model.config()))) {
  const reference::Options options{.num_threads = settings.threads.value_or(0), .where = where};
  reference_ = kept.make_engine(model, gold_precision(candidate_->precision().weights), options);
  KeptReference::WithParts made = kept.make_oracle(model, options);
  oracle_ = std::move(made.oracle);
  kept_parts_ = made.parts;
}

}  // namespace qdiff::cli
