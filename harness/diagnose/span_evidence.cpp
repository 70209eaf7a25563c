#include "harness/diagnose/span_evidence.h"

#include <algorithm>

namespace qdiff::diagnose {
namespace {

// Another wrong tensor, which nothing explains, of an operation that this one's span holds; one whose operation was
// seen alone rather than another span.
const WrongTensor* unexplained_within(const WrongTensor& tensor, const std::vector<WrongTensor>& wrong) {
  const WrongTensor* found = nullptr;
  for (const WrongTensor& other : wrong) {
    if (&other == &tensor || other.seen_by == SeenBy::kLaterWrite || other.seen_by == SeenBy::kRecorder) continue;
    if (!other.fits.empty() || other.theory) continue;
    const bool within =
        std::ranges::any_of(tensor.span, [&](const TensorKey& key) { return key.id.op == other.key.id.op; });
    if (within && (found == nullptr || (found->is_long() && !other.is_long()))) found = &other;
  }
  return found;
}

bool fits_one_operation(const Fit& fit, const std::vector<WrongTensor>& wrong) {
  return std::ranges::any_of(wrong, [&](const WrongTensor& other) {
    return !other.is_long() && std::ranges::find(other.fits, fit) != other.fits.end();
  });
}

// Whether the fit reproduces a number anywhere, or that a single operation has none.
bool fits_more_than_no_number(const Fit& fit, const std::vector<WrongTensor>& wrong) {
  return std::ranges::any_of(wrong, [&](const WrongTensor& other) {
    return !(other.is_long() && other.pattern.holds_no_number) &&
           std::ranges::find(other.fits, fit) != other.fits.end();
  });
}

}  // namespace

void weigh_span_evidence(std::vector<WrongTensor>& wrong) {
  const std::vector<WrongTensor> found = wrong;  // what one tensor loses is still what another is held against
  for (std::size_t i = 0; i < wrong.size(); ++i) {
    if (!wrong[i].is_long()) continue;
    const WrongTensor* unexplained = unexplained_within(found[i], found);
    auto searched = [&](const Fit& fit) { return fit.fitted && !fits_one_operation(fit, found); };
    if (unexplained != nullptr) {
      std::erase_if(wrong[i].fits, [&](const Fit& fit) {
        return fit.variant && (unexplained->is_long() ? searched(fit) : !fits_one_operation(fit, found));
      });
    }
    for (Fit& fit : wrong[i].fits) {
      if (!fit.variant) continue;
      if (unexplained != nullptr) {
        fit.doubt = "the span holds an operation that is wrong elsewhere, in " + tensor_name(unexplained->key.id) +
                    ", where nothing explains it";
      } else if (searched(fit)) {
        fit.doubt = kSearchedOverSpan;
      } else if (!fits_more_than_no_number(fit, found)) {
        fit.doubt = kNoNumberInSpan;
      }
    }
  }
}

}  // namespace qdiff::diagnose
