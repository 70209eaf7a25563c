// What the units of a selftest make, as text and back (harness/shards/archive.h).
#pragma once

#include "harness/selftest/doses.h"
#include "harness/selftest/honest.h"
#include "harness/selftest/novel.h"
#include "harness/selftest/spoiled.h"
#include "harness/selftest/trial.h"
#include "harness/shards/findings_archive.h"

namespace qdiff::shards {

template <>
inline constexpr int kNumEnumerators<selftest::Site> = static_cast<int>(selftest::Site::kAll) + 1;

}  // namespace qdiff::shards

namespace qdiff {

QDIFF_ARCHIVED(Fault, id, value, layer)
QDIFF_ARCHIVED(TensorKey, step, id)

}  // namespace qdiff

namespace qdiff::selftest {

QDIFF_ARCHIVED(Shift, deviations, first)
QDIFF_ARCHIVED(Conclusion, verdict, first, closest)
QDIFF_ARCHIVED(Trial, planted_in, dtype, fault, site, ops, right_value, cases, shift, conclusion, failure, note, tied)
QDIFF_ARCHIVED(HonestRun, tensors, alarm)
QDIFF_ARCHIVED(SmallestDose::OfRival, found, alarms_on_right_code)
QDIFF_ARCHIVED(SmallestDose, parameter, unit, tensor, dtype, largest_tried, found, rivals)
QDIFF_ARCHIVED(NovelMistake, mistake, first, deviations, found, exact, said, same_mechanism, same_effect,
               hypothesis_refuted)
QDIFF_ARCHIVED(NovelTrial, seed, dtype, model, verdict, mistakes)
QDIFF_ARCHIVED(SpoiledTrial, seed, dtype, what, verdict, explained_as)

}  // namespace qdiff::selftest
