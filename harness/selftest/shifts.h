// What a fault would move: the reference in float64 with and without it, on the tensors that a clean engine recorded.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "harness/contract/oracle.h"
#include "harness/selftest/trial.h"

namespace qdiff::selftest {

// One clean recording, asked about many faults. All that it is given must outlive it.
class Shifts {
 public:
  struct Source {
    const TensorStore& recorded;
    const std::vector<Step>& steps;
    const Precision& precision;
    std::int64_t capacity = 0;
    double unwritten = 0.0;  // what memory holds that nobody wrote
  };
  Shifts(const Source& source, Oracle& oracle) : source_(source), oracle_(oracle) {}

  // What the fault moves if it sits in that layer alone (kNoLayer: outside the layers). The search stops at the first
  // tensor that is moved far enough.
  Shift of(const VariantFacts& facts, const Variant& variant, int layer);

  // The largest distance between what two faults compute in that layer, in the same deviations; over what both say
  // something of.
  double between(const VariantFacts& a, const Variant& variant_a, const VariantFacts& b, const Variant& variant_b,
                 int layer);

  // Whether the two compute the same in every tensor of that layer that either changes, to the last bit of float64.
  bool same(const VariantFacts& a, const Variant& variant_a, const VariantFacts& b, const Variant& variant_b,
            int layer);

  // The tensors, as they are recorded, whose value the fault changes: an engine that hands out no scores shows a wrong
  // one in what it hands out next.
  std::vector<Op> changed_ops(const VariantFacts& facts, int layer) const;

 private:
  // The recorded tensors of that layer that the fault, or either of two, changes, in execution order.
  std::vector<TensorKey> changed(const std::vector<Op>& ops, int layer) const;
  std::vector<TensorKey> changed(const VariantFacts& a, const VariantFacts& b, int layer) const;
  Query query(const std::vector<TensorKey>& span, const Precision& precision) const;
  const Expectation& gold(const TensorKey& key);
  // What is computed under the fault, and where nothing is then expected.
  struct Planted {
    std::vector<double> value;
    std::vector<std::uint8_t> unknown;
  };
  // None where the fault needs what was not recorded.
  std::optional<Planted> planted(const TensorKey& key, const VariantFacts& facts, const Variant& variant);
  double distance(const TensorKey& key, const Planted& a, const Planted& b);

  Source source_;
  Oracle& oracle_;
  std::map<TensorKey, Expectation> gold_;
};

}  // namespace qdiff::selftest
