// Reconciliations of imagined traces, one of each kind that `qdiff reconcile` must show.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "harness/findings/reconciliation.h"

namespace qdiff::report::tests {

findings::Reconciliation reconciled();  // two right engines
findings::Reconciliation parted();      // a bug in one of them, logits alone, a log-probability that is NaN

std::vector<std::pair<std::string, findings::Reconciliation>> all_reconciliations();  // with their names

}  // namespace qdiff::report::tests
