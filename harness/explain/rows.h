// What the solvers share: which inputs a row reads, and expectations put together from others.
#pragma once

#include <string>
#include <vector>

#include "harness/explain/scene.h"
#include "harness/explain/theory.h"

namespace qdiff::explain {

// Bits of naming one mechanism out of fifteen.
inline constexpr double kMechanismBits = 4.0;
double bits_of_choice(std::size_t size);  // log2, at least 0
// Of a value as a person writes it, so many digits.
double bits_of_digits(int digits);

// Of an error of so many deviations, beside one that is right.
double bits_of_error(double deviations);

// Rows that hold all slots so far.
bool is_cache(Op op);

// The tensors that the row of `key` reads within the same step.
std::vector<TensorKey> input_keys(const TensorKey& key, const ModelConfig& config);
// The recorded tensors that the span of an instance starts from, within the same step.
std::vector<TensorKey> span_inputs(const Scene& scene, const Instance& instance);

// In deviations: what lies further from right code is wrong. Of an error that is uniform over a spacing none lies
// beyond 3.5.
inline constexpr double kBeyondRounding = 4.0;

// "self_attn.k_proj", with its layer where that is not `layer`.
std::string short_name(const TensorId& id, int layer);

// Rows of width `width` of several tensors, one after the other; what a row is of is kept by the caller.
struct SampledRow {
  const Instance* instance;
  std::int64_t row;
};
// At most `most` wrong rows, spread over the instances.
std::vector<SampledRow> sample_wrong_rows(Scene& scene, std::size_t most);

// The token id in a slot of the case's sequence. Throws std::out_of_range where no step has the slot.
std::int32_t token_at(const Instance& instance, std::int64_t batch, std::int64_t slot);
// The slot of the first position of a tensor whose rows stand for tokens, or for slots of a cache.
std::int64_t first_slot(const compare::Layout& layout, Op op, const Step& step);

// A theory of this mechanism, whose sentence is the operation's name and `says`. `bits`: beside naming the mechanism.
Candidate candidate_of(const Scene& scene, const std::string& mechanism, double bits, const std::string& says);

// An expectation of `right`'s shape without values.
Expectation blank(const Expectation& right);
// A value that replaces right code's, with its deviations: they scale with the magnitude, and the independent one is no
// smaller than `unit` of it.
void set_scaled(Expectation& expectation, std::size_t element, const Expectation& right, double value, double unit);

// Element `from` of another expectation, with its deviations.
void set_moved(Expectation& expectation, std::size_t element, const Expectation& other, std::size_t from);

// "0", "1", "2", "0.5" where the number lies so near to one that a person would have written it, else six digits.
std::string number_text(double value);

}  // namespace qdiff::explain
