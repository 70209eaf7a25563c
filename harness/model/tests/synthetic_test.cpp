#include "harness/model/synthetic.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "cmake/catch2.h"
#include "harness/contract/error.h"
#include "harness/contract/operation_table.h"
#include "harness/formats/tests/temporary_directory.h"
#include "harness/model/generator.h"
#include "harness/model/model.h"
#include "harness/model/synthetic_profile.h"

using namespace qdiff;
using namespace qdiff::model;
using qdiff::testing::input_error_of;

namespace {

std::vector<double> values_of(const WeightSource& source, const std::string& name) {
  return to_doubles(source.read_all(name).view());
}

double root_mean_square(const std::vector<double>& values) {
  double sum = 0.0;
  for (double value : values) sum += value * value;
  return std::sqrt(sum / static_cast<double>(values.size()));
}

std::uint64_t hash_of(const Tensor& tensor) {
  std::uint64_t hash = 0xCBF29CE484222325U;
  for (std::byte byte : tensor.bytes()) hash = (hash ^ std::to_integer<std::uint64_t>(byte)) * 0x100000001B3U;
  return hash;
}

std::string specification_error_of(const std::string& spec) {
  return input_error_of([&] { open_model(spec); });
}

}  // namespace

TEST_CASE("synthetic: every name opens with the shape of its row") {
  for (const SyntheticShape& shape : kSyntheticShapes) {
    CAPTURE(shape.name);
    const auto source = open_model("synthetic:" + std::string(shape.name));
    const ModelConfig& c = source->config();
    CHECK(c.hidden == shape.hidden);
    CHECK(c.q_width() == shape.num_q_heads * shape.head_dim);
    CHECK(c.tie_word_embeddings == shape.tied);
    CHECK(c.rms_norm_eps == 1e-6);
    CHECK(c.rope_theta == 1e6);
    CHECK(c.dtype == DType::kBF16);
    CHECK(source->weights().size() == static_cast<std::size_t>(12 * shape.num_layers + (shape.tied ? 2 : 3)));
    CHECK(source->description() == "synthetic:" + std::string(shape.name) + ",seed=0,profile=plain");
  }
}

