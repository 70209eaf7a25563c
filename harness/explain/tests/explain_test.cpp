#include "harness/explain/explain.h"

#include <random>

#include "cmake/catch2.h"
#include "harness/explain/domain.h"
#include "harness/explain/tests/solved_case.h"

namespace qdiff::explain {
namespace {

TEST_CASE("right code is not explained, nor are elements that were spoiled at random", "[explain]") {
  for (Op op : {Op::kInputLayernorm, Op::kQProjMatmul, Op::kKProj, Op::kQRope, Op::kKCache, Op::kScores, Op::kOProj,
                Op::kResidMid, Op::kAct, Op::kOutput}) {
    INFO(row(op).name);
    SplitMix64 random(static_cast<std::uint64_t>(op) + 90);
    Case spoiled;
    const auto theory = spoiled.explained(
        op, 11, at(op, [&](const auto&, const Step&, Values right) {
          for (int i = 0; i < 5; ++i) {
            double& value = right[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(right.size())))];
            if (std::isfinite(value)) value = value * (0.5 + random.uniform()) + 0.3 * random.uniform();
          }
          return right;
        }));
    CHECK(spoiled.num_wrong > 0);
    CHECK_FALSE(theory.has_value());
    if (theory) UNSCOPED_INFO(theory->sentence);
  }
}

TEST_CASE("a sum with other coefficients is solved for", "[sum]") {
  SplitMix64 random(1);
  for (int draw = 0; draw < 4; ++draw) {
    const double residual = static_cast<double>(random.between(-1, 3)), branch = residual == 1.0 ? 2.0 : 1.0;
    Case c;
    const auto theory = c.explained(Op::kOutput, 20 + static_cast<std::uint64_t>(draw),
                                    at(Op::kOutput, [&](const auto& in, const Step&, Values right) {
                                      for (std::size_t i = 0; i < right.size(); ++i) {
                                        right[i] = residual * in[0][i] + branch * in[1][i];
                                      }
                                      return right;
                                    }));
    REQUIRE(theory.has_value());
    CHECK((theory->mechanism == "sum" || residual == 0.0));  // without the residual it holds a copy of the branch
    CHECK(theory->scope.empty());
  }
}

TEST_CASE("a scope is derived: in decode alone, from a position on, in some heads", "[domain]") {
  Case decode;
  auto theory =
      decode.explained(Op::kResidMid, 3, at(Op::kResidMid, [](const auto& in, const Step& step, Values right) {
                         if (step.phase != Phase::kDecode) return right;
                         for (std::size_t i = 0; i < right.size(); ++i) right[i] += 2.0 * in[1][i];
                         return right;
                       }));
  REQUIRE(theory.has_value());
  CHECK(theory->mechanism == "sum");
  CHECK(text_of(theory->parameters, "self_attn.o_proj") == "3");
  CHECK(text_of(theory->scope, "phase") == "decode");

  Case late;
  theory = late.explained(Op::kQRope, 4, at(Op::kQRope, [&](const auto& in, const Step& step, Values) {
                            auto positions = step.positions;
                            for (auto& of_row : positions) {
                              for (std::int64_t& p : of_row) p = p >= 9 ? p - 9 : p;
                            }
                            return late.oracle.rotated(in[0], positions);
                          }));
  REQUIRE(theory.has_value());
  CHECK(theory->mechanism == "rotation.position");
  CHECK(text_of(theory->parameters, "position") == "its position - 9");
  CHECK(text_of(theory->scope, "tokens") == "9 and up");
}

