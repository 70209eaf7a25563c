// Vectors that stand where others should: with a shift, other heads, of another tensor, layer or batch row, by several
// laws at once, beside memory that nobody wrote, and in some of their columns alone.
#include <algorithm>

#include "cmake/catch2.h"
#include "harness/explain/tests/solved_case.h"

namespace qdiff::explain {
namespace {

constexpr std::int64_t kSlots = 12, kRow = kKvHeads * kHeadDim;  // of a prefill's caches

// Calls `take(b, s, h)` for each vector of a cache of a prefill, which gives where the vector is taken from: as an
// index of vectors, or -1 for what nobody wrote. `columns`: the first dimensions of a head that are taken so.
template <typename Take>
Wronging moved(Op op, const Take& take, double held = 0.0, std::int64_t columns = kHeadDim) {
  return at(op, [take, held, columns](const auto&, const Step& step, Values right) {
    if (step.index != 0) return right;
    const Values before = right;
    for (std::int64_t v = 0; v < std::ssize(right) / kHeadDim; ++v) {
      const std::int64_t from = take(v / kKvHeads / kSlots, v / kKvHeads % kSlots, v % kKvHeads);
      for (std::int64_t i = 0; i < columns; ++i) {
        const auto to = static_cast<std::size_t>(v * kHeadDim + i);
        right[to] = from < 0 ? held : before[static_cast<std::size_t>(from * kHeadDim + i)];
      }
    }
    return right;
  });
}

std::int64_t vector_of(std::int64_t b, std::int64_t s, std::int64_t h) { return (b * kSlots + s) * kKvHeads + h; }

TEST_CASE("slots that wrap around are told by two laws", "[copies]") {
  Case c;
  const auto theory = c.explained(
      Op::kKCache, 401, moved(Op::kKCache, [](auto b, auto s, auto h) { return vector_of(b, (s + 9) % kSlots, h); }));
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(theory->mechanism == "copy.vectors");
  CHECK(theory->hypothesis == "H01");
  CHECK(text_of(theory->parameters, "source") == "self_attn.k_rope of 3 before");
  CHECK(text_of(theory->parameters, "then") == "self_attn.k_rope of 9 behind");
}

TEST_CASE("slots that were taken by three laws are told by three", "[copies]") {
  Case c;  // thirds of the cache in another order, each with a distance of its own
  const auto theory = c.explained(Op::kVCache, 402, moved(Op::kVCache, [](auto b, auto s, auto h) {
                                    const std::int64_t from = s < 3 ? s + 9 : s < 7 ? s + 2 : s - 7;
                                    return vector_of(b, from, h);
                                  }));
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(theory->mechanism == "copy.vectors");
  CHECK_THAT(theory->sentence, ContainsSubstring("self_attn.v_proj of 7 before"));
  CHECK_THAT(theory->sentence, ContainsSubstring("; where that is not it, self_attn.v_proj of 2 behind"));
  CHECK_THAT(theory->sentence, ContainsSubstring("; where that is not it, self_attn.v_proj of 9 behind"));
}

TEST_CASE("heads that are exchanged, and slots beside them, are told with the table", "[copies]") {
  Case c;
  const auto theory = c.explained(
      Op::kVCache, 403,
      moved(
          Op::kVCache, [](auto b, auto s, auto h) { return s < 2 ? -1 : vector_of(b, s - 2, 1 - h); }, -3.5));
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(theory->mechanism == "copy.vectors");
  CHECK(text_of(theory->parameters, "source") == "self_attn.v_proj of 2 before, heads 0..1 from 1, 0");
  CHECK_THAT(theory->sentence, ContainsSubstring("; -3.5 where nobody wrote"));
}

TEST_CASE("some dimensions of vectors that stand elsewhere are told", "[copies]") {
  for (const std::int64_t columns : {4, 7}) {
    INFO(columns << " columns");
    Case c;
    const auto theory = c.explained(
        Op::kVCache, 404,
        moved(
            Op::kVCache, [](auto b, auto s, auto h) { return vector_of(b, s == 0 ? 0 : s - 1, h); }, 0.0, columns));
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK(theory->mechanism == "copy.vectors");
    CHECK(text_of(theory->parameters, "source") == "self_attn.v_cache of 1 before");
  }
}

TEST_CASE("rows of the step before, and heads of another tensor, are told as such", "[copies]") {
  Case late;  // decode hands out the prefill's last row again and again
  Values last;
  auto theory = late.explained(Op::kVProj, 405, at(Op::kVProj, [&](const auto&, const Step& step, Values right) {
                                 if (step.phase == Phase::kDecode) return last;
                                 for (std::size_t b = 0; b < 2; ++b) {
                                   const auto end =
                                       right.begin() + static_cast<std::ptrdiff_t>((b + 1) * right.size() / 2);
                                   last.insert(last.end(), end - kRow, end);
                                 }
                                 return right;
                               }));
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(theory->mechanism == "copy.vectors");
  CHECK(text_of(theory->parameters, "source") == "self_attn.v_proj of 1 before");
  CHECK(theory->scope.empty());

  Case other;  // [B, T, 16]: both heads hold the other head of k_proj
  Values keys;
  theory = other.explained(Op::kVProj, 406, [&](const TensorKey& key, const auto&, const Step&, Values right) {
    if (key.id == TensorId{Op::kKProj, 1}) {
      keys = right;
      for (double& x : keys) x = round_to(DType::kBF16, x);
    }
    if (key.id != TensorId{Op::kVProj, 1}) return right;
    for (std::size_t i = 0; i < right.size(); ++i) right[i] = keys[i % 16 < 8 ? i + 8 : i - 8];
    return right;
  });
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(theory->mechanism == "copy.vectors");
  CHECK(text_of(theory->parameters, "source") == "self_attn.k_proj, heads 0..1 from 1, 0");
}

TEST_CASE("a tensor of the layer before is told with its distance", "[copies]") {
  Case before;
  Values stored;
  auto theory = before.explained(Op::kUpProj, 407, [&](const TensorKey& key, const auto&, const Step&, Values right) {
    if (key.id == TensorId{Op::kUpProj, 0}) {
      stored = right;
      for (double& x : stored) x = round_to(DType::kBF16, x);
    }
    return key.id == TensorId{Op::kUpProj, 1} ? stored : right;
  });
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(theory->mechanism == "copy.tensor");
  CHECK(text_of(theory->parameters, "source") == "mlp.up_proj of layer 0");
  CHECK(text_of(theory->parameters, "layers before") == "1");
}

TEST_CASE("what is computed later is no source of a copy", "[copies]") {
  Case c;
  const auto theory = c.explained(Op::kGateProj, 409, at(Op::kGateProj, [&](const auto& in, const Step&, Values) {
                                    Values up = c.oracle.product(in[0], c.oracle.weight({Op::kUpProj, 1}));
                                    for (double& x : up) x = round_to(DType::kBF16, x);
                                    return up;
                                  }));
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(theory->mechanism == "product.rows");
  CHECK_THAT(theory->sentence, ContainsSubstring("mlp.up_proj"));
}

// A row of two heads with the heads exchanged, so that no tensor as a whole is the other.
Values exchanged(const Values& rows) {
  Values values(rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) values[i] = rows[i % 16 < 8 ? i + 8 : i - 8];
  return values;
}

// The last row of each batch row.
Values last_rows(const Values& rows) {
  Values values;
  for (std::size_t b = 0; b < 2; ++b) {
    const auto end = rows.begin() + static_cast<std::ptrdiff_t>((b + 1) * rows.size() / 2);
    values.insert(values.end(), end - kRow, end);
  }
  return values;
}

TEST_CASE("of sources that hold the same the one of the same layer is told", "[copies]") {
  Case c;
  Values last;  // of layer 1's prefill; layer 0 holds it in decode as well
  const auto theory =
      c.explained(Op::kVProj, 411, [&](const TensorKey& key, const auto&, const Step& step, Values right) {
        if (key.id.op != Op::kVProj) return right;
        if (step.phase == Phase::kDecode) return key.id.layer == 0 ? exchanged(last) : last;
        if (key.id.layer == 1) last = last_rows(right);
        return right;
      });
  REQUIRE(theory.has_value());
  CHECK(text_of(theory->parameters, "source") == "self_attn.v_proj of 1 before");
}

TEST_CASE("of sources that hold the same the one of the same token is told", "[copies]") {
  Case c;
  Values last, now;
  auto theory = c.explained(Op::kVProj, 412, [&](const TensorKey& key, const auto&, const Step& step, Values right) {
    if (key.id == TensorId{Op::kKProj, 1}) {
      if (step.phase == Phase::kPrefill) last = last_rows(right);
      now = step.phase == Phase::kPrefill ? right : last;
      return now;
    }
    return key.id == TensorId{Op::kVProj, 1} && step.phase == Phase::kDecode ? exchanged(now) : right;
  });
  REQUIRE(theory.has_value());
  CHECK(text_of(theory->parameters, "source") == "self_attn.k_proj, heads 0..1 from 1, 0");

  Case batch;  // both batch rows have the same keys, and the second one's values are those
  theory = batch.explained(Op::kVProj, 413, [&](const TensorKey& key, const auto&, const Step&, Values right) {
    const auto half = static_cast<std::ptrdiff_t>(right.size() / 2);
    if (key.id == TensorId{Op::kKProj, 1}) {
      std::copy_n(right.begin(), half, right.begin() + half);
      now = right;
    }
    if (key.id == TensorId{Op::kVProj, 1}) {
      const Values keys = exchanged(now);
      std::copy_n(keys.begin(), half, right.begin() + half);
    }
    return right;
  });
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(text_of(theory->parameters, "source") == "self_attn.k_proj, heads 0..1 from 1, 0");
}

TEST_CASE("of sources that hold the same the one that was told before is told", "[copies]") {
  Case c;
  Values queries, keys;  // of 6 and of 2 heads; keys 3..6 are the first queries
  const auto theory =
      c.explained(Op::kVProj, 414, [&](const TensorKey& key, const auto&, const Step& step, Values right) {
        if (step.index != 0) return right;
        if (key.id == TensorId{Op::kQProj, 1}) queries = right;
        const auto rows = std::ssize(right) / kRow;
        if (key.id == TensorId{Op::kKProj, 1}) {
          for (std::int64_t r = 0; r < rows; ++r) {
            if (r % kSlots < 3 || r % kSlots > 6) continue;
            std::copy_n(queries.begin() + r * kWidth, kRow, right.begin() + r * kRow);
          }
          keys = right;
        }
        if (key.id == TensorId{Op::kVProj, 1}) {
          for (std::int64_t r = 0; r < rows; ++r) {
            std::copy_n(keys.begin() + (r % kSlots < 8 ? r + 2 : r - 5) * kRow, kRow, right.begin() + r * kRow);
          }
        }
        return right;
      });
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(text_of(theory->parameters, "source") == "self_attn.k_proj of 2 behind");
  CHECK(text_of(theory->parameters, "then") == "self_attn.k_proj of 5 before");
}

TEST_CASE("of laws that a step alone does not tell apart the one that all steps follow is told", "[copies]") {
  Case c;
  Values keys;  // of the prefill; the one that a decode step takes has a twin, at another distance in each
  const auto theory =
      c.explained(Op::kVProj, 415, [&](const TensorKey& key, const auto&, const Step& step, Values right) {
        if (key.id == TensorId{Op::kKProj, 1} && step.index == 0) {
          for (std::int64_t b = 0; b < 2; ++b) {
            for (std::int64_t i = 0; i < 4; ++i) {
              std::copy_n(right.begin() + (b * kSlots + 8 + i) * kRow, kRow,
                          right.begin() + (b * kSlots + 6 - 2 * i) * kRow);
            }
          }
          keys = right;
        }
        if (key.id == TensorId{Op::kVProj, 1} && step.index > 0) {
          for (std::int64_t b = 0; b < 2; ++b) {
            std::copy_n(keys.begin() + (b * kSlots + 7 + step.index) * kRow, kRow, right.begin() + b * kRow);
          }
          return exchanged(right);
        }
        return right;
      });
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(text_of(theory->parameters, "source") == "self_attn.k_proj of 4 before, heads 0..1 from 1, 0");
}

}  // namespace
}  // namespace qdiff::explain
