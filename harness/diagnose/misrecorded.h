// Tensors of a trace that the recorder got wrong: copied after something else was written into their buffer, or from
// another buffer. The engine computed with the right value, and nothing else is known of it.
//
// What decides is whether later tensors follow from the right value. An engine that really overwrites a tensor goes on
// with what it has overwritten, and shows the damage in what it computes from it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "harness/contract/oracle.h"
#include "harness/diagnose/judging.h"
#include "harness/diagnose/subject.h"

namespace qdiff::diagnose {

// Recorded tensors without some of them.
class Without final : public TensorStore {
 public:
  Without(const TensorStore& all, const std::set<TensorKey>& left_out) : all_(all), left_out_(left_out) {}
  bool has(const TensorKey& key) const override { return all_.has(key) && !left_out_.contains(key); }
  TensorView get(const TensorKey& key) const override { return all_.get(key); }

 private:
  const TensorStore& all_;
  const std::set<TensorKey>& left_out_;
};

struct Misrecorded {
  TensorKey key;
  // "recorded too late or from the wrong buffer: it holds self_attn.q_rope of the same layer ...", or "recorded wrongly
  // in 1 element of 4352: ..."
  std::string holds;
};

// Those among the wrong tensors of the subject, the only one that was judged, in execution order. A tensor is one of
// them if a tensor computed from it is wrong as it stands, right without it (that is, from the recorded tensors before
// it), and would be seen to be wrong if it had been computed from it; and if none is right as it stands and wrong
// without it. Where no tensor says either, single elements of those computed from it are asked (elements_used.h), and
// then it is one of them if it is so in another step. Caches are none: what they hold is read by later steps, which may
// not be recorded. `done_with_views` is called when views of recorded tensors may end.
std::vector<Misrecorded> find_misrecorded(const Subject& subject, const Judged& judged, Oracle& oracle,
                                          const Precision& precision, const std::function<void()>& done_with_views);

}  // namespace qdiff::diagnose
