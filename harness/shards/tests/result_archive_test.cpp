#include "harness/shards/result_archive.h"

#include "cmake/catch2.h"
#include "harness/contract/error.h"
#include "harness/report/json.h"
#include "harness/report/page.h"
#include "harness/report/report.h"
#include "harness/report/tensors.h"
#include "harness/report/tests/results.h"

namespace qdiff::shards {
namespace {

ModelConfig config() {
  ModelConfig config;
  config.hidden = 64;
  config.num_layers = 2;
  config.num_q_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 16;
  config.intermediate = 96;
  config.vocab = 128;
  config.rms_norm_eps = 1e-6;
  config.rope_theta = 1e6;
  config.max_position_embeddings = 1024;
  return config;
}

// Everything that reports say of a result.
std::string reports_of(const findings::RunResult& result) {
  std::string text = report::report_json(result) + report::junit_xml(result) + report::report_page(result) +
                     report::tensors_jsonl(result) + report::github_summary(result) + report::github_commands(result) +
                     report::format_terminal(result, {.reports = "reports"});
  for (const auto& hypothesis : result.hypotheses) text += report::hypothesis_json(hypothesis);
  return text;
}

// What an archive does not hold: whoever reads it knows it, or a run of an engine does not have it.
findings::RunResult of_an_engine(findings::RunResult result) {
  result.command.clear();
  result.seconds = 0.0;
  result.injected.reset();
  result.acceptance.reset();
  result.ranking.reset();
  result.fed_tokens.reset();
  result.inferred_points.reset();
  result.conditions.clear();
  result.of_trace = result.precision_allowed = false;
  result.catalogue = faults_of(config());
  for (findings::FreeRun& run : result.free_runs) {
    run.greedy = false;
    run.expected_written.reset();
    run.actual_written.reset();
  }
  return result;
}

TEST_CASE("reports of a result that was archived are those of the result itself", "[archive]") {
  for (const auto& [name, sample] : report::tests::all()) {
    INFO(name);
    const findings::RunResult result = of_an_engine(sample);
    const std::string text = to_text(result, config());
    CHECK(text.find('\n') == std::string::npos);
    ResultReader reader;
    const findings::RunResult read = reader.read(text, "unit");
    if (name != "hostile") {  // whose bytes that are no UTF-8 are not kept
      CHECK(reports_of(read) == reports_of(result));
    }
    CHECK(to_text(read, config()) == text);
  }
}

TEST_CASE("numbers are archived to the last bit", "[archive]") {
  findings::RunResult result = of_an_engine(report::tests::diverged());
  const double third = 1.0 / 3.0;
  result.findings.at(0).judgement.ratio_to_bound = third;
  result.findings.at(0).judgement.statistics.rms = 5e-324;
  result.findings.at(0).judgement.statistics.bias = -0.0;
  ResultReader reader;
  const findings::RunResult read = reader.read(to_text(result, config()), "unit");
  CHECK(read.findings.at(0).judgement.ratio_to_bound == third);
  CHECK(read.findings.at(0).judgement.statistics.rms == 5e-324);
  CHECK(std::signbit(read.findings.at(0).judgement.statistics.bias));
}

TEST_CASE("mistakes inside a span are archived with the finding that they explain", "[archive]") {
  findings::RunResult result = of_an_engine(report::tests::diverged());
  std::vector<Mistake>& mistakes = result.findings.at(0).explanation.mistakes;
  mistakes = {{MistakeKind::kFactor, {{"factor", 1.0 / 3.0}}, Op::kUpProj}, {MistakeKind::kCopyZeros, {}, Op::kKCache}};
  mistakes.back().scope.phase = Phase::kDecode;
  ResultReader reader;
  CHECK(reader.read(to_text(result, config()), "unit").findings.at(0).explanation.mistakes == mistakes);
}

TEST_CASE("what is no archived result is refused with the unit named", "[archive]") {
  const std::string text = to_text(of_an_engine(report::tests::diverged()), config());
  ResultReader reader;
  for (const std::string& bad :
       {std::string(), std::string("{"), std::string("[]"), std::string("{}"), text.substr(0, text.size() / 2)}) {
    CHECK_THROWS_WITH(reader.read(bad, "unit a"), StartsWith("unit a: is of another form"));
  }
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string changed = text;
    const std::size_t at = changed.find(from);
    REQUIRE(at != std::string::npos);
    return changed.replace(at, from.size(), to);
  };
  for (const auto& [from, to] :
       std::vector<std::pair<std::string, std::string>>{{"\"verdict\":\"diverged\"", "\"verdict\":\"wrong\""},
                                                        {"\"verdict\":\"diverged\"", "\"verdict\":3"},
                                                        {"\"head_dim\":16", "\"head_dim\":-16"},
                                                        {"\"head_dim\":16", "\"head_dim\":1.5"},
                                                        {"\"head_dim\":16", "\"head_dim\":16,\"extra\":1"},
                                                        {"self_attn.attn_output", "self_attn.nothing"}}) {
    INFO(to);
    CHECK_THROWS_AS(reader.read(replaced(from, to), "unit a"), InputError);
  }
}

}  // namespace
}  // namespace qdiff::shards
