// A case: which tokens enter the model, in which steps, with how much padding and cache, and what that stresses.
//
// Cases are data (cases/*.json; cases/case.schema.json describes the format) and name no model's vocabulary: token
// ids come from the seed, so that every case runs on every model.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "harness/contract/config.h"
#include "harness/contract/step.h"

namespace qdiff::cases {

// What a case may ask for. The schema states the same numbers.
inline constexpr std::int64_t kMaxBatch = 1024;
inline constexpr std::int64_t kMaxSteps = 4096;
inline constexpr std::int64_t kMaxLength = std::int64_t{1} << 20;    // slots of one row over all steps, pads included
inline constexpr std::int64_t kMaxTokens = std::int64_t{1} << 22;    // batch times length
inline constexpr std::int64_t kMaxCapacity = std::int64_t{1} << 21;  // cache slots of one row
inline constexpr std::int64_t kMaxTokenId = (std::int64_t{1} << 31) - 1;
inline constexpr std::int64_t kMaxSeed = (std::int64_t{1} << 53) - 1;  // exact in every JSON reader
inline constexpr std::int64_t kMaxLayers = 1024;
inline constexpr std::size_t kMaxTextLength = 400;  // characters of title, stresses and model

// Generated tokens of which some come from the end of the vocabulary, where checkpoints keep special and never
// trained tokens: their embedding rows have tiny norms, which is where a wrong RMSNorm epsilon shows.
struct SpecialTokens {
  std::int64_t every = 0;     // slot s of row b holds one where s + b + 1 is a multiple of `every`
  std::int64_t last_ids = 0;  // drawn from that many ids at the end; the other tokens then avoid these ids
  bool operator==(const SpecialTokens&) const = default;
};

struct CaseStep {
  Phase phase = Phase::kPrefill;
  std::int64_t num_tokens = 0;                       // T of this step
  std::vector<std::vector<std::int32_t>> tokens;     // [B][T] explicit ids; empty: generated from the seed
  std::vector<std::vector<std::int64_t>> positions;  // [B][T] explicit positions; empty: the usual ones
  bool operator==(const CaseStep&) const = default;
};

struct Case {
  std::string argument;  // names the case on a command line: the file's path, or "cases/ID.json" of an embedded one
  std::string id;        // "H05-gqa"
  std::string title;
  std::optional<std::string> hypothesis;   // "H05"; none for end-to-end cases
  std::string stresses;                    // one sentence: what these inputs make visible
  std::string model;                       // default model, "synthetic:…"; empty: one has to be named
  std::vector<int> layers;                 // of that model, ascending: they alone are the one that runs; empty: all
  std::int64_t batch = 0;                  // B
  std::vector<std::int64_t> left_padding;  // [B]
  std::int64_t capacity = 0;               // cache slots of each row, at least length()
  std::uint64_t seed = 0;
  std::optional<SpecialTokens> special_tokens;
  std::vector<CaseStep> steps;

  std::int64_t length() const;  // slots of one row over all steps, pads included
  bool operator==(const Case&) const = default;
};

// All of these throw qdiff::InputError that names the source, the field, its value and what it must be.

// `source` stands in errors and becomes Case::argument.
Case parse_case(std::string_view text, const std::string& source);

// The case as parse_case() reads it back; `argument` is no part of it.
std::string to_json(const Case& test_case);

// A file's path; else an embedded case by its id, "H05-gqa", or by its path in the tree, "cases/H05-gqa.json".
Case load_case(const std::string& path_or_id);

// The cases of the tree's folder cases/, hypotheses first, then end-to-end; they need no file at run time.
std::vector<Case> embedded_suite();

// The steps of the case for a model: validate_steps() holds. Explicit token ids and all positions must fit the model.
std::vector<Step> make_steps(const Case& test_case, const ModelConfig& config);
CaseInput input_of(const Case& test_case, const ModelConfig& config);

}  // namespace qdiff::cases
