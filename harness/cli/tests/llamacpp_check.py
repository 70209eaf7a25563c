"""`qdiff diagnose` on traces of llama.cpp, which scripts/make_llamacpp_data.py recorded."""
import json
import os
import pathlib
import shutil

import driver
from driver import BAD_INPUT, DIVERGED, MATCH, CommandLineTest

# Another folder of the same layout, with more types.
DATA = pathlib.Path(os.environ.get("QDIFF_LLAMACPP_DATA", driver.SOURCE / "harness/trace/tests/data/llamacpp"))
QUANTISED = "qwen2-q8_0"


class LlamaCpp(CommandLineTest):
    def diagnose(self, name, *more, model=None, trace=None):
        return self.qdiff("diagnose", "--model", str(DATA / f"{model or name}.gguf"), "--trace", str(trace or DATA / name),
                          *more)

    def report(self):
        return json.loads((self.folder / "qdiff-report" / "report.json").read_text())

    def explained(self, tensor, variant, value):
        report = self.report()
        self.assertEqual(report["first_divergence"]["tensor"], tensor)
        explanation = report["explanation"]
        self.assertEqual((explanation["variant"], explanation["verdict"]), (variant, "confirmed"))
        self.assertAlmostEqual(explanation["value"] / value, 1, delta=1e-2)

    def test_a_right_llama_cpp_matches_whatever_the_type_of_the_weights(self):
        names = sorted(path.stem for path in DATA.glob("*.gguf"))
        self.assertGreaterEqual(len(names), 5)
        for name in names:
            with self.subTest(name):
                result = self.diagnose(name)
                self.assertEqual((result.returncode, result.stderr), (MATCH, b""), result.stdout)
                self.assertEqual(self.report()["coverage"]["tensors_missing"], ["model.layers.0.self_attn.scores"])

    def test_another_base_of_rope_is_named_with_its_value(self):
        self.assertEqual(self.diagnose(f"{QUANTISED}-theta", model=QUANTISED).returncode, DIVERGED)
        self.explained("model.layers.0.self_attn.q_rope", "H03.theta", 1e4)

    def test_another_epsilon_is_named_with_its_value(self):
        self.assertEqual(self.diagnose(f"{QUANTISED}-eps", model=QUANTISED).returncode, DIVERGED)
        self.explained("model.layers.0.input_layernorm", "H09.eps", 1e-5)

    def test_another_head_count_is_another_shape(self):
        result = self.diagnose(f"{QUANTISED}-heads", model=QUANTISED)
        self.assertEqual((result.returncode, result.stdout), (BAD_INPUT, b""))
        self.assertIn(b"the trace's num_attention_heads is 16, the model's is 8", result.stderr)

    def test_roundings_that_the_manifest_leaves_out_are_given_back(self):
        trace = self.folder / QUANTISED
        shutil.copytree(DATA / QUANTISED, trace)
        manifest = json.loads((trace / "manifest.json").read_text())
        declared = manifest["compute"].pop("points")
        (trace / "manifest.json").write_text(json.dumps(manifest))
        result = self.diagnose(QUANTISED, "--infer-points", trace=trace)
        self.assertEqual(result.returncode, DIVERGED, result.stdout)
        report = self.report()
        # The cache is recorded in the type in which it is held, so that its rounding shows by itself.
        self.assertEqual(report["inferred_points"], {k: v for k, v in declared.items() if k != "kv_cache"})
        self.assertEqual({finding["kind"] for finding in report["findings"]}, {"precision"})
        self.assertEqual(report["explanation"]["points"], {"activations.quantized": "ggml"})

    def test_inputs_that_are_quantised_otherwise_than_declared_are_no_bug_of_the_product(self):
        trace = self.folder / "t"
        shutil.copytree(DATA / "qwen2-q4_k_m", trace)
        manifest = json.loads((trace / "manifest.json").read_text())
        manifest["compute"]["points"]["activations.quantized"] = "q8_0"
        (trace / "manifest.json").write_text(json.dumps(manifest))
        self.assertEqual(self.diagnose("qwen2-q4_k_m", trace=trace).returncode, DIVERGED)
        explanation = self.report()["explanation"]
        self.assertEqual((explanation["hypothesis"], explanation["points"]), (None, {"activations.quantized": "ggml"}))

    def test_the_file_of_another_type_has_other_weights(self):
        self.assertEqual(self.diagnose("qwen2-q4_1", model=QUANTISED).returncode, BAD_INPUT)


if __name__ == "__main__":
    raise SystemExit(f"run by {pathlib.Path(driver.__file__).name}")
