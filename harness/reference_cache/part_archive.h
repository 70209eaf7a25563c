// What judging a part gave, as text and back, exactly.
#pragma once

#include <cstdint>
#include <string>

#include "harness/diagnose/kept_parts.h"
#include "harness/shards/findings_archive.h"

namespace qdiff::reference_cache {

struct KeptPart {
  std::int64_t values = 0;  // how many the reference computed for it
  // Of tensors beside the inputs of the part's own rows that variants asked for, by query: QueryKey's lines.
  std::map<std::string, std::string> reads;
  diagnose::PartAnswer answer;
};

}  // namespace qdiff::reference_cache

namespace qdiff::shards {

QDIFF_ARCHIVED(diagnose::Detectability, cases_that_show, tried, not_evaluable)
QDIFF_ARCHIVED(pattern::Pattern::AxisFacts, axis, wrong, size, all)
QDIFF_ARCHIVED(pattern::Pattern, text, axes, ratio, grouped_ratio, offset, rounded_to, power_of_position, hypothesis,
               evidence, share_wrong, holds_no_number)

// The archive's statistics are those that reports show; here the next step of the diagnosis wants all.
template <typename Io>
void fields(Io& io, diagnose::PartAnswer::Row& value) {
  io("judgement", value.judgement);
  io("normalised", value.judgement.statistics.normalised);
  io("pattern", value.pattern);
  io("profile", value.profile);
}

QDIFF_ARCHIVED(diagnose::PartAnswer, rows, after)
QDIFF_ARCHIVED(reference_cache::KeptPart, values, reads, answer)

}  // namespace qdiff::shards
