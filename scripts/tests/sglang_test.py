#!/usr/bin/env python3
"""import_sglang.py on files made to the format of SGLang's tensor_dump_forward_hook.py, not by a server.

    sglang_test.py [-v] [name of a test]

Ends with 77, skipped, where this Python has no torch or no NumPy.
"""
import importlib.util
import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent
MODEL = SCRIPTS.parent / "harness/trace/tests/data/model"
sys.path.insert(0, str(SCRIPTS))
if not all(importlib.util.find_spec(name) for name in ("torch", "numpy", "safetensors")):
    print("SGLang's dumps: SKIPPED, nothing was checked: this Python has no torch, numpy or safetensors")
    sys.exit(77)

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

CONFIG = json.loads((MODEL / "config.json").read_text())
LENGTHS = [5, 3]


class Sglang(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.call("independent_engine.py", "--trace", self.folder / "engine", "--prompt-tokens",
                  ",".join(map(str, LENGTHS)), "--decode", 2)
        self.manifest = json.loads((self.folder / "engine/manifest.json").read_text())
        self.steps = [load_file(self.folder / "engine" / step["file"]) for step in self.manifest["steps"]]
        self.rank = self.folder / "dump/TP0_PP0_Rank0_pid17"
        self.rank.mkdir(parents=True)
        passes = [self.dumped(index) for index in range(3)] + [{}]
        for index, held in enumerate(passes):
            if index > 0:  # what follows the hook of the whole model lands in the next file
                held["logits_processor"] = self.steps[index - 1]["lm_head"][:, -1]
            torch.save(held, self.rank / f"Pass{index:05d}.pt")

    def call(self, script, *arguments, status=0):
        done = subprocess.run([sys.executable, str(SCRIPTS / script), "--model", str(MODEL), *map(str, arguments)],
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stderr

    def dumped(self, index):
        """Step `index` of the NumPy engine as SGLang's modules would give it: real tokens packed, projections fused."""
        step, held = self.manifest["steps"][index], self.steps[index]
        real = torch.tensor([[step["past_length"] + t >= pad for t in range(len(step["tokens"][0]))]
                             for pad in step["left_padding"]])

        def packed(name, layer=None):
            value = held[name if layer is None else f"model.layers.{layer}.{name}"]
            return value[real].flatten(1)
        result = {f"model.forward_batch_info.{name}": torch.tensor(step[key])[real]
                  for name, key in (("input_ids", "tokens"), ("positions", "positions"))}
        result["model.forward_batch_info.seq_lens"] = torch.tensor([length + index for length in LENGTHS])
        result["model.embed_tokens"] = packed("model.embed_tokens")
        last = CONFIG["num_hidden_layers"] - 1
        for layer in range(last + 1):
            prefix = f"model.layers.{layer}."
            normed = packed("input_layernorm", layer)
            result[prefix + "input_layernorm"] = [normed, packed("output", layer - 1)] if layer else normed
            result[prefix + "self_attn.qkv_proj"] = torch.cat([packed(f"self_attn.{q}_proj", layer) for q in "qkv"], -1)
            result[prefix + "self_attn.rotary_emb"] = [packed(f"self_attn.{q}_rope", layer) for q in "qk"]
            result[prefix + "self_attn.attn"] = packed("self_attn.attn_output", layer)
            result[prefix + "self_attn.o_proj"] = packed("self_attn.o_proj", layer)
            result[prefix + "post_attention_layernorm"] = [packed("post_attention_layernorm", layer),
                                                           packed("resid_mid", layer)]
            result[prefix + "mlp.gate_up_proj"] = torch.cat([packed(f"mlp.{part}_proj", layer)
                                                             for part in ("gate", "up")], -1)
            result[prefix + "mlp.act_fn"] = packed("mlp.act", layer)
            result[prefix + "mlp.down_proj"] = packed("mlp.down_proj", layer)
        result["model.norm"] = [packed("model.norm"), packed("output", last)]
        return result

    def test_the_tensors_come_back(self):
        self.call("import_sglang.py", "--dump", self.folder / "dump", "--trace", self.folder / "trace", "--passes", "0-2")
        manifest = json.loads((self.folder / "trace/manifest.json").read_text())
        self.assertEqual(manifest["steps"], self.manifest["steps"])
        self.assertEqual(manifest["compute"], self.manifest["compute"])
        for index, right in enumerate(self.steps):
            here = load_file(self.folder / "trace" / manifest["steps"][index]["file"])
            self.assertEqual(set(here), {name for name in right if "_cache" not in name})
            first = manifest["steps"][index]["past_length"]
            for name, value in here.items():
                self.assertEqual(value.dtype, torch.bfloat16)
                for row, pad in enumerate([0, 2]):  # the longest row's, and the other's
                    begin = max(0, pad - first) if value.shape[1] > 1 else 0
                    wanted = right[name][row][-value.shape[1]:]
                    self.assertTrue(torch.equal(value[row][begin:], wanted[begin:]), f"step {index}: {name}")

    def test_what_makes_no_trace_is_refused(self):
        (self.folder / "empty").mkdir()
        for arguments, says in ((("--dump", self.folder / "empty", "--passes", "0"), "0 folders of ranks"),
                                (("--dump", self.folder / "dump", "--passes", "2-1"), "must be as 0-4"),
                                (("--dump", self.folder / "dump", "--passes", "0-7"), "is not there"),
                                (("--dump", self.folder / "dump", "--passes", "1-2"), "no whole prefill")):
            self.assertIn(says, self.call("import_sglang.py", "--trace", self.folder / "trace", *arguments, status=2))
        self.assertFalse((self.folder / "trace").exists())


if __name__ == "__main__":
    unittest.main()
