// Random models and batches: shapes, chunks, paddings, profiles. The same from a seed on every machine.
#pragma once

#include <cstdint>
#include <memory>

#include "harness/contract/weights.h"
#include "harness/diagnose/run.h"
#include "harness/model/synthetic.h"

namespace qdiff::selftest {

enum class Variety : std::uint8_t {
  kUsual,
  kWide,  // also positions that start elsewhere, and every profile
};

struct RandomCase {
  // Its description() opens the same model again, where it comes from draw_random_case().
  std::unique_ptr<WeightSource> weights;
  model::Profile profile = model::Profile::kPlain;
  CaseInput input;  // a ragged batch in up to three prefill chunks and up to three decode steps
};

RandomCase draw_random_case(std::uint64_t seed, Variety variety = Variety::kUsual);
// A batch alone, for a model of these sizes.
CaseInput draw_random_input(std::uint64_t seed, const ModelConfig& config, Variety variety);

}  // namespace qdiff::selftest
