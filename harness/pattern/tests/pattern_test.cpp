// What a pattern says of the place and the kind of an error.
#include "harness/pattern/pattern.h"

#include <cmath>
#include <limits>

#include "cmake/catch2.h"
#include "harness/pattern/tests/sample.h"

namespace qdiff::pattern {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// An error that no other rule explains: its size differs from element to element.
double garbage(const std::vector<std::int64_t>& index) {
  double phase = 0.7;
  for (const std::int64_t i : index) phase = phase * 3.7 + static_cast<double>(i) * 1.3;
  return 1.5 + std::sin(phase * phase);
}

template <typename Where>
Pattern spoiled(PatternSample sample, const Where& where) {
  return sample.change([&](const auto& i, double right) { return where(i) ? right + garbage(i) : right; }).pattern();
}

TEST_CASE("an honest rounding difference is no pattern", "[pattern]") {
  for (const OperationRow& operation : kOperationTable) {
    for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
      INFO(operation.name << " in " << name(dtype));
      const Pattern found = pattern_sample(operation.op, pattern_step(7, 3, {0, 5}), dtype).pattern();
      CHECK(found.text.empty());
      CHECK(found.axes.empty());
      CHECK(found.share_wrong == 0.0);
      CHECK_FALSE(found.hypothesis.has_value());
    }
  }
}

TEST_CASE("garbage is told by its place alone", "[pattern]") {
  for (const OperationRow& operation : kOperationTable) {
    for (std::uint64_t seed = 1; seed <= 4; ++seed) {
      for (const Phase phase : {Phase::kPrefill, Phase::kDecode}) {
        INFO(operation.name << ", seed " << seed);
        const Step step = phase == Phase::kPrefill ? pattern_step(9, 0, {0, 3}) : pattern_step(1, 9, {0, 3}, phase);
        PatternSample sample = pattern_sample(operation.op, step, DType::kBF16, seed);
        Numbers numbers(seed + 100);
        for (double& value : sample.values) {
          value = operation.op == Op::kProbs ? numbers.uniform() : numbers.gaussian();
        }
        const Pattern found = sample.pattern();
        CHECK(found.share_wrong > 0.9);
        CHECK_FALSE(found.hypothesis.has_value());
        CHECK(found.evidence.empty());
        CHECK_FALSE(found.ratio.has_value());
        CHECK_FALSE(found.grouped_ratio.has_value());
        CHECK_FALSE(found.offset.has_value());
        CHECK_FALSE(found.rounded_to.has_value());
        CHECK_THAT(found.text, StartsWith("every ") || StartsWith("nearly every "));
      }
    }
  }
}

TEST_CASE("garbage in one place is no evidence for what lives there", "[pattern]") {
  for (const OperationRow& operation : kOperationTable) {
    INFO(operation.name);
    const Pattern found =
        spoiled(pattern_sample(operation.op, pattern_step(9, 0, {0, 0})), [](const auto& i) { return i[0] == 1; });
    CHECK_THAT(found.text, StartsWith("batch row 1 of 2") || StartsWith("every head, batch row 1 of 2"));
    CHECK_FALSE(found.hypothesis.has_value());
  }
}

TEST_CASE("garbage here and there is no evidence", "[pattern]") {
  for (const OperationRow& operation : kOperationTable) {
    for (std::uint64_t seed = 1; seed <= 8; ++seed) {
      INFO(operation.name << ", seed " << seed);
      PatternSample sample = pattern_sample(operation.op, pattern_step(9, 0, {0, 3}), DType::kBF16, seed);
      PatternSample shifted = sample;
      PatternSample scaled = sample;
      Numbers numbers(seed + 200);
      for (std::size_t i = 0; i < sample.values.size(); ++i) {
        const bool here = numbers.uniform() < 0.05;
        const double value = numbers.gaussian();
        if (!here) continue;
        sample.values[i] += operation.op == Op::kProbs ? std::fabs(value) : value;
        shifted.values[i] += 0.5;
        scaled.values[i] *= 1.5;
      }
      const Pattern found = sample.pattern();
      CHECK_FALSE(found.hypothesis.has_value());
      CHECK_FALSE(found.ratio.has_value());
      CHECK_FALSE(found.offset.has_value());
      // What holds of a few elements alone is told, and is evidence of nothing.
      CHECK_FALSE(shifted.pattern().hypothesis.has_value());
      CHECK_FALSE(scaled.pattern().hypothesis.has_value());
    }
  }
}

