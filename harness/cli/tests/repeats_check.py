"""Several recordings of one input for `qdiff diagnose`: from the command line and from the manifest."""
import json

from driver import DIVERGED, MATCH, MODEL, CommandLineTest, write_case
from compare_check import poke, tensors_of

TENSOR = "model.layers.1.self_attn.q_rope"


class Repeats(CommandLineTest):
    def record(self, trace, **case):
        path = write_case(self.folder / f"{trace}.json", **case) if case else self.case
        result = self.qdiff("record", "--model", MODEL, "--case", path, "--engine", "cpu", "--trace", trace)
        self.assertEqual(result.returncode, MATCH, result.stderr)

    def diagnose(self, *more):
        return self.qdiff("diagnose", "--model", MODEL, "--trace", "a", *more)

    def spoil(self, trace):
        step = self.folder / trace / "step-0000.safetensors"
        header, _ = tensors_of(step)
        head = header[TENSOR]["shape"][-1] * 2  # bytes of bfloat16
        poke(step, TENSOR, 0, b"\x00\x40" * (head // 2))  # one head of the first token

    def test_equal_recordings_are_told_and_a_race_is_found(self):
        for trace in "abc":
            self.record(trace)
        result = self.diagnose("--repeat", "b", "--repeat", "c")
        self.assertEqual(result.returncode, MATCH, result.stdout)
        self.assertIn("3 recordings of this input hold the same bits", " ".join(result.stdout.decode().split()))
        self.spoil("c")
        result = self.diagnose("--repeat", "b", "--repeat", "c")
        text = " ".join(result.stdout.decode().split())
        self.assertEqual(result.returncode, DIVERGED, text)
        self.assertIn(f"first at {TENSOR}", text)
        self.assertIn("a race: recording 3", text.split("first at")[0])  # before anything is explained
        report = json.loads((self.folder / "qdiff-report/report.json").read_text())
        divergence = report["first_divergence"]
        self.assertEqual((divergence["tensor"], divergence["kind"]), (TENSOR, "logic"))
        self.assertIsNone(report["explanation"]["hypothesis"])
        self.assertIn("--repeat b --repeat c", divergence["command"])
        again = self.qdiff(*divergence["command"].split()[1:], "--out", "again", "--quiet")
        self.assertEqual(again.returncode, DIVERGED, again.stderr)

    def test_the_manifest_names_them_from_its_own_folder(self):
        self.record("a")
        self.record("b")
        self.spoil("b")
        path = self.folder / "a/manifest.json"
        manifest = json.loads(path.read_text())
        manifest["repeats"] = ["../b"]
        path.write_text(json.dumps(manifest))
        self.assertEqual(self.diagnose().returncode, DIVERGED)
        manifest["repeats"] = ["../nowhere"]
        path.write_text(json.dumps(manifest))
        self.refused("diagnose", "--model", MODEL, "--trace", "a", says="nowhere")

    def test_another_input_is_refused(self):
        self.record("a")
        self.record("b", seed=2)
        self.refused("diagnose", "--model", MODEL, "--trace", "a", "--repeat", "b",
                     says=["recording 2 is not of the same input", "step 0"])
