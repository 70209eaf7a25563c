// A config.json of a checkpoint.
#include "fuzz/reader.h"
#include "harness/formats/strict_json.h"
#include "harness/model/huggingface_config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  qdiff::fuzz::value_or_complaint([&] {
    const auto json = qdiff::formats::parse_json(qdiff::fuzz::text_of(data, size), "config.json");
    const auto parsed = qdiff::model::parse_huggingface_config(json, "config.json");
    parsed.config.validate();
  });
  return 0;
}
