#include <qdiff/googletest.h>

#include "expected_rms_norm.h"

using namespace qdiff::matcher;

TEST(RmsNorm, IsComputedByTheKernel) {
  const std::vector<float> x = example_input(), y = rms_norm_kernel(x);
  EXPECT_THAT(stored(y), explained_by_rounding(expected_rms_norm(x)));
}