TEST_CASE("heads, batch rows and token rows are told", "[pattern]") {
  const auto text = [](std::int64_t tokens, std::vector<std::int64_t> padding, const auto& where) {
    return spoiled(pattern_sample(Op::kAttnOutput, pattern_step(tokens, 0, std::move(padding))), where).text;
  };
  const auto head = [](const auto& i) { return i[2] / 8; };
  CHECK(text(3, {0}, [&](const auto& i) { return i[1] > 0 && (head(i) == 1 || head(i) == 2 || head(i) == 4); }) ==
        "heads 1, 2 and 4 of 6, token rows 1 and 2 of 3, every dimension");
  CHECK(text(3, {0}, [&](const auto& i) { return head(i) != 0; }) ==
        "every head but 0, every token row, every dimension");
  CHECK(text(2, {0, 0, 0, 0}, [](const auto& i) { return i[0] > 0; }) ==
        "every head, batch rows from 1 of 4, every token row, every dimension");
  CHECK(text(6, {0}, [](const auto& i) { return i[1] > 0; }) ==
        "every head, every token row but the first, every dimension");
  CHECK(text(6, {0}, [](const auto& i) { return i[1] == 5; }) == "every head, the last token row, every dimension");
  CHECK(text(6, {0}, [](const auto& i) { return i[1] == 0; }) == "every head, the first token row, every dimension");
  CHECK(text(9, {0}, [](const auto& i) { return i[1] >= 4; }) == "every head, token rows from 4 of 9, every dimension");
  CHECK(text(9, {0}, [](const auto& i) { return i[1] < 5; }) ==
        "every head, token rows before 5 of 9, every dimension");
}

TEST_CASE("dimensions of heads are told", "[pattern]") {
  const auto text = [](const auto& where) { return spoiled(pattern_sample(Op::kQRope, pattern_step(3)), where).text; };
  const std::string rows = "every head, every token row, ";
  CHECK(text([](const auto& i) { return i[3] >= 4; }) == rows + "the second half of each head");
  CHECK(text([](const auto& i) { return i[3] < 4; }) == rows + "the first half of each head");
  CHECK(text([](const auto& i) { return i[3] % 2 == 0; }) == rows + "even dimensions");
  CHECK(text([](const auto& i) { return i[3] % 2 == 1; }) == rows + "odd dimensions");
  CHECK(text([](const auto& i) { return i[3] != 0; }) == rows + "dimension 0 exact");
  CHECK(text([](const auto& i) { return i[3] % 4 != 0; }) == rows + "dimensions 0 and 4 exact");
  CHECK(text([](const auto& i) { return i[3] == 2; }) == rows + "dimension 2 of 8");
}

TEST_CASE("tails of columns are told beside their tile", "[pattern]") {
  ModelConfig config = pattern_config();
  config.hidden = 900;
  const auto text = [&](std::int64_t first) {
    return spoiled(pattern_sample(Op::kOProj, pattern_step(2), DType::kBF16, 1, config),
                   [&](const auto& i) { return i[2] >= first; })
        .text;
  };
  CHECK(text(768) == "every token row, columns from 768 of 900 (a multiple of 128)");
  CHECK(text(832) == "every token row, columns from 832 of 900 (a multiple of 64)");
  CHECK(text(800) == "every token row, columns from 800 of 900 (a multiple of 32)");
  CHECK(text(784) == "every token row, columns from 784 of 900 (a multiple of 16)");
  CHECK(text(801) == "every token row, columns from 801 of 900");
  CHECK(text(896) == "every token row, columns from 896, the last partial tile of 128");
}

