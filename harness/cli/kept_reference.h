// The reference of a command, behind the cache that the command line or the environment names.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "harness/contract/engine.h"
#include "harness/contract/oracle.h"
#include "harness/contract/weights.h"
#include "harness/findings/reference_values.h"
#include "harness/reference_cache/cache.h"
#include "harness/reference_cache/store.h"
#include "reference/reference.h"

namespace qdiff::cli {

struct CommonArguments;

class KeptReference {
 public:
  // None where neither --reference-cache nor QDIFF_REFERENCE_CACHE names a folder. Throws InputError where it cannot be
  // made.
  explicit KeptReference(const CommonArguments& common);
  KeptReference() = default;  // nothing is kept
  // What was computed and what was read by all parties made here; none where no cache is used.
  std::optional<findings::ReferenceValues> values() const;

  // With what it keeps of parts that were judged, or null.
  struct WithParts {
    std::unique_ptr<Oracle> oracle;
    diagnose::KeptParts* parts = nullptr;
  };
  WithParts make_oracle(const WeightSource& model, const reference::Options& options);
  std::unique_ptr<Engine> make_engine(const WeightSource& model, const Precision& precision,
                                      const reference::Options& options);

 private:
  reference_cache::Cache cache_of(const WeightSource& model);

  std::optional<reference_cache::Store> store_;
  findings::ReferenceValues values_;
  const WeightSource* model_ = nullptr;  // of which `hash_` is
  std::string hash_;
};

}  // namespace qdiff::cli
