// What decides the last bits of the reference's values beside its sources, the model and the question.
#pragma once

#include <string>

namespace qdiff::reference {

// LibTorch and its libraries, which of the processor's instructions they use, and the device that the last oracle or
// engine was made for. Not the number of threads.
std::string machine();

}  // namespace qdiff::reference
