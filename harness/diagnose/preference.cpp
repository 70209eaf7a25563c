#include "harness/diagnose/preference.h"

#include <algorithm>

#include "harness/diagnose/variants.h"

namespace qdiff::diagnose {

Preference::Preference(const std::vector<WrongTensor>& wrong, const std::vector<VariantFacts>& catalogue)
    : catalogue_(catalogue) {
  for (std::size_t i = 0; i < wrong.size(); ++i) {
    for (const Fit& fit : wrong[i].fits) (fit.variant ? explained_[fit.variant->id] : rounded_).insert(i);
  }
}

std::vector<Variant> Preference::order(const WrongTensor& tensor) const {
  std::vector<const Fit*> left;
  for (const Fit& fit : tensor.fits) {
    if (fit.variant && !dominated(*fit.variant, tensor) && !declarable(fit)) left.push_back(&fit);
  }
  std::ranges::stable_sort(left, {}, [&](const Fit* fit) { return rank(*fit); });
  std::vector<Variant> variants;
  for (const Fit* fit : left) {
    if (std::ranges::find(variants, *fit->variant) == variants.end()) variants.push_back(*fit->variant);
  }
  return variants;
}

const Fit* Preference::rounding(const WrongTensor& tensor) const {
  const bool bug_says_more =
      std::ranges::any_of(tensor.fits, [&](const Fit& fit) { return only_rounds(fit) && !declarable(fit); });
  const auto found = std::ranges::find_if(
      tensor.fits, [&](const Fit& fit) { return !fit.points.empty() && (fit.variant || !bug_says_more); });
  return found == tensor.fits.end() ? nullptr : &*found;
}

bool Preference::only_rounds(const Fit& fit) const {
  const VariantFacts* facts = fit.variant ? find_variant(catalogue_, fit.variant->id) : nullptr;
  return facts != nullptr && facts->only_rounds;
}

// All that the variant explains, roundings that can be declared do too.
bool Preference::declarable(const Fit& fit) const {
  return only_rounds(fit) && std::ranges::includes(rounded_, explained_.at(fit.variant->id));
}

bool Preference::dominated(const Variant& variant, const WrongTensor& tensor) const {
  const std::set<std::size_t>& own = explained_.at(variant.id);
  return std::ranges::any_of(tensor.fits, [&](const Fit& other) {
    if (!other.variant || other.variant->id == variant.id) return false;
    const std::set<std::size_t>& more = explained_.at(other.variant->id);
    return more.size() > own.size() && std::ranges::includes(more, own);
  });
}

std::tuple<std::string_view, std::size_t, bool, std::ptrdiff_t> Preference::rank(const Fit& fit) const {
  const std::string_view hypothesis = hypothesis_of(fit.variant->id);
  const VariantFacts* facts = find_variant(catalogue_, fit.variant->id);
  const std::size_t rows = facts == nullptr ? 0 : facts->ops.size();
  const std::ptrdiff_t place = facts == nullptr ? 0 : facts - catalogue_.data();
  return {hypothesis.empty() ? "X" : hypothesis, rows, fit.fitted, place};  // ties of hypotheses: the first by id
}

}  // namespace qdiff::diagnose
