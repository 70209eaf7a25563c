#!/usr/bin/env python3
"""The recorders of transformers and of any PyTorch module, on the model of reference/tests/data.

    recorders_test.py [-v] [name of a test]

Every operation is computed again in float64 from the recorded inputs, rounding at the declared points: where these are
right and complete, the result has the recorded bits. Ends with 77, skipped, without torch and transformers 5.
"""
import importlib.util
import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent
# Its head_dim, 32, has a scale that is no power of two, so that each rounding around it shows.
MODEL = SCRIPTS.parent / "reference/tests/data/golden-model"
sys.path.insert(0, str(SCRIPTS))
if not all(importlib.util.find_spec(name) for name in ("torch", "transformers", "safetensors")):
    print("recorders: SKIPPED, nothing was checked: this Python has no torch, transformers or safetensors")
    sys.exit(77)

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

import record_torch  # noqa: E402
import record_transformers  # noqa: E402
import recording  # noqa: E402

torch.set_num_threads(1)
CONFIG = json.loads((MODEL / "config.json").read_text())
HEADS, KV_HEADS, WIDTH = CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"], CONFIG["head_dim"]
LAST = CONFIG["num_hidden_layers"] - 1


class Emulation:
    """Each operation of one step in float64, rounded at some of the points, against the recorded tensors."""

    def __init__(self, trace, step, points, weights):
        self.tensors = {name: value.double() for name, value in load_file(trace / step["file"]).items()}
        self.dtype, self.points, self.weights, self.step = points["dtype"], points["points"], weights, step
        self.layer = f"model.layers.{LAST}."

    def at(self, point, values):
        return values.to(self.dtype).double() if point in self.points else values

    def here(self, name):
        return self.tensors[self.layer + name]

    def weight(self, name):
        return self.weights[self.layer + name]

    def norm(self, x, weight):
        root = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + CONFIG["rms_norm_eps"])
        return self.at("rms_norm.normalized", x * root) * weight

    def heads(self, x):
        return x.reshape(*x.shape[:2], -1, WIDTH)

    def rope(self, x):
        frequencies = 1.0 / CONFIG["rope_parameters"]["rope_theta"] ** (torch.arange(0, WIDTH, 2).float() / WIDTH)
        angles = (torch.tensor(self.step["positions"]).float()[..., None] * frequencies).double()
        angles = torch.cat((angles, angles), -1)[:, :, None]
        turned = torch.cat((-x[..., WIDTH // 2:], x[..., :WIDTH // 2]), -1)
        return (self.at("rope.products", x * self.at("rope.table", angles.cos())) +
                self.at("rope.products", turned * self.at("rope.table", angles.sin())))

    def attention(self, flash):
        group = HEADS // KV_HEADS
        q = self.here("self_attn.q_rope").transpose(1, 2)
        k, v = (self.here(f"self_attn.{name}_cache").transpose(1, 2).repeat_interleave(group, 1) for name in "kv")
        scores = self.at("attention.scores", q @ k.transpose(2, 3))
        scores = self.at("attention.scaled_scores", scores * WIDTH ** -0.5)
        slots = torch.arange(k.shape[2])
        queries = self.step["past_length"] + torch.arange(q.shape[2])
        scores = scores.masked_fill(slots[None, :] > queries[:, None], float("-inf"))
        exponentials = torch.exp(scores - scores.amax(-1, keepdim=True))
        total = exponentials.sum(-1, keepdim=True)
        if flash:  # rounds before the division
            output = self.at("attention.probs", exponentials) @ v / total
        else:
            output = self.at("attention.probs", exponentials / total) @ v
        return output.transpose(1, 2).flatten(2)

    def all(self, flash):
        """{tensor without its layer: value}"""
        project = {part: self.here("input_layernorm") @ self.weight(f"self_attn.{part}_proj.weight").T
                   for part in "qkv"}
        silu = self.here("mlp.gate_proj") / (1 + torch.exp(-self.here("mlp.gate_proj")))
        return {
            "input_layernorm": self.norm(self.tensors[f"model.layers.{LAST - 1}.output"],
                                         self.weight("input_layernorm.weight")),
            **{f"self_attn.{part}_proj": self.at("matmul.before_bias", product) +
               self.weight(f"self_attn.{part}_proj.bias") for part, product in project.items()},
            "self_attn.q_rope": self.rope(self.heads(self.here("self_attn.q_proj"))),
            "self_attn.k_rope": self.rope(self.heads(self.here("self_attn.k_proj"))),
            "self_attn.attn_output": self.attention(flash),
            "self_attn.o_proj": self.here("self_attn.attn_output") @ self.weight("self_attn.o_proj.weight").T,
            "resid_mid": self.tensors[f"model.layers.{LAST - 1}.output"] + self.here("self_attn.o_proj"),
            "post_attention_layernorm": self.norm(self.here("resid_mid"),
                                                  self.weight("post_attention_layernorm.weight")),
            "mlp.gate_proj": self.here("post_attention_layernorm") @ self.weight("mlp.gate_proj.weight").T,
            "mlp.act": self.at("mlp.silu", silu) * self.here("mlp.up_proj"),
            "mlp.down_proj": self.here("mlp.act") @ self.weight("mlp.down_proj.weight").T,
            "output": self.here("resid_mid") + self.here("mlp.down_proj"),
        }

    def equal_shares(self, flash):
        """Share of elements with the recorded bits."""
        return {name: (value.to(self.dtype).double() == self.here(name)).double().mean().item()
                for name, value in self.all(flash).items()}


class Recorders(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def call(self, script, *arguments, status=0, model=MODEL):
        done = subprocess.run([sys.executable, str(SCRIPTS / script), "--model", str(model), *map(str, arguments)],
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stderr

    def record(self, name, *arguments):
        self.call("record_transformers.py", "--trace", self.folder / name, "--threads", 1, *arguments)
        return json.loads((self.folder / name / "manifest.json").read_text())

    def tensors(self, name, step):
        return load_file(self.folder / name / f"step-{step:04}.safetensors")

    def test_declared_points_are_right_and_complete(self):
        for attention, dtype in (("eager", "bfloat16"), ("sdpa", "bfloat16"), ("eager", "float16")):
            manifest = self.record(attention + dtype, "--prompt-tokens", 300, "--chunks", "200,100", "--decode", 1,
                                   "--attn", attention, "--dtype", dtype, "--seed", 3)
            points = manifest["compute"]["points"]
            self.assertEqual(set(points.values()), {dtype})
            self.assertEqual(manifest["compute"] | {"points": 0}, {"weights": dtype, "activations": dtype,
                                                                   "accumulate": "float32", "points": 0})
            torch_dtype = getattr(torch, dtype)
            weights = {name: value.to(torch_dtype).double()
                       for name, value in load_file(MODEL / "model.safetensors").items()}
            shares = {}  # by the point that is left out
            for left_out in (None, *points):
                used = {"dtype": torch_dtype, "points": set(points) - {left_out}}
                for step in manifest["steps"][:2]:
                    found = Emulation(self.folder / (attention + dtype), step, used, weights)
                    for name, share in found.equal_shares(attention == "sdpa").items():
                        shares.setdefault(left_out, {}).setdefault(name, []).append(share)
            for name, found in shares[None].items():
                self.assertGreater(min(found), 0.98, f"{attention} {dtype}: {name} is rounded elsewhere, too")
            for point in points:
                self.assertLess(min(min(found) for found in shares[point].values()), 0.93,
                                f"{attention} {dtype}: nothing is rounded at {point}")

    def test_every_tensor_in_its_place(self):
        manifest = self.record("eager", "--prompt-tokens", "9,6", "--chunks", "5,4", "--decode", 2)
        self.assertEqual([(step["phase"], step["past_length"]) for step in manifest["steps"]],
                         [("prefill", 0), ("prefill", 5), ("decode", 9), ("decode", 10)])
        self.assertEqual(manifest["steps"][0]["left_padding"], [0, 3])
        self.assertEqual(manifest["steps"][1]["positions"], [[5, 6, 7, 8], [2, 3, 4, 5]])
        self.assertEqual(manifest["model"]["config"], CONFIG)
        for index in range(4):
            found = self.tensors("eager", index)
            self.assertEqual(len(found), 3 + 19 * CONFIG["num_hidden_layers"])
            logits = found["lm_head"][:, -1].float()
            if 1 <= index < 3:
                following = [[token] for token in logits.argmax(-1).tolist()]
                self.assertEqual(following, manifest["steps"][index + 1]["tokens"])
            probs = found["model.layers.0.self_attn.probs"][0].float()
            self.assertTrue(torch.allclose(probs.sum(-1), torch.ones(()), atol=2e-2))
            layer = "model.layers.1.self_attn."
            first = manifest["steps"][index]["past_length"]
            self.assertTrue(torch.equal(found[layer + "k_cache"][:, first:], found[layer + "k_rope"]))
            self.assertTrue(torch.equal(found[layer + "v_cache"][:, first:].flatten(2), found[layer + "v_proj"]))

    def test_tokens_selection_and_last_logits(self):
        (self.folder / "ids.json").write_text("[[1, 2, 3], [4, 5]]")
        (self.folder / "decode.json").write_text("[[6, 7], [8, 9]]")
        manifest = self.record("trace", "--tokens", self.folder / "ids.json", "--decode-tokens",
                               self.folder / "decode.json", "--tensors", r"layers\.1\.mlp|lm_head", "--last-logits")
        self.assertEqual([step["tokens"] for step in manifest["steps"]],
                         [[[1, 2, 3], [0, 4, 5]], [[6], [8]], [[7], [9]]])
        found = self.tensors("trace", 0)
        self.assertEqual(sorted(found), ["lm_head", *(f"model.layers.1.mlp.{part}" for part in
                                                      ("act", "down_proj", "gate_proj", "up_proj"))])
        self.assertEqual(list(found["lm_head"].shape), [2, 1, CONFIG["vocab_size"]])

    def test_recording_changes_nothing(self):
        from transformers import Qwen2ForCausalLM
        ids = list(range(1, 12))
        (self.folder / "ids.json").write_text(json.dumps(ids))
        for attention in ("eager", "sdpa"):
            self.record(attention, "--tokens", self.folder / "ids.json", "--attn", attention)
            model = Qwen2ForCausalLM.from_pretrained(MODEL, attn_implementation=attention).eval()
            with torch.no_grad():
                plain = model(input_ids=torch.tensor([ids])).logits
            self.assertTrue(torch.equal(plain, self.tensors(attention, 0)["lm_head"]), attention)

    def test_wrong_engines(self):
        prompt = ("--prompt-tokens", 6, "--dtype", "float32")
        self.record("right", *prompt)
        right = self.tensors("right", 0)
        for name, arguments, first in (("theta", ("--override", "rope_theta=1e4"), "self_attn.q_rope"),
                                       ("eps", ("--override", "rms_norm_eps=1e-1"), "input_layernorm"),
                                       ("gelu", ("--override", "hidden_act=gelu"), "mlp.act"),
                                       ("bias", ("--zero-bias", "k"), "self_attn.k_proj")):
            manifest = self.record(name, *prompt, *arguments)
            self.assertEqual(manifest["model"]["config"], CONFIG)
            wrong = self.tensors(name, 0)
            order = [f"model.layers.0.{part}" for part in record_transformers.trace_writer.IN_LAYERS]
            differing = [part for part in order if part in right and not torch.equal(right[part], wrong[part])]
            self.assertEqual(differing[0], "model.layers.0." + first)

    def test_any_module_by_a_map(self):
        prompt = ("--prompt-tokens", "9,6", "--chunks", "5,4", "--decode", 2)
        self.record("direct", *prompt, "--attn", "sdpa")
        examples = SCRIPTS / "examples"
        arguments = ("--trace", self.folder / "map", *prompt, "--map", examples / "transformers_map.json")
        self.call("record_torch.py", "--engine", examples / "transformers_engine.py", *arguments)
        for step in range(4):
            direct, by_map = self.tensors("direct", step), self.tensors("map", step)
            self.assertEqual({name for name in direct if "_cache" not in name}, set(by_map))
            for name, value in by_map.items():
                self.assertTrue(torch.equal(value, direct[name]), name)
        names = json.loads((examples / "transformers_map.json").read_text())
        for change, says in (({"modules": {"model.nrom": {"output": "model.norm"}}}, "model.nrom"),
                             ({"modules": {"model.norm": {"output": "model.nrom"}}}, "did you mean model.norm"),
                             ({"modules": {"model.norm": {"outputs": "model.norm"}}}, "outputs"),
                             ({"module": {}}, "module"),
                             ({"functions": {"torch:gremlin": {"output": "model.norm"}}}, "gremlin"),
                             ({"modules": {"lm_head": {"output": {"tensor": "lm_head", "layout": "T B"}}}}, "T B")):
            (self.folder / "names.json").write_text(json.dumps(names | change))
            self.assertIn(says, self.call("record_torch.py", "--engine", examples / "transformers_engine.py", "--map",
                                          self.folder / "names.json", "--trace", self.folder / "bad",
                                          "--prompt-tokens", 3, status=2))
        self.assertFalse((self.folder / "bad").exists())

    def test_static_cache_and_generate(self):
        """The same tensors as by the dynamic cache, up to the order of sums over the free slots; and the cache's size."""
        prompt = ("--prompt-tokens", "9,6", "--decode", 2, "--dtype", "float32")
        self.record("dynamic", *prompt)
        for name, more in (("static", ("--cache", "static")), ("generate", ("--generate",)),
                           ("both", ("--cache", "static", "--generate"))):
            manifest = self.record(name, *prompt, *more)
            self.assertEqual(manifest.get("cache_capacity"), 9 + 2 + 8 if "static" in more else None)
            self.assertEqual([(step["phase"], step["past_length"]) for step in manifest["steps"]],
                             [("prefill", 0), ("decode", 9), ("decode", 10)])
            for step in range(3):
                right, here = self.tensors("dynamic", step), self.tensors(name, step)
                self.assertEqual(set(right), set(here))
                for tensor, value in right.items():
                    if tensor != "lm_head":  # of which generate() asks for the last row
                        self.assertEqual(value.shape, here[tensor].shape, tensor)
                self.assertTrue(torch.allclose(right["lm_head"][:, -1], here["lm_head"][:, -1], atol=1e-4))
        self.assertIn("--generate", self.call("record_transformers.py", "--trace", self.folder / "no", "--generate",
                                              "--prompt-tokens", 4, "--chunks", "2,2", status=2))

    def test_a_compiled_module_is_refused(self):
        (self.folder / "engine.py").write_text("import torch\n\ndef load(directory):\n"
                                               "    return torch.compile(torch.nn.Linear(2, 2)), None\n")
        (self.folder / "names.json").write_text(json.dumps({"compute": {}, "modules": {}}))
        self.assertIn("is compiled", self.call("record_torch.py", "--engine", self.folder / "engine.py", "--map",
                                               self.folder / "names.json", "--trace", self.folder / "no",
                                               "--prompt-tokens", 3, status=2))

    def test_one_module_in_two_layers_called_twice(self):
        """A block that both layers share, one norm for both of its places, and a cache with room for more."""
        (self.folder / "engine.py").write_text("""
import torch

class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.cache = torch.nn.Identity(), torch.nn.Identity()
    def forward(self, x):
        x = self.norm(x + 1)
        slots = torch.arange(12.0).reshape(1, 1, 12, 1).expand(1, %(kv)d, 12, %(width)d)
        self.cache(slots + x.max())
        return self.norm(x + 1)

def load(directory):
    module = torch.nn.Module()
    module.layers = torch.nn.ModuleList([Block()] * %(layers)d)
    def step(tokens, positions, past_length, left_padding):
        x = torch.zeros(1, len(tokens[0]), %(hidden)d)
        for layer in module.layers:
            x = layer(x)
        return torch.zeros(1, 1, %(vocab)d)
    return module, step
""" % {"kv": KV_HEADS, "width": WIDTH, "layers": LAST + 1, "hidden": CONFIG["hidden_size"], "vocab": CONFIG["vocab_size"]})
        (self.folder / "names.json").write_text(json.dumps({
            "compute": {"weights": "float32", "activations": "float32", "accumulate": "float32"},
            "cache_capacity": 12, "layers": "layers.{i}", "modules": {
                "layers.{i}.norm": {"output": [
                    {"call": 0, "tensor": "model.layers.{i}.input_layernorm"},
                    {"call": 1, "tensor": "model.layers.{i}.post_attention_layernorm"}]},
                "layers.{i}.cache": {"output": {"tensor": "model.layers.{i}.self_attn.k_cache",
                                                "layout": "B K S d", "slots": [0, "S"]}}}}))
        self.call("record_torch.py", "--engine", self.folder / "engine.py", "--map", self.folder / "names.json",
                  "--trace", self.folder / "shared", "--prompt-tokens", 3, "--decode", 1)
        self.assertEqual(json.loads((self.folder / "shared/manifest.json").read_text())["cache_capacity"], 12)
        for step, slots in ((0, 3), (1, 4)):
            tensors = self.tensors("shared", step)
            for layer in range(LAST + 1):
                first = 2.0 * layer + 1
                prefix = f"model.layers.{layer}."
                self.assertEqual(tensors[prefix + "input_layernorm"].unique().tolist(), [first])
                self.assertEqual(tensors[prefix + "post_attention_layernorm"].unique().tolist(), [first + 1])
                cache = tensors[prefix + "self_attn.k_cache"]
                self.assertEqual(list(cache.shape), [1, slots, KV_HEADS, WIDTH])
                self.assertEqual(cache[0, :, 0, 0].tolist(), [first + slot for slot in range(slots)])

    def test_layouts(self):
        sizes = {"B": 2, "T": 3, "S": 3, "D": 4, "H": 2, "K": 1, "d": 5, "I": 6, "V": 7}
        right = torch.arange(2 * 3 * 10).reshape(2, 3, 10)

        def layout(value, text, padding=(0, 0), name="model.layers.0.self_attn.q_proj"):
            return record_torch.to_contract(value, name, text, sizes, list(padding))
        heads = right.reshape(2, 3, 2, 5)
        self.assertTrue(torch.equal(layout(heads.permute(2, 1, 0, 3), "H T B d"), right))
        self.assertTrue(torch.equal(layout(right.flatten(0, 1), "B*T H*d"), right))
        packed = torch.cat((right[0, 2:], right[1, 1:]))
        unpacked = layout(packed, "N H*d", (2, 1))
        self.assertTrue(torch.equal(unpacked[0, 2:], right[0, 2:]) and torch.equal(unpacked[1, 1:], right[1, 1:]))
        self.assertEqual(int(unpacked[0, :2].abs().sum() + unpacked[1, :1].abs().sum()), 0)
        logits = torch.arange(14).reshape(2, 7)
        self.assertEqual(layout(logits, "B*T V", name="lm_head").tolist(), logits[:, None].tolist())
        for value, text in ((right, "B T"), (right, "B T D"), (packed, "N H*d"), (right[:, :2], "B T H*d")):
            with self.assertRaises(recording.UsageError):
                layout(value, text)
        self.assertEqual(record_torch.size_of("H*d+2*K*d", sizes), 20)

    def test_bad_input(self):
        bad = self.folder / "ids.json"
        prompt = ("--trace", self.folder / "trace", "--prompt-tokens", 5)
        for text, says in (("[1, 260]", "token 1 is 260"), ("[[]]", "list of token ids"), ("{", "no JSON"),
                           ("[true]", "True"), ("[]", "list of token ids")):
            bad.write_text(text)
            self.assertIn(says, self.call("record_transformers.py", "--trace", self.folder / "trace", "--tokens", bad,
                                          status=2))
        for arguments, says in ((("--chunks", "2,2"), "add up to 4"), (("--tensors", "("), "no regular expression"),
                                (("--tensors", "gremlin"), "matches no tensor"), (("--decode", "-1"), "0 or more"),
                                (("--override", "vocab_size=3"), "the keys are"),
                                (("--override", "rope_theta=x"), "no number"),
                                (("--override", "hidden_act=gremlin"), "no such activation"),
                                (("--dtype", "int8"), "invalid choice")):
            self.assertIn(says, self.call("record_transformers.py", *prompt, *arguments, status=2))
        self.assertIn("config.json", self.call("record_transformers.py", *prompt, model=self.folder, status=2))
        broken = self.folder / "broken"
        broken.mkdir()
        (broken / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": 3, "layer_types": None}))
        (broken / "model.safetensors").write_bytes((MODEL / "model.safetensors").read_bytes())
        self.assertIn("model.layers.2.input_layernorm.weight (missing)",
                      self.call("record_transformers.py", *prompt, model=broken, status=2))
        (broken / "model.safetensors").write_bytes(b"nothing")
        self.assertIn("broken", self.call("record_transformers.py", *prompt, model=broken, status=2))
        (broken / "config.json").write_text(json.dumps({"model_type": "qwen2", "num_hidden_layers": 2}))
        self.assertIn("vocab_size is None", self.call("record_transformers.py", *prompt, model=broken, status=2))
        (broken / "config.json").write_text(json.dumps(CONFIG | {"model_type": "llama"}))
        self.assertIn("llama", self.call("record_transformers.py", *prompt, model=broken, status=2))
        self.assertIn("is no trace", self.call("record_transformers.py", "--trace", broken, "--prompt-tokens", 5,
                                               status=2))
        self.assertFalse((self.folder / "trace").exists())


if __name__ == "__main__":
    unittest.main()
