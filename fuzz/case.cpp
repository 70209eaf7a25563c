// A case file, and its steps on a small model.
#include "harness/cases/case.h"

#include "fuzz/reader.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  qdiff::fuzz::value_or_complaint([&] {
    const qdiff::cases::Case parsed = qdiff::cases::parse_case(qdiff::fuzz::text_of(data, size), "fuzz.json");
    qdiff::ModelConfig config;
    config.vocab = 512;
    config.max_position_embeddings = 4096;
    if (parsed.batch * parsed.length() < 1 << 16) qdiff::cases::make_steps(parsed, config);
  });
  return 0;
}