TEST_CASE("copies are found: zeros, another tensor, vectors of another slot and head", "[copies]") {
  Case tail;
  auto theory = tail.explained(Op::kAct, 5, at(Op::kAct, [](const auto& in, const Step&, Values right) {
                                 for (std::size_t i = 0; i < right.size(); ++i) {
                                   if (i % 64 >= 41) right[i] = in[0][i];
                                 }
                                 return right;
                               }));
  REQUIRE(theory.has_value());
  CHECK(theory->mechanism == "copy.tensor");
  CHECK(text_of(theory->parameters, "source") == "mlp.gate_proj");
  CHECK(text_of(theory->scope, "columns") == "41 and up");

  Case zeros;
  theory = zeros.explained(Op::kUpProj, 6, at(Op::kUpProj, [](const auto&, const Step& step, Values right) {
                             if (step.phase == Phase::kPrefill) return right;
                             for (std::size_t i = 64; i < right.size(); ++i) right[i] = 0.0;
                             return right;
                           }));
  REQUIRE(theory.has_value());
  CHECK(theory->mechanism == "copy.zeros");
  CHECK(text_of(theory->scope, "batch_rows") == "1 and up");

  Case moved;
  theory = moved.explained(Op::kVCache, 8, at(Op::kVCache, [](const auto&, const Step& step, Values right) {
                             if (step.index != 0) return right;
                             const Values before =
                                 right;  // [B, S, 2, 8]: slot s of both heads holds head 1 of slot s - 1
                             for (std::size_t i = 16; i < right.size(); ++i) {
                               const std::size_t slot = i / 16 % 12;
                               if (slot > 0) right[i] = before[(i / 16 - 1) * 16 + 8 + i % 8];
                             }
                             return right;
                           }));
  REQUIRE(theory.has_value());
  CHECK(theory->mechanism == "copy.vectors");
  CHECK_THAT(theory->sentence, ContainsSubstring("1 before"));
  CHECK_THAT(theory->sentence, ContainsSubstring("heads 0..1 from 1, 1"));
}

TEST_CASE("slots out of place leave others that nobody wrote, whatever value memory held there", "[copies]") {
  for (const double held : {0.0, 11.0}) {
    Case c;
    const auto theory = c.explained(Op::kVCache, 9, at(Op::kVCache, [&](const auto&, const Step& step, Values right) {
                                      if (step.index != 0) return right;
                                      const Values before = right;
                                      for (std::size_t i = 0; i < right.size(); ++i) {
                                        const std::size_t slot = i / 16 % 12;
                                        right[i] = slot > 0 ? before[i - 16] : held;
                                      }
                                      return right;
                                    }));
    REQUIRE(theory.has_value());
    CHECK(theory->mechanism == "copy.vectors");
    CHECK_THAT(theory->sentence, ContainsSubstring(held == 0.0 ? "zeros where nobody" : "11 where nobody wrote"));
  }
}

TEST_CASE("a theory that only scatters the elements explains none of them", "[accept]") {
  for (const bool scatters : {true, false}) {
    Case c;
    const auto spoiled = [](double right) { return 5.0 * right * right + 3.0; };
    Candidate candidate;
    candidate.theory.mechanism = "coarse";
    candidate.predict = [&](const Instance& instance) -> std::optional<Expectation> {
      Expectation theory = c.oracle.evaluate({.operations = instance.span,
                                              .recorded = c.recorded->store,
                                              .steps = c.recorded->steps,
                                              .precision = kPrecision,
                                              .stored = DType::kBF16});
      std::mt19937_64 draw(1);
      for (double& value : theory.value) {
        value = scatters ? value + (draw() % 2 == 0 ? 1e-3 : -1e-3) : spoiled(value);
      }
      if (scatters) theory.sigma_independent.assign(theory.value.size(), 100.0F);
      return theory;
    };
    c.named = {candidate};
    const auto theory = c.explained(Op::kUpProj, 10, at(Op::kUpProj, [&](const auto&, const Step&, Values right) {
                                      for (double& value : right) value = spoiled(value);
                                      return right;
                                    }));
    CHECK(theory.has_value() != scatters);
  }
}