TEST_CASE("columns that come again are told by their place in what repeats", "[pattern]") {
  ModelConfig config = pattern_config();
  config.hidden = 900;
  const auto text = [&](const auto& is_wrong) {
    return spoiled(pattern_sample(Op::kOProj, pattern_step(2), DType::kBF16, 1, config),
                   [&](const auto& i) { return is_wrong(i[2]); })
        .text;
  };
  CHECK(text([](std::int64_t c) { return c % 7 == 3; }) == "every token row, column 3 of every 7");
  CHECK(text([](std::int64_t c) { return c % 2 == 1; }) == "every token row, column 1 of every 2");
  CHECK(text([](std::int64_t c) { return c % 16 >= 8; }) == "every token row, columns 8..15 of every 16");
  CHECK(text([](std::int64_t c) { return c % 16 > 12 && c != 30; }) == "every token row, columns 13..15 of every 16");
  CHECK(text([](std::int64_t c) { return c * c % 251 % 7 == 3; }) == "every token row, 128 of 900 columns");
}

TEST_CASE("axes are data, too", "[pattern]") {
  const Pattern found = spoiled(pattern_sample(Op::kAttnOutput, pattern_step(3)),
                                [](const auto& i) { return i[1] == 2 && i[2] / 8 == 4; });
  REQUIRE(found.axes.size() == 4);
  CHECK(found.axes[0].axis == "head");
  CHECK(found.axes[0].wrong == std::vector<std::int64_t>{4});
  CHECK(found.axes[0].size == 6);
  CHECK_FALSE(found.axes[0].all);
  CHECK(found.axes[1].axis == "batch row");
  CHECK(found.axes[1].wrong.empty());  // there is one
  CHECK(found.axes[2].axis == "token row");
  CHECK(found.axes[2].wrong == std::vector<std::int64_t>{2});
  CHECK(found.axes[3].axis == "dimension");
  CHECK(found.axes[3].all);
  CHECK(found.share_wrong == Approx(1.0 / 18.0));
}

TEST_CASE("padding and unknown elements are left aside", "[pattern]") {
  PatternSample sample = pattern_sample(Op::kOProj, pattern_step(4, 0, {3, 0}));
  sample.change([](const auto& i, double right) { return i[0] == 0 && i[1] < 3 ? kNan : right; });
  CHECK(sample.pattern().text.empty());
  PatternSample cache = pattern_sample(Op::kKCache, pattern_step(1, 5, {3, 0}, Phase::kDecode));
  cache.change([](const auto& i, double right) { return i[0] == 0 && i[1] < 3 ? 7.0 : right; });
  CHECK(cache.pattern().text.empty());
  cache.change([](const auto& i, double right) { return i[0] == 0 && i[1] == 3 ? right + garbage(i) : right; });
  CHECK_THAT(cache.pattern().text,
             ContainsSubstring("batch row 0 of 2, slot 3 of 6") || ContainsSubstring("batch row 0 of 2, 1 of 6 slots"));

  PatternSample partly = pattern_sample(Op::kOProj, pattern_step(4));
  partly.expected.unknown.assign(partly.expected.value.size(), 0);
  partly.change([](const auto& i, double right) { return i[1] == 2 ? right + garbage(i) : right; });
  for (std::int64_t c = 0; c < 40; ++c) partly.expected.unknown[partly.at({0, 2, c})] = 1;
  CHECK(partly.pattern().text.empty());
  partly.expected.unknown[partly.at({0, 2, 11})] = 0;
  CHECK(partly.pattern().text == "token row 2 of 4, column 11 of 40");
}

TEST_CASE("a masked score may be any that softmax does not see", "[pattern]") {
  PatternSample sample = pattern_sample(Op::kScores, pattern_step(5), DType::kF32);
  sample.change([](const auto&, double right) { return std::isinf(right) ? -1e30 : right; });
  CHECK(sample.pattern().text.empty());
}

TEST_CASE("logits of the last row alone are held against that row", "[pattern]") {
  PatternSample sample = pattern_sample(Op::kLmHead, pattern_step(4, 0, {0, 2}), DType::kF32);
  const Shape last = {2, 1, 50};
  std::vector<double> values;
  for (std::int64_t b = 0; b < 2; ++b) {
    for (std::int64_t c = 0; c < 50; ++c) values.push_back(sample.expected.value[sample.at({b, 3, c})]);
  }
  const auto text = [&] {
    return describe_pattern(Op::kLmHead, Tensor::rounded(DType::kF32, last, values).view(), sample.expected,
                            sample.step, sample.config);
  };
  CHECK(text().empty());
  values[50 + 7] += 0.25;
  CHECK(text() == "batch row 1 of 2, column 7 of 50");
  const Tensor other(DType::kF32, {2, 2, 50});
  CHECK(describe_pattern(Op::kLmHead, other.view(), sample.expected, sample.step, sample.config).empty());
}

