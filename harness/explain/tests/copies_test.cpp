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

}  // namespace
}  // namespace qdiff::explain