TEST_CASE("a norm over column blocks, with 1 + w, or with another weight is solved for", "[norm]") {
  for (const std::size_t blocks : {2U, 3U, 8U}) {
    Case c;
    const auto theory = c.explained(Op::kPostAttentionLayernorm, 30 + blocks,
                                    at(Op::kPostAttentionLayernorm, [&](const auto& in, const Step&, Values) {
                                      const Values& w = c.oracle.weight({Op::kPostAttentionLayernorm, 1});
                                      Values out;
                                      for (std::size_t start = 0; start < in[0].size(); start += 48 / blocks) {
                                        const auto x = in[0].begin() + static_cast<std::ptrdiff_t>(start);
                                        const auto part = w.begin() + static_cast<std::ptrdiff_t>(start % 48);
                                        const auto size = static_cast<std::ptrdiff_t>(48 / blocks);
                                        const Values normed = c.oracle.norm({x, x + size}, {part, part + size});
                                        out.insert(out.end(), normed.begin(), normed.end());
                                      }
                                      return out;
                                    }));
    REQUIRE(theory.has_value());
    CHECK(theory->mechanism == "norm.blocks");
    CHECK(text_of(theory->parameters, "blocks") == std::to_string(blocks));
    CHECK(theory->hypothesis == "H09");
  }
  Case other;
  auto theory =
      other.explained(Op::kInputLayernorm, 34, at(Op::kInputLayernorm, [&](const auto& in, const Step&, Values) {
                        return other.oracle.norm(in[0], other.oracle.weight({Op::kPostAttentionLayernorm, 0}));
                      }));
  REQUIRE(theory.has_value());
  CHECK(theory->mechanism == "norm.weight");
  CHECK_THAT(theory->sentence, ContainsSubstring("model.layers.0.post_attention_layernorm"));
  Case plus;
  theory = plus.explained(Op::kInputLayernorm, 35, at(Op::kInputLayernorm, [&](const auto& in, const Step&, Values) {
                            Values w = plus.oracle.weight({Op::kInputLayernorm, 1});
                            for (double& x : w) x += 1.0;
                            return plus.oracle.norm(in[0], w);
                          }));
  REQUIRE(theory.has_value());
  CHECK(text_of(theory->parameters, "weight") == "1 + w");
}

TEST_CASE("a product's rows may be permuted, cut wrongly or of another matrix", "[product]") {
  Case permuted;
  auto theory =
      permuted.explained(Op::kKProjMatmul, 40, at(Op::kKProjMatmul, [](const auto&, const Step&, Values right) {
                           const Values before = right;
                           constexpr std::size_t kOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};
                           for (std::size_t i = 0; i < right.size(); ++i) right[i] = before[i / 8 * 8 + kOrder[i % 8]];
                           return right;
                         }));
  REQUIRE(theory.has_value());
  CHECK(theory->mechanism == "product.rows");
  CHECK(text_of(theory->parameters, "rows") == "0 2 4 6 1 3 5 7");
  CHECK_THAT(theory->sentence, ContainsSubstring("within heads"));

  Case cut;
  theory = cut.explained(Op::kQProjMatmul, 41, at(Op::kQProjMatmul, [&](const auto& in, const Step&, Values right) {
                           const Values k = cut.oracle.product(in[0], cut.oracle.weight({Op::kKProjMatmul, 1}));
                           for (std::size_t r = 0; r < right.size() / 48; ++r) {
                             for (std::size_t c = 0; c < 8; ++c) right[r * 48 + 40 + c] = k[r * 16 + 8 + c];
                           }
                           return right;
                         }));
  REQUIRE(theory.has_value());
  CHECK(text_of(theory->parameters, "rows") == "head 5 holds head 1 of self_attn.k_proj.matmul");
}

TEST_CASE("a product's inputs may be permuted in blocks or left out", "[product]") {
  for (const std::size_t block : {8U, 16U}) {
    Case c;
    const auto theory =
        c.explained(Op::kGateProj, 50 + block, at(Op::kGateProj, [&](const auto& in, const Step& step, Values right) {
                      if (step.phase != Phase::kDecode) return right;
                      Values x = in[0];
                      for (std::size_t i = 0; i < x.size(); ++i) {
                        const std::size_t j = i % block;  // neighbours i, i + 1 are block / 2 apart
                        x[i] = in[0][i / block * block + j % 2 * (block / 2) + j / 2];
                      }
                      return c.oracle.product(x, c.oracle.weight({Op::kGateProj, 1}));
                    }));
    REQUIRE(theory.has_value());
    CHECK(theory->mechanism == "product.input_order");
    CHECK(text_of(theory->parameters, "block") == std::to_string(block));
    CHECK(text_of(theory->scope, "phase") == "decode");
  }
  Case dropped;
  const auto theory = dropped.explained(Op::kDownProj, 52, at(Op::kDownProj, [&](const auto& in, const Step&, Values) {
                                          Values x = in[0];
                                          for (std::size_t i = 0; i < x.size(); ++i) {
                                            if (i % 64 >= 51) x[i] = 0.0;
                                          }
                                          return dropped.oracle.product(x, dropped.oracle.weight({Op::kDownProj, 1}));
                                        }));
  REQUIRE(theory.has_value());
  CHECK(theory->mechanism == "product.coefficients");
  CHECK_THAT(theory->sentence, ContainsSubstring("leaves out inputs 51..63"));
}