TEST_CASE("synthetic: the published models have their published numbers of parameters") {
  const auto parameters = [](const std::string& name) {
    const auto source = open_model("synthetic:" + name);
    std::int64_t sum = 0;
    for (const WeightInfo& info : source->weights()) sum += num_elements(info.shape);
    return sum;
  };
  // metadata.total_size / 2 of each model.safetensors.index.json; for the single files, their tensors.
  CHECK(parameters("qwen2.5-0.5b") == 494'032'768);
  CHECK(parameters("qwen2.5-1.5b") == 1'543'714'304);
  CHECK(parameters("qwen2.5-3b") == 3'085'938'688);
  CHECK(parameters("qwen2.5-7b") == 7'615'616'512);
  CHECK(parameters("qwen2.5-14b") == 14'770'033'664);
  CHECK(parameters("qwen2.5-32b") == 32'763'876'352);
  CHECK(parameters("qwen2.5-72b") == 72'706'203'648);
}

TEST_CASE("synthetic: the small shapes cover what the large ones leave out") {
  bool h_d_larger = false, h_d_smaller = false, odd_group = false, three_kv_heads = false, tied = false, untied = false;
  bool d32 = false, d64 = false, d128 = false;
  for (const SyntheticShape& s : kSyntheticShapes) {
    if (!s.name.starts_with("toy-")) continue;
    const std::int64_t group = s.num_q_heads / s.num_kv_heads;
    h_d_larger |= s.num_q_heads * s.head_dim > s.hidden;
    h_d_smaller |= s.num_q_heads * s.head_dim < s.hidden;
    odd_group |= group % 2 == 1 && group > 1 && group != s.num_kv_heads;
    three_kv_heads |= s.num_kv_heads >= 3 && group > 1 && group != s.num_kv_heads;
    (s.tied ? tied : untied) = true;
    d32 |= s.head_dim == 32;
    d64 |= s.head_dim == 64;
    d128 |= s.head_dim == 128;
    CHECK(s.num_layers >= 2);
    CHECK(s.vocab <= 2000);
  }
  CHECK((h_d_larger && h_d_smaller && odd_group && three_kv_heads && tied && untied && d32 && d64 && d128));
}

TEST_CASE("synthetic: options are read, printed back and opened again") {
  const auto source = open_model("synthetic:toy-d64,layers=2,dtype=float16,profile=qwen,seed=18446744073709551615");
  CHECK(source->description() == "synthetic:toy-d64,seed=18446744073709551615,profile=qwen,dtype=float16,layers=2");
  CHECK(source->config().num_layers == 2);
  CHECK(source->config().dtype == DType::kF16);
  const auto again = open_model(source->description());
  CHECK(again->config() == source->config());
  CHECK(hash_of(again->read_all("lm_head.weight")) == hash_of(source->read_all("lm_head.weight")));
  const auto few_tokens = open_model("synthetic:qwen2.5-0.5b,layers=1,vocab=500");
  CHECK(few_tokens->description() == "synthetic:qwen2.5-0.5b,seed=0,profile=plain,layers=1,vocab=500");
  CHECK(few_tokens->config().vocab == 500);
  CHECK(few_tokens->config().hidden == 896);
  CHECK(open_model("synthetic:qwen2.5-0.5b,vocab=151936")->description() ==
        "synthetic:qwen2.5-0.5b,seed=0,profile=plain");
}

TEST_CASE("synthetic: a shape of one's own") {
  const std::string spec =
      "synthetic:toy-d64,seed=3,profile=qwen,layers=1,vocab=77,hidden=48,q_heads=4,kv_heads=2,head_dim=32,"
      "intermediate=40,tied=true,eps=1e-05,theta=10000";
  const auto source = open_model(spec);
  CHECK(source->description() == spec);
  CHECK(to_string(source->config()) == "qwen2 D=48 L=1 H=4 K=2 d=32 I=40 V=77 eps=1e-05 theta=10000 tied bfloat16");
  CHECK(open_model("synthetic:toy-d64,hidden=192,q_heads=6,kv_heads=3,tied=false,eps=0.000001,theta=1e6")
            ->description() == "synthetic:toy-d64,seed=0,profile=plain");
  CHECK_THAT(specification_error_of("synthetic:toy-d64,kv_heads=4"),
             ContainsSubstring("must be a multiple of the number of"));
  CHECK_THAT(specification_error_of("synthetic:toy-d64,head_dim=33"),
             ContainsSubstring("rotary embedding needs an even one"));
  CHECK_THAT(specification_error_of("synthetic:toy-d64,hidden=0"), ContainsSubstring("from 1 to 65536"));
  CHECK_THAT(specification_error_of("synthetic:toy-d64,tied=yes"), ContainsSubstring("must be true or false"));
  for (const char* eps : {"", "-1", "nan", "inf", "1e-6x"}) {
    CHECK_THAT(specification_error_of(std::string("synthetic:toy-d64,eps=") + eps), ContainsSubstring("eps is"));
  }
  CHECK_THAT(specification_error_of("synthetic:toy-d64,theta=0"), ContainsSubstring("rope_theta"));
  CHECK_THAT(specification_error_of("synthetic:toy-d64,head_dims=32"), ContainsSubstring("did you mean \"head_dim\"?"));
}

TEST_CASE("synthetic: what is not known is refused with what is") {
  CHECK_THAT(specification_error_of("synthetic:toy-d46"), ContainsSubstring("did you mean \"toy-d64\"?"));
  CHECK_THAT(specification_error_of("synthetic:toy-d46"), ContainsSubstring("qwen2.5-72b, toy-d32"));
  CHECK_THAT(specification_error_of("synthetic:"), ContainsSubstring("known: qwen2.5-0.5b"));
  CHECK_THAT(specification_error_of("synthetic:toy-d64,sed=1"), ContainsSubstring("did you mean \"seed\"?"));
  CHECK_THAT(specification_error_of("synthetic:toy-d64,seed"), ContainsSubstring("write option=value"));
  CHECK_THAT(specification_error_of("synthetic:toy-d64,"), ContainsSubstring("write option=value"));
  CHECK_THAT(specification_error_of("synthetic:toy-d64,seed=1,seed=2"), ContainsSubstring("given twice"));
  for (const char* seed : {"", "-1", "1.5", "0x10", "18446744073709551616", " 1", "1 "}) {
    CHECK_THAT(specification_error_of(std::string("synthetic:toy-d64,seed=") + seed),
               ContainsSubstring("must be a whole number"));
  }
  CHECK_THAT(specification_error_of("synthetic:toy-d64,layers=0"), ContainsSubstring("from 1 to 256"));
  CHECK_THAT(specification_error_of("synthetic:toy-d64,layers=257"), ContainsSubstring("from 1 to 256"));
  CHECK_THAT(specification_error_of("synthetic:toy-d64,vocab=0"), ContainsSubstring("from 1 to 1048576"));
  CHECK_THAT(specification_error_of("synthetic:toy-d64,dtype=float64"),
             ContainsSubstring("bfloat16, float16 or float32"));
  CHECK_THAT(specification_error_of("synthetic:toy-d64,profile=real"), ContainsSubstring("plain, qwen, loud or quiet"));
  CHECK(specification_error_of("synthetic:\x1B[31m").find('\x1B') == std::string::npos);
}

TEST_CASE("synthetic: the bits are fixed for ever") {
  // A change here changes every report and golden made from synthetic models.
  const auto hash = [](const std::string& spec, const std::string& weight) {
    return hash_of(open_model(spec)->read_all(weight));
  };
  CHECK(hash("synthetic:toy-d64", "model.layers.1.self_attn.q_proj.weight") == 0x659b152624817625U);
  CHECK(hash("synthetic:toy-d64,dtype=float32", "model.layers.1.self_attn.q_proj.weight") == 0xa108f2a7d8e7fe80U);
  CHECK(hash("synthetic:toy-d64,dtype=float16", "model.layers.1.input_layernorm.weight") == 0x5e6b9a770a1269d3U);
  CHECK(hash("synthetic:toy-d64,profile=qwen", "model.embed_tokens.weight") == 0xa6a62b50ee21f4dfU);
  CHECK(hash("synthetic:toy-d64,profile=qwen", "model.layers.0.self_attn.k_proj.bias") == 0x3d2f19db66ce57ceU);
  CHECK(hash("synthetic:toy-d64,profile=qwen", "model.layers.1.mlp.down_proj.weight") == 0x3df5d4c7911ad97dU);
}

TEST_CASE("synthetic: any range equals the same part of the whole, over every patch") {
  for (const char* profile : {"plain", "qwen", "loud", "quiet"}) {
    const auto source = open_model(std::string("synthetic:toy-d32,profile=") + profile);
    for (const WeightInfo& info : source->weights()) {
      CAPTURE(info.name);
      const Tensor whole = source->read_all(info.name);
      const std::int64_t size = whole.size();
      const std::int64_t step = std::max<std::int64_t>(1, size / 7 + 3);
      std::vector<std::byte> joined;
      for (std::int64_t first = 0; first < size; first += step) {
        std::vector<std::byte> part(static_cast<std::size_t>(std::min(step, size - first)) * size_of(info.dtype));
        source->read(info, first, std::min(step, size - first), part);
        joined.insert(joined.end(), part.begin(), part.end());
      }
      REQUIRE(std::equal(joined.begin(), joined.end(), whole.bytes().begin(), whole.bytes().end()));
    }
  }
}

TEST_CASE("synthetic: reads outside a weight and of other weights are refused") {
  const auto source = open_model("synthetic:toy-mha");
  const WeightInfo& norm = source->find("model.norm.weight");
  std::vector<std::byte> bytes(2 * 160);
  CHECK_NOTHROW(source->read(norm, 0, 160, bytes));
  CHECK_NOTHROW(source->read(norm, 160, 0, {}));
  CHECK_THROWS_AS(source->read(norm, 1, 160, bytes), std::out_of_range);
  CHECK_THROWS_AS(source->read(norm, -1, 160, bytes), std::out_of_range);
  CHECK_THROWS_AS(source->read(norm, 0, 159, bytes), std::out_of_range);
  CHECK_THROWS_AS(source->read(norm, 0, INT64_MAX, bytes), std::out_of_range);
  CHECK_THROWS_AS(source->find("lm_head.weight"), InputError);  // tied
  CHECK_THROWS_AS(source->read({"lm_head.weight", DType::kBF16, {512, 160}}, 0, 160, bytes), InputError);
}

TEST_CASE("synthetic plain: deviations are those of the profile, and nothing is left at 0 or 1") {
  const auto source = open_model("synthetic:toy-14x2,dtype=float32");
  const ModelConfig& c = source->config();
  const auto deviation = [&](const std::string& name) { return root_mean_square(values_of(*source, name)); };
  const auto near = [](double actual, double expected, double relative) {
    return std::fabs(actual / expected - 1.0) <= relative;
  };
  const double root_hidden = std::sqrt(static_cast<double>(c.hidden));
  CHECK(near(deviation("model.embed_tokens.weight"), 3.0 / root_hidden, 0.01));
  CHECK(near(deviation("model.layers.1.self_attn.q_proj.weight"), 1.6 / root_hidden, 0.02));
  CHECK(near(deviation("model.layers.1.mlp.down_proj.weight"), 0.6 / std::sqrt(1216.0), 0.02));
  CHECK(near(deviation("model.layers.1.self_attn.q_proj.bias"), 0.5, 0.2));
  CHECK(near(deviation("model.layers.1.self_attn.k_proj.bias"), 0.5, 0.3));
  CHECK(near(deviation("model.layers.1.self_attn.v_proj.bias"), 0.3, 0.3));
  for (double weight : values_of(*source, "model.layers.1.input_layernorm.weight")) {
    CHECK((weight > 0.6 && weight < 1.4));
  }
}

TEST_CASE("synthetic: layers, seeds and weights differ from each other") {
  const auto a = open_model("synthetic:toy-d64");
  const auto b = open_model("synthetic:toy-d64,seed=1");
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  CHECK(hash_of(a->read_all(name)) != hash_of(b->read_all(name)));
  CHECK(hash_of(a->read_all(name)) != hash_of(a->read_all("model.layers.2.mlp.up_proj.weight")));
  CHECK(hash_of(a->read_all(name)) != hash_of(a->read_all("model.layers.1.mlp.gate_proj.weight")));
}

TEST_CASE("synthetic qwen: k biases of norm 300 a head in the first and last layer, on the slowest rotary pairs") {
  for (const std::string shape : {"toy-d64", "qwen2.5-7b"}) {
    const auto source = open_model("synthetic:" + shape + ",profile=qwen");
    const ModelConfig& c = source->config();
    for (std::int64_t layer : {std::int64_t{0}, c.num_layers - 1}) {
      const auto bias = values_of(*source, "model.layers." + std::to_string(layer) + ".self_attn.k_proj.bias");
      for (std::int64_t head = 0; head < c.num_kv_heads; ++head) {
        double slow = 0.0, others = 0.0;
        for (std::int64_t i = 0; i < c.head_dim; ++i) {
          const double value = bias[static_cast<std::size_t>(head * c.head_dim + i)];
          (i % (c.head_dim / 2) >= c.head_dim / 2 - 2 ? slow : others) += value * value;
        }
        CHECK(std::fabs(std::sqrt(slow) - 300.0) < 10.0);
        CHECK(std::sqrt(others) < 30.0);
      }
    }
    const auto middle = values_of(*source, "model.layers.1.self_attn.k_proj.bias");
    CHECK(*std::max_element(middle.begin(), middle.end()) < 10.0);
  }
}

TEST_CASE("synthetic qwen: q.k of kv head 0 in layer 0 is beyond float16 from the biases alone") {
  const auto source = open_model("synthetic:toy-14x2,profile=qwen");
  const ModelConfig& c = source->config();
  const auto q = values_of(*source, "model.layers.0.self_attn.q_proj.bias");
  const auto k = values_of(*source, "model.layers.0.self_attn.k_proj.bias");
  const auto dot = [&](std::int64_t q_head, std::int64_t kv_head) {
    double sum = 0.0;
    for (std::int64_t i = 0; i < c.head_dim; ++i) {
      sum +=
          q[static_cast<std::size_t>(q_head * c.head_dim + i)] * k[static_cast<std::size_t>(kv_head * c.head_dim + i)];
    }
    return sum;
  };
  for (std::int64_t head = 0; head < c.group_size(); ++head) CHECK(dot(head, 0) > 65504.0);
  CHECK(std::fabs(dot(c.group_size(), 1)) < 10'000.0);
}

TEST_CASE("synthetic loud: biases lift the scores of the kv heads in turn, and every storage type holds them") {
  for (const std::string shape : {"toy-15x5", "toy-d64", "toy-d128"}) {
    CAPTURE(shape);
    const auto source = open_model("synthetic:" + shape + ",profile=loud,dtype=float32");
    const ModelConfig& c = source->config();
    for (std::int64_t layer = 0; layer < c.num_layers; ++layer) {
      const std::string attention = "model.layers." + std::to_string(layer) + ".self_attn.";
      const auto q = values_of(*source, attention + "q_proj.bias");
      const auto k = values_of(*source, attention + "k_proj.bias");
      for (std::int64_t head = 0; head < c.num_q_heads; ++head) {
        const std::int64_t kv_head = head / c.group_size();
        double lift = 0.0;
        for (std::int64_t i = 0; i < c.head_dim; ++i) {
          if (i % (c.head_dim / 2) < c.head_dim / 2 - 2) continue;
          const double query = q[static_cast<std::size_t>(head * c.head_dim + i)];
          const double key = k[static_cast<std::size_t>(kv_head * c.head_dim + i)];
          for (DType dtype : {DType::kBF16, DType::kF16}) {
            for (double value : {query, key}) {
              const Tensor stored = Tensor::rounded(dtype, {1}, std::vector<double>{value});
              CHECK(to_doubles(stored.view())[0] == value);
            }
          }
          lift += query * key;
        }
        const double expected[] = {200.0, -20'000.0, -70'000.0};
        const double score = lift / std::sqrt(static_cast<double>(c.head_dim));
        CHECK(std::fabs(score / expected[kv_head % 3] - 1.0) < (kv_head % 3 == 0 ? 0.2 : 0.02));
        CHECK((kv_head % 3 != 2 || score < -65'600.0));
      }
    }
  }
}

TEST_CASE("synthetic quiet: what enters the residual stream is a thousandth of plain's") {
  const auto quiet = open_model("synthetic:toy-d64,profile=quiet,dtype=float32");
  const auto plain = open_model("synthetic:toy-d64,dtype=float32");
  const auto level = [](const WeightSource& source, const std::string& name) {
    return root_mean_square(values_of(source, name));
  };
  CHECK(std::fabs(level(*quiet, "model.embed_tokens.weight") / 1e-3 - 1.0) < 0.02);
  for (const std::string name : {"model.layers.1.self_attn.o_proj.weight", "model.layers.2.mlp.down_proj.weight"}) {
    CHECK(std::fabs(level(*quiet, name) / level(*plain, name) / 1e-3 - 1.0) < 0.01);
  }
  for (const std::string name : {"model.layers.1.self_attn.q_proj.weight", "model.norm.weight", "lm_head.weight"}) {
    CHECK(values_of(*quiet, name) == values_of(*plain, name));
  }
}

TEST_CASE("synthetic qwen: one neuron drives three channels to thousands for some inputs, and to tens for others") {
  for (const std::string shape : {"toy-d32", "toy-d64", "toy-d128", "toy-mha"}) {
    CAPTURE(shape);
    const auto source = open_model("synthetic:" + shape + ",profile=qwen,dtype=float32");
    const ModelConfig& c = source->config();
    const std::string mlp = "model.layers." + std::to_string(massive_layer(c)) + ".mlp.";
    const auto gate = values_of(*source, mlp + "gate_proj.weight");
    const auto up = values_of(*source, mlp + "up_proj.weight");
    const auto down = values_of(*source, mlp + "down_proj.weight");
    const auto norm =
        values_of(*source, "model.layers." + std::to_string(massive_layer(c)) + ".post_attention_layernorm.weight");
    const auto channels = massive_channels(c, 0);
    REQUIRE(channels.size() == 3);

    int massive = 0, quiet = 0;
    constexpr int kInputs = 200;
    for (int input = 0; input < kInputs; ++input) {
      std::vector<std::byte> bytes(static_cast<std::size_t>(c.hidden) * 4);
      generate(normal_law(0.0, 1.0), stream_key(9, "inputs"), input * c.hidden, c.hidden, DType::kF32, bytes.data());
      std::vector<double> x;
      for (std::int64_t i = 0; i < c.hidden; ++i) {
        x.push_back(load_element(bytes.data(), DType::kF32, static_cast<std::size_t>(i)) *
                    norm[static_cast<std::size_t>(i)]);
      }
      std::vector<double> out(static_cast<std::size_t>(c.hidden), 0.0);
      for (std::int64_t n = 0; n < c.intermediate; ++n) {
        double g = 0.0, u = 0.0;
        for (std::int64_t i = 0; i < c.hidden; ++i) {
          const auto at = static_cast<std::size_t>(n * c.hidden + i);
          g += gate[at] * x[static_cast<std::size_t>(i)];
          u += up[at] * x[static_cast<std::size_t>(i)];
        }
        const double act = g / (1.0 + std::exp(-g)) * u;
        for (std::int64_t i = 0; i < c.hidden; ++i) {
          out[static_cast<std::size_t>(i)] += act * down[static_cast<std::size_t>(i * c.intermediate + n)];
        }
      }
      double strongest = 0.0, largest_other = 0.0;
      for (std::int64_t i = 0; i < c.hidden; ++i) {
        const bool planted = std::find(channels.begin(), channels.end(), i) != channels.end();
        double& worst = planted ? strongest : largest_other;
        worst = std::max(worst, std::fabs(out[static_cast<std::size_t>(i)]));
      }
      CHECK(largest_other < 10.0);
      CHECK(strongest < 40'000.0);
      massive += strongest > 1000.0 ? 1 : 0;
      quiet += strongest < 100.0 ? 1 : 0;
    }
    CHECK(massive >= kInputs / 10);
    CHECK(quiet >= kInputs / 4);
  }
}

TEST_CASE("synthetic qwen: the last 16 ids have rows that eps decides") {
  for (const std::string shape : {"toy-d64", "qwen2.5-0.5b"}) {
    const auto source = open_model("synthetic:" + shape + ",profile=qwen");
    const ModelConfig& c = source->config();
    const WeightInfo& embedding = source->find("model.embed_tokens.weight");
    const auto row_of = [&](std::int64_t token) {
      Tensor row(embedding.dtype, {c.hidden});
      source->read(embedding, token * c.hidden, c.hidden, row.bytes());
      return root_mean_square(to_doubles(row.view()));
    };
    const double ordinary = 3.0 / std::sqrt(static_cast<double>(c.hidden));
    CHECK(std::fabs(row_of(c.vocab - 17) / ordinary - 1.0) < 0.3);
    for (std::int64_t token = c.vocab - 16; token < c.vocab; ++token) {
      const double expected = token % 2 == 0 ? 1e-3 / std::sqrt(static_cast<double>(c.hidden)) : 1e-3;
      CHECK(std::fabs(row_of(token) / expected - 1.0) < 0.3);
    }
  }
}

TEST_CASE("synthetic qwen: norm weights are away from 1, and small at the massive channels") {
  const auto source = open_model("synthetic:toy-d64,profile=qwen");
  const auto channels = massive_channels(source->config(), 0);
  const std::vector<std::pair<std::string, double>> means = {{"model.layers.0.input_layernorm.weight", 0.5},
                                                             {"model.layers.1.input_layernorm.weight", 2.0},
                                                             {"model.layers.1.post_attention_layernorm.weight", 3.0},
                                                             {"model.norm.weight", 4.0}};
  for (const auto& [name, mean] : means) {
    const auto weights = values_of(*source, name);
    double sum = 0.0;
    for (double weight : weights) sum += weight;
    CHECK(std::fabs(sum / static_cast<double>(weights.size()) / mean - 1.0) < 0.1);
    for (std::int64_t channel : channels) CHECK(weights[static_cast<std::size_t>(channel)] < 0.4 * mean);
  }
}
