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

template <typename Io>
void fields(Io& io, diagnose::Detectability& value) {
  io("cases_that_show", value.cases_that_show);
  io("tried", value.tried);
  io("not_evaluable", value.not_evaluable);
}

template <typename Io>
void fields(Io& io, pattern::Pattern::AxisFacts& value) {
  io("axis", value.axis);
  io("wrong", value.wrong);
  io("size", value.size);
  io("all", value.all);
}

template <typename Io>
void fields(Io& io, pattern::Pattern& value) {
  io("text", value.text);
  io("axes", value.axes);
  io("ratio", value.ratio);
  io("grouped_ratio", value.grouped_ratio);
  io("offset", value.offset);
  io("rounded_to", value.rounded_to);
  io("power_of_position", value.power_of_position);
  io("hypothesis", value.hypothesis);
  io("evidence", value.evidence);
  io("share_wrong", value.share_wrong);
}

// The archive's statistics are those that reports show; here the next step of the diagnosis wants all.
template <typename Io>
void fields(Io& io, diagnose::PartAnswer::Row& value) {
  io("judgement", value.judgement);
  io("normalised", value.judgement.statistics.normalised);
  io("pattern", value.pattern);
  io("profile", value.profile);
}

template <typename Io>
void fields(Io& io, diagnose::PartAnswer& value) {
  io("rows", value.rows);
  io("after", value.after);
}

template <typename Io>
void fields(Io& io, reference_cache::KeptPart& value) {
  io("values", value.values);
  io("reads", value.reads);
  io("answer", value.answer);
}

}  // namespace qdiff::shards
