// Which part of a plan this machine does: shard i of n, as one says it or as a scheduler says it in the environment.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string>

namespace qdiff::shards {

struct Shard {
  std::size_t index = 0;  // from 0
  std::size_t count = 1;
  std::string source = {};  // where it was read: "--shard", "SLURM_ARRAY_TASK_ID"

  bool is_whole() const { return count == 1; }
};
std::string to_string(const Shard& shard);  // "3/8": counted from 1

inline constexpr std::size_t kMostShards = 1'000'000;

// "3/8": the third of eight. Throws InputError, naming the option.
Shard parse_shard(const std::string& option, const std::string& text);

// The value of a variable of the environment; nullptr where it is not set.
using Environment = std::function<const char*(const char* name)>;

// What the scheduler says; none where it says nothing, or that there is one machine. Throws InputError where what it
// says is half of an answer, or none that can be: an array of Slurm that is only a part of one, a completion index
// without QDIFF_SHARDS. Bazel's TEST_SHARD_STATUS_FILE is made, which tells it that its shards are honoured.
std::optional<Shard> shard_of_environment(const Environment& environment);

}  // namespace qdiff::shards
