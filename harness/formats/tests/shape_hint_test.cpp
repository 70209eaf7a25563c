#include "harness/formats/shape_hint.h"

#include "cmake/catch2.h"

using namespace qdiff::formats;

TEST_CASE("a shape in another order is transposed, one of another rank wants a view") {
  CHECK_THAT(shape_hint({896, 151936}, {151936, 896}), ContainsSubstring("written transposed"));
  CHECK_THAT(shape_hint({1, 14, 5, 64}, {1, 5, 14, 64}), ContainsSubstring("written transposed"));
  CHECK_THAT(shape_hint({5, 896}, {1, 5, 896}), ContainsSubstring("view it in that shape"));
  CHECK_THAT(shape_hint({1, 5, 896}, {1, 5, 14, 64}), ContainsSubstring("view it in that shape"));
  CHECK(shape_hint({1, 4, 896}, {1, 5, 896}).empty());
  CHECK(shape_hint({2, 2, 9}, {1, 4, 9}).empty());  // of one rank, and no other order
  CHECK(shape_hint({896, 5}, {0, 896}).empty());
}
