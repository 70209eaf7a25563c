#define CATCH_CONFIG_MAIN  // for Catch2 2; Catch2 3 has a library for it
#include <qdiff/catch2.h>

#include "expected_rms_norm.h"

using namespace qdiff::matcher;

TEST_CASE("the kernel computes an RMSNorm") {
  const std::vector<float> x = example_input(), y = rms_norm_kernel(x);
  CHECK_THAT(stored(y), explained_by_rounding(expected_rms_norm(x)));
}
