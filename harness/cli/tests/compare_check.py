"""`qdiff compare`: two traces side by side."""
import json
import shutil
import struct

from driver import CANNOT_JUDGE, DIVERGED, MATCH, MODEL, SOURCE, CommandLineTest, drop_tensor, write_case

SCHEMA = SOURCE / "harness/report/schema/compare.schema.json"


def tensors_of(path):
    raw = path.read_bytes()
    size, = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8:8 + size]), 8 + size


def poke(path, name, offset, data):
    """Overwrites bytes of one tensor."""
    header, start = tensors_of(path)
    raw = bytearray(path.read_bytes())
    at = start + header[name]["data_offsets"][0] + offset
    raw[at:at + len(data)] = data
    path.write_bytes(raw)


class Compare(CommandLineTest):
    def record(self, trace, *more, case=None):
        result = self.qdiff("record", "--model", MODEL, "--case", case or self.case, "--engine", "cpu", "--trace", trace,
                            *more)
        self.assertEqual(result.returncode, MATCH, result.stderr)
        return self.folder / trace

    def compare(self, *arguments, status, says=()):
        result = self.qdiff("compare", *arguments)
        text = result.stdout.decode()
        self.assertEqual((result.returncode, result.stderr), (status, b""), text)
        for words in [says] if isinstance(says, str) else says:
            self.assertIn(words, text)
        return text

    def test_equal_traces(self):
        self.record("a")
        self.record("b")
        text = self.compare("a", "b", status=MATCH, says="MATCH  a against b: ")
        self.assertIn("all bits equal", text)
        self.assertEqual(text.count("\n"), 1, text)
        self.assertFalse((self.folder / "qdiff-report").exists())
        self.assertEqual(self.compare("a", "b", "--quiet", status=MATCH), "")

    def test_a_planted_fault_is_first_where_it_sits(self):
        self.record("a", "--inject", "H05.modulo@1")
        self.record("b")
        text = self.compare("a", "b", "--out", "o", status=DIVERGED,
                            says=["DIVERGED", "first at  model.layers.1.self_attn.attn_output, step 0\n", "report    o\n",
                                  "jump ", "from model.layers.0.output (0) to\n"])
        self.assertLessEqual(len(text.splitlines()), 30)
        report = json.loads((self.folder / "o/compare.json").read_text())
        self.assertEqual(report["first_difference"]["tensor"], "model.layers.1.self_attn.attn_output")
        self.assertEqual(report["jump"]["to"]["tensor"], "model.layers.1.output")
        self.assertEqual((report["actual"], report["expected"]), ("a", "b"))
        differing = [t for t in report["tensors"] if t["outcome"] == "differs"]
        self.assertEqual(len(differing), report["coverage"]["differing"])
        self.assertEqual(self.compare("a", "b", "--quiet", status=DIVERGED), "")
        try:
            import jsonschema
        except ImportError:
            return
        jsonschema.validate(report, json.loads(SCHEMA.read_text()))

    def test_within_accepts_rounding_and_no_more(self):
        self.record("a", "--dtype", "float32")
        self.record("b")
        self.compare("a", "b", status=DIVERGED, says="float32 against bfloat16: values are compared")
        self.compare("a", "b", "--within", "0.1", status=MATCH, says="none differs by more than 0.1")
        self.compare("a", "b", "--within", "1e-6", status=DIVERGED, says="differ by more than 1e-06")
        self.compare("a", "b", "--within", "0", status=DIVERGED)

    def test_nan_never_passes(self):
        for name in ["a", "b"]:
            self.record(name)
        step = self.folder / "a/step-0001.safetensors"
        header, _ = tensors_of(step)
        self.assertEqual(header["lm_head"]["dtype"], "BF16")
        for bits, words in [(0x7FC0, "1 NaN"), (0x7F80, "1 inf")]:
            poke(step, "lm_head", 0, struct.pack("<H", bits))
            for within in [[], ["--within", "1e300"]]:
                self.compare("a", "b", *within, status=DIVERGED, says=["first at  lm_head, step 1\n", words])

    def test_missing_tensors_are_told_and_nothing_in_common_is_no_match(self):
        for name in ["a", "b"]:
            self.record(name)
        for step in ["step-0000", "step-0001"]:
            drop_tensor(self.folder / f"a/{step}.safetensors", "model.layers.0.self_attn.q_rope")
        drop_tensor(self.folder / "b/step-0001.safetensors", "lm_head")
        self.compare("a", "b", status=MATCH, says=["only in A 1 tensor: lm_head\n",
                                                   "only in B 2 tensors: self_attn.q_rope in 1 layer\n"])
        for name in ["step-0000", "step-0001"]:
            empty = json.dumps({}).encode()
            (self.folder / f"a/{name}.safetensors").write_bytes(struct.pack("<Q", len(empty)) + empty)
        self.compare("a", "b", "--within", "1", "--out", "o", status=CANNOT_JUDGE, says="no tensor in common")
        self.assertEqual(json.loads((self.folder / "o/compare.json").read_text())["verdict"], "inconclusive")

    def test_padding_is_not_compared(self):
        padded = write_case(self.folder / "padded.json", batch=2, left_padding=[0, 2])
        for name in ["a", "b"]:
            self.record(name, case=padded)
        step = self.folder / "a/step-0000.safetensors"
        header, _ = tensors_of(step)
        shape = header["model.layers.0.output"]["shape"]
        row = shape[2] * 2  # bytes of bfloat16
        poke(step, "model.layers.0.output", (shape[1] + 1) * row, b"\xff" * row)  # batch row 1, token 1: a pad
        self.compare("a", "b", status=MATCH)
        poke(step, "model.layers.0.output", (shape[1] + 2) * row, b"\xff" * 2)
        self.compare("a", "b", status=DIVERGED, says=["first at  model.layers.0.output, step 0\n", "[1, 2, 0]"])

    def test_other_inputs_are_told(self):
        self.record("a")
        self.record("b", case=write_case(self.folder / "other.json", seed=2))
        self.compare("a", "b", status=DIVERGED, says=["first at  model.embed_tokens, step 0\n",
                                                      "note      step 0 had other inputs in each trace: tokens\n"])

    def test_bad_usage_and_bad_traces(self):
        self.record("a")
        self.refused("compare", "a", says="compare --help")
        self.refused("compare", "a", "nowhere", says="nowhere")
        self.refused("compare", self.case, "a", says="tiny.json")
        for within in ["nan", "-1", "inf", "-0.5", "1e999"]:
            self.refused("compare", "a", "a", f"--within={within}", says="--within")
        (self.folder / "file").write_text("mine")
        self.refused("compare", "a", "a", "--out", "file", says="--out")
        shutil.copytree(self.folder / "a", self.folder / "cut")
        step = self.folder / "cut/step-0001.safetensors"
        step.write_bytes(step.read_bytes()[:-1])
        self.refused("compare", "a", "cut", says="step-0001.safetensors")
