#include "harness/formats/mistake_text.h"

#include <string>
#include <vector>

#include "cmake/catch2.h"
#include "harness/contract/error.h"
#include "harness/contract/mistake_laws.h"

using namespace qdiff;
using formats::parse_mistake;

TEST_CASE("a mistake as text is read back as itself") {
  const std::vector<std::string> texts = {
      "copy.zeros@mlp.act;tokens=3 and up;columns=0..7",
      "copy.tensor:source=self_attn.k_proj@self_attn.v_proj;phase=decode",
      "copy.vectors:source=self_attn.k_rope of 2 before of batch row b + 1, heads 0..1 from 1, 0@self_attn.k_cache",
      "factor:factor=0.5@self_attn.scores;heads=1",
      "factor:factor of head 0=2;factor of head 2=-1@self_attn.q_rope",
      "soft_cap:cap=30@lm_head",
      "source:input=self_attn.q_proj;source=self_attn.q_proj.matmul@self_attn.q_rope",
      "sum:resid_mid=1;mlp.down_proj=2@output",
      "norm.blocks:blocks=4@input_layernorm;layers=1",
      "norm.eps:eps=outside the root@model.norm",
      "norm.weight:weight=model.layers.1.input_layernorm.weight@post_attention_layernorm",
      "bias:coefficient=2@self_attn.q_proj;layers=0;phase=decode;tokens=3 and up",
      "bias:source=self_attn.k_proj.bias@self_attn.v_proj",
      "bias.rows:rows=columns 3..7 hold columns 11..15 of self_attn.k_proj, head 0 holds head 1@self_attn.v_proj",
      "product.rows:rows=heads 0..1 hold heads 1..2@self_attn.q_proj.matmul",
      "product.rows:rows=1 0 3 2;block=4@mlp.up_proj",
      "product.input_order:order=blocks of 32, where elements 16 apart were taken as neighbours@mlp.gate_proj",
      "product.input_order:order=blocks of 8, backwards;block=8@mlp.down_proj",
      "product.coefficients:inputs 0..63=0;inputs 64..127=2@self_attn.o_proj",
      "product.groups:group=16;offset=0.02@mlp.up_proj",
      "rotation.position:position=2 times its position@self_attn.q_rope",
      "rotation.table:cosine=cosine of p + 3;sine=0@self_attn.k_rope",
      "rotation.cache:rotated=self_attn.v_proj@self_attn.v_cache;tokens=below 7",
      "visible:visible=from the last 8 slots up to its own to its own slot - 1@self_attn.scores;steps=1, 3..5",
      "heads.moved:head=(h + 1) % 6@self_attn.attn_output;batch_rows=1",
      "heads.layout:held as=[B,H,T,d]@self_attn.q_rope",
      "heads.read:head of self_attn.v_cache=0 2 1 1 0 0@self_attn.attn_output",
      "gate.function:function=SiLU of a gate between -6 and 6@mlp.act",
  };
  for (const std::string& text : texts) {
    INFO(text);
    const Mistake mistake = parse_mistake(text);
    CHECK(to_string(mistake) == text);
    CHECK(parse_mistake(to_string(mistake)) == mistake);
  }
}

TEST_CASE("each mechanism of the table has its own name, and an operation that has it") {
  for (std::size_t i = 0; i < kNumMistakeKinds; ++i) {
    const auto kind = static_cast<MistakeKind>(i);
    INFO(facts(kind).name);
    CHECK(parse_mistake_kind(facts(kind).name) == kind);
    std::size_t operations = 0;
    for (const OperationRow& operation : kOperationTable) operations += has_mechanism(operation.op, kind) ? 1 : 0;
    CHECK(operations > 0);
  }
}

TEST_CASE("a full tensor name says the layer too") {
  const Mistake mistake = parse_mistake("copy.zeros@model.layers.2.mlp.act");
  CHECK(mistake.op == Op::kAct);
  CHECK(mistake.scope.layers == Selection{Selection::Kind::kOnly, 0, {2}});
}

