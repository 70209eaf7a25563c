// What `explain` says of every mistake that the tests plant, whole: words, parameters, scope, bits and evidence. It
// stands in expected_theories.json by test and by planted mistake, so that a change of any word or bit shows in a diff.
// A test looks at what matters to it; this looks at the rest.
#pragma once

#include <optional>

#include "harness/explain/theory.h"

namespace qdiff::explain {

// Fails the running test where the file says another thing of its next mistake, or nothing. With QDIFF_WRITE_THEORIES=1
// in the environment the file is written instead.
void check_said(const std::optional<Theory>& theory);

}  // namespace qdiff::explain
