#include <algorithm>
#include <sstream>

#include "cmake/catch2.h"
#include "harness/report/json.h"
#include "harness/report/report.h"
#include "harness/report/tests/printed.h"
#include "harness/report/tests/results.h"
#include "harness/report/text.h"

namespace qdiff::report {
namespace {

TerminalOptions plain(int width = 100) { return {.color = false, .width = width, .reports = "qdiff-report"}; }

TEST_CASE("a match fits a glance and says how much room it had", "[report]") {
  const std::string text = format_terminal(tests::match(), plain());
  CHECK(lines_of(text).size() <= 20);
  CHECK_THAT(text, StartsWith("MATCH  cpu engine in bfloat16 on synthetic:toy-15x5,profile=qwen, 2 cases, 3.2 s\n"));
  CHECK_THAT(text, ContainsSubstring("1404 tensors"));
  CHECK_THAT(text, ContainsSubstring("the root mean square error of the worst slice at 0.812 of its bound"));
  CHECK_THAT(text, ContainsSubstring("bugs      of 17 known bugs none; not shown by these inputs: all of H09, H10\n"));
  CHECK_THAT(text, !ContainsSubstring("H01  KV cache"));
  CHECK_THAT(text, ContainsSubstring("reports   qdiff-report\n"));
  CHECK(text.find("first at") == std::string::npos);
}

TEST_CASE("the ten hypotheses are shown where one has something to say, or where they are asked for", "[report]") {
  TerminalOptions all = plain();
  all.all = true;
  const std::string text = format_terminal(tests::match(), all);
  CHECK_THAT(text, ContainsSubstring("H01  KV cache"));
  CHECK_THAT(text, ContainsSubstring("blind     H09, H10"));
  CHECK_THAT(text, !ContainsSubstring("bugs      of"));
  findings::RunResult open = tests::match();
  open.hypotheses[3].verdict = findings::HypothesisVerdict::kOpen;
  CHECK_THAT(format_terminal(open, plain()), ContainsSubstring("H01  KV cache"));
  findings::RunResult partly = tests::match();
  for (int i = 0; i < 8; ++i)
    partly.hypotheses[0].blind_variants.push_back({fault_table()[static_cast<std::size_t>(i)].id, "why"});
  CHECK_THAT(format_terminal(partly, plain(400)),
             ContainsSubstring("of 25 known bugs none; not shown by these inputs: all of H09, H10; H01."));
  CHECK_THAT(format_terminal(partly, plain(400)), ContainsSubstring(" and 2 more\n"));
  // What is open because these inputs show little of it is no reason to show the ten, and says so where they are shown.
  partly.hypotheses[0].verdict = findings::HypothesisVerdict::kOpen;
  CHECK_THAT(format_terminal(partly, plain()), !ContainsSubstring("H01  KV cache"));
  TerminalOptions wide = plain(400);
  wide.all = true;
  CHECK_THAT(format_terminal(partly, wide), ContainsSubstring("not excluded: these inputs show 2 of 10 variants"));
  CHECK_THAT(format_terminal(open, wide),
             ContainsSubstring("not excluded: a wrong tensor in its reach is unexplained"));
}

TEST_CASE("titles and notes of the ten hypotheses are wrapped, never cut", "[report]") {
  for (int width : {60, 80, 100, 200}) {
    TerminalOptions all = plain(width);
    all.all = true;
    const std::vector<std::string> lines = lines_of(format_terminal(tests::match(), all));
    std::string words;
    for (const std::string& line : lines) {
      INFO(line);
      CHECK((line.starts_with("MATCH") || display_width(line) <= static_cast<std::size_t>(width)));
      CHECK_FALSE(line.ends_with(' '));
      words += line + ' ';
    }
    CHECK(words.find("…") == std::string::npos);
    // A title stands in its column, line by line, so that it is not one text where it is wrapped.
    for (const char* part : {"H07  GEMM transpose", "strides", "with:", "tiny"}) {
      CHECK_THAT(words, ContainsSubstring(part));
    }
  }
  TerminalOptions wide = plain(200);
  wide.all = true;
  CHECK_THAT(format_terminal(tests::match(), wide),
             ContainsSubstring("  H04  Overwritten in place             refuted        2 variants"));
}

TEST_CASE("every cause is shown where that is asked for", "[report]") {
  findings::RunResult result = tests::diverged();
  result.findings.resize(20, result.findings.front());
  for (std::size_t i = 0; i < result.findings.size(); ++i) result.findings[i].explanation.variant = fault_table()[i].id;
  TerminalOptions all = plain();
  CHECK_THAT(format_terminal(result, all), ContainsSubstring("and 10 more lines like these in report.html"));
  all.all = true;
  const std::string text = format_terminal(result, all);
  CHECK_THAT(text, !ContainsSubstring("more lines like these"));
  CHECK_THAT(text, ContainsSubstring(std::string(name(fault_table()[19].id)) + " (confirmed)"));
}

TEST_CASE("after a trace's match: where else garbage comes from, with what the steps show of it", "[report]") {
  findings::RunResult result = tests::match();
  CHECK_THAT(format_terminal(result, plain(400)), !ContainsSubstring("garbage"));  // no trace
  result.of_trace = true;
  const std::string right = "the forward pass is right on these inputs: garbage text then comes from behind the logits";
  CHECK_THAT(format_terminal(result, plain(400)), ContainsSubstring(right));
  CHECK_THAT(format_terminal(result, plain(400)), !ContainsSubstring("largest logit"));
  result.fed_tokens = findings::FedTokens{12, 2, 3, 1, 17, 4, " sea", " is"};
  CHECK_THAT(
      format_terminal(result, plain(400)),
      ContainsSubstring("of 12 tokens that decode steps were fed, 2 are not the one with the largest logit before: the "
                        "first in step 3, row 1, was \" sea\" (token 17) where \" is\" (token 4) has the largest. If "
                        "the engine writes greedily, what picks the token is wrong\n"));
  result.fed_tokens = findings::FedTokens{3, 3, 1, 0, 5, 56, std::nullopt, std::nullopt};  // no tokenizer
  CHECK_THAT(format_terminal(result, plain(400)), ContainsSubstring("was token 5 where token 56 has the largest"));
  result.some_layers_alone = true;
  CHECK_THAT(format_terminal(result, plain(400)), !ContainsSubstring(right));
  CHECK_THAT(format_terminal(result, plain(400)), ContainsSubstring("the layers that were left out may be wrong"));
  result.some_layers_alone = false;
  result.coverage.tensors_missing = {"lm_head"};
  CHECK_THAT(format_terminal(result, plain(400)), !ContainsSubstring(right));
  CHECK_THAT(format_terminal(result, plain(400)), ContainsSubstring("the logits themselves were not judged"));
}

TEST_CASE("what may have kept a tensor from being compared is said before a match's good news", "[report]") {
  findings::RunResult result = tests::match();
  result.notes = {"step 0 holds model.layers.0.mlp.gate, which is no tensor of the table"};
  const std::string text = format_terminal(result, plain(200));
  CHECK(text.find("  note      step 0 holds") < text.find("  compared"));
  CHECK(lines_of(text)[1] == "  note      step 0 holds model.layers.0.mlp.gate, which is no tensor of the table");
}

TEST_CASE("logits alone: right code, the bugs that come nearest, and what to record", "[report]") {
  const std::string text = format_terminal(tests::ranked(), plain());
  CHECK_THAT(text, ContainsSubstring("free runs right code: 41.5 times rounding, the same next token at 30 of 68\n"));
  CHECK_THAT(text, ContainsSubstring("nearest   H03.theta=10000: 1.1 times rounding, the same next token at 67 of 68, "
                                     "which rounding"));
  CHECK_THAT(text, ContainsSubstring("H05.modulo: 39 times rounding, the same next token at 31 of 68\n"));
  CHECK_THAT(text, ContainsSubstring("of        120 forward passes, each with one bug planted"));
  CHECK_THAT(text, ContainsSubstring("record    model.layers.*.self_attn.q_rope, model.layers.*.output"));
}

TEST_CASE("few tensors: what to record where a span leaves open which operation is wrong", "[report]") {
  findings::RunResult result = tests::sparse();
  CHECK_THAT(format_terminal(result, plain(400)),
             ContainsSubstring("  record    model.layers.3.self_attn.v_proj, model.layers.3.self_attn.q_rope, "
                               "model.layers.3.self_attn.k_rope, model.layers.3.self_attn.attn_output, "
                               "model.layers.3.resid_mid of step 1, to see which operation is wrong\n"));
  CHECK(to_document(result)["record_next"]["step"] == 1);
  CHECK(to_document(result)["record_next"]["tensors"].size() == 5);
  // What the bugs act on that explain it in doubt is asked for beside.
  VariantFacts act{.id = FaultId::kTheta};
  act.ops = {Op::kAct};
  result.catalogue = std::vector<VariantFacts>{act};
  CHECK(to_document(result)["record_next"]["tensors"].back() == "model.layers.3.mlp.act");

  const auto is_silent = [](const findings::RunResult& silent) {
    CHECK(to_document(silent)["record_next"].is_null());
    CHECK_THAT(format_terminal(silent, plain(400)), !ContainsSubstring("  record  "));
  };
  findings::RunResult other = result;
  other.findings.front().explanation.verdict = findings::HypothesisVerdict::kConfirmed;
  is_silent(other);
  other = result;
  other.of_trace = false;  // an engine that hands out all it has
  is_silent(other);
  other = result;
  other.findings.front().operations = {Op::kOutput};
  is_silent(other);
  // Where a fused attention is all that the span holds, so that there is nothing else to ask for.
  other.findings.front().tensor.op = Op::kAttnOutput;
  other.findings.front().operations = {Op::kScores, Op::kProbs, Op::kAttnOutput};
  CHECK_THAT(format_terminal(other, plain(400)),
             ContainsSubstring("  record    model.layers.3.self_attn.scores, model.layers.3.self_attn.probs of step 1, "
                               "where the engine holds them, to see which operation is wrong\n"));
  other = result;
  other.findings.clear();
  is_silent(other);
}

TEST_CASE("allowed roundings: a match that still names them, and what would declare them", "[report]") {
  const std::string text = format_terminal(tests::allowed(), plain());
  CHECK_THAT(text, StartsWith("MATCH"));
  CHECK_THAT(text, ContainsSubstring("an undeclared rounding"));
  CHECK_THAT(text, ContainsSubstring("\"points\": {\"mlp.silu\": \"bfloat16\", \"rope.table\": \"float16\"}"));
  CHECK_THAT(text, ContainsSubstring("note      the trace's rope_theta is 10000, the model's is 1000000"));
}

TEST_CASE("a text that the reference wrote is shown where both write it, and NaN is no word", "[report]") {
  findings::RunResult result = tests::match();
  findings::FreeRun& run = result.free_runs[0];
  run.expected_tokens = run.actual_tokens = {5};
  run.expected_text = run.actual_text = "Paris";
  CHECK(format_terminal(result, plain()).find("expected  ") == std::string::npos);
  run.greedy = true;
  CHECK_THAT(format_terminal(result, plain()),
             ContainsSubstring("the reference's next token at all of 25 positions\n  expected  \"Paris\"\n  actual    "
                               "\"Paris\"\n"));
  run.greedy = false;
  run.tokens_compared = run.same_top_token = 0;  // logits of the last row alone
  run.actual_tokens = {6};
  run.step = 2;
  CHECK_THAT(format_terminal(result, plain()),
             ContainsSubstring("another next token than the reference's behind step 2"));
  run.greedy = true;
  run.tokens_compared = run.same_top_token = 25;
  run.actual_tokens = {5};
  run.actual_written = "Paris was";
  CHECK_THAT(format_terminal(result, plain()), ContainsSubstring("actual    \"Paris was\"\n"));
  run.actual_tokens = {-1};
  run.same_top_token = 24;
  CHECK_THAT(format_terminal(result, plain()), ContainsSubstring("no token, for there is NaN, where"));
}

TEST_CASE("a divergence: where, what, why and the command, before anything else", "[report]") {
  const std::string text = format_terminal(tests::diverged(), plain());
  CHECK(lines_of(text).size() <= 36);  // a screen, with the text that a user reads
  const std::vector<std::string> in_order = {
      "DIVERGED",
      "planted   H05.modulo, which ran 1234 times",
      "first at  model.layers.0.self_attn.attn_output\n",
      "case H05-gqa, step 0 (prefill), layer 0, lockstep",
      "[0, 3, 97]  actual -0.51953125  expected 0.23828125\n",
      "heads 1, 2 and 4 of 15",
      "H05.modulo (confirmed), in layers 0-2, in prefill and decode",
      "repeat    qdiff run cases/H05-gqa.json --mode lockstep --layers 0 --steps 0\n",
      "wrong     self_attn.attn_output in layers 0-2, prefill: 3 tensors, H05.modulo (confirmed),",
      "H01  KV cache",
      "H05  GQA head mapping                 confirmed      H05.modulo",
      "1404 tensors",
      "another next token than the reference's at 22 of 25 positions",
      "expected  \"The sea is\"\n",
      "actual    \"The sea was\"\n",
      "they part in step 2, row 1: \" was\" (token 8) where \" is\" (token 7)"};
  std::size_t at = 0;
  for (const std::string& part : in_order) {
    INFO(part);
    const std::size_t found = text.find(part, at);
    CHECK(found != std::string::npos);
    if (found != std::string::npos) at = found;
  }
}

TEST_CASE("what a pipeline makes of a run stands under its verdict", "[report]") {
  const std::string text = format_terminal(tests::refused(), plain(200));
  CHECK_THAT(text, StartsWith("DIVERGED"));
  CHECK_THAT(text,
             ContainsSubstring("  refused   1 new finding: 1 of unexplained\n"
                               "            the waiver for X.layer_repeated expired on 2026-01-31\n"
                               "            2 findings are in the baseline reports/main\n"
                               "            1 finding is waived\n"
                               "            1 finding is of a kind that does not fail this run\n"
                               "            fixed since the baseline: 1 of H03.theta, 1 unexplained\n"
                               "            of the baseline, and not judged in this run: 1 of mlp.silu\n"
                               "            H05.modulo in case H05-gqa is waived until 2027-03-31: the new kernel "
                               "lands in March (https://example.org/1)\n"
                               "            these inputs would not show what the waiver for H10.window is for\n"));
  CHECK_THAT(text, ContainsSubstring("3 tensors, H05.modulo (confirmed), worst 410 times its bound; 2 in the baseline, "
                                     "1 waived\n"));
  CHECK_THAT(text, ContainsSubstring("lm_head in prefill: 1 tensor, unexplained"));
  CHECK_THAT(text, ContainsSubstring("times its bound; new\n"));
  CHECK_THAT(format_terminal(tests::accepted(), plain(200)), ContainsSubstring("  accepted  nothing is new\n"));
}

TEST_CASE("a fitted value, its right one, a span and a tie", "[report]") {
  const std::string text = format_terminal(tests::ties(), plain());
  CHECK_THAT(text,
             ContainsSubstring("H03.theta (consistent), with 10000 where 1000000 is right, in layer 1, in decode"));
  CHECK_THAT(text, ContainsSubstring(
                       "or else   H06.missing_q: told apart by inputs with only one of: a key bias; a query bias\n"
                       "            X.layer_repeated\n"));
  CHECK_THAT(text, ContainsSubstring("span      model.layers.1.input_layernorm to model.layers.1.self_attn.q_rope"));
}

TEST_CASE("what was not judged is named with its reason", "[report]") {
  const std::string text = format_terminal(tests::inconclusive(), plain(300));
  CHECK_THAT(text, StartsWith("INCONCLUSIVE"));
  CHECK_THAT(text, ContainsSubstring("because   model.layers.1.mlp.act: rms is 1.1 times its bound"));
  CHECK_THAT(text, ContainsSubstring("never handed out: self_attn.scores in 2 layers, self_attn.probs in 2 layers"));
  CHECK_THAT(text,
             ContainsSubstring("2 because its recorded input model.norm holds NaN; the cause is upstream, 1 bec"));
}

TEST_CASE("reasons that differ in numbers alone are counted together", "[report]") {
  findings::RunResult result = tests::inconclusive();
  result.coverage.not_compared = {{"a", "free", 0, "lm_head", "rms is 1.25 of its bound"},
                                  {"a", "free", 1, "lm_head", "rms is 1.5 of its bound"},
                                  {"a", "free", 2, "lm_head", "every row is padding"}};
  CHECK_THAT(format_terminal(result, plain(300)),
             ContainsSubstring("unjudged  2 for reasons such as: rms is 1.25 of its "
                               "bound, 1 because every row is padding\n"));
}

TEST_CASE("a trace has no mode, and what it lacks is not recorded", "[report]") {
  findings::RunResult result = tests::ranked();
  result.of_trace = true;
  result.coverage.tensors_missing = {"model.norm"};
  result.ranking->tensors = {"model.norm", "lm_head"};
  const std::string text = format_terminal(result, plain(300));
  CHECK_THAT(text, ContainsSubstring("case trace, step 0 (prefill)\n"));
  CHECK_THAT(text, ContainsSubstring("not recorded: model.norm\n"));
  CHECK_THAT(text, ContainsSubstring("is explained by rounding; each figure is of the worst step and tensor\n"));
}

TEST_CASE("parameters are plain numbers, and stand beside their own variant alone", "[report]") {
  findings::RunResult result = tests::ties();
  findings::Explanation& explanation = result.findings[0].explanation;
  explanation.value = 54321.0;
  explanation.evidence = "a span of several operations";
  auto& row = result.hypotheses[2];
  row.verdict = findings::HypothesisVerdict::kConsistent;
  row.variant = explanation.variant;
  row.first_divergence = result.findings[0];
  std::string text = format_terminal(result, plain(120));
  CHECK_THAT(text, ContainsSubstring("with 54321 where 1000000 is right"));
  CHECK_THAT(text, ContainsSubstring("doubt     a span of several operations\n"));
  CHECK_THAT(text, ContainsSubstring("H03.theta = 54321\n"));
  row.variant = FaultId::kNoRope;
  text = format_terminal(result, plain(120));
  CHECK_THAT(text, ContainsSubstring("H03.none\n"));
}

TEST_CASE("a long run's time is in minutes", "[report]") {
  findings::RunResult result = tests::match();
  result.seconds = 201.0;
  CHECK_THAT(format_terminal(result, plain()), ContainsSubstring("2 cases, 3 min 21 s\n"));
}

TEST_CASE("a mechanism that was solved for stands there as --inject takes it", "[report]") {
  findings::RunResult result = tests::unexplained();
  CHECK_THAT(format_terminal(result, plain()), !ContainsSubstring("--inject"));
  std::erase_if(result.findings, [](const auto& finding) { return finding.kind != findings::FindingKind::kLogic; });
  findings::Finding& first = result.findings.front();
  first.tensor = {Op::kQProj, 0};
  first.explanation = {};
  first.explanation.mechanism = "bias";
  first.explanation.parameters = {{"coefficient", 2.0}};
  CHECK_THAT(format_terminal(result, plain()),
             ContainsSubstring("\n  plant     --inject 'bias:coefficient=2@self_attn.q_proj;layers=0'\n"));
}

TEST_CASE("an unexplained divergence says so, and stands beside the undeclared rounding", "[report]") {
  const std::string text = format_terminal(tests::unexplained(), plain());
  CHECK_THAT(text, ContainsSubstring("first at  lm_head\n"));
  CHECK_THAT(text, ContainsSubstring("unexplained: no known bug and no mechanism reproduces it"));
  CHECK_THAT(text, ContainsSubstring("wrong     self_attn.probs in layer 0, prefill: 1 tensor, H02."));
  CHECK_THAT(text, ContainsSubstring("lm_head in prefill: 1 tensor, unexplained"));
  CHECK(text.find("element") == std::string::npos);  // shapes differ: no element is the worst
}

TEST_CASE("a rounding is shown as the JSON entry that would declare it", "[report]") {
  CHECK_THAT(
      format_terminal(tests::unexplained(), plain(60)),
      ContainsSubstring("declare   \"points\": {\"attention.probs\": \"bfloat16\", \"rope.table\": \"float16\"}\n"));
  const std::string text = format_terminal(tests::rounding(), plain());
  CHECK_THAT(text, ContainsSubstring(
                       "declare   \"points\": {\"attention.probs\": \"float16\", \"mlp.silu\": \"bfloat16\"}\n"));
  CHECK_THAT(text, ContainsSubstring("cause     a rounding that is not declared (confirmed)"));
  CHECK(format_terminal(tests::diverged(), plain()).find("declare") == std::string::npos);
}

TEST_CASE("of many alternatives the first ones are shown", "[report]") {
  findings::RunResult result = tests::ties();
  findings::Explanation& explanation = result.findings[0].explanation;
  explanation.alternatives.assign(9, FaultId::kVIntoK);
  explanation.separated_by.assign(9, "told apart by inputs with only one of: one step; two");
  const std::string text = format_terminal(result, plain());
  CHECK(count_of(text, "H01.v_into_k: told apart by inputs with only one of: one step; two") == 6);
  CHECK_THAT(text, ContainsSubstring("            and 3 more\n"));
}

TEST_CASE("an empty run is shown as inconclusive", "[report]") {
  const std::string text = format_terminal(tests::empty(), plain());
  CHECK_THAT(text, StartsWith("INCONCLUSIVE"));
  CHECK_THAT(text, ContainsSubstring("nothing was compared"));
  CHECK_THAT(text, ContainsSubstring("0 tensors"));
}

TEST_CASE("R03 no escape sequence without colour, and only our own with it", "[report]") {
  for (const auto& [name, result] : tests::all()) {
    INFO(name);
    const std::string without = format_terminal(result, plain());
    const bool harmless = std::all_of(without.begin(), without.end(), [](char c) {
      return c == '\n' || (static_cast<unsigned char>(c) >= ' ' && static_cast<unsigned char>(c) != 0x7F);
    });
    CHECK(harmless);
    CHECK(without.find("\xE2\x80\xAE") == std::string::npos);  // U+202E, right-to-left override
    CHECK(without.find("\xC2\x9B") == std::string::npos);      // U+009B, the one-character form of ESC [

    TerminalOptions options = plain();
    options.color = true;
    const std::string with = format_terminal(result, options);
    std::string stripped = with;
    std::size_t opened = 0;
    for (const char* code : {"\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"}) {
      for (std::size_t at = stripped.find(code); at != std::string::npos; at = stripped.find(code)) {
        stripped.erase(at, std::string(code).size());
        ++opened;
      }
    }
    CHECK(stripped == without);
    CHECK(opened == 2 * count_of(with, "\x1b[0m"));
  }
}

TEST_CASE("lines keep to the width, but for what is copied or searched for", "[report]") {
  for (int width : {60, 80, 120}) {
    for (const std::string& line : lines_of(format_terminal(tests::diverged(), plain(width)))) {
      INFO(line);
      const std::string label = line.substr(0, 10);
      const bool whole =
          label == "DIVERGED  " || label == "  first at" || label == "  element " || label == "  repeat  ";
      CHECK((whole || display_width(line) <= static_cast<std::size_t>(width)));
    }
    const std::string narrow = format_terminal(tests::diverged(), plain(width));
    CHECK_THAT(narrow, ContainsSubstring(tests::diverged().findings[0].command + "\n"));
  }
  CHECK_FALSE(format_terminal(tests::diverged(), plain(0)).empty());
}

TEST_CASE("text is padded and wrapped by characters, not bytes", "[report]") {
  CHECK(padded_to("ï", 3) == "ï  ");
  CHECK(wrapped("one two three", 7, "> ") == "one two\n> three");
  CHECK(wrapped("unbreakable-word x", 5, "") == "unbreakable-word\nx");
  CHECK(wrapped("naïveté et", 10, "") == "naïveté et");
  CHECK(wrapped("", 5, "> ").empty());
  CHECK(terminal_text("a\x1b[31mb\nc\td\x7F\xC2\x9B"
                      "e\xFF") == "a[31mb c de\xEF\xBF\xBD");
}

}  // namespace
}  // namespace qdiff::report
