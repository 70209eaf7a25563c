#include "harness/formats/duration.h"

#include "cmake/catch2.h"

using qdiff::formats::duration_text;

TEST_CASE("durations are written as people write them") {
  CHECK(duration_text(0.0) == "0 s");
  CHECK(duration_text(0.5432) == "0.54 s");
  CHECK(duration_text(3.21) == "3.2 s");
  CHECK(duration_text(9.96) == "10 s");
  CHECK(duration_text(59.4) == "59 s");
  CHECK(duration_text(59.7) == "1 min 00 s");
  CHECK(duration_text(201.2) == "3 min 21 s");
  CHECK(duration_text(3599.6) == "1 h 00 min");
  CHECK(duration_text(7500.0) == "2 h 05 min");
  CHECK(duration_text(360000.0) == "100 h 00 min");
}