TEST_CASE("values of one kind are told", "[pattern]") {
  const auto text = [](const auto& wrong) {
    return pattern_sample(Op::kDownProj, pattern_step(3), DType::kF32).change(wrong).pattern().text;
  };
  const std::string everywhere = ", every token row, every column";
  CHECK(text([](const auto&, double) { return 0.0; }) == "all zero" + everywhere);
  CHECK(text([](const auto& i, double right) { return i[1] == 1 ? 0.0 : right; }) ==
        "zero where wrong, token row 1 of 3, every column");
  CHECK(text([](const auto&, double) { return kNan; }) == "NaN only" + everywhere);
  const auto holds_no_number = [](const auto& wrong) {
    return pattern_sample(Op::kDownProj, pattern_step(3), DType::kF32).change(wrong).pattern().holds_no_number;
  };
  CHECK(holds_no_number([](const auto&, double) { return kNan; }));
  CHECK_FALSE(holds_no_number([](const auto& i, double right) { return i[1] == 1 ? right : kNan; }));
  CHECK_FALSE(holds_no_number([](const auto& i, double) { return i[1] == 1 ? kInfinity : kNan; }));
  CHECK(text([](const auto&, double right) { return right < 0 ? -kInfinity : kInfinity; }) == "infinite" + everywhere);
  CHECK(text([](const auto&, double right) { return right < 0 ? -65504.0 : 65504.0; }) ==
        "saturated at +-65504" + everywhere);
  // In bfloat16 numbers of this size swallow what differs: it is no constant that was added.
  PatternSample poison = pattern_sample(Op::kKCache, pattern_step(1, 8, {0, 0}, Phase::kDecode));
  poison.change([](const auto& i, double right) { return i[1] == 8 ? 29952.0 : right; });
  const Pattern found = poison.pattern();
  CHECK(found.text == "29952 where wrong, every head, every batch row, the last slot, every dimension");
  CHECK_FALSE(found.offset.has_value());
}

TEST_CASE("a constant ratio is measured", "[pattern]") {
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    const auto of = [&](double factor) {
      return pattern_sample(Op::kAct, pattern_step(4), dtype)
          .change([&](const auto&, double right) { return factor * right; })
          .pattern();
    };
    const Pattern half = of(0.5);
    CHECK(half.ratio.value() == Approx(0.5).epsilon(1e-3));
    CHECK(half.text == "0.5 times the expected values, every token row, every column");
    CHECK_FALSE(half.hypothesis.has_value());  // a factor alone speaks for none
    CHECK(of(2.75).ratio.value() == Approx(2.75).epsilon(1e-3));
    CHECK(of(1.03).ratio.value() == Approx(1.03).epsilon(1e-3));
    const Pattern flipped = of(-1.0);
    CHECK(flipped.text == "sign flipped, every token row, every column");
    CHECK(flipped.ratio.value() == Approx(-1.0).epsilon(1e-3));
  }
}

TEST_CASE("a ratio close to 1 is told by its difference from 1", "[pattern]") {
  for (const auto& [factor, words] : {std::pair(1.0 - 0x1p-12, "(1 - 0.00024)"), {1.0 + 0x1p-14, "(1 + 6.1e-05)"}}) {
    const Pattern found = pattern_sample(Op::kAct, pattern_step(4), DType::kF32)
                              .change([&](const auto&, double right) { return factor * right; })
                              .pattern();
    CHECK(found.text == std::string(words) + " times the expected values, every token row, every column");
  }
}

TEST_CASE("a ratio holds where the tensor is wrong", "[pattern]") {
  const Pattern found = pattern_sample(Op::kAct, pattern_step(4), DType::kF32)
                            .change([](const auto& i, double right) { return i[2] >= 64 ? 2.0 * right : right; })
                            .pattern();
  CHECK(found.text == "2 times the expected values, every token row, columns from 64, the last partial tile of 64");
}

