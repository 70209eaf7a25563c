// Tensors that lie many layers behind the last recorded one, such as logits alone: replay has nothing to start from, so
// whole forward passes are held against them, one with each bug of the catalogue planted, all fed with the same tokens.
//
// The yardstick is rounding itself: the reference that rounds as the candidate declares, beside gold. Right code that
// comes no nearer than a few times that is no explanation; a bug that does is one.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "harness/contract/engine.h"
#include "harness/contract/oracle.h"
#include "harness/diagnose/judging.h"
#include "harness/findings/result.h"

namespace qdiff::diagnose {

// The reference as an engine of this precision, which computes with every bug of the catalogue that is planted in it.
using ReferenceMaker = std::function<std::unique_ptr<Engine>(const Precision& precision)>;

inline constexpr std::size_t kPassesAtOnce = 48;  // whose caches are in memory together

struct FreeRankingQuery {
  const TensorStore& trace;
  const Subject& subject;              // its case
  const std::set<TensorKey>& targets;  // recorded, and to be compared
  const Precision& precision;          // declared
  const ModelConfig& config;
  const std::vector<VariantFacts>& catalogue;
  const ReferenceMaker& make_reference;
  const ProgressReport& progress;
  bool probing = true;  // plant every bug even where right code explains the targets
};

// Adds to `judged`: the targets that are wrong, with the variants that reproduce all of them, and which variants these
// tokens would have shown. None where right code overflows before every target.
std::optional<findings::FreeRanking> rank_free_runs(const FreeRankingQuery& query, Judged& judged);

// What the ranking says of each hypothesis whose variants lead it.
void add_evidence(const findings::FreeRanking& ranking, std::vector<findings::HypothesisResult>& hypotheses);

}  // namespace qdiff::diagnose
