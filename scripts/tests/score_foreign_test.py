#!/usr/bin/env python3
"""The counting of score_foreign.py, as harness/selftest/tests/scoring_test.cpp has it; no program is run.

Ends with 77, skipped, where this Python has no NumPy.
"""
import copy
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
try:
    import numpy  # noqa: F401
except ImportError:
    print("score_foreign: SKIPPED, nothing was checked: this Python has no numpy")
    sys.exit(77)

import score_foreign as scoring  # noqa: E402

SCORES = "model.layers.2.self_attn.scores"
OUTPUT = "model.layers.2.self_attn.attn_output"
ENTRY = {"fault": "H02.scale", "value": 1.1, "site": "last", "layer": 2, "changes": [SCORES, OUTPUT], "right_value": 1.0,
         "deviations": 100.0, "moves": {"tensor": SCORES, "step": 1}}
OUTSIDER = {**ENTRY, "fault": "X.no_silu", "value": None, "right_value": None}


def trial(entry=ENTRY, verdict="diverged", **finding):
    first = {"tensor": SCORES, "step": 1, "hypothesis": "H02", "variant": "H02.scale", "value": 1.101, "alternatives": [],
             **finding}
    made = {"detectable": entry["moves"] is not None, "deviations": entry["deviations"], "moves": entry["moves"],
            "verdict": verdict, "first_finding": first if verdict == "diverged" else None, "cases": ["toy"],
            "tied": False}
    made["miss"] = scoring.reason_of_miss(made, entry, {}) if made["detectable"] else None
    return made, copy.deepcopy(entry)


