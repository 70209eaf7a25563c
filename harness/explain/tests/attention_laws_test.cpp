// The laws of heads, masks, rotations and attention in parts in turn, as in laws_test.cpp.
#include <algorithm>
#include <cmath>

#include "cmake/catch2.h"
#include "harness/explain/tests/solved_case.h"

namespace qdiff::explain {
namespace {

using Table = std::vector<std::int64_t>;

// ---- Heads ---------------------------------------------------------------------------------------------------------

// Where query head h lies at element i of [B, T, 6, 8], and what another head holds there.
std::size_t in_head(std::size_t i, const Table& table) {
  const auto at = static_cast<std::int64_t>(i);
  const std::int64_t head = at % kWidth / kHeadDim;
  return index(at + (table[index(head)] - head) * kHeadDim);
}

TEST_CASE("each law of heads that are out of place is told", "[laws]") {
  struct Law {
    Table table;
    std::string words;
  };
  for (const Law& law :
       {Law{{5, 4, 3, 2, 1, 0}, "5 - h"}, Law{{2, 3, 4, 5, 0, 1}, "(h + 2) % 6"}, Law{{0, 0, 1, 1, 2, 2}, "h / 2"},
        Law{{4, 4, 4, 4, 4, 4}, "4"}, Law{{0, 2, 1, 3, 5, 4}, "0 2 1 3 5 4"}}) {
    INFO(law.words);
    Case columns;  // heads lie in columns
    auto theory = columns.explained(Op::kQProj, 201, at(Op::kQProj, [&](const auto&, const Step&, Values right) {
                                      const Values before = right;
                                      for (std::size_t i = 0; i < right.size(); ++i)
                                        right[i] = before[in_head(i, law.table)];
                                      return right;
                                    }));
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK(theory->mechanism == "heads.moved");
    CHECK(theory->hypothesis == "H05");
    CHECK(text_of(theory->parameters, "head") == law.words);
    CHECK(theory->scope.empty());
    Case rows;  // of scores heads are rows
    theory = rows.explained(Op::kScores, 202, at(Op::kScores, [&](const auto&, const Step& step, Values right) {
                              const Values before = right;
                              const std::int64_t of_head = step.num_tokens() * step.valid_length();
                              for (std::int64_t i = 0; i < std::ssize(right); ++i) {
                                const std::int64_t head = i / of_head % kHeads;
                                right[index(i)] = before[index(i + (law.table[index(head)] - head) * of_head)];
                              }
                              return right;
                            }));
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK(theory->mechanism == "heads.moved");
    CHECK(text_of(theory->parameters, "head") == law.words);
  }
}

// Values [B, S, 2, 8] weighted by probabilities [B, 6, T, S]; query head h reads head table[h].
Values weighted_by(const Table& table, const std::vector<Values>& in, const Step& step) {
  const std::int64_t tokens = step.num_tokens(), slots = step.valid_length();
  Values out(index(step.batch() * tokens * kWidth));
  for (std::int64_t i = 0; i < std::ssize(out); ++i) {
    const std::int64_t h = i / kHeadDim % kHeads, t = i / kWidth % tokens, b = i / kWidth / tokens;
    for (std::int64_t s = 0; s < slots; ++s) {
      out[index(i)] += in[0][index(((b * kHeads + h) * tokens + t) * slots + s)] *
                       in[1][index(((b * slots + s) * 2 + table[index(h)]) * kHeadDim + i % kHeadDim)];
    }
  }
  return out;
}

TEST_CASE("each law of the heads that are read is told", "[laws]") {
  struct Law {
    Table table;
    std::string words;
  };
  for (const Law& law :
       {Law{{0, 1, 1, 1, 1, 1}, "h / 1"}, Law{{0, 0, 1, 1, 1, 1}, "h / 2"}, Law{{0, 0, 0, 0, 1, 1}, "h / 4"},
        Law{{1, 1, 1, 1, 1, 1}, "1"}, Law{{0, 0, 0, 0, 0, 0}, "h / 6"}, Law{{1, 0, 0, 1, 1, 0}, "1 0 0 1 1 0"}}) {
    INFO(law.words);
    Case c;
    const auto theory =
        c.explained(Op::kAttnOutput, 203, at(Op::kAttnOutput, [&](const auto& in, const Step& step, const Values&) {
                      return weighted_by(law.table, in, step);
                    }));
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK(theory->mechanism == "heads.read");
    CHECK(theory->hypothesis == "H05");
    CHECK(text_of(theory->parameters, "head of self_attn.v_cache") == law.words);
  }
}

TEST_CASE("memory of heads and tokens that is taken for the other order is told, both ways", "[laws]") {
  for (const bool heads_first : {true, false}) {
    Case c;
    const auto theory =
        c.explained(Op::kAttnOutput, 204, at(Op::kAttnOutput, [&](const auto&, const Step& step, Values right) {
                      const Values before = right;
                      const std::int64_t tokens = step.num_tokens();
                      for (std::int64_t b = 0; b < step.batch(); ++b) {
                        for (std::int64_t t = 0; t < tokens; ++t) {
                          for (std::int64_t h = 0; h < kHeads; ++h) {
                            for (std::int64_t i = 0; i < kHeadDim; ++i) {
                              const std::size_t apart = index(((b * kHeads + h) * tokens + t) * kHeadDim + i),
                                                here = index(((b * tokens + t) * kHeads + h) * kHeadDim + i);
                              heads_first ? right[apart] = before[here] : right[here] = before[apart];
                            }
                          }
                        }
                      }
                      return right;
                    }));
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK(theory->mechanism == "heads.layout");
    CHECK(text_of(theory->parameters, "held as") == (heads_first ? "[B,H,T,d]" : "[B,T,H,d]"));
  }
}

// ---- Masks ---------------------------------------------------------------------------------------------------------

// Scores [B, 6, T, S] of which each query sees what `sees(own slot, padding, last slot, slot)` says.
template <typename Sees>
Values scores_seen(const Case& c, const std::vector<Values>& in, const Step& step, Sees sees) {
  const std::int64_t tokens = step.num_tokens(), slots = step.valid_length();
  Values out;
  for (std::int64_t r = 0; r < step.batch() * kHeads * tokens; ++r) {
    const std::int64_t b = r / (kHeads * tokens), h = r / tokens % kHeads, t = r % tokens;
    for (std::int64_t s = 0; s < slots; ++s) {
      double sum = 0.0;
      for (std::int64_t i = 0; i < kHeadDim; ++i) {
        sum += in[0][index(((b * tokens + t) * kHeads + h) * kHeadDim + i)] *
               in[1][index(((b * slots + s) * 2 + h / c.oracle.config().group_size()) * kHeadDim + i)];
      }
      const bool seen = sees(step.past_length + t, step.left_padding[index(b)], slots - 1, s);
      out.push_back(seen ? sum / std::sqrt(static_cast<double>(kHeadDim)) : -HUGE_VAL);
    }
  }
  return out;
}

TEST_CASE("each law of the slots that a query sees is told", "[laws]") {
  using Sees = bool (*)(std::int64_t own, std::int64_t pad, std::int64_t last, std::int64_t s);
  struct Law {
    Sees sees;
    std::string words;
  };
  for (const Law& law :
       {Law{[](auto own, auto, auto, auto s) { return s <= own; }, "from slot 0 to its own slot"},
        Law{[](auto, auto pad, auto, auto s) { return s >= pad; }, "from its first token to the last slot there is"},
        Law{[](auto, auto, auto, auto) { return true; }, "from slot 0 to the last slot there is"},
        Law{[](auto own, auto pad, auto, auto s) { return s >= std::max(pad, own - 3) && s <= own; },
            "from the last 4 slots up to its own to its own slot"},
        Law{[](auto own, auto pad, auto last, auto s) { return s >= std::max(pad, own - 3) && s <= last; },
            "from the last 4 slots up to its own to the last slot there is"},
        Law{[](auto own, auto pad, auto, auto s) { return s >= pad && s <= own - 1; },
            "from its first token to its own slot - 1"},
        Law{[](auto own, auto pad, auto, auto s) { return s >= pad && s <= own + 1; },
            "from its first token to its own slot + 1"},
        Law{[](auto own, auto pad, auto, auto s) { return s >= pad && s <= own + 2; },
            "from its first token to its own slot + 2"},
        Law{[](auto own, auto pad, auto, auto s) { return s < pad || s > own; },
            "exactly what it should hide (the mask is inverted)"}}) {
    INFO(law.words);
    Case c;
    const auto theory =
        c.explained(Op::kScores, 205, at(Op::kScores, [&](const auto& in, const Step& step, const Values&) {
                      return scores_seen(c, in, step, law.sees);
                    }));
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK(theory->mechanism == "visible");
    CHECK(theory->hypothesis == "H10");
    CHECK(text_of(theory->parameters, "visible") == law.words);
  }
}

// ---- Rotations -----------------------------------------------------------------------------------------------------

struct Arrangement {
  std::string words;
  Table source;  // dimension i comes from source[i]
};

const std::vector<Arrangement> kArrangements = {{"as they are", {0, 1, 2, 3, 4, 5, 6, 7}},
                                                {"neighbours taken apart into halves", {0, 2, 4, 6, 1, 3, 5, 7}},
                                                {"halves laid together as neighbours", {0, 4, 1, 5, 2, 6, 3, 7}}};

Values arranged(const Values& x, const Arrangement& arrangement) {
  Values out(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    out[i] = x[i / kHeadDim * kHeadDim + index(arrangement.source[i % kHeadDim])];
  }
  return out;
}

TEST_CASE("each arrangement of dimensions before a rotation and behind it is told", "[laws]") {
  for (const Arrangement& before : kArrangements) {
    for (const Arrangement& behind : kArrangements) {
      if (before.source == behind.source && before.source[1] == 1) continue;  // that is right code
      INFO(before.words << ", " << behind.words);
      Case c;
      const auto theory =
          c.explained(Op::kQRope, 206, at(Op::kQRope, [&](const auto& in, const Step& step, const Values&) {
                        return arranged(c.oracle.rotated(arranged(in[0], before), step.positions), behind);
                      }));
      REQUIRE(theory.has_value());
      INFO(theory->sentence);
      CHECK(theory->mechanism == "rotation.pairs");
      CHECK(theory->hypothesis == "H03");
      CHECK(text_of(theory->parameters, "input") == before.words);
      CHECK(text_of(theory->parameters, "output") == behind.words);
    }
  }
}

TEST_CASE("sines that lack their minus are told, of both conventions", "[laws]") {
  for (const bool neighbours : {true, false}) {
    Case c;
    const auto theory = c.explained(
        Op::kKRope, 207, at(Op::kKRope, [&](const auto& in, const Step& step, const Values&) {
          Values y(in[0].size());
          for (std::int64_t e = 0; e < std::ssize(y); ++e) {
            const std::int64_t i = e % kHeadDim, token = e / (2 * kHeadDim);
            const std::int64_t pair = neighbours ? i / 2 : i % (kHeadDim / 2);
            const std::int64_t partner = neighbours ? (i ^ 1) : (i + kHeadDim / 2) % kHeadDim;
            const double p =
                static_cast<double>(step.positions[index(token / step.num_tokens())][index(token % step.num_tokens())]);
            const double angle = p * std::pow(1e4, -2.0 * static_cast<double>(pair) / kHeadDim);
            y[index(e)] = in[0][index(e)] * std::cos(angle) + in[0][index(e - i + partner)] * std::sin(angle);
          }
          return y;
        }));
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK(theory->mechanism == "rotation.pairs");
    CHECK(text_of(theory->parameters, "convention") ==
          std::string("partners ") + (neighbours ? "(2i, 2i+1)" : "(i, i+d/2)") + ", angles laid out for " +
              (neighbours ? "(2i, 2i+1)" : "(i, i+d/2)") + ", no minus before the sine");
  }
}

TEST_CASE("each law of a rotation's position is told", "[laws]") {
  using At = std::int64_t (*)(std::int64_t position, std::int64_t slot, std::int64_t in_step);
  struct Law {
    At at;
    std::string words, rows;  // the batch rows in which it differs from right code
  };
  for (const Law& law : {Law{[](auto, auto, auto) { return std::int64_t{0}; }, "position 0", ""},
                         Law{[](auto, auto, auto) { return std::int64_t{40}; }, "position 40", ""},
                         Law{[](auto p, auto, auto) { return p + 3; }, "its position + 3", ""},
                         Law{[](auto p, auto, auto) { return p - 1; }, "its position - 1", ""},
                         Law{[](auto p, auto, auto) { return 2 * p; }, "2 times its position", ""},
                         Law{[](auto p, auto, auto) { return 4 * p; }, "4 times its position", ""},
                         Law{[](auto, auto, auto t) { return t; }, "its place in the step", ""},
                         Law{[](auto, auto slot, auto) { return slot; }, "its cache slot", "1 and up"}}) {
    INFO(law.words);
    Case c;
    const auto theory =
        c.explained(Op::kQRope, 208, at(Op::kQRope, [&](const auto& in, const Step& step, const Values&) {
                      auto positions = step.positions;
                      for (auto& of_row : positions) {
                        for (std::int64_t t = 0; t < std::ssize(of_row); ++t) {
                          of_row[index(t)] = law.at(of_row[index(t)], step.past_length + t, t);
                        }
                      }
                      return c.oracle.rotated(in[0], positions);
                    }));
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK(theory->mechanism == "rotation.position");
    CHECK(text_of(theory->parameters, "position") == law.words);
    CHECK(text_of(theory->scope, "heads").empty());
  }
}

// ---- Attention in parts --------------------------------------------------------------------------------------------

TEST_CASE("attention that rounds parts of its slots is a rounding with its parts", "[laws]") {
  for (const std::int64_t part : {3, 5, 8}) {
    INFO(part << " slots");
    Case c;
    c.span = {{Op::kScores, 1}, {Op::kProbs, 1}, {Op::kAttnOutput, 1}};
    c.kept_inside = DType::kF64;
    const auto in_parts = [part](const auto& in, const Step& step, Values right) {
      const std::int64_t tokens = step.num_tokens(), slots = step.valid_length();
      for (std::int64_t i = 0; i < std::ssize(right); ++i) {
        const std::int64_t h = i / kHeadDim % kHeads, t = i / kWidth % tokens, b = i / kWidth / tokens;
        double whole = 0.0;
        for (std::int64_t from = 0; from < slots; from += part) {
          double weight = 0.0, sum = 0.0;
          for (std::int64_t s = from; s < std::min(slots, from + part); ++s) {
            const double p = in[0][index(((b * kHeads + h) * tokens + t) * slots + s)];
            weight += p;
            sum += p * in[1][index(((b * slots + s) * 2 + h / 3) * kHeadDim + i % kHeadDim)];
          }
          if (weight > 0.0) whole += weight * round_to(DType::kBF16, sum / weight);
        }
        right[index(i)] = whole;
      }
      return right;
    };
    const auto theory = c.explained(Op::kAttnOutput, 217, at(Op::kAttnOutput, in_parts));
    REQUIRE(c.num_wrong > 0);
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK(theory->mechanism == "attention.parts");
    CHECK(text_of(theory->parameters, "slots of a part") == std::to_string(part));
    REQUIRE(theory->points.size() == 1);
    CHECK(theory->points.front().point == RoundingPoint::kAttentionAccumulate);
    CHECK(theory->points.front().dtype == DType::kBF16);
  }
}

}  // namespace
}  // namespace qdiff::explain