TEST_CASE("a few elements with a cause of their own do not hide a ratio", "[pattern]") {
  ModelConfig config = pattern_config();
  config.intermediate = 1000;
  PatternSample sample = pattern_sample(Op::kAct, pattern_step(4), DType::kBF16, 1, config);
  sample.change([](const auto&, double right) { return 1.5 * right; });
  sample.values[17] = 300.0;
  sample.values[2003] = kNan;
  CHECK(sample.pattern().ratio.value() == Approx(1.5).epsilon(1e-3));
  for (std::size_t i = 0; i < 400; ++i) sample.values[i * 10] += garbage({static_cast<std::int64_t>(i)});
  CHECK_FALSE(sample.pattern().ratio.has_value());
}

TEST_CASE("a ratio by head and one by head and row are told", "[pattern]") {
  const Pattern by_head =
      pattern_sample(Op::kAttnOutput, pattern_step(4), DType::kF32)
          .change([](const auto& i, double right) { return right * (1.5 + static_cast<double>(i[2] / 8)); })
          .pattern();
  CHECK(by_head.text == "a constant ratio in each head (1.5..6.5), every head, every token row, every dimension");
  CHECK_FALSE(by_head.ratio.has_value());
  const Pattern by_both = pattern_sample(Op::kAttnOutput, pattern_step(4), DType::kF32)
                              .change([](const auto& i, double right) {
                                return right * (1.5 + static_cast<double>(i[2] / 8) + static_cast<double>(i[1] * i[1]));
                              })
                              .pattern();
  CHECK(by_both.grouped_ratio == "a constant ratio in each head and token row");
  CHECK_FALSE(by_both.hypothesis.has_value());
}

TEST_CASE("values that do not differ tell no ratio from a constant", "[pattern]") {
  PatternSample sample = pattern_sample(Op::kAct, pattern_step(4), DType::kF32);
  for (std::size_t i = 0; i < sample.values.size(); ++i) {
    sample.expected.value[i] = 1.0;
    sample.values[i] = 2.0;
  }
  const Pattern found = sample.pattern();
  CHECK_FALSE(found.ratio.has_value());
  CHECK_FALSE(found.offset.has_value());
  CHECK(found.text == "every token row, every column");
}

TEST_CASE("one constant, and one for each row, are told", "[pattern]") {
  const Pattern one = pattern_sample(Op::kGateProj, pattern_step(4), DType::kF32)
                          .change([](const auto&, double right) { return right + 0.25; })
                          .pattern();
  CHECK(one.offset == "one constant");
  CHECK(one.text == "off by one constant (0.25), every token row, every column");
  const Pattern by_row =
      pattern_sample(Op::kGateProj, pattern_step(4), DType::kF32)
          .change([](const auto& i, double right) { return right + 0.25 * static_cast<double>(1 + i[1] * i[1]); })
          .pattern();
  CHECK(by_row.offset == "a constant for each token row");
  CHECK(by_row.text == "off by a constant for each token row (0.25..2.5), every token row, every column");
}

TEST_CASE("a coarser type is recognised where the expected values are not of it", "[pattern]") {
  const auto rounded = [](DType stored, DType coarse) {
    return pattern_sample(Op::kUpProj, pattern_step(3), stored)
        .change([&](const auto&, double right) { return round_to(coarse, right); })
        .pattern();
  };
  CHECK(rounded(DType::kF32, DType::kBF16).rounded_to == DType::kBF16);
  CHECK(rounded(DType::kF32, DType::kF16).rounded_to == DType::kF16);
  CHECK(rounded(DType::kF16, DType::kBF16).rounded_to == DType::kBF16);
  CHECK_THAT(rounded(DType::kF32, DType::kBF16).text, StartsWith("every value is a bfloat16, "));
  CHECK_FALSE(rounded(DType::kF32, DType::kBF16).hypothesis.has_value());

  PatternSample exact = pattern_sample(Op::kEmbedTokens, pattern_step(3), DType::kF32);
  for (std::size_t i = 0; i < exact.values.size(); ++i) {
    exact.expected.value[i] = round_to(DType::kBF16, exact.expected.value[i]);
    exact.values[i] = round_to(DType::kBF16, exact.expected.value[i] + garbage({static_cast<std::int64_t>(i)}));
  }
  CHECK_FALSE(exact.pattern().rounded_to.has_value());
}

