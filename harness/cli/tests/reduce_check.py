"""`qdiff reduce`: a failing case or trace gets smaller, fails in the same way, and is repeated by what is printed."""
import json
import os
import re
import shlex

import driver
from driver import BAD_INPUT, CANNOT_JUDGE, DIVERGED, MATCH, CommandLineTest, write_case

DEEP = "synthetic:toy-15x5,layers=6"
RAGGED = [{"phase": "prefill", "tokens": 11}, {"phase": "prefill", "tokens": 6}, {"phase": "decode", "tokens": 1},
          {"phase": "decode", "tokens": 1}]


class Reduce(CommandLineTest):
    def setUp(self):
        super().setUp()
        self.deep = write_case(self.folder / "deep.json", id="deep", model=DEEP, batch=3, left_padding=[0, 2, 5],
                               capacity=32, steps=RAGGED)

    def field(self, output, name):
        found = re.search(rf"(?m)^  {name} +(.*)$", output)
        self.assertIsNotNone(found, output)
        return found[1]

    def reduced(self, *arguments, out="qdiff-reduced"):
        """The report of the command that `reduce` prints, the case that it wrote, and its output."""
        result = self.qdiff("reduce", *arguments, "--out", out)
        self.assertEqual((result.returncode, result.stderr), (DIVERGED, b""))
        output = result.stdout.decode()
        case = json.loads((self.folder / self.field(output, "case")).read_text())
        words = shlex.split(self.field(output, "repeat"))
        self.assertEqual(words[0], "qdiff")
        again = self.qdiff(*words[1:], "--out", "again")
        self.assertEqual(again.returncode, DIVERGED, again.stdout + again.stderr)
        return json.loads((self.folder / "again/report.json").read_text()), case, output

    def test_a_head_map_in_one_layer(self):
        report, case, output = self.reduced(self.deep, "--inject", "H05.head_zero@4")
        self.assertTrue(output.startswith("REDUCED  deep, "), output)
        self.assertEqual(self.field(output, "was"), "6 layers, 3 rows, 19 tokens a row in 4 steps")
        self.assertEqual(self.field(output, "first at"), "model.layers.0.self_attn.attn_output")
        self.assertEqual(self.field(output, "cause"), "H05.head_zero (confirmed)")
        self.assertEqual((case["layers"], case["batch"], case["model"]), ([4], 1, DEEP))
        self.assertLessEqual(sum(len(step["tokens"][0]) for step in case["steps"]), 2)
        self.assertEqual(report["first_divergence"]["tensor"], "model.layers.0.self_attn.attn_output")
        self.assertEqual(report["explanation"]["variant"], "H05.head_zero")
        # Without the fault there is nothing wrong with the case.
        self.assertEqual(self.qdiff("run", "qdiff-reduced/deep-reduced.json").returncode, MATCH)

    def test_no_more_layers_are_judged_than_it_takes(self):
        def lines(fault):
            result = self.qdiff("reduce", self.deep, "--inject", fault, "--tries", "1",
                                env={**os.environ, "QDIFF_PROGRESS_SECONDS": "0"})
            self.assertEqual(result.returncode, DIVERGED, result.stderr)
            return set(re.findall(r"deep, (looking [^:]*):", result.stderr.decode()))
        self.assertEqual(lines("H05.modulo"), {"looking in layer 0 of 6"})
        self.assertEqual(lines("H05.modulo@4"), {"looking in layer 0 of 6", "looking in layer 1-2 of 6", "looking in layer 3-5 of 6"})
        self.assertIn("looking in the first 3 of 6 layers", lines("H01.no_layer_stride"))
        self.assertIn("looking at embedding and head", lines("X.no_final_norm"))

    def long_case(self, **changes):
        """Two rows of 68 tokens, of which a sample has fourteen."""
        steps = [{"phase": "prefill", "tokens": tokens} for tokens in (40, 26)] + RAGGED[2:]
        return write_case(self.folder / "long.json", id="long", model=DEEP, batch=2, left_padding=[0, 9], capacity=72,
                          steps=steps, **changes)

    def lines_of_long_case(self, *arguments):
        result = self.qdiff("reduce", self.long_case(), "--inject", *arguments,
                            env={**os.environ, "QDIFF_PROGRESS_SECONDS": "0"})
        self.assertEqual(result.returncode, DIVERGED, result.stderr)
        return result.stdout.decode(), result.stderr.decode()

    def test_a_few_tokens_of_a_long_case_are_judged_first(self):
        output, lines = self.lines_of_long_case("H05.head_zero@4")
        self.assertEqual(self.field(output, "was"), "6 layers, 2 rows, 68 tokens a row in 4 steps")
        self.assertRegex(self.field(output, "is"), r"\A1 layer, 1 row, [12] tokens? a row")
        self.assertIn("  long, 14 tokens a row, looking in layer 3-5 of 6: judging layers", lines)
        self.assertIn("  long, all tokens of what is left: judging layers", lines)
        self.assertNotRegex(lines, "long, looking in layer")
        self.assertRegex(lines, r"\[ +\] +0%  0 of \d+  tries to leave something out of 6 layers, 2 rows, 14 tokens a row")

    def test_what_a_few_tokens_do_not_show_is_looked_for_in_all(self):
        output, lines = self.lines_of_long_case("factor:factor=2@self_attn.q_proj;layers=2;tokens=15 and up", "--backend",
                                                "reference", "--mode", "lockstep")
        self.assertRegex(lines, "14 tokens a row, looking at embedding and head")
        self.assertRegex(lines, "long, looking in layer 1-2 of 6")
        self.assertRegex(self.field(output, "is"), r"\A1 layer, 1 row, 16 tokens a row in 1 step")
        self.assertEqual(self.field(output, "first at"), "model.layers.0.self_attn.q_proj")

    def test_what_a_bug_needs_is_kept(self):
        """Another layer's plane needs two layers and two steps, another row's slots two rows."""
        report, case, _ = self.reduced(self.deep, "--inject", "H01.no_layer_stride")
        self.assertEqual((len(case["layers"]), report["explanation"]["variant"]), (2, "H01.no_layer_stride"))
        self.assertEqual(len(case["steps"]), 2)
        report, case, _ = self.reduced(self.deep, "--inject", "H01.no_batch_stride", out="rows")
        self.assertEqual((case["batch"], len(case["layers"])), (2, 1))
        self.assertEqual(report["explanation"]["variant"], "H01.no_batch_stride")

    def test_a_checkpoint_and_a_reduced_case_reduced_again(self):
        model = self.copy_checkpoint()
        arguments = ["--model", model, "--inject", "H02.no_scale", "--mode", "lockstep"]
        _, case, output = self.reduced(self.deep, *arguments)
        self.assertEqual(len(case["layers"]), 1)
        self.assertIn(f"--model {model}", self.field(output, "repeat"))
        _, again, _ = self.reduced("qdiff-reduced/deep-reduced.json", *arguments, out="twice")
        self.assertEqual(again["steps"], case["steps"])
        self.assertEqual((again["layers"], again["id"]), (case["layers"], "deep-reduced-reduced"))

    def test_a_mechanism_of_the_reference(self):
        report, case, _ = self.reduced(self.deep, "--backend", "reference", "--inject",
                                       "factor:factor=2@self_attn.q_proj;layers=3")
        self.assertEqual(case["layers"], [3])
        self.assertEqual(report["explanation"]["mechanism"], "factor")

    def test_a_trace(self):
        model = "synthetic:toy-d64,layers=3"
        write_case(self.folder / "rows.json", id="rows", batch=2, left_padding=[0, 3], capacity=24, steps=RAGGED)
        result = self.qdiff("record", "--model", model, "--case", "rows.json", "--engine", "cpu", "--trace", "whole",
                            "--inject", "H03.interleaved@1")
        self.assertEqual(result.returncode, MATCH, result.stderr)
        report, case, output = self.reduced("--model", model, "--trace", "whole")
        self.assertEqual(self.field(output, "first at"), "model.layers.1.self_attn.q_rope")
        self.assertEqual(report["explanation"]["variant"], "H03.interleaved")
        self.assertEqual((case["batch"], case["model"], "layers" in case), (1, model, False))
        self.assertLess(sum(len(step["tokens"][0]) for step in case["steps"]), 6)
        names = driver.tensor_names(self.folder / "qdiff-reduced/whole-reduced/step-0000.safetensors")
        self.assertEqual({name for name in names if not name.startswith("model.layers.1.")},
                         {"model.embed_tokens", "model.layers.0.output"})

    def test_a_trace_of_layers_that_share_their_memory_keeps_the_one_that_wrote_last(self):
        self.qdiff("record", "--model", DEEP, "--case", self.deep, "--engine", "cpu", "--trace", "whole", "--inject",
                   "H01.no_layer_stride")
        report, _, output = self.reduced("--model", DEEP, "--trace", "whole")
        self.assertEqual(report["explanation"]["variant"], "H01.no_layer_stride")
        self.assertTrue(self.field(output, "is").startswith("2 layers, 1 row, "), output)
        self.assertIn("--layers 0,5", self.field(output, "repeat"))
        self.assertLess(int(re.match(r"REDUCED  whole, ([0-9]+) runs", output)[1]), 20)

    def test_no_more_of_a_trace_is_judged_than_it_takes(self):
        self.qdiff("record", "--model", DEEP, "--case", self.deep, "--engine", "cpu", "--trace", "whole", "--inject",
                   "H05.modulo@1")
        result = self.qdiff("reduce", "--model", DEEP, "--trace", "whole", "--tries", "1",
                            env={**os.environ, "QDIFF_PROGRESS_SECONDS": "0"})
        self.assertEqual(result.returncode, DIVERGED, result.stderr)
        self.assertEqual(set(re.findall(r"whole, (looking [^:]*):", result.stderr.decode())),
                         {"looking in layer 0 of 6", "looking in layer 1-2 of 6"})

    def test_nothing_to_reduce(self):
        result = self.qdiff("reduce", self.case)
        self.assertEqual((result.returncode, result.stdout), (MATCH, b"MATCH  tiny: nothing diverges, so there is nothing to reduce\n"))
        self.assertFalse((self.folder / "qdiff-reduced").exists())
        self.refused("reduce", self.case, "--model", "synthetic:toy-mha", "--inject", "H05.modulo", status=CANNOT_JUDGE,
                     says="never ran")

    def test_few_tries_and_silence(self):
        result = self.qdiff("reduce", self.deep, "--inject", "H05.modulo", "--tries", "1")
        self.assertEqual(result.returncode, DIVERGED)
        self.assertIn(b"--tries is used up", result.stdout)
        result = self.qdiff("reduce", self.deep, "--inject", "H05.modulo", "--quiet", "--mode", "lockstep")
        self.assertEqual((result.returncode, result.stdout, result.stderr), (DIVERGED, b"", b""))

    def test_refused(self):
        self.refused("reduce", says="name a case, or a trace with --trace")
        self.refused("reduce", "a.json", "b.json", says="b.json")
        self.refused("reduce", "no-such", says="no such file")
        self.refused("reduce", self.case, "--trace", "t", "--model", "m", says="instead of a case")
        self.refused("reduce", "--trace", "t", says="needs --model")
        self.refused("reduce", "--trace", "t", "--model", driver.MODEL, "--inject", "H05.modulo", says="--inject says how an engine runs")
        self.refused("reduce", self.case, "--inject", "H05.modulo@9", says="layers are 0 to 1")
        self.refused("reduce", self.case, "--tries", "0", says="--tries")
        self.refused("reduce", self.case, "--backend", "cuda", "--bad-input-status", "7", status=CANNOT_JUDGE)
        (self.folder / "mine").mkdir()
        (self.folder / "mine/tiny-reduced.json").write_text("mine")
        result = self.qdiff("reduce", self.case, "--inject", "H05.modulo", "--mode", "lockstep", "--out", "mine")
        self.assertEqual(result.returncode, BAD_INPUT)
        self.assertEqual((self.folder / "mine/tiny-reduced.json").read_text(), "mine")

    def test_cases_that_keep_layers(self):
        kept = write_case(self.folder / "kept.json", id="kept", layers=[1])
        self.assertEqual(self.qdiff("run", kept, self.case, "--mode", "lockstep").returncode, MATCH)
        report = json.loads((self.folder / "qdiff-report/report.json").read_text())
        self.assertEqual([case["id"] for case in report["cases"]], ["kept", "tiny"])
        self.assertEqual(self.qdiff("inspect", kept).stdout.decode().count("layers       1 of it alone"), 1)
        self.refused("record", "--model", driver.MODEL, "--case", kept, "--engine", "cpu", "--trace", "t", says="keeps some of the model's layers")
        write_case(self.folder / "beyond.json", id="beyond", layers=[0, 2])
        self.refused("run", "beyond.json", says=['"layers"', "there is no layer 2"])
        unnamed = driver.case(id="unnamed")
        del unnamed["model"]
        (self.folder / "unnamed.json").write_text(json.dumps(unnamed))
        self.refused("run", "unnamed.json", says="names no model; give one with --model")
        self.assertEqual(self.qdiff("run", "unnamed.json", "--model", driver.MODEL, "--mode", "lockstep").returncode, MATCH)
        self.assertIn(b"--model names it", self.qdiff("inspect", "unnamed.json").stdout)
