// A case's model as a checkpoint of a type.
#pragma once

#include <string>

#include "harness/contract/dtype.h"

namespace qdiff::selftest {

inline std::string spec_in(const std::string& model, DType dtype) {
  if (model.find(",dtype=") != std::string::npos) return model;
  return model + ",dtype=" + std::string(name(dtype));
}

}  // namespace qdiff::selftest
