#include "harness/shards/shard.h"

#include <array>
#include <string_view>

#include "harness/contract/error.h"
#include "harness/contract/number_text.h"
#include "harness/formats/atomic_file.h"
#include "harness/formats/suggest.h"

namespace qdiff::shards {
namespace {

std::optional<std::size_t> parse_number(std::string_view text) {
  const auto number = number_in<std::size_t>(text);
  return number && *number <= kMostShards ? number : std::nullopt;
}

// A scheduler that numbers its machines and says how many there are.
struct Scheduler {
  const char* index;
  const char* count;
  std::size_t first;  // number
};

// Slurm numbers as the user says, and stands apart.
constexpr std::array<Scheduler, 4> kSchedulers = {{
    {"JOB_COMPLETION_INDEX", "QDIFF_SHARDS", 0},                    // an Indexed Job of Kubernetes
    {"CI_NODE_INDEX", "CI_NODE_TOTAL", 1},                          // GitLab, `parallel:`
    {"BUILDKITE_PARALLEL_JOB", "BUILDKITE_PARALLEL_JOB_COUNT", 0},  // Buildkite, `parallelism:`
    {"TEST_SHARD_INDEX", "TEST_TOTAL_SHARDS", 0},                   // Bazel, `shard_count`
}};

class Reader {
 public:
  explicit Reader(const Environment& environment) : environment_(environment) {}

  bool has(const char* name) const { return environment_(name) != nullptr; }
  // Throws where the variable is absent or holds no number; `beside` is the one that made it needed.
  std::size_t number(const char* name, const char* beside) const {
    const char* text = environment_(name);
    if (text == nullptr) {
      throw InputError(std::string(beside) + " is set, but " + name +
                       " is not, so that the number of shards is not known; set it, or give --shard I/N (--shard 1/1: "
                       "all of it)");
    }
    const auto value = parse_number(text);
    if (!value) {
      throw InputError(std::string(name) + " is '" + formats::printable(text) +
                       "' in the environment, but must be a whole number; give --shard I/N");
    }
    return *value;
  }
  std::size_t number_or(const char* name, std::size_t otherwise) const {
    return has(name) ? number(name, name) : otherwise;
  }

 private:
  const Environment& environment_;
};

Shard checked(std::size_t number, std::size_t first, std::size_t count, const char* source) {
  if (count >= 1 && number >= first && number - first < count) return {number - first, count, source};
  throw InputError(std::string(source) + " is " + std::to_string(number) + " of " + std::to_string(count) +
                   ", counted from " + std::to_string(first) + ", which is no shard; give --shard I/N");
}

// An array may begin anywhere and go in steps. A part of one, run anew, has its own count and cannot be told from a
// whole one unless it begins elsewhere.
Shard shard_of_slurm(const Reader& read) {
  constexpr const char* kId = "SLURM_ARRAY_TASK_ID";
  const std::size_t id = read.number(kId, kId);
  const std::size_t count = read.number("SLURM_ARRAY_TASK_COUNT", kId);
  const std::size_t first = read.number_or("SLURM_ARRAY_TASK_MIN", 0);
  const std::size_t last = read.number_or("SLURM_ARRAY_TASK_MAX", first + count - 1);
  const std::size_t step = read.number_or("SLURM_ARRAY_TASK_STEP", 1);
  const bool is_regular = first <= 1 && step >= 1 && last >= first && (last - first) / step + 1 == count;
  if (!is_regular || id < first || (id - first) % step != 0) {
    throw InputError(
        "the Slurm array is no whole one from 0 or 1 on, so that its task numbers do not say which shard this is; "
        "give --shard I/N with the N of the whole array");
  }
  return checked((id - first) / step, 0, count, kId);
}

}  // namespace

std::string to_string(const Shard& shard) {
  return std::to_string(shard.index + 1) + '/' + std::to_string(shard.count);
}

Shard parse_shard(const std::string& option, const std::string& text) {
  const std::size_t slash = text.find('/');
  if (slash != std::string::npos) {
    const auto index = parse_number(std::string_view(text).substr(0, slash));
    const auto count = parse_number(std::string_view(text).substr(slash + 1));
    if (index && count && *index >= 1 && *index <= *count) return {*index - 1, *count, option};
  }
  throw InputError(option + " '" + formats::printable(text) +
                   "': must be I/N with I from 1 to N, as 3/8 for the third of eight machines");
}

std::optional<Shard> shard_of_environment(const Environment& environment) {
  const Reader read(environment);
  std::optional<Shard> shard;
  if (read.has("SLURM_ARRAY_TASK_ID")) shard = shard_of_slurm(read);
  for (const Scheduler& scheduler : kSchedulers) {
    if (shard || !read.has(scheduler.index)) continue;
    shard = checked(read.number(scheduler.index, scheduler.index), scheduler.first,
                    read.number(scheduler.count, scheduler.index), scheduler.index);
    const char* status_file = environment("TEST_SHARD_STATUS_FILE");
    if (status_file != nullptr && std::string_view(scheduler.index) == "TEST_SHARD_INDEX") {
      formats::write_file(status_file, "");
    }
  }
  if (shard && shard->is_whole()) return std::nullopt;
  return shard;
}

}  // namespace qdiff::shards
