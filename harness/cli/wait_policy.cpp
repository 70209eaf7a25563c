// LibTorch's threads wait for work by spinning. On a machine that anybody else uses too, those spinning threads take
// the time of the ones that compute: a run over the 0.5B shapes beside other builds took five times as long with it.
// The OpenMP runtime reads its wait policy once, when it is loaded, and has no call to change it; so a program that
// wants another policy must be started with it. This restarts qdiff once with OMP_WAIT_POLICY=passive, before any
// library has initialised (System V ABI, "Initialization and Termination Functions": DT_PREINIT_ARRAY). A policy that
// the caller chose stands.
#include <unistd.h>

#include <cstddef>
#include <cstring>

namespace {

constexpr const char* kVariable = "OMP_WAIT_POLICY=";
constexpr std::size_t kMostVariables = 4096;

void restart_with_passive_waiting(int, char** argv, char** environment) {
  static char passive[] = "OMP_WAIT_POLICY=passive";
  static char* with_policy[kMostVariables + 2];
  std::size_t count = 0;
  for (; environment[count] != nullptr; ++count) {
    if (count == kMostVariables || std::strncmp(environment[count], kVariable, std::strlen(kVariable)) == 0) return;
    with_policy[count] = environment[count];
  }
  with_policy[count] = passive;
  // Returns only if it failed (no /proc): then threads spin, and nothing else differs.
  execve("/proc/self/exe", argv, with_policy);
}

__attribute__((section(".preinit_array"), used)) void (*const kRestart)(int, char**,
                                                                        char**) = restart_with_passive_waiting;

}  // namespace
