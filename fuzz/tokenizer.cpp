// A tokenizer.json, and a text that it encodes and decodes.
#include "harness/model/tokenizer.h"

#include "fuzz/reader.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  qdiff::fuzz::value_or_complaint([&] {
    auto vocabulary = qdiff::model::parse_tokenizer_json(qdiff::fuzz::text_of(data, size), "fuzz.json");
    if (!vocabulary) return;
    const qdiff::model::Tokenizer tokenizer(std::move(*vocabulary), "fuzz.json");
    tokenizer.decode(tokenizer.encode("It's 1234 <|end|> words,\n\n  and more."));
  });
  return 0;
}