TEST_CASE("coefficients are solved for to the element, in all heads or in one", "[product]") {
  struct Part {
    std::size_t first, end;
    double coefficient;
    std::size_t columns;  // of the output, from the first on
  };
  for (const Part& part : {Part{5, 24, 2.0, 64}, Part{11, 12, 0.0, 64}, Part{3, 46, -1.0, 64}, Part{19, 31, 0.0, 16}}) {
    INFO(part.first << ".." << part.end << " times " << part.coefficient << " in " << part.columns << " columns");
    Case c;
    const auto theory = c.explained(Op::kUpProj, 54, at(Op::kUpProj, [&](const auto& in, const Step&, Values right) {
                                      Values x = in[0];
                                      for (std::size_t i = 0; i < x.size(); ++i) {
                                        if (i % 48 >= part.first && i % 48 < part.end) x[i] *= part.coefficient;
                                      }
                                      const Values wrong = c.oracle.product(x, c.oracle.weight({Op::kUpProj, 1}));
                                      for (std::size_t i = 0; i < right.size(); ++i) {
                                        if (i % 64 < part.columns) right[i] = wrong[i];
                                      }
                                      return right;
                                    }));
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK(theory->mechanism == "product.coefficients");
    const std::string inputs = "inputs " + std::to_string(part.first) + ".." + std::to_string(part.end - 1);
    CHECK(text_of(theory->parameters, inputs) == std::to_string(static_cast<int>(part.coefficient)));
    CHECK(text_of(theory->scope, "columns") == (part.columns == 64 ? "" : "below 16"));
  }
}

TEST_CASE("weights that are off by a constant in each group of inputs are solved for", "[product]") {
  Case c;
  SplitMix64 random(60);
  Values delta(64 * 3);
  for (double& x : delta) x = 0.2 * (random.uniform() - 0.5);
  const auto theory = c.explained(Op::kUpProj, 61, at(Op::kUpProj, [&](const auto& in, const Step& step, Values right) {
                                    if (step.phase == Phase::kDecode) return right;
                                    for (std::size_t r = 0; r < right.size() / 64; ++r) {
                                      for (std::size_t n = 0; n < 64; ++n) {
                                        for (std::size_t k = 0; k < 48; ++k)
                                          right[r * 64 + n] += in[0][r * 48 + k] * delta[n * 3 + k / 16];
                                      }
                                    }
                                    return right;
                                  }));
  REQUIRE(theory.has_value());
  CHECK(theory->mechanism == "product.groups");
  CHECK(text_of(theory->parameters, "group") == "16");
  CHECK(text_of(theory->scope, "phase") == "prefill");
}

TEST_CASE("biases that are missing, doubled or cut from another projection are solved for", "[bias]") {
  for (const double coefficient : {0.0, 2.0, -1.0}) {
    Case c;
    const auto theory = c.explained(Op::kVProj, 70, at(Op::kVProj, [&](const auto& in, const Step&, Values right) {
                                      for (std::size_t i = 0; i < right.size(); ++i) {
                                        right[i] = in[0][i] + coefficient * c.oracle.weight({Op::kVProj, 1})[i % 16];
                                      }
                                      return right;
                                    }));
    REQUIRE(theory.has_value());
    CHECK((theory->mechanism == "bias" || coefficient == 0.0));  // without a bias it holds a copy of the product
  }
  Case cut;
  const auto theory = cut.explained(Op::kQProj, 71, at(Op::kQProj, [&](const auto& in, const Step&, Values right) {
                                      for (std::size_t i = 0; i < right.size(); ++i) {
                                        if (i % 48 >= 32)
                                          right[i] = in[0][i] + cut.oracle.weight({Op::kKProj, 1})[i % 48 - 32];
                                      }
                                      return right;
                                    }));
  REQUIRE(theory.has_value());
  CHECK(theory->mechanism == "bias.rows");
  CHECK_THAT(theory->sentence, ContainsSubstring("heads 4..5 hold heads 0..1 of self_attn.k_proj"));
}

