#include <algorithm>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "harness/contract/query.h"
#include "harness/reference_cache/cache.h"
#include "harness/reference_cache/kept_values.h"
#include "harness/reference_cache/part_archive.h"
#include "harness/reference_cache/query_key.h"

namespace qdiff::reference_cache {
namespace {

using diagnose::PartAnswer;
using diagnose::PartQuestion;

constexpr const char* kReads = "reads";

class OracleOfStore final : public CachedOracle {
 public:
  OracleOfStore(std::unique_ptr<Oracle> inner, const Cache& cache) : inner_(std::move(inner)), cache_(cache) {}

  const ModelConfig& config() const override { return inner_->config(); }
  const std::vector<VariantFacts>& catalogue() const override { return inner_->catalogue(); }

  Expectation evaluate(const Query& query) override {
    return answered<Expectation>(
        "evaluate", query, [this](const Query& asked) { return inner_->evaluate(asked); }, expectation_in,
        [](Parts& parts, const Expectation& expectation) { parts.add(expectation); });
  }

  std::vector<double> emulate(const Query& query) override {
    return answered<std::vector<double>>(
        "emulate", query, [this](const Query& asked) { return inner_->emulate(asked); }, values_in,
        [&](Parts& parts, const std::vector<double>& values) { parts.add(values, query.stored); });
  }

  // Asked where a part is judged, of which the judgement is kept.
  std::vector<Expectation> evaluate_all(std::span<const Query> queries) override {
    std::vector<Watched> recorded;
    std::vector<Query> asked;
    recorded.reserve(queries.size());
    for (const Query& query : queries) {
      recorded.emplace_back(query.recorded);
      asked.push_back(of_recorded(query, recorded.back()));
    }
    std::vector<Expectation> expectations = inner_->evaluate_all(asked);
    for (const Watched& store : recorded) count(store);
    return expectations;
  }

  std::optional<PartAnswer> find(const PartQuestion& question) override {
    Digests digests;
    part_key_ = key_of(question, digests);
    KeptPart part;
    const bool kept = cache_.store.find_text(part_key_, [&](const std::string& text) {
      shards::decode_text(text, part, "it");
      return part.answer.rows.size() == question.queries.size() && fits(part, question, digests);
    });
    if (kept) {
      cache_.values.from_cache += part.values;
      return std::move(part.answer);
    }
    in_part_ = true;
    asked_in_part_.clear();
    computed_before_ = cache_.values.computed;
    return std::nullopt;
  }

  void keep(const PartQuestion& question, const PartAnswer& answer) override {
    in_part_ = false;
    KeptPart part{.values = cache_.values.computed - computed_before_, .reads = reads_of(question), .answer = answer};
    cache_.store.keep_text(part_key_, shards::encode_text(part));
  }

 private:
  template <typename Value, typename Compute, typename Read, typename Add>
  Value answered(const char* what, const Query& query, const Compute& compute, const Read& read, const Add& add) {
    Watched recorded(query.recorded);
    if (in_part_) {
      try {
        Value value = compute(of_recorded(query, recorded));
        count(recorded);
        return value;
      } catch (const NotEvaluable&) {  // that, too, follows from what was asked for
        remember(recorded);
        throw;
      }
    }
    Digests digests;
    formats::ContentHash hash;
    hash.add(cache_.reference).add(what);
    add_to(hash, query, config(), digests);
    const std::string key = hash.text();
    Value value;
    const bool kept = cache_.store.find(key, [&](const Found& found) {
      if (!are_in(found.word(kReads), query.recorded, digests)) return false;
      value = read(found);
      return true;
    });
    if (kept) {
      ++cache_.values.from_cache;
      return value;
    }
    value = compute(of_recorded(query, recorded));
    count(recorded);
    Parts parts;
    add(parts, value);
    parts.words[kReads] = reads(recorded.asked(), query.recorded, digests);
    cache_.store.keep(key, parts.words, parts.parts);
    return value;
  }

  void count(const Watched& recorded) {
    ++cache_.values.computed;
    if (in_part_) remember(recorded);
  }

  void remember(const Watched& recorded) { asked_in_part_.insert(recorded.asked().begin(), recorded.asked().end()); }

  std::string key_of(const PartQuestion& question, Digests& digests) const {
    formats::ContentHash hash;
    hash.add(cache_.reference).add("part").add(question.probing ? "probed" : "judged");
    hash.add(shards::encode_text(question.before)).add(std::uint64_t{question.queries.size()});
    for (std::size_t i = 0; i < question.queries.size(); ++i) {
      add_to(hash, question.queries[i], config(), digests);
      hash.add(digests.of(question.actual[i])).add(question.subjects[i]);
    }
    return hash.text();
  }

  // The rows of each subject, by the first of them.
  static std::map<std::size_t, std::set<TensorKey>> own_tensors(const PartQuestion& question,
                                                                const ModelConfig& config) {
    std::map<std::string, std::size_t> first;
    std::map<std::size_t, std::set<TensorKey>> own;
    for (std::size_t i = 0; i < question.queries.size(); ++i) {
      std::set<TensorKey>& tensors = own[first.try_emplace(question.subjects[i], i).first->second];
      tensors.insert(question.queries[i].operations.back());
      for (const TensorKey& input : inputs_of(question.queries[i], config)) tensors.insert(input);
    }
    return own;
  }

  std::map<std::string, std::string> reads_of(const PartQuestion& question) const {
    Digests digests;
    std::map<std::string, std::string> lines;
    for (const auto& [first, own] : own_tensors(question, config())) {
      std::set<TensorKey> others;
      std::set_difference(asked_in_part_.begin(), asked_in_part_.end(), own.begin(), own.end(),
                          std::inserter(others, others.end()));
      if (!others.empty()) lines[std::to_string(first)] = reads(others, question.queries[first].recorded, digests);
    }
    return lines;
  }

  static bool fits(const KeptPart& part, const PartQuestion& question, Digests& digests) {
    return std::ranges::all_of(part.reads, [&](const auto& of) {
      const std::size_t query = std::stoul(of.first);
      return query < question.queries.size() && are_in(of.second, question.queries[query].recorded, digests);
    });
  }

  std::unique_ptr<Oracle> inner_;
  Cache cache_;
  // Between find() and keep() of a part.
  bool in_part_ = false;
  std::string part_key_;
  std::set<TensorKey> asked_in_part_;
  std::int64_t computed_before_ = 0;
};

}  // namespace

std::unique_ptr<CachedOracle> make_cached_oracle(std::unique_ptr<Oracle> inner, const Cache& cache) {
  return std::make_unique<OracleOfStore>(std::move(inner), cache);
}

}  // namespace qdiff::reference_cache
