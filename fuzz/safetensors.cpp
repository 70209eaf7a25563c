// A safetensors file's header.
#include "harness/formats/safetensors.h"

#include <span>

#include "fuzz/reader.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  qdiff::fuzz::value_or_complaint([&] {
    const auto header = qdiff::formats::parse_safetensors(std::as_bytes(std::span(data, size)), size, "fuzz");
    for (const qdiff::formats::SafetensorsEntry& entry : header.entries) {
      if (entry.begin > entry.end || entry.end > size - header.data_start) std::abort();
    }
  });
  return 0;
}
