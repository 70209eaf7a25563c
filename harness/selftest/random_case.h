// Random models and batches for clean runs: shapes, chunks, paddings, profiles. The same from a seed on every machine.
#pragma once

#include <cstdint>
#include <memory>

#include "harness/contract/weights.h"
#include "harness/diagnose/run.h"
#include "harness/model/synthetic.h"

namespace qdiff::selftest {

struct RandomCase {
  std::unique_ptr<WeightSource> weights;
  model::Profile profile = model::Profile::kPlain;
  CaseInput input;  // a ragged batch in up to three prefill chunks and up to three decode steps
};

RandomCase draw_random_case(std::uint64_t seed);

}  // namespace qdiff::selftest