TEST_CASE("a wrong mistake is refused with what was meant") {
  const std::vector<std::pair<std::string, std::string>> refused = {
      {"bias.row:rows=column 0 holds column 1@self_attn.q_proj", "did you mean \"bias.rows\"?"},
      {"bias:coefficient=2", "at which tensor"},
      {"bias:coefficient=2@self_attn.q_porj", "did you mean \"self_attn.q_proj\"?"},
      {"bias:coefficient=2@mlp.act", "mlp.act has no mechanism bias; these have: self_attn.q_proj"},
      {"bias:coeficient=2@self_attn.q_proj", "did you mean \"coefficient\"?"},
      {"bias:coefficient=nan@self_attn.q_proj", "a finite number"},
      {"bias:coefficient=2x@self_attn.q_proj", "a finite number"},
      {"bias:coefficient=2;coefficient=3@self_attn.q_proj", "twice"},
      {"bias:coefficient@self_attn.q_proj", "no name=value"},
      {"bias@self_attn.q_proj", "needs one of coefficient, source"},
      {"norm.blocks@model.norm", "needs blocks"},
      {"norm.blocks:blocks=1@model.norm", "cannot be '1'"},
      {"norm.blocks:blocks=2.5@model.norm", "cannot be '2.5'"},
      {"soft_cap:cap=-1@lm_head", "a positive number"},
      {"norm.weight:weight=model.layers.0.mlp.act.weight@model.norm", "1 + w"},
      {"product.rows:rows=1 1 3 2;block=4@mlp.up_proj", "'rows' of product.rows cannot be"},
      {"product.rows:rows=columns 1..2 hold columns 1..3@mlp.up_proj", "'rows' of product.rows cannot be"},
      {"product.input_order:order=blocks of 32, where elements 5 apart were taken as neighbours@mlp.up_proj",
       "cannot be"},
      {"product.coefficients:inputs 7..3=0@mlp.up_proj", "cannot be"},
      {"visible:visible=from slot 1 to its own slot@self_attn.scores", "cannot be"},
      {"gate.function:function=softplus@mlp.act", "GELU"},
      {"heads.moved:head=h % 0@self_attn.q_rope", "cannot be"},
      {"copy.zeros@mlp.act;token=3", "did you mean \"tokens\"?"},
      {"copy.zeros@mlp.act;tokens=3-5", "3 and up"},
      {"copy.zeros@mlp.act;tokens=-1", "3 and up"},
      {"copy.zeros@mlp.act;phase=both", "prefill or decode"},
      {"copy.zeros:x=1@mlp.act", "it has none"},
  };
  for (const auto& [text, says] : refused) {
    INFO(text);
    CHECK_THROWS_AS(parse_mistake(text), InputError);
    CHECK_THROWS_WITH(parse_mistake(text), ContainsSubstring(says));
  }
}

TEST_CASE("laws in words say what they compute") {
  CHECK(parse_head_law("h % 3")->at(7, 3) == 1);
  CHECK(parse_head_law("h / 2")->at(7, 3) == 2);
  CHECK(parse_head_law("5 - h")->at(1, 6) == 4);
  CHECK(parse_head_law("(h + 2) % 6")->at(5, 6) == 1);
  CHECK(parse_head_law("2")->at(5, 6) == 2);
  CHECK(parse_head_law("0 2 1")->at(1, 3) == 2);
  CHECK(*parse_input_order("blocks of 6, where elements 3 apart were taken as neighbours") ==
        std::vector<std::int64_t>{0, 3, 1, 4, 2, 5});
  CHECK(parse_vector_law("self_attn.k_rope of 3 behind")->shift == 3);
  CHECK(parse_vector_law("self_attn.k_rope of batch row b - 1")->batch_shift == -1);
  CHECK(parse_table_entry("sine of p - 2")->shift == -2);
  CHECK((*parse_gate_function("ReLU"))(-1.0) == 0.0);
  for (const std::string& words : gate_functions()) CHECK(parse_gate_function(words).has_value());
}

TEST_CASE("a selection holds what it says") {
  const Selection some = *parse_selection("1, 4..6");
  CHECK(some.holds(1));
  CHECK_FALSE(some.holds(3));
  CHECK(some.holds(5));
  CHECK(to_string(some) == "1, 4..6");
  CHECK(parse_selection("3 and up")->holds(3));
  CHECK_FALSE(parse_selection("below 3")->holds(3));
  CHECK(Selection{}.holds(9));
}