TEST_CASE("a rotation of some heads is solved for from those alone", "[rotation]") {
  Case c;  // [B, T, 6, 8]: heads 2 and up are turned the other way round
  auto theory = c.explained(Op::kQRope, 82, at(Op::kQRope, [&](const auto& in, const Step& step, Values right) {
                              auto positions = step.positions;
                              for (auto& of_row : positions) {
                                for (std::int64_t& p : of_row) p = -p;
                              }
                              const Values back = c.oracle.rotated(in[0], positions);
                              for (std::size_t i = 0; i < right.size(); ++i) {
                                if (i % 48 >= 16) right[i] = back[i];
                              }
                              return right;
                            }));
  REQUIRE(theory.has_value());
  CHECK(theory->mechanism == "rotation.position");
  CHECK(text_of(theory->parameters, "position") == "-1 times its position");
  CHECK(text_of(theory->scope, "heads") == "2 and up");
  CHECK(text_of(theory->scope, "columns").empty());  // though the slowest pair hardly turns
}

TEST_CASE("a table of cosines and sines that is read beyond its end is solved for", "[rotation]") {
  Case c;
  const auto theory =
      c.explained(Op::kKRope, 80, at(Op::kKRope, [&](const auto& in, const Step& step, Values right) {
                    const std::int64_t tokens = step.num_tokens();
                    for (std::int64_t r = 0; r < 2 * tokens; ++r) {
                      const std::int64_t p =
                          step.positions[static_cast<std::size_t>(r / tokens)][static_cast<std::size_t>(r % tokens)];
                      if (p < 10) continue;
                      for (std::size_t i = 0; i < 16; ++i) {  // sine of p - 10 for the cosine, 0 for the sine
                        const double f = std::pow(1e4, -2.0 * static_cast<double>(i % 4) / 8.0);
                        const std::size_t e = static_cast<std::size_t>(r) * 16 + i;
                        right[e] = in[0][e] * std::sin(static_cast<double>(p - 10) * f);
                      }
                    }
                    return right;
                  }));
  REQUIRE(theory.has_value());
  CHECK(theory->mechanism == "rotation.table");
  CHECK(text_of(theory->parameters, "cosine") == "sine of p - 10");
  CHECK(text_of(theory->parameters, "sine") == "0");
  CHECK(text_of(theory->scope, "tokens") == "10 and up");
}

