#include "reference/machine.h"

#include <ATen/Version.h>

#include "reference/torch.h"

namespace qdiff::reference {

std::string machine() { return at::show_config() + (device().is_cuda() ? "gpu" : "host"); }

}  // namespace qdiff::reference