class Scoring(unittest.TestCase):
    def test_found_where_it_is_and_named(self):
        pair = trial()
        for holds in (scoring.is_located, scoring.is_named, scoring.has_right_hypothesis, scoring.is_among_first_three,
                      scoring.has_right_value):
            self.assertTrue(holds(*pair), holds.__name__)
        self.assertIsNone(pair[0]["miss"])

    def test_exact_tensor(self):
        for tensor, step, exact in ((OUTPUT, 1, False), (SCORES, 0, True), (OUTPUT, 0, True), (SCORES, 2, False),
                                    ("model.layers.2.self_attn.q_rope", 1, False),
                                    ("model.layers.1.self_attn.scores", 1, False)):
            pair = trial(tensor=tensor, step=step)
            self.assertEqual(scoring.is_located(*pair), exact, (tensor, step))
            self.assertEqual(pair[0]["miss"] is None, exact)

    def test_order_of_execution(self):
        places = [("model.embed_tokens", 0), ("model.layers.0.mlp.act", 0), ("model.layers.1.input_layernorm", 0),
                  ("model.layers.10.input_layernorm", 0), ("model.norm", 0), ("lm_head", 0), ("model.embed_tokens", 1)]
        keys = [scoring.execution_order({"tensor": tensor, "step": step}) for tensor, step in places]
        self.assertEqual(keys, sorted(keys))
        self.assertEqual(len(set(keys)), len(keys))

    def test_not_found(self):
        for verdict in ("match", "inconclusive"):
            pair = trial(verdict=verdict)
            for holds in (scoring.is_located, scoring.is_named, scoring.has_right_hypothesis,
                          scoring.is_among_first_three, scoring.is_abstained):
                self.assertFalse(holds(*pair), holds.__name__)
            self.assertTrue(pair[0]["miss"].startswith("not found"))

    def test_first_three(self):
        for alternatives, among in ((["H05.modulo", "H02.scale", "H01.pos_major"], True),
                                    (["H05.modulo", "H01.pos_major", "H02.scale"], False)):
            pair = trial(variant="H10.none", hypothesis="H10", alternatives=alternatives)
            self.assertEqual(scoring.is_among_first_three(*pair), among)
            self.assertFalse(scoring.is_named(*pair))

    def test_value(self):
        for value, right in ((1.102, True), (1.103, False), (1.0, False), ("NaN", False), (None, False)):
            self.assertEqual(scoring.has_right_value(*trial(value=value)), right, value)

    def test_outsiders(self):
        for variant, hypothesis, abstained in ((None, None, True), ("X.no_silu", None, True),
                                               ("X.gate_up_swapped", None, False), (None, "H07", False)):
            pair = trial(OUTSIDER, variant=variant, hypothesis=hypothesis)
            self.assertEqual(scoring.is_abstained(*pair), abstained, (variant, hypothesis))
            self.assertEqual(pair[0]["miss"] is None, abstained)

    def test_counting(self):
        trials = [trial(), trial({**ENTRY, "moves": None}, verdict=None), trial(verdict="match"),
                  trial(variant="H02.no_scale"), trial(OUTSIDER, variant=None, hypothesis=None)]
        score = scoring.score(trials)
        self.assertEqual(score, {
            "planted": 5, "found": {"hits": 3, "of": 4}, "exact_tensor": {"hits": 3, "of": 4},
            "top1_variant": {"hits": 1, "of": 3}, "top1_hypothesis": {"hits": 2, "of": 3},
            "top3_variant": {"hits": 1, "of": 3}, "value": {"hits": 1, "of": 1}, "abstained": {"hits": 1, "of": 1}})
        matrix = scoring.confusion(trials)
        self.assertEqual(matrix["H02"], {"H02": 2, "not_found": 1})
        self.assertEqual(matrix["X"], {"unexplained": 1})
        self.assertEqual(len(matrix), 11)

    def test_goals(self):
        honest = [{"runs": 10, "flagged": 0}]
        self.assertEqual(scoring.upper_bound(0, 1000), 0.003)
        self.assertAlmostEqual(scoring.upper_bound(1, 1000), 0.00447, places=5)
        met = scoring.goals_of(scoring.score([trial(), trial(OUTSIDER, variant=None, hypothesis=None)]), honest)
        self.assertTrue(all(goal["met"] for goal in met), met)
        for trials, runs in (([], honest), ([trial(), trial(verdict="match")], honest),
                             ([trial()], [{"runs": 10, "flagged": 1}])):
            self.assertFalse(all(goal["met"] for goal in scoring.goals_of(scoring.score(trials), runs)))

    def test_goals_of_a_part(self):
        honest = [{"runs": 10, "flagged": 0}]
        inside, outside = trial(), trial(OUTSIDER, variant=None, hypothesis=None)
        unseen = trial({**ENTRY, "moves": None}, verdict="match")
        for trials, asked, met in (([inside], ["H02.scale"], True), ([outside], ["X.no_silu"], True),
                                   ([inside], ["H02.scale", "X.no_silu"], False), ([outside], ["H02.scale"], False),
                                   ([unseen], ["H02.scale"], False)):  # asked, and nothing could be shown
            goals = scoring.goals_of(scoring.score(trials), honest, asked)
            self.assertEqual(all(goal["met"] for goal in goals), met, (asked, goals))

    def test_a_part_that_holds_nothing_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run([sys.executable, scoring.__file__, "--build", folder, "--out", folder, "--only", "H99"],
                                  capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertIn("no fault of the engine starts so", done.stderr)

    def test_a_fault_as_the_engine_takes_it(self):
        for value, layer, text in ((1e-5, 2, "H09.eps=1e-05@2"), (64.0, None, "H09.eps=64"), (None, 0, "H09.eps@0")):
            self.assertEqual(scoring.fault_text("H09.eps", value, layer), text)

    def test_a_tie_is_named_and_has_no_value(self):
        named, entry = trial(variant="H10.none", hypothesis="H10", alternatives=["H02.scale"])
        asked = []
        named["fault"] = "H02.scale=1.1@2"
        for same in (True, False):
            named["tied"] = scoring.is_tie(named, entry, lambda *faults, same=same: asked.append(faults) or same)
            self.assertEqual(scoring.is_named(named, entry), same)
            self.assertEqual(scoring.has_right_hypothesis(named, entry), same)
            self.assertEqual(scoring.score([(named, entry)])["value"]["of"], 0)
        self.assertEqual(asked[0], ("H02.scale=1.1@2", "H10.none=1.101@2"))
        alone, entry = trial(variant="H10.none", hypothesis="H10")
        self.assertFalse(scoring.is_tie(alone, entry, lambda *faults: True))


if __name__ == "__main__":
    unittest.main()
