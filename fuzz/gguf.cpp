// A GGUF file's header, and what the model reader makes of its keys.
#include "harness/formats/gguf.h"

#include <span>

#include "fuzz/reader.h"
#include "harness/model/gguf_config.h"
#include "harness/model/gguf_keys.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  qdiff::fuzz::value_or_complaint([&] {
    const auto bytes = std::as_bytes(std::span(data, size));
    // The data need not be there: a header that asks for much of it is worth going on with.
    const qdiff::formats::GgufHeader header = qdiff::formats::parse_gguf(bytes, std::uint64_t{1} << 40, "fuzz.gguf");
    for (const qdiff::formats::GgufTensor& tensor : header.tensors) {
      if (tensor.begin < header.data_start || tensor.bytes > (std::uint64_t{1} << 40) - tensor.begin) std::abort();
    }
    const auto find = [&](const std::string& name) { return header.find_tensor(name); };
    const qdiff::model::GgufConfig parsed = qdiff::model::parse_gguf_config(header, find, "fuzz.gguf");
    qdiff::model::compare_keys(header, parsed.config);
  });
  qdiff::fuzz::value_or_complaint(
      [&] { qdiff::formats::parse_gguf(std::as_bytes(std::span(data, size)), size, "fuzz.gguf"); });
  return 0;
}
