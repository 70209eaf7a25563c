// The units of a selftest: which of them this machine does, and what each made. Results are counted when all are there.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "harness/selftest/parallel.h"
#include "harness/shards/archive.h"

namespace qdiff::selftest {

using Progress = std::function<void(const std::string& what, std::int64_t done, std::int64_t total)>;

class Ledger {
 public:
  virtual ~Ledger() = default;
  // Whether this machine does the unit. Units are asked for once, in order, those of a kind before any of them is done.
  virtual bool wants(const std::string& unit) = 0;
  // What the unit made, where that is known already.
  virtual std::optional<std::string> find(const std::string& unit) = 0;
  // Called by one thread at a time, when the unit is done.
  virtual void keep(const std::string& unit, const std::string& made, double seconds) = 0;
};

// Who does the work of a selftest.
struct Crew {
  int threads = 1;
  const Progress& progress;
  Ledger* ledger = nullptr;  // none: every unit is done here, and nothing kept
};

// work(state, i) of each unit, in their order; of those that are none of this machine's, nothing. `told(i)` is what
// progress says when unit i is done.
template <typename Made, typename MakeState, typename Work, typename Told>
std::vector<Made> in_units(const std::vector<std::string>& units, const Crew& crew, const MakeState& make_state,
                           const Work& work, const Told& told) {
  std::vector<std::optional<Made>> made(units.size());
  std::vector<std::size_t> left;
  for (std::size_t i = 0; i < units.size(); ++i) {
    if (crew.ledger != nullptr && !crew.ledger->wants(units[i])) continue;
    const auto found = crew.ledger != nullptr ? crew.ledger->find(units[i]) : std::nullopt;
    if (found) {
      shards::decode_text(*found, made[i].emplace(), "the result of unit " + units[i]);
    } else {
      left.push_back(i);
    }
  }
  std::vector<double> seconds(units.size());
  in_parallel(
      left.size(), crew.threads, make_state,
      [&](auto& state, std::size_t n) {
        const auto start = std::chrono::steady_clock::now();
        made[left[n]] = work(state, left[n]);
        seconds[left[n]] = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      },
      [&](std::size_t n, std::size_t finished) {
        const std::size_t i = left[n];
        if (crew.ledger != nullptr) crew.ledger->keep(units[i], shards::encode_text(*made[i]), seconds[i]);
        crew.progress(told(i), static_cast<std::int64_t>(finished), static_cast<std::int64_t>(left.size()));
      });
  std::vector<Made> done;
  for (std::optional<Made>& one : made) {
    if (one) done.push_back(std::move(*one));
  }
  return done;
}

// "novel/7000012": a unit for each seed.
inline std::vector<std::string> seed_units(const std::string& kind, std::int64_t count, std::uint64_t first_seed) {
  std::vector<std::string> units;
  for (std::int64_t i = 0; i < count; ++i) {
    units.push_back(kind + '/' + std::to_string(first_seed + static_cast<std::uint64_t>(i)));
  }
  return units;
}

// The state of units that need none.
struct NoState {};
inline NoState no_state() { return {}; }

}  // namespace qdiff::selftest
