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

template <typename Io>
void fields(Io& io, Fault& value) {
  io("id", value.id);
  io("value", value.value);
  io("layer", value.layer);
}

template <typename Io>
void fields(Io& io, TensorKey& value) {
  io("step", value.step);
  io("tensor", value.id);
}

}  // namespace qdiff

namespace qdiff::selftest {

template <typename Io>
void fields(Io& io, Shift& value) {
  io("deviations", value.deviations);
  io("first", value.first);
}

template <typename Io>
void fields(Io& io, Conclusion& value) {
  io("verdict", value.verdict);
  io("first", value.first);
  io("closest", value.closest);
}

template <typename Io>
void fields(Io& io, Trial& value) {
  io("planted_in", value.planted_in);
  io("dtype", value.dtype);
  io("fault", value.fault);
  io("site", value.site);
  io("ops", value.ops);
  io("right_value", value.right_value);
  io("cases", value.cases);
  io("shift", value.shift);
  io("conclusion", value.conclusion);
  io("failure", value.failure);
  io("note", value.note);
  io("tied", value.tied);
}

template <typename Io>
void fields(Io& io, HonestRun& value) {
  io("tensors", value.tensors);
  io("alarm", value.alarm);
}

template <typename Io>
void fields(Io& io, SmallestDose::OfRival& value) {
  io("found", value.found);
  io("alarms_on_right_code", value.alarms_on_right_code);
}

template <typename Io>
void fields(Io& io, SmallestDose& value) {
  io("parameter", value.parameter);
  io("unit", value.unit);
  io("tensor", value.tensor);
  io("dtype", value.dtype);
  io("largest_tried", value.largest_tried);
  io("found", value.found);
  io("rivals", value.rivals);
}

template <typename Io>
void fields(Io& io, NovelMistake& value) {
  io("mistake", value.mistake);
  io("first", value.first);
  io("deviations", value.deviations);
  io("found", value.found);
  io("exact", value.exact);
  io("said", value.said);
  io("same_mechanism", value.same_mechanism);
  io("same_effect", value.same_effect);
  io("hypothesis_refuted", value.hypothesis_refuted);
}

template <typename Io>
void fields(Io& io, NovelTrial& value) {
  io("seed", value.seed);
  io("dtype", value.dtype);
  io("model", value.model);
  io("verdict", value.verdict);
  io("mistakes", value.mistakes);
}

template <typename Io>
void fields(Io& io, SpoiledTrial& value) {
  io("seed", value.seed);
  io("dtype", value.dtype);
  io("what", value.what);
  io("verdict", value.verdict);
  io("explained_as", value.explained_as);
}

}  // namespace qdiff::selftest
