// What a query to the oracle is, as a number.
#pragma once

#include <map>
#include <set>
#include <string>
#include <tuple>

#include "harness/contract/oracle.h"
#include "harness/formats/content_hash.h"

namespace qdiff::reference_cache {

// Hashes of recorded tensors, each made once. It lives as long as one call to the oracle, in which no buffer changes.
class Digests {
 public:
  std::string of(const TensorView& view);
  std::string of(const TensorStore& recorded, const TensorKey& key);  // "-" where it is not recorded

 private:
  std::map<std::tuple<const void*, DType, Shape>, std::string> known_;
};

// Remembers which tensors were asked for.
class Watched final : public TensorStore {
 public:
  explicit Watched(const TensorStore& recorded) : recorded_(recorded) {}
  bool has(const TensorKey& key) const override {
    asked_.insert(key);
    return recorded_.has(key);
  }
  TensorView get(const TensorKey& key) const override {
    asked_.insert(key);
    return recorded_.get(key);
  }

  const std::set<TensorKey>& asked() const { return asked_; }

 private:
  const TensorStore& recorded_;
  mutable std::set<TensorKey> asked_;
};

// What the recording holds of these, one line for each: "0 model.layers.1.self_attn.k_rope 3f0c5a1be29d8877".
std::string reads(const std::set<TensorKey>& keys, const TensorStore& recorded, Digests& digests);
// Whether it holds the same of the tensors of these lines.
bool are_in(const std::string& reads, const TensorStore& recorded, Digests& digests);

// The tensors that the query's operations take of the recording, whether it has them or not.
std::set<TensorKey> inputs_of(const Query& query, const ModelConfig& config);

void add_to(formats::ContentHash& hash, const Step& step);
void add_to(formats::ContentHash& hash, const Precision& precision);
// All of the query, and the recorded inputs of its operations.
void add_to(formats::ContentHash& hash, const Query& query, const ModelConfig& config, Digests& digests);

}  // namespace qdiff::reference_cache
