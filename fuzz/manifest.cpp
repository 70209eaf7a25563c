// A trace's manifest.json, which is written again as it was read.
#include "harness/trace/manifest.h"

#include "fuzz/reader.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  qdiff::fuzz::value_or_complaint([&] {
    const auto manifest = qdiff::trace::parse_manifest(qdiff::fuzz::text_of(data, size), "fuzz.json");
    const std::string written = qdiff::trace::to_json(manifest);
    if (qdiff::trace::to_json(qdiff::trace::parse_manifest(written, "written")) != written) std::abort();
  });
  return 0;
}
