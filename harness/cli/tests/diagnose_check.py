"""`qdiff diagnose`: traces from the command line to reports, and what is refused with which words."""
import json
import os
import pathlib
import re
import shutil
import struct

import driver
from driver import BAD_INPUT, CANNOT_JUDGE, DIVERGED, MATCH, MODEL, CommandLineTest, drop_tensor, tensor_names, write_case

SCHEMAS = driver.SOURCE / "harness/report/schema"
RECORDED = driver.SOURCE / "harness/trace/tests/data"  # by transformers and by the NumPy engine


class DiagnoseTest(CommandLineTest):
    def record(self, trace="t", *more, engine="cpu", model=MODEL):
        result = self.qdiff("record", "--model", model, "--case", self.case, "--engine", engine, "--trace", trace, *more)
        self.assertEqual(result.returncode, MATCH, result.stderr)

    def diagnose(self, trace="t", *more, model=MODEL, environment=None):
        options = {"env": {**os.environ, **environment}} if environment else {}
        return self.qdiff("diagnose", "--model", model, "--trace", trace, *more, **options)

    def report(self, folder="qdiff-report"):
        return json.loads((self.folder / folder / "report.json").read_text())

    def keep(self, trace, wanted):
        """Takes out every tensor but those whose name ends with one of `wanted`."""
        for path in (self.folder / trace).glob("*.safetensors"):
            for name in tensor_names(path):
                if not name.endswith(tuple(wanted)):
                    drop_tensor(path, name)

    def change_manifest(self, change, trace="t"):
        path = self.folder / trace / "manifest.json"
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))


