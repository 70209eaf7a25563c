// Which patterns are positive evidence for a hypothesis, and which are not.
#include <cmath>
#include <limits>

#include "cmake/catch2.h"
#include "harness/pattern/pattern.h"
#include "harness/pattern/tests/sample.h"

namespace qdiff::pattern {
namespace {

using Index = std::vector<std::int64_t>;

const std::vector<DType> kStored = {DType::kBF16, DType::kF32};

void check(const Pattern& found, const std::string& hypothesis, const std::string& begins) {
  CHECK(found.hypothesis.value_or("none") == hypothesis);
  CHECK(found.evidence.empty() == (hypothesis == "none"));
  CHECK_THAT(found.text, StartsWith(begins));
}

// ---- Factors, constants, powers ----------------------------------------------------------------------------------

TEST_CASE("an error that is constant over tokens in each column is a bias", "[pattern]") {
  for (const DType dtype : kStored) {
    const auto with_bias = [&](Op op, Step step) {
      return pattern_sample(op, std::move(step), dtype).change([](const Index& i, double right) {
        return right - 3.0 * std::sin(1.0 + static_cast<double>(i[2] * i[2]));
      });
    };
    for (const Op op : {Op::kQProj, Op::kKProj, Op::kVProj}) {
      const Pattern found = with_bias(op, pattern_step(5)).pattern();
      check(found, "H06", "off by a constant for each column (");
      CHECK(found.offset == "a constant for each column");
    }
    // A model without this bias: the pattern is told, and speaks for none.
    check(with_bias(Op::kOProj, pattern_step(5)).pattern(), "none", "off by a constant for each column (");
    // One token has no other to be equal to.
    CHECK_FALSE(with_bias(Op::kQProj, pattern_step(1, 4, {0}, Phase::kDecode)).pattern().hypothesis.has_value());
    // Rows of one repeated token cannot tell a bias from a factor.
    PatternSample repeated = with_bias(Op::kQProj, pattern_step(5));
    for (std::size_t i = 48; i < repeated.values.size(); ++i) {
      repeated.expected.value[i] = repeated.expected.value[i % 48];
      repeated.values[i] = repeated.values[i % 48];
    }
    CHECK_FALSE(repeated.pattern().hypothesis.has_value());
    CHECK_FALSE(repeated.pattern().offset.has_value());
  }
  const Pattern by_row =
      pattern_sample(Op::kQProj, pattern_step(5))
          .change([](const Index& i, double right) { return right + 1.0 + static_cast<double>(i[1] * i[1]); })
          .pattern();
  check(by_row, "none", "off by a constant for each token row (");
}

TEST_CASE("scores of a constant factor have a wrong scale", "[pattern]") {
  for (const DType dtype : kStored) {
    const auto scaled = [&](double factor) {
      return pattern_sample(Op::kScores, pattern_step(9, 2, {0, 3}), dtype)
          .change([&](const Index&, double right) { return std::isinf(right) ? right : factor * right; })
          .pattern();
    };
    const Pattern found = scaled(1.25);
    check(found, "H02", "1.25 times the expected values, every head");
    CHECK(found.ratio.value() == Approx(1.25).epsilon(1e-3));
    check(scaled(-1.0), "none", "sign flipped");
  }
}

TEST_CASE("probabilities to a power are of scores with a wrong scale", "[pattern]") {
  for (const DType dtype : kStored) {
    PatternSample sample = pattern_sample(Op::kProbs, pattern_step(9, 0, {0, 3}), dtype);
    for (std::int64_t line = 0; line < 2 * 6 * 9; ++line) {
      double sum = 0.0;
      for (std::int64_t s = 0; s < 9; ++s) sum += std::pow(sample.expected.value[line * 9 + s], 1.5);
      for (std::int64_t s = 0; s < 9 && sum > 0.0; ++s) {
        sample.values[line * 9 + s] = std::pow(sample.expected.value[line * 9 + s], 1.5) / sum;
      }
    }
    check(sample.pattern(), "H02", "the expected values to the power 1.5, renormalised, every head");
  }
}

TEST_CASE("rows of probabilities that are multiples have a wrong sum", "[pattern]") {
  const auto scaled = [](const Step& step, double first) {
    return pattern_sample(Op::kProbs, step, DType::kF32)
        .change([&](const Index& i, double right) { return right * (first + 0.01 * static_cast<double>(i[1] + i[2])); })
        .pattern();
  };
  check(scaled(pattern_step(9), 0.5), "H02", "a constant ratio in each head and token row (0.5");
  const Step decode = pattern_step(1, 9, {0}, Phase::kDecode);
  check(scaled(decode, 1.5), "H02", "a constant ratio in each head and token row (1.5");
  // A slot beyond the last one may have taken the rest: not for H02 alone.
  check(scaled(decode, 0.5), "none", "a constant ratio in each head and token row (0.5");
}

TEST_CASE("norms that are wrong by a factor of each row or column", "[pattern]") {
  for (const DType dtype : kStored) {
    const auto scaled = [&](Op op, const auto& factor) {
      return pattern_sample(op, pattern_step(6), dtype)
          .change([&](const Index& i, double right) { return right * factor(i); })
          .pattern();
    };
    const auto by_row = [](const Index& i) { return 1.5 + static_cast<double>(i[1]); };
    const auto by_column = [](const Index& i) { return 2.5 + std::sin(static_cast<double>(i[2])); };
    check(scaled(Op::kInputLayernorm, by_row), "H09", "a constant ratio in each token row (1.5..6.5)");
    check(scaled(Op::kNorm, by_column), "H09", "a constant ratio in each column (1.5");
    check(scaled(Op::kPostAttentionLayernorm, [](const Index&) { return 1.25; }), "H09", "1.25 times");
    check(scaled(Op::kResidMid, by_row), "none", "a constant ratio in each token row");
  }
}

TEST_CASE("pairs of dimensions that keep their length were turned by a wrong angle", "[pattern]") {
  for (const DType dtype : kStored) {
    for (const Op op : {Op::kQRope, Op::kKRope, Op::kQProj}) {
      PatternSample sample = pattern_sample(op, pattern_step(7), dtype);
      const std::int64_t pairs = static_cast<std::int64_t>(sample.values.size()) / 8;
      const std::int64_t per_token = pairs / 7;
      for (std::int64_t head = 0; head < pairs; ++head) {
        for (std::int64_t i = 1; i < 4; ++i) {
          const double angle = 0.2 * static_cast<double>(i * (head / per_token));
          const std::size_t a = static_cast<std::size_t>(head * 8 + i);
          const double x = sample.expected.value[a];
          const double y = sample.expected.value[a + 4];
          sample.values[a] = x * std::cos(angle) - y * std::sin(angle);
          sample.values[a + 4] = x * std::sin(angle) + y * std::cos(angle);
        }
      }
      const Pattern found = sample.pattern();
      if (op == Op::kQProj) {
        CHECK_FALSE(found.hypothesis.has_value());
      } else {
        check(found, "H03", "pairs of dimensions turned by a wrong angle");
        CHECK_THAT(found.text, ContainsSubstring("every token row but the first, dimensions 0 and 4 exact"));
      }
      // One pair in ten of another length: no rotation.
      for (std::size_t i = 5; i < sample.values.size(); i += 10) sample.values[i] *= 1.5;
      CHECK_FALSE(sample.pattern().hypothesis.has_value());
    }
  }
}

TEST_CASE("heads that keep their length were turned in other pairs", "[pattern]") {
  for (const DType dtype : kStored) {
    for (const Op op : {Op::kQRope, Op::kVCache}) {
      PatternSample sample = pattern_sample(op, pattern_step(9), dtype);
      for (std::size_t i = 0; i < sample.values.size(); i += 2) {
        const double x = sample.expected.value[i];
        const double y = sample.expected.value[i + 1];
        const double angle = 0.3 + 0.1 * static_cast<double>(i % 8);
        sample.values[i] = x * std::cos(angle) - y * std::sin(angle);
        sample.values[i + 1] = x * std::sin(angle) + y * std::cos(angle);
      }
      const Pattern found = sample.pattern();
      if (op == Op::kQRope) {
        check(found, "H03", "heads turned, but in other pairs of dimensions, every head");
      } else {
        CHECK_FALSE(found.hypothesis.has_value());
      }
    }
  }
}

TEST_CASE("a constant for each column after the rotation is a bias that was not rotated", "[pattern]") {
  const auto with_bias = [](Step step) {
    return pattern_sample(Op::kKRope, std::move(step)).change([](const Index& i, double right) {
      return right - 3.0 * std::sin(1.0 + static_cast<double>(8 * i[2] + i[3] * i[3]));
    });
  };
  check(with_bias(pattern_step(6)).pattern(), "H06", "off by a constant for each column (");
  // At one position a rotation changes nothing of that.
  check(with_bias(pattern_step(1, 6, {0, 0, 0}, Phase::kDecode)).pattern(), "none",
        "off by a constant for each column");
}

// ---- Values that belong elsewhere --------------------------------------------------------------------------------

// Each element holds what is expected at source(index); where that lies outside, it holds 0.
template <typename Source>
PatternSample moved(Op op, Step step, DType dtype, const Source& source) {
  PatternSample sample = pattern_sample(op, std::move(step), dtype);
  sample.change([&](const Index& i, double) {
    const Index from = source(i);
    for (std::size_t axis = 0; axis < from.size(); ++axis) {
      if (from[axis] < 0 || from[axis] >= sample.dim(axis)) return 0.0;
    }
    return sample.expected.value[sample.at(from)];
  });
  return sample;
}

// No map of key and value heads does that: under one, each head's query stays its own.
TEST_CASE("heads that hold another head's whole values speak for no hypothesis", "[pattern]") {
  for (const DType dtype : kStored) {
    const auto permuted = [&](std::vector<std::int64_t> heads) {
      return moved(Op::kAttnOutput, pattern_step(5, 0, {0, 2}), dtype,
                   [&](const Index& i) {
                     return Index{i[0], i[1], heads[static_cast<std::size_t>(i[2] / 8)] * 8 + i[2] % 8};
                   })
          .pattern();
    };
    const Pattern crossed = permuted({0, 3, 2, 1, 4, 5});
    check(crossed, "none", "heads hold other heads' values (1 those of 3, 3 those of 1), heads 1 and 3 of 6");
    check(permuted({0, 1, 3, 2, 4, 5}), "none", "heads hold other heads' values (2 those of 3, 3 those of 2)");
    check(permuted({0, 0, 0, 0, 0, 0}), "none", "heads hold the values of head 0");
    check(permuted({0, 1, 2, 3, 4, 0}), "none", "head 5 holds the values of head 0");
    const auto scores = moved(Op::kScores, pattern_step(7), dtype, [](const Index& i) {
      return Index{i[0], 5 - i[1], i[2], i[3]};
    });
    check(scores.pattern(), "none", "heads hold other heads' values (0 those of 5, 1 those of 4, ");
    const auto queries = moved(Op::kQRope, pattern_step(7), dtype, [](const Index& i) {
      return Index{i[0], i[1], 5 - i[2], i[3]};
    });
    check(queries.pattern(), "none", "heads hold other heads' values");
  }
}

TEST_CASE("caches that hold what belongs elsewhere", "[pattern]") {
  for (const DType dtype : kStored) {
    const Step prefill = pattern_step(9, 0, {0, 0, 0});
    const Step decode = pattern_step(1, 8, {0, 0, 0}, Phase::kDecode);
    const auto batch_zero = moved(Op::kKCache, prefill, dtype, [](const Index& i) {
      return Index{0, i[1], i[2], i[3]};
    });
    check(batch_zero.pattern(), "H01",
          "batch rows hold the values of batch row 0, every head, batch rows 1 and 2 of 3");
    const auto last_head = moved(Op::kVCache, prefill, dtype, [](const Index& i) {
      return Index{i[0], i[1], 2, i[3]};
    });
    check(last_head.pattern(), "H01", "heads hold the values of head 2, heads 0 and 1 of 3");
    const auto late = [](const Index& i) { return Index{i[0], i[1] - 1, i[2], i[3]}; };
    check(moved(Op::kKCache, prefill, dtype, late).pattern(), "H01", "slot n holds what belongs to n - 1");
    check(moved(Op::kKCache, decode, dtype, late).pattern(), "H08", "slot n holds what belongs to n - 1");
    const auto overwritten = moved(Op::kKCache, decode, dtype, [](const Index& i) {
      return i[1] == 7 ? Index{i[0], 8, i[2], i[3]} : i;
    });
    check(overwritten.pattern(), "H08", "slot n holds what belongs to n + 1, every head, every batch row, slot 7 of 9");
    const auto far = moved(Op::kKCache, decode, dtype, [](const Index& i) {
      return Index{i[0], i[1] - 3, i[2], i[3]};
    });
    check(far.pattern(), "H01", "slot n holds what belongs to n - 3");
    // The writer counts slots by head within, the reader heads by slot within.
    const auto mixed = moved(Op::kKCache, prefill, dtype, [](const Index& i) {
      const std::int64_t flat = i[2] * 9 + i[1];
      return Index{i[0], flat / 3, flat % 3, i[3]};
    });
    check(mixed.pattern(), "H01", "values that belong elsewhere in the tensor");
  }
}

TEST_CASE("rows that hold other rows are told, and speak for none outside the caches", "[pattern]") {
  for (const DType dtype : kStored) {
    const auto late = moved(Op::kEmbedTokens, pattern_step(9), dtype, [](const Index& i) {
      return Index{i[0], i[1] + 1, i[2]};
    });
    check(late.pattern(), "none", "token row n holds what belongs to n + 1");
    const auto batch = moved(Op::kOutput, pattern_step(9, 0, {0, 0}), dtype, [](const Index& i) {
      return Index{0, i[1], i[2]};
    });
    check(batch.pattern(), "none", "batch row 1 holds the values of batch row 0");
  }
}

TEST_CASE("products that lie in memory in another order", "[pattern]") {
  for (const DType dtype : kStored) {
    for (const Op op : {Op::kOProj, Op::kGateProj, Op::kUpProj, Op::kDownProj, Op::kQProjMatmul}) {
      const std::int64_t width = op == Op::kOProj || op == Op::kDownProj ? 40 : (op == Op::kQProjMatmul ? 48 : 96);
      const auto flat_source = [&](const auto& source) {
        return moved(op, pattern_step(7, 0, {0, 0}), dtype, [&](const Index& i) {
          const std::int64_t flat = source((i[0] * 7 + i[1]) * width + i[2]);
          return flat < 0 ? Index{-1, 0, 0} : Index{flat / width / 7, flat / width % 7, flat % width};
        });
      };
      check(flat_source([&](std::int64_t at) { return at % 14 * width + at / 14; }).pattern(), "H07",
            "stored column by column");
      const auto by_batch = [&](std::int64_t at) {
        const std::int64_t batch = at / (7 * width);
        const std::int64_t within = at % (7 * width);
        return batch * 7 * width + within % 7 * width + within / 7;
      };
      check(flat_source(by_batch).pattern(), "H07", "each batch row stored column by column");
      const auto wider = [&](std::int64_t at) {
        const std::int64_t column = at % (width + 3);
        return column < width ? at / (width + 3) * width + column : -1;
      };
      check(flat_source(wider).pattern(), "H07", "rows stored 3 elements too far apart");
      const auto shifted = [&](std::int64_t at) { return at % width == 0 ? -1 : at - 1; };
      check(flat_source(shifted).pattern(), "none", "shifted by 1 column");
    }
    const auto added = moved(Op::kResidMid, pattern_step(7), dtype, [](const Index& i) {
      const std::int64_t flat = i[1] * 40 + i[2];
      return Index{0, flat % 7, flat / 7};
    });
    check(added.pattern(), "none", "stored column by column");  // no product
    const auto exchanged = moved(Op::kAttnOutput, pattern_step(7), dtype, [](const Index& i) {
      const std::int64_t vector = i[1] * 6 + i[2] / 8;
      return Index{0, vector % 7, vector / 7 * 8 + i[2] % 8};
    });
    check(exchanged.pattern(), "none", "heads and tokens exchanged in memory");
  }
}

TEST_CASE("dimensions of rotated heads in another order", "[pattern]") {
  const auto reordered = [](Op op, DType dtype, const auto& source) {
    return moved(op, pattern_step(7), dtype,
                 [&](const Index& i) {
                   return Index{i[0], i[1], i[2], source(i[3])};
                 })
        .pattern();
  };
  const auto swapped = [](std::int64_t i) { return (i + 4) % 8; };
  const auto interleaved = [](std::int64_t i) { return i / 2 + i % 2 * 4; };
  const auto parted = [](std::int64_t i) { return i % 4 * 2 + i / 4; };
  for (const DType dtype : kStored) {
    check(reordered(Op::kQRope, dtype, swapped), "H03", "halves of each head swapped, every head");
    check(reordered(Op::kKRope, dtype, interleaved), "H03", "dimensions interleaved, every head");
    check(reordered(Op::kQRope, dtype, parted), "H03", "even dimensions before odd ones, every head");
    check(reordered(Op::kVCache, dtype, swapped), "none", "halves of each head swapped, every head");
  }
}

// ---- Masks ---------------------------------------------------------------------------------------------------------

// Scores and probabilities of an engine that sees slots first(b, own)..last(b, own) of a row whose own slot is `own`.
template <typename First, typename Last>
PatternSample masked(Op op, const Step& step, const First& first, const Last& last) {
  PatternSample sample = pattern_sample(op, step, DType::kF32);
  const std::int64_t slots = sample.dim(3);
  Numbers numbers(7);
  Index i(4, 0);
  for (i[0] = 0; i[0] < sample.dim(0); ++i[0]) {
    for (i[1] = 0; i[1] < sample.dim(1); ++i[1]) {
      for (i[2] = 0; i[2] < sample.dim(2); ++i[2]) {
        const std::int64_t own = step.past_length + i[2];
        double sum = 0.0;
        for (i[3] = 0; i[3] < slots; ++i[3]) {
          double& value = sample.values[sample.at(i)];
          const double right = sample.expected.value[sample.at(i)];
          const bool seen = i[3] >= first(i[0], own) && i[3] <= last(i[0], own);
          if (op == Op::kScores) {
            value = !seen ? -kInfinity : (std::isinf(right) ? numbers.gaussian() : right);
          } else {
            value = !seen ? 0.0 : (right > 0.0 ? right : 0.05 + 0.1 * numbers.uniform());
            sum += value;
          }
        }
        for (i[3] = 0; op == Op::kProbs && sum > 0.0 && i[3] < slots; ++i[3]) sample.values[sample.at(i)] /= sum;
      }
    }
  }
  return sample;
}

TEST_CASE("slots that are seen wrongly, or not seen", "[pattern]") {
  const Step prefill = pattern_step(9, 0, {0, 3});
  const Step chunk = pattern_step(5, 8);
  const Step decode = pattern_step(1, 8, {0, 3}, Phase::kDecode);
  for (const Op op : {Op::kScores, Op::kProbs}) {
    const auto pad = [](std::int64_t b, std::int64_t) -> std::int64_t { return b == 1 ? 3 : 0; };
    const auto from_zero = [](std::int64_t, std::int64_t) -> std::int64_t { return 0; };
    const auto own = [](std::int64_t, std::int64_t o) { return o; };
    const auto before_own = [](std::int64_t, std::int64_t o) { return o - 1; };
    const auto text = [&](const Step& step, const auto& first, const auto& last) {
      return masked(op, step, first, last).pattern();
    };
    CHECK(text(prefill, pad, own).text.empty());
    check(text(prefill, pad, [](auto, auto) { return 8; }), "H10", "slots beyond the diagonal are seen");
    check(text(prefill, pad, [](auto, auto o) { return o + 1; }), "H10", "one slot beyond the diagonal is seen");
    check(text(prefill, pad, before_own), "H10", "the last slot is never seen");
    check(text(prefill, from_zero, own), "H10", "padding slots are seen");
    check(text(prefill, from_zero, [](auto, auto) { return 8; }), "H10",
          "slots beyond the diagonal are seen and padding slots are seen");
    check(text(
              prefill, [&](auto b, auto o) { return std::max(pad(b, o), o - 2); }, own),
          "H10", "only the last 3 slots are seen");
    check(text(
              chunk, [](auto, auto) { return 8; }, own),
          "H10", "slots before 8 are not seen");
    check(text(chunk, from_zero, [](auto, auto o) { return o - 8; }), "H10", "the newest slots are not seen");
    check(text(decode, pad, before_own), "H08", "the last slot is never seen");
    check(text(
              decode, [&](auto b, auto o) { return pad(b, o) + 1; }, own),
          "H08", "the first slot is not seen");
    check(text(decode, from_zero, own), "H10", "padding slots are seen");
    check(text(
              decode, [](auto, auto o) { return o - 3; }, own),
          "H10", "slots before 5 are not seen");
  }
}

TEST_CASE("a stand-in for minus infinity that softmax sees is told", "[pattern]") {
  PatternSample sample = pattern_sample(Op::kScores, pattern_step(9), DType::kF32);
  for (std::size_t i = 0; i < sample.values.size(); ++i) {
    sample.values[i] = sample.expected.value[i] -= std::isfinite(sample.expected.value[i]) ? 10000.0 : 0.0;
  }
  sample.change([](const Index&, double right) { return std::isinf(right) ? -10000.0 : right; });
  check(sample.pattern(), "H10", "slots beyond the diagonal are seen: they hold -10000");
}

TEST_CASE("probabilities that underflow here and there are no mask", "[pattern]") {
  PatternSample sample = pattern_sample(Op::kProbs, pattern_step(9), DType::kF32);
  sample.change([](const Index& i, double right) { return (i[1] + 2 * i[2] + i[3] * i[3]) % 3 == 0 ? 0.0 : right; });
  const Pattern found = sample.pattern();
  check(found, "none", "zero where wrong");
}

}  // namespace
}  // namespace qdiff::pattern
