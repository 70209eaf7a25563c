"""`qdiff fuzz`: the same cases from the same seed, and failures that are shrunk, kept and repeated."""
import json
import re
import shlex

import driver
from driver import CANNOT_JUDGE, DIVERGED, MATCH, CommandLineTest

BUG = "H02.no_scale"


class Fuzz(CommandLineTest):
    def fuzzed(self, *arguments, status, out="qdiff-fuzz"):
        result = self.qdiff("fuzz", *arguments, "--out", out)
        self.assertEqual((result.returncode, result.stderr), (status, b""), result.stdout)
        return result.stdout.decode()

    def repeat(self, output, out="again"):
        command = re.search(r"(?m)^  repeat  (.*)$", output)[1]
        result = self.qdiff(*shlex.split(command)[1:], "--out", out)
        return result.returncode, json.loads((self.folder / out / "report.json").read_text())

    def test_a_clean_engine(self):
        output = self.fuzzed("--runs", "3", "--seed", "3", "--mode", "lockstep", status=MATCH)
        self.assertRegex(output, r"\AFUZZED  seeds 3 and up, ")
        for dtype in ["float32", "float16", "bfloat16"]:
            self.assertRegex(output, rf"(?m)^  {dtype} +1 run, 0 diverged, 0 inconclusive, [1-9]\d* tensors; ")
        self.assertFalse((self.folder / "qdiff-fuzz").exists())

    def test_a_failure_is_shrunk_kept_and_repeated(self):
        arguments = ["--runs", "3", "--seed", "3", "--mode", "lockstep", "--inject", BUG]
        output = self.fuzzed(*arguments, status=DIVERGED)
        kept = sorted((self.folder / "qdiff-fuzz").iterdir())
        self.assertEqual(len(kept), 1)  # the first of its kind
        self.assertRegex(output, rf"(?m)^  self_attn.attn_output: {BUG} \(confirmed\): seed \d+ and [12] more$")
        case = json.loads(kept[0].read_text())
        self.assertEqual((case["batch"], case["hypothesis"]), (1, "H02"))
        self.assertLessEqual(len(case.get("layers", [0])), 1)
        status, report = self.repeat(output)
        self.assertEqual((status, report["explanation"]["variant"]), (DIVERGED, BUG))
        # Same seed, same cases.
        def same(text):
            return re.sub(r", [^,\n]*\d s$", "", text.replace("other/", "qdiff-fuzz/"), flags=re.M)
        self.assertEqual(same(self.fuzzed(*arguments, status=DIVERGED, out="other")), same(output))
        self.assertEqual((self.folder / "other" / kept[0].name).read_text(), kept[0].read_text())

    def test_one_model_and_a_part_of_it(self):
        model = self.copy_checkpoint()
        output = self.fuzzed("--model", model, "--runs", "1", "--inject", "H02.no_scale@1", "--dtype", "float32", "--layers", "1",
                             status=DIVERGED)
        self.assertIn(f"--model {model} --dtype float32 --inject H02.no_scale@1 --layers 1\n", output)
        status, report = self.repeat(output)
        self.assertEqual((status, report["first_divergence"]["layer"]), (DIVERGED, 1))
        output = self.fuzzed("--model", model, "--runs", "1", "--mode", "lockstep", "--print-gemms", status=MATCH)
        self.assertTrue(output.startswith("GEMMs of the cpu engine on "), output)
        self.refused("fuzz", "--model", model, "--inject", "H02.no_scale@7", says="there is no layer 7")
        self.refused("fuzz", "--quiet", "--runs", "2", "--layers", "9", status=CANNOT_JUDGE, says="has none of these layers")

    def test_models_without_a_place_for_the_fault(self):
        output = self.fuzzed("--runs", "4", "--seed", "3", "--mode", "lockstep", "--inject", "H02.no_scale@2", status=DIVERGED)
        self.assertRegex(output, r"  note: [1-3] of the models had no place for H02.no_scale@2 and ran without it\n")
        self.refused("fuzz", "--quiet", "--runs", "1", "--seed", "3", "--mode", "lockstep", "--inject", "H05.modulo", "--model", "synthetic:toy-mha,layers=1",
                     status=CANNOT_JUDGE, says="never ran")

    def test_minutes_and_silence(self):
        result = self.qdiff("fuzz", "--minutes", "0.0001", "--quiet")
        self.assertEqual((result.returncode, result.stdout, result.stderr), (MATCH, b"", b""))

    def test_refused(self):
        self.refused("fuzz", "--runs", "0", says="--runs")
        self.refused("fuzz", "--runs", "1", "--minutes", "1", says="--minutes")
        self.refused("fuzz", "--minutes", "0", says="leaves no time")
        self.refused("fuzz", "--seed", "-1", says="--seed")
        self.refused("fuzz", "tiny.json", says="unexpected argument 'tiny.json'")
        self.refused("fuzz", "--backend", "cuda", "--runs", "1", status=CANNOT_JUDGE)
        (self.folder / "file").write_text("")
        self.refused("fuzz", "--out", "file", says="is not a folder")
