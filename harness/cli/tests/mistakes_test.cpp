// Mistakes planted in the reference as an engine: in float64, where nothing but the mistake makes a difference.
#include <set>

#include "cmake/catch2.h"
#include "harness/formats/mistake_text.h"
#include "reference/reference.h"
#include "reference/tests/model_in_memory.h"

namespace qdiff::reference {
namespace {

using formats::parse_mistake;

struct Planted {
  Recording recording;
  std::int64_t executions = 0;
};

Planted run(const ModelInMemory& model, const std::vector<Step>& steps, const std::string& text) {
  const auto engine = make_engine(model, float64_everywhere(), {.num_threads = 1}, {parse_mistake(text)});
  const auto session = engine->open(
      {.batch = steps[0].batch(), .capacity = steps.back().valid_length() + 3, .left_padding = steps[0].left_padding});
  Planted planted;
  Recorder recorder(planted.recording);
  for (const Step& step : steps) {
    recorder.at(step.index);
    session->run_step(step, &recorder);
  }
  planted.executions = engine->planted_executions();
  return planted;
}

// What right code makes of the recorded inputs.
std::vector<double> right(Oracle& oracle, const Recording& recording, const std::vector<Step>& steps,
                          const TensorKey& key) {
  const std::vector<TensorKey> operations = {key};
  const Precision precision = float64_everywhere();
  return oracle
      .evaluate({.operations = operations,
                 .recorded = recording,
                 .steps = steps,
                 .precision = precision,
                 .stored = DType::kF64,
                 .with_noise = false})
      .value;
}

// Elements that are not what right code makes of the recorded inputs.
std::vector<std::size_t> wrong_elements(const std::vector<double>& actual, const std::vector<double>& expected) {
  std::vector<std::size_t> wrong;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const bool same = actual[i] == expected[i] || std::fabs(actual[i] - expected[i]) <= 1e-10;
    if (!same) wrong.push_back(i);
  }
  return wrong;
}

struct Fixture {
  ModelInMemory model{small_config(), DType::kF32, 2};  // H 6, K 2, d 32, D 96, I 160, two layers or more
  std::vector<Step> steps = random_steps(model.config(), {5, 4, 1}, {2, 0}, 5);
  std::unique_ptr<Oracle> oracle = make_oracle(model, {.num_threads = 1});
};

TEST_CASE("each mechanism changes its own tensor, and nothing else by itself", "[mistakes]") {
  Fixture f;
  const std::vector<std::string> texts = {
      "copy.zeros@mlp.act",
      "copy.tensor:source=self_attn.k_proj@self_attn.v_proj",
      "copy.vectors:source=self_attn.k_rope of 1 before of batch row b - 1, heads 0..1 from 1, 0@self_attn.k_cache",
      "copy.vectors:source=mlp.down_proj of 2 before@mlp.down_proj",
      "factor:factor=-0.5@self_attn.scores",
      "factor:factor of head 0=2;factor of head 2=-1@self_attn.q_rope",
      "soft_cap:cap=0.5@lm_head",
      "source:input=self_attn.q_proj;source=self_attn.q_proj.matmul@self_attn.q_rope",
      "source:input=self_attn.v_cache;source=self_attn.k_cache@self_attn.attn_output",
      "sum:resid_mid=1;mlp.down_proj=2@output",
      "sum:output of layer 0=1;self_attn.o_proj=1;input_layernorm=0.5@resid_mid",
      "norm.blocks:blocks=4@input_layernorm",
      "norm.eps:eps=outside the root@model.norm",
      "norm.weight:weight=model.layers.1.input_layernorm.weight@post_attention_layernorm",
      "norm.weight:weight=1 + w@model.norm",
      "bias:coefficient=2@self_attn.q_proj",
      "bias:source=self_attn.k_proj.bias@self_attn.v_proj",
      "bias.rows:rows=columns 3..7 hold columns 11..15 of self_attn.k_proj, head 1 holds head 0@self_attn.v_proj",
      "product.rows:rows=heads 0..1 hold heads 1..2@self_attn.q_proj.matmul",
      "product.rows:rows=columns 0..9 hold columns 5..14 of mlp.gate_proj@mlp.up_proj",
      "product.rows:rows=1 0 3 2;block=4@mlp.up_proj",
      "product.input_order:order=blocks of 32, where elements 16 apart were taken as neighbours@mlp.gate_proj",
      "product.coefficients:inputs 0..63=0;inputs 64..95=2@self_attn.o_proj",
      "product.groups:group=16;offset=0.02@mlp.up_proj",
      "rotation.position:position=its position + 1@self_attn.q_rope",
      "rotation.table:cosine=cosine of p + 3;sine=0@self_attn.k_rope",
      "rotation.cache:rotated=self_attn.v_proj@self_attn.v_cache",
      "visible:visible=exactly what it should hide (the mask is inverted)@self_attn.scores",
      "visible:visible=from slot 0 to the last slot there is@self_attn.scores",
      "heads.moved:head=5 - h@self_attn.attn_output",
      "heads.layout:held as=[B,H,T,d]@self_attn.q_rope",
      "heads.layout:held as=[B,T,H,d]@self_attn.v_proj",
      "heads.read:head of self_attn.v_cache=0 1 1 1 0 0@self_attn.attn_output",
      "gate.function:function=GELU@mlp.act",
  };
  std::set<MistakeKind> kinds;
  for (const std::string& text : texts) {
    INFO(text);
    const Mistake mistake = parse_mistake(text);
    kinds.insert(mistake.kind);
    const Planted planted = run(f.model, f.steps, text);
    CHECK(planted.executions > 0);
    std::size_t wrong_tensors = 0;
    for (const auto& [key, tensor] : planted.recording.all()) {
      INFO(tensor_name(key.id) << " step " << key.step);
      const auto wrong = wrong_elements(to_doubles(tensor.view()), right(*f.oracle, planted.recording, f.steps, key));
      if (key.id.op == mistake.op) {
        wrong_tensors += wrong.empty() ? 0 : 1;
      } else {
        CHECK(wrong.empty());
      }
    }
    CHECK(wrong_tensors > 0);
  }
  CHECK(kinds.size() == kNumMistakeKinds);
}

TEST_CASE("a mistake stays within its scope", "[mistakes]") {
  Fixture f;
  struct Scoped {
    std::string text;
    std::function<bool(const TensorKey&, std::size_t element)> inside;
  };
  const auto width = static_cast<std::size_t>(f.model.config().hidden);
  const std::vector<Scoped> scoped = {
      {"copy.zeros@mlp.down_proj;layers=1;phase=decode;columns=10..19",
       [&](const TensorKey& key, std::size_t i) {
         return key.id.layer == 1 && key.step == 2 && i % width >= 10 && i % width < 20;
       }},
      // Row 0 has two tokens of padding: its token 3 stands in slot 5, which is the first of step 1.
      {"copy.zeros@mlp.down_proj;batch_rows=0;tokens=3 and up;steps=1",
       [&](const TensorKey& key, std::size_t i) { return key.step == 1 && i < 4 * width; }},
      {"copy.zeros@self_attn.q_rope;heads=1, 4;layers=0",
       [&](const TensorKey& key, std::size_t i) { return key.id.layer == 0 && (i / 32 % 6 == 1 || i / 32 % 6 == 4); }},
      {"copy.zeros@self_attn.probs;heads=2;columns=below 3",  // [B,H,T,S]
       [&](const TensorKey& key, std::size_t i) {
         const Step& step = f.steps[static_cast<std::size_t>(key.step)];
         const auto slots = static_cast<std::size_t>(step.valid_length());
         const auto tokens = static_cast<std::size_t>(step.num_tokens());
         return i % slots < 3 && i / slots / tokens % 6 == 2;
       }},
  };
  for (const auto& [text, inside] : scoped) {
    INFO(text);
    const Op op = parse_mistake(text).op;
    const Planted planted = run(f.model, f.steps, text);
    std::size_t zeros = 0;
    for (const auto& [key, tensor] : planted.recording.all()) {
      if (key.id.op != op) continue;
      INFO(tensor_name(key.id) << " step " << key.step);
      const std::vector<double> actual = to_doubles(tensor.view());
      const std::vector<double> expected = right(*f.oracle, planted.recording, f.steps, key);
      for (std::size_t i = 0; i < actual.size(); ++i) {
        const double wanted = inside(key, i) ? 0.0 : expected[i];
        zeros += inside(key, i) && expected[i] != 0.0 ? 1 : 0;
        if (std::fabs(actual[i] - wanted) > 1e-10) {
          INFO("element " << i);
          CHECK(actual[i] == wanted);
        }
      }
    }
    CHECK(zeros > 0);
  }
}

TEST_CASE("several mistakes are made at once", "[mistakes]") {
  Fixture f;
  const std::vector<Mistake> both = {parse_mistake("bias:coefficient=0@self_attn.q_proj"),
                                     parse_mistake("factor:factor=2@self_attn.q_proj")};
  const auto engine = make_engine(f.model, float64_everywhere(), {.num_threads = 1}, both);
  const auto session =
      engine->open({.batch = 2, .capacity = f.steps.back().valid_length(), .left_padding = f.steps[0].left_padding});
  Recording recording;
  Recorder recorder(recording);
  session->run_step(f.steps[0], &recorder);
  const std::vector<double> product = to_doubles(recording.all().at({0, {Op::kQProjMatmul, 0}}).view());
  const std::vector<double> q = to_doubles(recording.all().at({0, {Op::kQProj, 0}}).view());
  // The second scales what the first has left: twice the product without its bias.
  for (std::size_t i = 0; i < q.size(); ++i) CHECK(std::fabs(q[i] - 2.0 * product[i]) <= 1e-12);
}

TEST_CASE("a mistake that the model has no place for is refused", "[mistakes]") {
  const ModelConfig config = small_config();
  const std::vector<std::pair<std::string, std::string>> refused = {
      {"copy.zeros@mlp.act;layers=7", "there is no layer 7"},
      {"copy.zeros@mlp.act;columns=160", "there is no column 160"},
      {"copy.zeros@self_attn.q_rope;heads=6", "there is no head 6"},
      {"copy.zeros@model.norm;layers=0", "outside the layers"},
      {"norm.blocks:blocks=7@model.norm", "no multiple of 7"},
      {"product.input_order:order=blocks of 7, backwards@mlp.up_proj", "no multiple of 7"},
      {"product.coefficients:inputs 90..96=0@mlp.up_proj", "inputs 0 to 95"},
      {"product.rows:rows=head 5 holds head 6@self_attn.q_proj.matmul", "192 columns"},
      {"product.rows:rows=column 0 holds column 1 of mlp.down_proj@mlp.up_proj", "reads another input"},
      {"bias:source=self_attn.k_proj.bias@self_attn.q_proj", "shorter"},
      {"heads.moved:head=0 1 2@self_attn.q_rope", "6 heads"},
      {"heads.moved:head=6 - h@self_attn.q_rope", "head 0 would take head 6"},
      {"heads.read:head of self_attn.k_cache=0@self_attn.attn_output", "self_attn.v_cache alone"},
      {"copy.tensor:source=mlp.act@self_attn.v_proj", "no earlier"},
      {"copy.tensor:source=self_attn.q_proj@self_attn.v_proj", "another number of elements"},
      {"copy.vectors:source=self_attn.scores@self_attn.v_proj", "hold no vectors"},
      {"source:input=self_attn.k_proj;source=self_attn.v_proj@self_attn.q_rope", "does not read"},
      {"sum:mlp.act=1@output", "no tensor of that shape"},
      {"rotation.cache:rotated=self_attn.k_proj@self_attn.v_cache", "self_attn.v_proj"},
      {"norm.weight:weight=model.layers.9.input_layernorm.weight@model.norm", "there is no layer 9"},
  };
  for (const auto& [text, says] : refused) {
    INFO(text);
    CHECK_THROWS_WITH(check_mistake(parse_mistake(text), config), ContainsSubstring(says));
  }
  // With three tokens and seven slots 224 columns and a cache of 96 are as large.
  ModelConfig wide = config;
  wide.hidden = 224;
  wide.num_kv_heads = 3;
  CHECK_THROWS_WITH(check_mistake(parse_mistake("copy.tensor:source=self_attn.k_cache@self_attn.o_proj"), wide),
                    ContainsSubstring("another number of elements"));
}

}  // namespace
}  // namespace qdiff::reference
