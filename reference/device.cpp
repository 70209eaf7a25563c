// LibTorch on a GPU. The program links the host's half of LibTorch alone, so that it starts on every machine; the other
// half registers its operations with the dispatcher when it is loaded, and tensors can then live on the device.
#include <c10/core/CachingDeviceAllocator.h>
#include <dlfcn.h>
#include <malloc.h>

#include <atomic>
#include <filesystem>

#include "harness/contract/error.h"
#include "reference/memory.h"
#include "reference/torch.h"

namespace qdiff::reference {
namespace {

std::atomic<bool> on_gpu = false;

// Loading the library costs seconds and half a gigabyte, so the driver is asked first.
std::string what_the_driver_lacks() {
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (driver == nullptr) return "no CUDA driver (libcuda.so.1)";
  const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
  const auto count = reinterpret_cast<int (*)(int*)>(dlsym(driver, "cuDeviceGetCount"));
  int devices = 0;
  if (init == nullptr || count == nullptr || init(0) != 0 || count(&devices) != 0 || devices == 0) {
    return "no CUDA device";
  }
  return "";
}

std::string load_cuda_library() {
  if (std::string lacks = what_the_driver_lacks(); !lacks.empty()) return lacks;
  Dl_info host_library{};
  if (dladdr(reinterpret_cast<const void*>(&at::get_num_threads), &host_library) == 0) return "LibTorch is not found";
  const auto library = std::filesystem::path(host_library.dli_fname).parent_path() / "libtorch_cuda.so";
  if (!std::filesystem::exists(library)) return "LibTorch without its CUDA library, " + library.string();
  // Its operations register themselves while it is loaded; it stays for good.
  if (dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr)
    return std::string("LibTorch's CUDA library: ") + dlerror();
  try {
    at::ones({1}, at::dtype(at::kDouble).device(at::kCUDA)).item<double>();
  } catch (const std::exception& error) {
    const std::string what = error.what();
    return "LibTorch's CUDA library: " + what.substr(0, what.find('\n'));
  }
  return "";
}

const std::string& what_is_missing() {
  static const std::string kMissing = load_cuda_library();
  return kMissing;
}

bool goes_to_gpu(Where where, const ModelConfig& config) {
  return where == Where::kGpu || (where == Where::kBySize && is_large(config) && gpu_available());
}

}  // namespace

bool gpu_available(std::string* why_not) {
  if (why_not != nullptr) *why_not = what_is_missing();
  return what_is_missing().empty();
}

at::Device device() { return on_gpu ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU); }

void use_device(Where where, const ModelConfig& config) {
  if (where == Where::kGpu && !gpu_available()) {
    throw CannotJudgeError("the reference cannot compute on a GPU here: " + what_is_missing());
  }
  on_gpu = goes_to_gpu(where, config);
}

std::int64_t device_bytes(Where where, const ModelConfig& config) {
  return goes_to_gpu(where, config) ? static_cast<std::int64_t>(kLeftOnDevice) : 0;
}

void release_unused_memory(std::int64_t bytes) {
  if (on_gpu) at::getDeviceAllocator(at::kCUDA)->emptyCache();
  constexpr std::int64_t kWorthIt = 4 << 20;
  if (bytes >= kWorthIt) malloc_trim(0);
}

}  // namespace qdiff::reference