class Diagnose(DiagnoseTest):
    def test_a_clean_trace_matches(self):
        self.record()
        result = self.diagnose()
        self.assertEqual((result.returncode, result.stderr), (MATCH, b""), result.stdout)
        self.assertIn(b"MATCH  cpu engine in bfloat16", result.stdout)
        report = self.report()
        self.assertEqual(report["verdict"], "match")
        self.assertEqual([case["id"] for case in report["cases"]], ["t"])
        self.assertEqual((report["notes"], report["ranking"], report["inferred_points"]), ([], None, None))
        self.assertGreater(report["coverage"]["tensors_compared"], 50)

    def test_a_planted_bug_is_found_named_and_repeated(self):
        self.record("t", "--inject", "H05.modulo@1")
        result = self.diagnose("t/")
        self.assertEqual((result.returncode, result.stderr), (DIVERGED, b""))
        report = self.report()
        divergence = report["first_divergence"]
        self.assertEqual(divergence["tensor"], "model.layers.1.self_attn.attn_output")
        self.assertEqual((divergence["case"], divergence["mode"]), ("t", "trace"))
        self.assertEqual(report["explanation"]["variant"], "H05.modulo")
        self.assertEqual(report["explanation"]["layers"], [1])
        self.assertEqual(divergence["command"], f"qdiff diagnose --model {MODEL} --trace t/ --layers 1 --steps 0")
        again = self.qdiff(*divergence["command"].split()[1:], "--out", "again", "--quiet")
        self.assertEqual((again.returncode, again.stdout), (DIVERGED, b""), again.stderr)
        for key in ["tensor", "actual", "expected", "index", "decisive_statistic"]:
            self.assertEqual(self.report("again")["first_divergence"][key], divergence[key])

    def test_reports_are_the_same_again_and_valid(self):
        self.record("t", "--inject", "H06.missing_v", "--dtype", "float32")
        self.keep("t", ["embed_tokens", ".output", "lm_head"])
        texts = []
        for out in ["a", "b"]:
            self.assertEqual(self.diagnose("t", "--out", out).returncode, DIVERGED)
            report = self.report(out)
            self.assertEqual(report["first_divergence"]["span"],
                             ["model.embed_tokens", "model.layers.0.output"])
            self.assertEqual(report["explanation"]["hypothesis"], "H06")
            self.assertIn("model.layers.*.self_attn.q_rope", report["coverage"]["tensors_missing"])
            report.pop("seconds")
            texts.append(json.dumps(report).replace(f"--out {out}", ""))
        self.assertEqual(*texts)
        self.validate("a")

    def validate(self, folder="qdiff-report"):
        try:
            import jsonschema
        except ImportError:
            return
        schema = json.loads((SCHEMAS / "report.schema.json").read_text())
        jsonschema.Draft202012Validator(schema).validate(self.report(folder))

    def test_logits_alone_are_ranked(self):
        deep = "synthetic:toy-d64"  # three layers, more than replay goes back over
        self.record("t", "--inject", "H03.theta", model=deep)
        self.keep("t", ["lm_head"])
        result = self.diagnose(model=deep)
        self.assertEqual(result.returncode, DIVERGED, result.stdout + result.stderr)
        report = self.report()
        self.assertEqual(report["first_divergence"]["tensor"], "lm_head")
        ranking = report["ranking"]
        self.assertEqual(ranking["nearest"][0]["variant"], "H03.theta")
        self.assertTrue(ranking["nearest"][0]["reproduces"])
        self.assertFalse(ranking["right"]["reproduces"])
        self.assertEqual(ranking["tensors"], ["lm_head"])
        self.assertIn("model.layers.*.self_attn.q_rope", ranking["record_next"])
        h03 = next(h for h in report["hypotheses"] if h["id"] == "H03")
        self.assertTrue(any("forward passes" in words for words in h03["evidence"]), h03["evidence"])
        self.assertIn(b"H03.theta", result.stdout)
        self.assertIn(b"self_attn.q_rope", result.stdout)
        self.validate()

        self.record("clean", model=deep)
        self.keep("clean", ["lm_head"])
        self.assertEqual(self.diagnose("clean", model=deep).returncode, MATCH)
        self.assertTrue(self.report()["ranking"]["right"]["reproduces"])
        self.validate()

    def test_of_logits_that_are_all_nan_nothing_is_ranked(self):
        deep = "synthetic:toy-d64"  # as above
        self.record(model=deep)
        self.keep("t", ["lm_head"])
        for path in (self.folder / "t").glob("*.safetensors"):
            raw = path.read_bytes()
            size, = struct.unpack("<Q", raw[:8])
            path.write_bytes(raw[:8 + size] + b"\xc0\x7f" * ((len(raw) - 8 - size) // 2))  # bfloat16
        result = self.diagnose(model=deep)
        self.assertEqual(result.returncode, DIVERGED, result.stdout + result.stderr)
        self.assertIn(b"NaN in 5 rows where right code gives numbers", result.stdout)
        for words in [b"free runs", b"nearest", b"forward passes"]:
            self.assertNotIn(words, result.stdout)
        self.assertIn(b"self_attn.q_rope", result.stdout)
        ranking = self.report()["ranking"]
        self.assertEqual((ranking["nearest"], ranking["tokens_compared"], ranking["variants_tried"]), ([], 0, 0))
        self.assertEqual(ranking["right"]["times_rounding"], "Infinity")
        self.validate()

    def test_traces_of_other_engines(self):
        for name in ["transformers-eager-bfloat16", "transformers-sdpa-float32", "numpy-bfloat16", "numpy-float16-online"]:
            result = self.diagnose(RECORDED / "traces" / name, model=RECORDED / "model")
            self.assertEqual(result.returncode, MATCH, (name, result.stdout.decode()))
        for name, variant in [("transformers-eager-bfloat16-theta", "H03.theta"), ("numpy-bfloat16-H05.modulo", "H05.modulo")]:
            result = self.diagnose(RECORDED / "traces" / name, model=RECORDED / "model")
            self.assertEqual(result.returncode, DIVERGED, (name, result.stdout.decode()))
            self.assertEqual(self.report()["explanation"]["variant"], variant)
            self.assertEqual(self.report()["cases"][0]["id"], name)

    def test_a_weight_that_is_not_finite_is_suspected(self):
        shutil.copytree(RECORDED / "model", self.folder / "model")
        path = self.folder / "model/model.safetensors"
        raw = bytearray(path.read_bytes())
        size, = struct.unpack("<Q", raw[:8])
        entry = json.loads(raw[8:8 + size])["model.layers.1.mlp.up_proj.weight"]
        self.assertEqual(entry["dtype"], "BF16")
        start = 8 + size + entry["data_offsets"][0]
        raw[start:start + 2] = b"\xc0\x7f"  # a quiet NaN
        path.chmod(0o644)
        path.write_bytes(raw)
        self.record(model="model")
        result = self.diagnose(model="model")
        self.assertEqual(result.returncode, CANNOT_JUDGE, result.stdout)
        self.assertEqual(self.report()["reason"],
                         "model.layers.1.mlp.act: its recorded input model.layers.1.mlp.up_proj holds NaN, and so does "
                         "right code: a weight that is not finite, or an infinity in its inputs")

    def test_weights_as_the_engine_holds_them(self):
        """Beside the model's, to the bit and by pattern; the verdict is the tensors' own."""
        model, trace = RECORDED / "model", RECORDED / "traces/numpy-bfloat16"
        result = self.diagnose(trace, "--weights", model, model=model)
        self.assertEqual((result.returncode, result.stderr), (MATCH, b""), result.stdout)
        self.assertRegex(self.report()["notes"][0], r"^the engine's weights have the file's values: \d+ weights compared$")
        raw = bytearray((model / "model.safetensors").read_bytes())
        size, = struct.unpack("<Q", raw[:8])
        begin, end = json.loads(raw[8:8 + size])["model.layers.1.self_attn.q_proj.weight"]["data_offsets"]
        raw[8 + size + begin:8 + size + end] = bytes(end - begin)
        (self.folder / "held.safetensors").write_bytes(raw)
        result = self.diagnose(trace, "--weights", "held.safetensors", model=model)
        self.assertEqual((result.returncode, result.stderr), (MATCH, b""), result.stdout)
        first, count, last = self.report()["notes"][:3]
        self.assertEqual(first, "the engine's weights are not the file's: self_attn.q_proj.weight in layer 1: zeros")
        self.assertIn("have the file's values", count)
        self.assertIn("the engine did not run with those that it saved", last)
        self.assertIn("zeros", " ".join(result.stdout.decode().split()))
        for wrong, says in [("missing", "missing: cannot be opened"), (trace, "none of the tensors there"),
                            (RECORDED, "no .safetensors file")]:
            result = self.diagnose(trace, "--weights", wrong, model=model)
            self.assertEqual((result.returncode, result.stdout), (BAD_INPUT, b""))
            self.assertIn(says, result.stderr.decode())

    def test_the_verdict_is_printed_though_the_reports_cannot_be_written(self):
        self.record()
        result = self.qdiff("diagnose", "--model", MODEL, "--trace", "t", "--out", "out",
                            preexec_fn=driver.small_files_alone)
        self.assertEqual(result.returncode, BAD_INPUT)
        self.assertTrue(result.stdout.startswith(b"MATCH"), result.stdout)
        self.assertIn(b"cannot be written", result.stderr)

    def test_reports_do_not_go_into_a_trace(self):
        self.record()
        result = self.diagnose("t", "--out", "t")
        self.assertEqual(result.returncode, BAD_INPUT)
        self.assertIn(b"holds a trace", result.stderr)
        self.assertEqual(result.stdout, b"")
        self.assertFalse((self.folder / "t/report.json").exists())

    def test_nothing_goes_into_a_model(self):
        self.record()
        model = self.copy_checkpoint()
        before = sorted(model.iterdir())
        reports = [["diagnose", "--model", MODEL, "--trace", "t"], ["run", self.case], ["reduce", self.case], ["merge", "t"],
                   ["reconcile", "--model", MODEL, "t", "t"], ["compare", "t", "t"], ["selftest", "--quick"],
                   ["fuzz", "--runs", "1"]]
        for arguments in reports:
            self.refused(*arguments, "--out", model, says=["holds a model (config.json)", "choose another place"])
        self.refused("record", "--model", MODEL, "--case", self.case, "--engine", "cpu", "--trace", model,
                     says=["no part of a trace", "choose another name"])
        self.assertEqual(sorted(model.iterdir()), before)

    def copy_undeclared(self, name):
        """A recorded trace as "t", its points taken away, which it returns."""
        shutil.copytree(RECORDED / "traces" / name, self.folder / "t")
        for path in [self.folder / "t", *(self.folder / "t").iterdir()]:
            path.chmod(path.stat().st_mode | 0o200)
        points = {}
        self.change_manifest(lambda manifest: points.update(manifest["compute"].pop("points")))
        return points

    def test_flash_attention_rounds_before_it_divides(self):
        points = self.copy_undeclared("transformers-sdpa-bfloat16")
        result = self.diagnose("t", "--infer-points", "--quiet", model=RECORDED / "model")
        self.assertEqual(result.returncode, DIVERGED)
        self.assertEqual(json.loads(result.stdout)["points"], points)
        self.assertEqual({finding["kind"] for finding in self.report()["findings"]}, {"precision"})

    def test_undeclared_roundings_are_inferred_or_allowed(self):
        self.copy_undeclared("transformers-eager-bfloat16")
        model = RECORDED / "model"
        result = self.diagnose("t", "--infer-points", "--quiet", model=model)
        self.assertEqual(result.returncode, DIVERGED)
        proposed = json.loads(result.stdout)
        told = self.diagnose("t", "--infer-points", model=model, environment={"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": ""})
        told = told.stdout.decode()
        self.assertIn("\n::error ", told)
        self.assertEqual(json.loads(told[told.rindex("\n{\n"):]), proposed)  # the last thing on standard output
        self.assertEqual(proposed["points"], self.report()["inferred_points"])
        self.assertEqual({finding["kind"] for finding in self.report()["findings"]}, {"precision"})
        self.assertEqual(self.diagnose("t", "--allow-precision", model=model).returncode, MATCH)
        self.assertTrue(self.report()["precision_allowed"])
        self.assertGreater(len(self.report()["findings"]), 0)
        self.validate()
        self.change_manifest(lambda manifest: manifest["compute"].update(proposed))
        self.assertEqual(self.diagnose(model=model).returncode, MATCH)

    def test_what_differs_from_the_model_is_evidence(self):
        self.record()
        self.change_manifest(lambda manifest: manifest["model"]["config"].update(rope_theta=12345.0))
        result = self.diagnose()
        self.assertEqual(result.returncode, MATCH)
        self.assertIn("rope_theta is 12345", self.report()["notes"][0])
        self.assertIn(b"rope_theta", result.stdout)

    def test_nothing_left_to_compare_is_no_match(self):
        self.record()
        self.keep("t", ["lm_head"])
        self.assertEqual(self.diagnose("t", "--layers", "1").returncode, CANNOT_JUDGE)
        self.assertEqual(self.report()["verdict"], "inconclusive")


class Refusals(DiagnoseTest):
    def setUp(self):
        super().setUp()
        self.record()

    def refuse(self, *more, says, model=MODEL, trace="t"):
        self.refused("diagnose", "--model", model, "--trace", trace, *more, says=says)
        self.assertFalse((self.folder / "qdiff-report").exists())

    def test_usage(self):
        self.refused("diagnose", "--trace", "t", says="--model")
        self.refused("diagnose", "--model", MODEL, says="--trace")
        self.refuse("--layers", "2", says=["--layers", "layers 0 to 1"])
        self.refuse("--steps", "5", says=["--steps", "steps 0 to 1"])
        self.refuse("--infer-pionts", says='did you mean "--infer-points"?')
        self.refuse("--max-memory", "1M", says="--max-memory allows 1.0 MiB")
        (self.folder / "file").write_text("mine")
        self.refuse("--out", "file", says="--out")

    def test_files(self):
        self.refuse(trace="nowhere", says="nowhere")
        (self.folder / "void").mkdir()
        self.refuse(trace="void", says="manifest.json")
        step = self.folder / "t/step-0001.safetensors"
        whole = step.read_bytes()
        step.write_bytes(whole[:-1])
        self.refuse(says="step-0001.safetensors")
        step.write_bytes(whole[:4])
        self.refuse(says="step-0001.safetensors")
        step.unlink()
        self.refuse(says="step-0001.safetensors")

    def test_tokens_beyond_the_vocabulary(self):
        def beyond(manifest):
            manifest["steps"][0]["tokens"][0][2] = 999999
            manifest["model"]["config"].pop("vocab_size")
        self.change_manifest(beyond)
        self.refuse(says=["999999", "step 0"])

    def test_another_model(self):
        self.refuse(model="synthetic:toy-15x5", says="the trace is of another model: the trace's hidden_size")
        self.refuse(model="synthetic:toy-d64", says="num_hidden_layers is 2, the model's is 3")
        self.refuse(model="synthetic:toy-d64,layers=2,seed=7", says="other weights")

    def test_shapes(self):
        path = self.folder / "t/step-0000.safetensors"
        raw = path.read_bytes()
        size, = struct.unpack("<Q", raw[:8])
        header = json.loads(raw[8:8 + size])
        entry = header["model.layers.1.self_attn.q_proj"]
        entry["shape"] = [entry["shape"][0], entry["shape"][2], entry["shape"][1]]
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size:])
        self.refuse(says=["model.layers.1.self_attn.q_proj", "shape"])

    def test_unknown_names_of_one_kind_get_one_note(self):
        for path in sorted((self.folder / "t").glob("step-*.safetensors")):
            raw = path.read_bytes()
            size, = struct.unpack("<Q", raw[:8])
            header = json.loads(raw[8:8 + size])
            for layer in (0, 1):
                header[f"model.layers.{layer}.mlp.gate"] = header.pop(f"model.layers.{layer}.mlp.gate_proj")
            text = json.dumps(header).encode()
            path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size:])
        self.assertEqual(self.diagnose("t").returncode, MATCH)
        notes = [note for note in self.report()["notes"] if "mlp.gate" in note]
        self.assertEqual(len(notes), 1)
        self.assertRegex(notes[0], r"step 0 holds model.layers.0.mlp.gate and \d+ like it, which are no tensors")
        for command in (["inspect", "t"], ["compare", "t", "t"]):
            said = self.qdiff(*command).stdout.decode()
            self.assertEqual(len(re.findall(r"mlp\.gate\b", said)), len(command) - 1, said)

    def test_layers_beyond_the_model(self):
        path = self.folder / "t/step-0000.safetensors"
        raw = path.read_bytes()
        size, = struct.unpack("<Q", raw[:8])
        header = json.loads(raw[8:8 + size])
        header["model.layers.9.output"] = header.pop("model.layers.1.output")
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size:])
        self.refuse(says=["model.layers.9.output", "2 layers"])

    def test_some_embeddings_of_other_tokens_are_a_divergence(self):
        self.keep("t", ["embed_tokens"])  # what was computed from the right ones would say that the recorder is wrong
        path = self.folder / "t/step-0000.safetensors"
        raw = bytearray(path.read_bytes())
        size, = struct.unpack("<Q", raw[:8])
        begin, end = json.loads(raw[8:8 + size])["model.embed_tokens"]["data_offsets"]
        row = (end - begin) // 5
        at = 8 + size + begin
        raw[at + row:at + 2 * row] = raw[at:at + row]  # token 1 gets token 0's
        path.write_bytes(raw)
        self.assertEqual(self.diagnose("t").returncode, DIVERGED)
        self.assertEqual(self.report()["first_divergence"]["tensor"], "model.embed_tokens")

    def test_embeddings_times_a_constant_are_a_divergence_and_no_other_model(self):
        self.keep("t", ["embed_tokens"])  # what was computed from the right ones would say that the recorder is wrong
        for path in sorted((self.folder / "t").glob("step-*.safetensors")):
            raw = bytearray(path.read_bytes())
            size, = struct.unpack("<Q", raw[:8])
            entry = json.loads(raw[8:8 + size])["model.embed_tokens"]
            self.assertEqual(entry["dtype"], "BF16")
            begin, end = entry["data_offsets"]
            for at in range(8 + size + begin, 8 + size + end, 2):
                bits, = struct.unpack_from("<H", raw, at)
                if bits & 0x7F80:  # 4 times as large: two more in the exponent
                    struct.pack_into("<H", raw, at, bits + 0x100)
            path.write_bytes(raw)
        self.assertEqual(self.diagnose("t").returncode, DIVERGED)
        report = self.report()
        self.assertEqual(report["first_divergence"]["tensor"], "model.embed_tokens")
        self.assertEqual(report["explanation"]["mechanism"], "factor")
        self.assertEqual(report["explanation"]["parameters"], {"factor": 4})


if __name__ == "__main__":
    raise SystemExit(f"run by {pathlib.Path(driver.__file__).name}")
