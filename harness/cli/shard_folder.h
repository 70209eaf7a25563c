// The folder in which a shard of a plan is done: the plan, and what its units made.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "harness/shards/journal.h"
#include "harness/shards/plan.h"

namespace qdiff::cli {

// The shard as it is given, else as the scheduler says; none where neither does.
std::optional<shards::Shard> shard_asked(const std::optional<shards::Shard>& given);

class ShardFolder {
 public:
  // `mine` are the shard's units. Without `resume` results of earlier runs are removed; with it those that are there
  // must be of `mine`. Says which shard this is, unless `quiet`. Throws InputError for a foreign result, by its name,
  // and CannotJudgeError where the shard has no unit, when the plan is written all the same.
  ShardFolder(const shards::Plan& plan, std::vector<std::size_t> mine, const shards::Shard& shard,
              const std::string& out, bool resume, bool quiet);

  // What an earlier run has left of unit i. Throws InputError, naming the file, where it is damaged or foreign.
  std::optional<shards::UnitResult> find(std::size_t i) const;
  // Whether it has left something, which is not read.
  bool has(std::size_t i) const;
  void keep(const shards::UnitResult& result) const { journal_.write(result); }
  std::string file_of(std::size_t i) const;  // for messages

 private:
  void refuse_others() const;

  const shards::Plan& plan_;
  std::vector<std::size_t> mine_;
  shards::Journal journal_;
};

// Writes durations.json.
void write_durations(const shards::Durations& durations, const std::string& out);

}  // namespace qdiff::cli
