#!/usr/bin/env python3
"""The module qdiff: recordings of a transformers model in three lines, and what the program says of them.

    record_test.py [QDIFF]        ends with 77, skipped, without torch and transformers 5; without the program nothing is judged
"""
import importlib.util
import json
import os
import pathlib
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
MODEL = ROOT / "reference/tests/data/golden-model"
sys.path.insert(0, str(ROOT / "python"))
if not all(importlib.util.find_spec(name) for name in ("torch", "transformers", "safetensors")):
    print("skipped: this Python has no torch, transformers or safetensors")
    sys.exit(77)
QDIFF = os.path.abspath(sys.argv.pop(1)) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else None

import torch  # noqa: E402
import transformers  # noqa: E402

import qdiff  # noqa: E402

torch.set_num_threads(1)


class ModelTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16, local_files_only=True,
                                                                      attn_implementation="eager").eval()

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        generator = torch.Generator().manual_seed(3)
        self.tokens = torch.randint(1, self.model.config.vocab_size, (1, 11), generator=generator)  # 0 pads

    def generate(self, tokens=None, **options):
        return self.model.generate(self.tokens if tokens is None else tokens, max_new_tokens=4, min_new_tokens=4,
                                   do_sample=False, pad_token_id=0, **options)

    def manifest(self):
        return json.loads((self.folder / "trace/manifest.json").read_text())

    def hooks(self):
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in self.model.modules())


class Record(ModelTest):
    def test_generate_is_recorded_step_by_step_and_leaves_the_model_alone(self):
        before = self.hooks()
        with qdiff.record(self.model, self.folder / "trace") as trace:
            written = self.generate()
        self.assertEqual(self.hooks(), before)
        self.assertEqual(trace.num_steps, 4)
        manifest = self.manifest()
        self.assertEqual([step["phase"] for step in manifest["steps"]], ["prefill", "decode", "decode", "decode"])
        fed = [token for step in manifest["steps"] for token in step["tokens"][0]]
        self.assertEqual(fed, written[0, :-1].tolist())
        self.assertEqual(manifest["engine"]["name"], "transformers-eager")
        self.assertEqual(manifest["compute"]["activations"], "bfloat16")
        self.assertIn("attention.scores", manifest["compute"]["points"])

    def test_padded_rows(self):
        tokens = torch.cat([self.tokens, self.tokens.roll(1)])
        mask = torch.ones_like(tokens)
        mask[1, :4] = 0
        with qdiff.record(self.model, self.folder / "trace"):
            self.generate(tokens, attention_mask=mask)
        for step in self.manifest()["steps"]:
            self.assertEqual(step["left_padding"], [0, 4])
            self.assertNotIn("positions", step)

    def test_a_static_cache_is_recorded_up_to_this_step(self):
        cache = transformers.StaticCache(config=self.model.config, max_cache_len=32)
        with qdiff.record(self.model, self.folder / "trace"):
            self.generate(past_key_values=cache, disable_compile=True)
        from safetensors import safe_open
        with safe_open(self.folder / "trace/step-0001.safetensors", "pt") as step:
            self.assertEqual(step.get_tensor("model.layers.0.self_attn.k_cache").shape[1], 12)

    def test_what_is_selected_and_declared(self):
        with qdiff.record(self.model, self.folder / "trace", tensors="lm_head|layers.0.output",
                          compute=qdiff.compute("bfloat16")):
            self.model(self.tokens)
        self.assertEqual(self.manifest()["compute"], {"weights": "bfloat16", "activations": "bfloat16",
                                                      "accumulate": "float32"})
        from safetensors import safe_open
        with safe_open(self.folder / "trace/step-0000.safetensors", "pt") as step:
            self.assertEqual(set(step.keys()), {"lm_head", "model.layers.0.output"})

    def test_an_error_leaves_no_trace_and_no_hook(self):
        before = self.hooks()
        with self.assertRaises(ZeroDivisionError):
            with qdiff.record(self.model, self.folder / "trace"):
                self.model(self.tokens)
                1 / 0
        self.assertEqual((list(self.folder.iterdir()), self.hooks()), ([], before))

    def test_what_is_no_trace_is_refused(self):
        with self.assertRaisesRegex(qdiff.TraceError, "record each sequence into a folder of its own"):
            with qdiff.record(self.model, self.folder / "trace"):
                self.generate()
                self.generate()
        embedded = self.model.get_input_embeddings()(self.tokens)
        with self.assertRaisesRegex(qdiff.TraceError, "without input_ids"):
            with qdiff.record(self.model, self.folder / "trace"):
                self.model(inputs_embeds=embedded)
        with self.assertRaisesRegex(qdiff.TraceError, "give a name map"):
            with qdiff.record(torch.nn.Linear(2, 2), self.folder / "trace", config=str(MODEL)):
                pass
        with self.assertRaisesRegex(qdiff.TraceError, "matches no tensor"):
            with qdiff.record(self.model, self.folder / "trace", tensors="q_porj"):
                pass
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_a_module_with_a_name_map(self):
        names = json.loads((ROOT / "scripts/examples/transformers_map.json").read_text())
        with qdiff.record(self.model, self.folder / "trace", names=names) as trace:
            self.generate()
        self.assertEqual(trace.num_steps, 4)
        self.assertEqual(self.hooks(), 0)


@unittest.skipUnless(QDIFF, "the program is not named")
class Diagnose(ModelTest):
    def setUp(self):
        super().setUp()
        os.environ["QDIFF"] = QDIFF
        self.addCleanup(os.environ.pop, "QDIFF")

    def test_right_and_wrong(self):
        with qdiff.record(self.model, self.folder / "trace") as trace:
            self.generate()
        report = trace.diagnose()
        self.assertTrue(report, str(report))
        self.assertTrue(str(report).startswith("MATCH"))
        self.assertIn("<iframe srcdoc=", report._repr_html_())
        bias = self.model.model.layers[0].self_attn.q_proj.bias
        kept = bias.detach().clone()
        self.addCleanup(lambda: bias.data.copy_(kept))
        bias.data.zero_()
        with qdiff.record(self.model, self.folder / "wrong") as trace:
            self.model(self.tokens)
        report = trace.diagnose(out=self.folder / "found")
        self.assertEqual((report.verdict, report.status), ("diverged", 1))
        self.assertEqual(report.explanation["variant"], "H06.missing_q")
        self.assertEqual(report.folder, self.folder / "found")

    def test_bad_input_is_an_error_in_the_program_s_words(self):
        with self.assertRaisesRegex(RuntimeError, "nowhere"):
            qdiff.diagnose(MODEL, self.folder / "nowhere")


if __name__ == "__main__":
    unittest.main()
