// How a C++ engine writes a trace with harness/trace/standalone/trace_writer.h (copy that): record_trace CONFIG.JSON
// TRACE of a model with hidden_size 32 and two key/value heads of 8. Here: g++ -std=c++17 -I ROOT_OF_QDIFF
// record_trace.cpp
#include <fstream>
#include <iostream>
#include <sstream>

#include "harness/trace/standalone/trace_writer.h"

int main(int argc, char** argv) {
  if (argc != 3) return std::cerr << "usage: record_trace CONFIG.JSON TRACE\n", 2;
  try {
    std::ostringstream config;
    config << std::ifstream(argv[1]).rdbuf();
    qdiff::TraceAbout about;
    about.engine_name = "example";
    about.config_json = config.str();
    about.points["attention.probs"] = "bfloat16";  // this engine casts P before P·V
    qdiff::TraceWriter trace(argv[2], about);

    trace.begin_step("prefill", {{3, 1, 4}});
    const std::vector<std::uint16_t> embeddings(3 * 32, 0x3F80);  // [B,T,D], as the engine holds it
    trace.tensor("model.embed_tokens", qdiff::TraceDType::kBFloat16, {1, 3, 32}, embeddings.data());

    trace.begin_step("decode", {{5}});
    // A paged cache of 2 tokens a page, [page][token][K*d], becomes the logical view [B,S,K,d]: token by token.
    const std::vector<std::uint16_t> pages(4 * 2 * 16, 0x3F00);
    const std::vector<std::size_t> block_table = {2, 0};
    trace.begin_tensor("model.layers.0.self_attn.k_cache", qdiff::TraceDType::kBFloat16, {1, 4, 2, 8});
    for (std::size_t slot = 0; slot < 4; ++slot) {
      trace.append(&pages[(block_table[slot / 2] * 2 + slot % 2) * 16], 16);
    }
    trace.commit();
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
