#include "harness/model/synthetic.h"

#include "cmake/catch2.h"
#include "harness/contract/error.h"
#include "harness/model/model.h"

using namespace qdiff;
using namespace qdiff::model;

TEST_CASE("synthetic: every name opens with the shape of its row") {
  for (const SyntheticShape& shape : kSyntheticShapes) {
    const auto source = open_model("synthetic:" + std::string(shape.name));
    CHECK(source->config().hidden == shape.hidden);
    CHECK(source->config().tie_word_embeddings == shape.tied);
    CHECK(source->weights().size() == static_cast<std::size_t>(12 * shape.num_layers + (shape.tied ? 2 : 3)));
  }
}