TEST_CASE("another gate function, another mask, other heads and another input are solved for", "[explain]") {
  Case gate;
  auto theory = gate.explained(Op::kAct, 90, at(Op::kAct, [](const auto& in, const Step&, Values right) {
                                 for (std::size_t i = 0; i < right.size(); ++i)
                                   right[i] = std::max(in[0][i], 0.0) * in[1][i];
                                 return right;
                               }));
  REQUIRE(theory.has_value());
  CHECK(text_of(theory->parameters, "function") == "ReLU");

  Case mask;
  theory = mask.explained(Op::kScores, 91, at(Op::kScores, [](const auto&, const Step& step, Values right) {
                            if (step.phase == Phase::kDecode) return right;
                            const auto slots = static_cast<std::size_t>(step.valid_length());
                            for (std::size_t i = 0; i < right.size(); ++i) {
                              const std::size_t s = i % slots,
                                                t = i / slots % static_cast<std::size_t>(step.num_tokens());
                              if (s + 5 <= t) right[i] = -std::numeric_limits<double>::infinity();
                            }
                            return right;
                          }));
  REQUIRE(theory.has_value());
  CHECK(theory->mechanism == "visible");
  CHECK_THAT(theory->sentence, ContainsSubstring("the last 5 slots"));

  Case inverted;  // in decode, where a query sees all slots but padding, it sees padding alone
  theory = inverted.explained(Op::kScores, 94, at(Op::kScores, [&](const auto& in, const Step& step, Values right) {
                                if (step.phase == Phase::kPrefill) return right;
                                Step unpadded = step;
                                unpadded.left_padding.assign(unpadded.left_padding.size(), 0);
                                const Values all = inverted.oracle.scores(in[0], in[1], unpadded);
                                for (std::size_t i = 0; i < right.size(); ++i) {
                                  const bool hidden = std::isinf(right[i]);
                                  right[i] = hidden ? all[i] : -std::numeric_limits<double>::infinity();
                                }
                                return right;
                              }));
  REQUIRE(theory.has_value());
  CHECK(theory->mechanism == "visible");

  Case heads;
  theory =
      heads.explained(Op::kAttnOutput, 92, at(Op::kAttnOutput, [&](const auto& in, const Step& step, Values right) {
                        const Values& v = in[1];  // [B, S, 2, 8]; query head h reads head h % 2
                        const std::int64_t tokens = step.num_tokens(), slots = step.valid_length();
                        for (std::int64_t i = 0; i < static_cast<std::int64_t>(right.size()); ++i) {
                          const std::int64_t h = i / 8 % 6, t = i / 48 % tokens, b = i / 48 / tokens;
                          double sum = 0.0;
                          for (std::int64_t s = 0; s < slots; ++s) {
                            sum += in[0][static_cast<std::size_t>(((b * 6 + h) * tokens + t) * slots + s)] *
                                   v[static_cast<std::size_t>(((b * slots + s) * 2 + h % 2) * 8 + i % 8)];
                          }
                          right[static_cast<std::size_t>(i)] = sum;
                        }
                        return right;
                      }));
  REQUIRE(theory.has_value());
  CHECK(theory->mechanism == "heads.read");
  CHECK(text_of(theory->parameters, "head of self_attn.v_cache") == "h % 2");

  Case source;
  Values values;
  theory = source.explained(Op::kKRope, 93, [&](const TensorKey& key, const auto&, const Step& step, Values right) {
    if (key.id == TensorId{Op::kVProj, 1}) {
      values = right;
      for (double& x : values) x = round_to(DType::kBF16, x);
    }
    const bool wrong = key.id == TensorId{Op::kKRope, 1} && step.phase == Phase::kDecode;
    return wrong ? source.oracle.rotated(values, step.positions) : right;
  });
  REQUIRE(theory.has_value());
  CHECK(theory->mechanism == "source");
  CHECK(text_of(theory->parameters, "source") == "self_attn.v_proj");
  CHECK(text_of(theory->scope, "phase") == "decode");
}

TEST_CASE("a factor and a soft cap are solved for, though only the largest values show the cap", "[factor]") {
  Case some;  // of the columns, so that right ones are most
  auto theory = some.explained(Op::kUpProj, 97, at(Op::kUpProj, [](const auto&, const Step&, Values right) {
                                 for (std::size_t i = 0; i < right.size(); ++i) {
                                   if (i % 64 % 9 == 4) right[i] *= 0.5;
                                 }
                                 return right;
                               }));
  REQUIRE(theory.has_value());
  CHECK(theory->mechanism == "factor");
  CHECK_THAT(theory->sentence, ContainsSubstring("times 0.5, at columns 4, 13, 22, 31, 40, 49, ..."));

  Case scaled;
  theory = scaled.explained(Op::kEmbedTokens, 95, at(Op::kEmbedTokens, [](const auto&, const Step&, Values right) {
                              for (double& x : right) x *= std::sqrt(48.0);
                              return right;
                            }));
  REQUIRE(theory.has_value());
  CHECK(theory->mechanism == "factor");
  CHECK_THAT(theory->sentence, ContainsSubstring("the root of the hidden size"));
  Case capped;
  theory = capped.explained(Op::kLmHead, 96, at(Op::kLmHead, [](const auto&, const Step&, Values right) {
                              for (double& x : right) x = 5.0 * std::tanh(x / 5.0);
                              return right;
                            }));
  REQUIRE(theory.has_value());
  CHECK(theory->mechanism == "soft_cap");
  CHECK(text_of(theory->parameters, "cap") == "5");
}

}  // namespace
}  // namespace qdiff::explain
