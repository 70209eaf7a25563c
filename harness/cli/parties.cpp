#include "harness/cli/parties.h"

namespace qdiff::cli {

RunParties::RunParties(const WeightSource& model, EngineKind backend, const EngineSettings& settings,
                       reference::Where where)
    : model_(model), candidate_(make_engine(backend, model, settings)) {
  const reference::Options options{.num_threads = settings.threads.value_or(0), .where = where};
  reference_ = reference::make_engine(model, gold_precision(candidate_->precision().weights), options);
  oracle_ = reference::make_oracle(model, options);
}

}  // namespace qdiff::cli
