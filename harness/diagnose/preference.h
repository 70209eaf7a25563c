// Which of the fits of a wrong tensor are its explanation.
#pragma once

#include <map>
#include <set>
#include <string_view>
#include <tuple>
#include <vector>

#include "harness/diagnose/subject.h"

namespace qdiff::diagnose {

// The simplest theory first: a variant that explains less than another does is no explanation of its own, and among
// equals those that change fewer rows, and that needed no fitted value, come first. Of a variant that only rounds and a
// rounding that can be declared, the first stands where it explains more.
class Preference {
 public:
  Preference(const std::vector<WrongTensor>& wrong, const std::vector<VariantFacts>& catalogue);

  std::vector<Variant> order(const WrongTensor& tensor) const;
  // Roundings that nobody declared, alone or beside a bug; null where there are none, or a variant says more.
  const Fit* rounding(const WrongTensor& tensor) const;

 private:
  bool only_rounds(const Fit& fit) const;
  bool declarable(const Fit& fit) const;
  bool dominated(const Variant& variant, const WrongTensor& tensor) const;
  std::tuple<std::string_view, std::size_t, bool, std::ptrdiff_t> rank(const Fit& fit) const;

  const std::vector<VariantFacts>& catalogue_;
  std::map<FaultId, std::set<std::size_t>> explained_;  // wrong tensors
  std::set<std::size_t> rounded_;                       // wrong tensors that roundings alone explain
};

}  // namespace qdiff::diagnose
