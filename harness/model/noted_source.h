// A weight source that can say more about where its config came from.
#pragma once

#include <string>
#include <vector>

#include "harness/contract/weights.h"

namespace qdiff::model {

class NotedSource : public WeightSource {
 public:
  // Of what kind the model is and how it is stored: "Hugging Face directory, 2 shards".
  virtual const std::string& storage() const = 0;
  // One sentence each: defaults that were used because the file says nothing, tensors that were left aside.
  virtual const std::vector<std::string>& notes() const = 0;
};

}  // namespace qdiff::model