TEST_CASE("growth with position is told, and its power", "[pattern]") {
  const auto grown = [](double power) {
    return pattern_sample(Op::kOProj, pattern_step(24), DType::kF32)
        .change([&](const auto& i, double right) {
          const double sign = garbage(i) > 1.5 ? 1.0 : -1.0;
          return right + sign * 1e-3 * std::pow(static_cast<double>(i[1]), power);
        })
        .pattern();
  };
  const Pattern linear = grown(1.0);
  CHECK(linear.power_of_position.value() == Approx(1.0).margin(0.15));
  CHECK_THAT(linear.text, StartsWith("grows as position to the power "));
  CHECK(grown(2.0).power_of_position.value() == Approx(2.0).margin(0.15));
  const Pattern level = pattern_sample(Op::kOProj, pattern_step(24), DType::kF32)
                            .change([](const auto& i, double right) {
                              const auto position = static_cast<double>(i[1]);
                              return right * (1.0 + 0.1 * position / (position + 4.0) * (i[2] % 2 == 0 ? 1.0 : -1.5));
                            })
                            .pattern();
  CHECK_FALSE(level.power_of_position.has_value());
  CHECK_THAT(level.text, StartsWith("grows with position"));
  const Pattern flat =
      spoiled(pattern_sample(Op::kOProj, pattern_step(24), DType::kF32), [](const auto&) { return true; });
  CHECK(flat.text == "every token row, every column");
}

TEST_CASE("errors of large values alone are told", "[pattern]") {
  const auto wrong_beyond = [](double size) {
    return pattern_sample(Op::kDownProj, pattern_step(12), DType::kF32)
        .change([&](const auto& i, double right) { return std::fabs(right) >= size ? right + garbage(i) : right; })
        .pattern();
  };
  CHECK_THAT(wrong_beyond(2.0).text, StartsWith("only where |expected| >= 2, "));
  CHECK_THAT(wrong_beyond(0.0).text, StartsWith("every token row"));
}

TEST_CASE("a soft cap, of which only large values show a last bit, is no constant ratio", "[pattern]") {
  for (double cap : {20.0, 30.0, 40.0}) {
    const Pattern found = pattern_sample(Op::kLmHead, pattern_step(9), DType::kBF16)
                              .change([&](const auto&, double right) { return cap * std::tanh(right / cap); })
                              .pattern();
    INFO(cap << ": " << found.text);
    CHECK_FALSE(found.ratio.has_value());
    CHECK_FALSE(found.grouped_ratio.has_value());
  }
}

TEST_CASE("a pattern stays short and leaves out what is wrong throughout first", "[pattern]") {
  PatternSample sample = pattern_sample(Op::kKCache, pattern_step(64, 0, {0, 0, 0, 0}), DType::kF32);
  sample.change([](const auto& i, double right) {
    const bool where = i[1] % 11 < 2 && i[0] % 2 == 1 && i[3] % 3 != 1;
    return where ? right + static_cast<double>(1 + i[1]) * garbage(i) : right;
  });
  const Pattern found = sample.pattern();
  CHECK(found.text.size() <= 160);
  CHECK_THAT(found.text, ContainsSubstring("batch rows 1 and 3 of 4"));
}

TEST_CASE("no content makes a pattern fail", "[pattern]") {
  for (const OperationRow& operation : kOperationTable) {
    for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32, DType::kF64}) {
      PatternSample sample = pattern_sample(operation.op, pattern_step(5, 2, {0, 1}), dtype);
      const std::vector<double> odd = {kNan, kInfinity, -kInfinity, 0.0, -0.0, 1e300, -1e300, 1e-300, 65504.0};
      for (std::size_t i = 0; i < sample.values.size(); ++i) sample.values[i] = odd[i % odd.size()];
      INFO(operation.name);
      const Pattern found = sample.pattern();
      CHECK_FALSE(found.text.empty());
      CHECK_FALSE(found.hypothesis.has_value());
      for (std::size_t i = 0; i < sample.values.size(); ++i) {
        sample.expected.value[i] = odd[(i + i / 3) % odd.size()];
        sample.expected.sigma_independent[i] = i % 5 == 0 ? std::numeric_limits<float>::infinity() : 0.0F;
      }
      CHECK_FALSE(sample.pattern().text.empty());
    }
  }
}

}  // namespace
}  // namespace qdiff::pattern
