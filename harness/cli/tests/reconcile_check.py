"""`qdiff reconcile`: two traces of the same tokens, from the command line to the verdict."""
import json
import shutil

from driver import CANNOT_JUDGE, DIVERGED, MATCH, MODEL, SOURCE, CommandLineTest, drop_tensor, tensor_names, write_case

SCHEMA = SOURCE / "harness/report/schema/reconcile.schema.json"


class Reconcile(CommandLineTest):
    def setUp(self):
        super().setUp()
        self.case = write_case(self.folder / "tiny.json", capacity=24,
                               steps=[{"phase": "prefill", "tokens": 20}, {"phase": "decode", "tokens": 1},
                                      {"phase": "decode", "tokens": 1}])

    def record(self, trace, *more, engine="cpu", case=None):
        result = self.qdiff("record", "--model", MODEL, "--case", case or self.case, "--engine", engine, "--trace",
                            trace, *more)
        self.assertEqual(result.returncode, MATCH, result.stderr)

    def keep_logits(self, trace):
        for path in (self.folder / trace).glob("*.safetensors"):
            for name in tensor_names(path):
                if name != "lm_head":
                    drop_tensor(path, name)

    def reconcile(self, *more, status, says=()):
        result = self.qdiff("reconcile", "--model", MODEL, "a", "b", *more)
        text = result.stdout.decode()
        self.assertEqual((result.returncode, result.stderr), (status, b""), text)
        for words in [says] if isinstance(says, str) else says:
            self.assertIn(words, text)
        report = json.loads((self.folder / "qdiff-report/reconcile.json").read_text())
        try:
            import jsonschema
        except ImportError:
            return report
        jsonschema.validate(report, json.loads(SCHEMA.read_text()))
        return report

    def test_engines_that_round_differently_are_not_accused(self):
        self.record("a", "--dtype", "float32")
        self.record("b", "--dtype", "bfloat16")
        report = self.reconcile(status=MATCH, says=["MATCH  not a bug", "tokens    21 tokens: |log p A - log p B| is"])
        self.assertGreaterEqual(report["share_explained"], 0.99)
        self.assertGreater(report["mean_difference"], 1e-4)
        self.assertFalse(report["logits_alone"])
        self.assertEqual([stream["tensor"] for stream in report["streams"]],
                         ["model.layers.0.output", "model.layers.1.output"])
        for side in "AB":
            self.assertEqual(json.loads((self.folder / f"qdiff-report/{side}/report.json").read_text())["verdict"],
                             "match")
        self.keep_logits("a")
        self.keep_logits("b")
        report = self.reconcile(status=MATCH, says=["MATCH  not a bug", "weaker    nothing but logits"])
        self.assertTrue(report["logits_alone"])

    def test_theta_off_by_one_per_cent_is_placed_and_named(self):
        self.record("a", "--dtype", "float32")
        self.record("b", "--inject", "H03.theta=990000")
        report = self.reconcile(status=DIVERGED, says=["DIVERGED  a bug in B, first at model.layers.0.self_attn.q_rope",
                                                       "cause     H03.theta", "repeat    qdiff diagnose --model"])
        self.assertEqual(report["b"]["first_divergence"]["tensor"], "model.layers.0.self_attn.q_rope")
        self.assertIsNone(report["a"]["first_divergence"])

    def test_a_missing_bias_shows_in_logits_alone(self):
        self.record("a", "--dtype", "float32", "--inject", "H06.missing_v")
        self.record("b", "--dtype", "float32")
        report = self.reconcile(status=DIVERGED, says="a bug in A, first at model.layers.0.self_attn.v_proj")
        self.assertLess(report["share_explained"], 0.1)
        self.keep_logits("a")
        self.keep_logits("b")
        report = self.reconcile(status=DIVERGED, says="H06.missing_v")
        self.assertGreater(report["a"]["worst_token"]["value"], report["a"]["worst_token"]["bound"])
        self.assertLessEqual(report["b"]["worst_token"]["value"], report["b"]["worst_token"]["bound"])

    def test_steps_may_be_cut_otherwise(self):
        self.record("a", "--dtype", "float32")
        other = write_case(self.folder / "other.json", capacity=24,
                           steps=[{"phase": "prefill", "tokens": 9}, {"phase": "prefill", "tokens": 13}])
        self.record("b", "--dtype", "float32", case=other)
        manifest = json.loads((self.folder / "a/manifest.json").read_text())
        tokens = [token for step in manifest["steps"] for token in step["tokens"][0]]
        manifest = json.loads((self.folder / "b/manifest.json").read_text())
        self.assertEqual([token for step in manifest["steps"] for token in step["tokens"][0]], tokens)
        report = self.reconcile(status=MATCH)
        self.assertEqual([token["token"] for token in report["tokens"]], tokens[1:])
        self.assertEqual([token["index"] for token in report["tokens"]], list(range(1, 22)))

    def test_other_tokens_are_refused_and_no_logits_cannot_be_judged(self):
        self.record("a")
        self.record("b", case=write_case(self.folder / "other.json", seed=2, capacity=24,
                                         steps=[{"phase": "prefill", "tokens": 22}]))
        self.refused("reconcile", "--model", MODEL, "a", "b", says=["other tokens", "at index 0 of row 0"])
        self.refused("reconcile", "--model", MODEL, "a", says="reconcile --help")
        shutil.rmtree(self.folder / "b")
        self.record("b")
        for path in (self.folder / "b").glob("*.safetensors"):
            drop_tensor(path, "lm_head")
        report = self.reconcile(status=CANNOT_JUDGE, says="no token in common")
        self.assertEqual(report["tokens"], [])

    def test_json_stands_in_the_place_of_the_text(self):
        self.record("a")
        self.record("b", "--dtype", "float32")
        result = self.qdiff("reconcile", "--model", MODEL, "a", "b", "--json", "--out", "o")
        self.assertEqual(result.stdout.decode(), (self.folder / "o/reconcile.json").read_text())
        self.assertEqual(json.loads(result.stdout)["verdict"], "match")
