// Tensors that lie many layers behind the last recorded one, such as logits alone: replay has nothing to start from, so
// whole forward passes are held against them (planting.h), and the bugs are ranked by how near theirs come.
#pragma once

#include <optional>
#include <vector>

#include "harness/diagnose/far/planting.h"
#include "harness/diagnose/judging.h"
#include "harness/findings/result.h"

namespace qdiff::diagnose {

// Adds to `judged`: the targets that are wrong, with the variants that reproduce all of them, and which variants these
// tokens would have shown. None where right code overflows before every target.
std::optional<findings::FreeRanking> rank_free_runs(const FreeRankingQuery& query, Judged& judged);

// What the ranking says of each hypothesis whose variants lead it.
void add_evidence(const findings::FreeRanking& ranking, std::vector<findings::HypothesisResult>& hypotheses);

}  // namespace qdiff::diagnose
