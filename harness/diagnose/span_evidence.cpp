#include "harness/diagnose/span_evidence.h"

#include <algorithm>

namespace qdiff::diagnose {
namespace {

bool is_long(const WrongTensor& tensor) { return !compare::is_usual_fusion(tensor.span); }

// Another wrong tensor, which nothing explains, of an operation that this one's span holds; one whose operation was
// seen alone rather than another span.
const WrongTensor* unexplained_within(const WrongTensor& tensor, const std::vector<WrongTensor>& wrong) {
  const WrongTensor* found = nullptr;
  for (const WrongTensor& other : wrong) {
    if (&other == &tensor || other.overwritten || !other.fits.empty()) continue;
    const bool within = std::any_of(tensor.span.begin(), tensor.span.end(),
                                    [&](const TensorKey& key) { return key.id.op == other.key.id.op; });
    if (within && (found == nullptr || (is_long(*found) && !is_long(other)))) found = &other;
  }
  return found;
}

bool fits_one_operation(const Fit& fit, const std::vector<WrongTensor>& wrong) {
  return std::any_of(wrong.begin(), wrong.end(), [&](const WrongTensor& other) {
    return !is_long(other) && std::find(other.fits.begin(), other.fits.end(), fit) != other.fits.end();
  });
}

}  // namespace

void weigh_span_evidence(std::vector<WrongTensor>& wrong) {
  const std::vector<WrongTensor> found = wrong;  // what one tensor loses is still what another is held against
  for (std::size_t i = 0; i < wrong.size(); ++i) {
    if (!is_long(wrong[i])) continue;
    const WrongTensor* unexplained = unexplained_within(found[i], found);
    auto searched = [&](const Fit& fit) { return fit.fitted && !fits_one_operation(fit, found); };
    if (unexplained != nullptr) {
      std::erase_if(wrong[i].fits, [&](const Fit& fit) {
        return fit.variant && (is_long(*unexplained) ? searched(fit) : !fits_one_operation(fit, found));
      });
    }
    for (Fit& fit : wrong[i].fits) {
      if (!fit.variant) continue;
      if (unexplained != nullptr) {
        fit.doubt = "the span holds an operation that is wrong elsewhere, in " + tensor_name(unexplained->key.id) +
                    ", where nothing explains it";
      } else if (searched(fit)) {
        fit.doubt = kSearchedOverSpan;
      }
    }
  }
}

}  // namespace qdiff::diagnose
