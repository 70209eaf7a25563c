"""Mechanisms from the command line: listed, planted, found, and what the report says planted again."""
import json
import sys
from pathlib import Path

from driver import CANNOT_JUDGE, DIVERGED, MATCH, CommandLineTest, write_case

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "python"))
from qdiff import trace_writer  # noqa: E402


class Mechanisms(CommandLineTest):
    def listed(self, what):
        result = self.qdiff("list", what, "--json")
        self.assertEqual((result.returncode, result.stderr), (MATCH, b""))
        entries = json.loads(result.stdout)
        text = self.qdiff("list", what).stdout.decode()
        for entry in entries:
            self.assertTrue(entry["name"] and entry["what"], entry)
            self.assertIn(entry["name"], text)
        return {entry["name"]: entry for entry in entries}

    def test_what_there_is_by_name(self):
        mechanisms = self.listed("mechanisms")
        self.assertEqual(mechanisms["bias"]["hypothesis"], "H06")
        self.assertEqual(mechanisms["bias"]["tensors"], ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"])
        self.assertIn("coefficient", mechanisms["bias"]["parameters"])
        self.assertEqual(self.listed("faults")["H03.theta"]["values"][0], 10000)
        self.assertEqual(self.listed("cases")["H05-gqa"]["hypothesis"], "H05")
        self.assertIn("K=3", self.listed("models")["synthetic:toy-d64"]["what"])
        self.assertEqual(set(self.listed("tensors")), {*trace_writer.OUTSIDE_LAYERS, *trace_writer.IN_LAYERS})
        self.refused("list", "bugs", says="mechanisms, faults, cases, models or tensors")

    def test_what_a_report_says_is_planted_again(self):
        planted = "bias:coefficient=3@self_attn.q_proj;layers=0;phase=decode"
        said = []
        for inject in [planted, None]:
            result = self.qdiff("run", self.case, "--backend", "reference", "--inject", inject or said[0], "--mode", "free")
            self.assertEqual((result.returncode, result.stderr), (DIVERGED, b""))
            report = json.loads((self.folder / "qdiff-report/report.json").read_text())
            finding = report["findings"][0]
            self.assertEqual(finding["tensor"], "model.layers.0.self_attn.q_proj")
            self.assertEqual(finding["explanation"]["mechanism"], "bias")
            self.assertEqual(finding["explanation"]["parameters"], {"coefficient": 3})
            self.assertIn("--backend reference --inject", finding["command"])
            said.append(finding["inject"])
        self.assertEqual(said[0], planted)
        self.assertEqual(said[1], said[0])

    def test_a_trace_of_the_reference_with_a_mechanism(self):
        record = ["record", "--model", "synthetic:toy-d64,layers=2", "--case", self.case, "--engine", "reference", "--trace", "t"]
        result = self.qdiff(*record, "--inject", "copy.zeros@mlp.act;layers=1;columns=3..9")
        self.assertEqual((result.returncode, result.stderr), (MATCH, b""))
        result = self.qdiff("diagnose", "--model", "synthetic:toy-d64,layers=2", "--trace", "t")
        self.assertEqual(result.returncode, DIVERGED, result.stdout)
        finding = json.loads((self.folder / "qdiff-report/report.json").read_text())["findings"][0]
        self.assertEqual(finding["inject"], "copy.zeros@mlp.act;layers=1;columns=3..9")
        # It makes no difference anywhere: no trace is written.
        self.refused(*record, "--inject", "factor:factor=2@mlp.act;tokens=6 and up", status=CANNOT_JUDGE, says="never ran")

    def test_what_cannot_be_planted(self):
        planted = "bias:coefficient=3@self_attn.q_proj"
        self.refused("run", self.case, "--inject", planted, says=["known bugs alone", "--backend reference"])
        run = ["run", self.case, "--backend", "reference", "--inject"]
        self.refused(*run, "bais:coefficient=3@self_attn.q_proj", says='did you mean "bias"?')
        self.refused(*run, planted + ";layers=2", says="there is no layer 2")
        self.refused(*run, planted + ";layers=1", "--layers", "0", says="not among those of --layers")
        self.refused(*run, "norm.blocks:blocks=7@input_layernorm", says="no multiple of 7")

    def test_models_without_the_place_run_without_it(self):
        deep = write_case(self.folder / "deep.json", id="deep", model="synthetic:toy-d64")
        result = self.qdiff("run", self.case, deep, "--backend", "reference", "--mode", "free", "--inject", "copy.zeros@mlp.act;layers=2")
        self.assertEqual(result.returncode, DIVERGED, result.stderr)
        self.assertIn(b"there is no layer 2", result.stderr)
        self.assertIn(b"so these run without it: tiny", result.stderr)
