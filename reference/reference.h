// The reference: the forward pass of Qwen2.5 as a reader would write it, on LibTorch. This header is all that the rest
// of the program sees of it; LibTorch stays behind.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "harness/contract/config.h"
#include "harness/contract/engine.h"
#include "harness/contract/mistake.h"
#include "harness/contract/oracle.h"
#include "harness/contract/precision.h"
#include "harness/contract/weights.h"

namespace qdiff::reference {

// Where the reference computes.
enum class Where : std::uint8_t {
  kHost,
  kGpu,
  kBySize,  // on a GPU where there is one that LibTorch can use, and the model is large enough to gain by it
};

// Both settings hold for the whole process.
struct Options {
  int num_threads = 0;  // of LibTorch; 0: by the size of the model
  Where where = Where::kHost;
};

// Whether LibTorch can use a GPU here: the first call loads its CUDA library, where there is a device and the library.
// If not and `why_not` is given, it says what is missing.
bool gpu_available(std::string* why_not = nullptr);

// What it may take of a GPU's memory, in bytes: 0 where it computes on the host.
std::int64_t device_bytes(Where where, const ModelConfig& config);

// Evaluates rows of the operation table in float64, with the rounding that a correct engine of the declared precision
// is expected to make. `weights` must outlive the oracle. Not thread-safe: one caller at a time.
//
// Every call throws qdiff::InputError where a recorded input is missing or has a shape that the step does not give it,
// and std::invalid_argument for a variant that the catalogue does not list.
std::unique_ptr<Oracle> make_oracle(const WeightSource& weights, const Options& options);

// The same operations as a candidate: in float64 throughout where `precision` says float64 (gold), else rounding at
// exactly the points that `precision` declares. Can plant every fault of the catalogue. `weights` must outlive it.
// It computes with `mistakes`; throws InputError where the model has no place for one of them.
std::unique_ptr<Engine> make_engine(const WeightSource& weights, const Precision& precision, const Options& options,
                                    const std::vector<Mistake>& mistakes = {});

// Throws InputError where a model of that config has no place for it.
void check_mistake(const Mistake& mistake, const ModelConfig& config);

}  // namespace qdiff::reference
