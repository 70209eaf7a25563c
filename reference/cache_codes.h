// How a cache in 8 bits keeps keys or values: as codes, handed out times a scale.
#pragma once

#include "harness/contract/precision.h"
#include "reference/torch.h"

namespace qdiff::reference {

struct CacheCodes {
  at::Tensor quotient;  // x / scale, of which a code is the nearest number of the type
  at::Tensor code;
  at::Tensor step;   // between neighbouring codes there
  at::Tensor scale;  // of each vector, of each head, or one; as float32 holds it
  bool exact;        // the quotient and the product need no rounding

  at::Tensor value() const { return code * scale; }
  // How far the codes of correct engines, multiplied out, lie from these: a few roundings of float32, and a whole step
  // where the quotient lies so near the middle between two codes that its own rounding decides. Some engines divide in
  // the type of the activations (SGLang's set_kv_buffer), others in float32.
  at::Tensor variance(DType divided_in) const;
};

// Of x, [..., K, d], as the cache of this name and of a precision with `cache` stores it.
CacheCodes cache_codes(const Precision& precision, const TensorId& cache, const at::Tensor& x);

}  // namespace qdiff::reference
