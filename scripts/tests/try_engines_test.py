#!/usr/bin/env python3
"""The list of foreign engines: the checkpoint that they run, and what is made of a trace, on the NumPy engine.

    try_engines_test.py QDIFF

Ends with 77, skipped, without NumPy.
"""
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent
QDIFF = Path(sys.argv.pop(1)).resolve()
sys.path.insert(0, str(SCRIPTS))
if not importlib.util.find_spec("numpy"):
    print("try_engines: SKIPPED, nothing was checked: this Python has no NumPy")
    sys.exit(77)

import numpy  # noqa: E402

import random_checkpoint  # noqa: E402
from engines import checkpoint  # noqa: E402

RECORD = ["independent_engine.py"]


class TryEngines(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def try_recipes(self, recipes, *arguments, status=0):
        """The lines that are printed, of recipes whose environment is this Python."""
        for recipe in recipes:
            place = self.folder / "environments" / recipe["name"] / "bin"
            place.mkdir(parents=True, exist_ok=True)
            if not (place / "python").exists():
                (place / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
                os.chmod(place / "python", 0o755)
        (self.folder / "recipes.json").write_text(json.dumps(recipes))
        done = subprocess.run([sys.executable, SCRIPTS / "try_engines.py", self.folder / "recipes.json",
                               "--environments", self.folder / "environments", "--qdiff", QDIFF, *arguments],
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done.stdout.splitlines()

    def test_checkpoints_of_all_types_are_one_model(self):
        for dtype in ("float32", "bfloat16", "float16"):
            random_checkpoint.write(self.folder / dtype, dtype, {"sliding_window": 16, "rope_theta": None})
        config = json.loads((self.folder / "float16/config.json").read_text())
        self.assertEqual((config["dtype"], config["sliding_window"]), ("float16", 16))
        self.assertNotIn("rope_theta", config)
        single, brain, half = (checkpoint.read_weights(self.folder / dtype)
                               for dtype in ("float32", "bfloat16", "float16"))
        self.assertEqual({name: values.shape for name, values in single.items()}, random_checkpoint.shapes(config))
        for name, values in single.items():
            numpy.testing.assert_array_equal(values, brain[name])
            numpy.testing.assert_array_equal(values.astype(numpy.float16).astype(numpy.float32), half[name])

    def test_results_of_engines(self):
        honest = {"name": "honest", "packages": [], "record": RECORD, "expected": {"float32": "match"}}
        silent = {"name": "silent", "packages": [], "record": [*RECORD, "--kernel", "sigmoid_rounded"], "plain": True,
                  "expected": {"bfloat16": "declared"}}
        wrong = {"name": "wrong", "packages": [], "record": [*RECORD, "--inject", "H05.modulo"],
                 "expected": {"float32": "H05.modulo at self_attn.attn_output"}}
        self.assertEqual(self.try_recipes([honest, silent, wrong])[-1].count("H05.modulo at self_attn.attn_output"), 1)
        lines = self.try_recipes([honest | {"expected": {"float32": "declared"}}], status=1)
        self.assertIn("| match | expected: declared |", lines[-1])

    def test_engines_made_wrong(self):
        honest = {"name": "honest", "packages": [], "record": RECORD, "expected": {"float32": "match", "float16": "match"}}
        breaks = [
            {"name": "theta", "config": {"rope_theta": 10000.0, "rope_parameters": {"rope_theta": 10000.0}},
             "expected": "H03.theta=10000 at self_attn.q_rope"},
            {"name": "bias", "exchanged": {"self_attn.v_proj.bias": None}, "expected": "H06.missing_v at self_attn.v_proj"},
            {"name": "gate-up", "exchanged": {"mlp.gate_proj.weight": "mlp.up_proj.weight"},
             "expected": "product.rows at mlp.gate_proj"},
            {"name": "frequencies", "engines": ["honest"], "expected": "never", "otherwise": {
                "honest float32": "H03.twice at self_attn.q_rope"},
             "edits": {"engines.forward": [["return self.config.theta ** (-numpy.arange",
                                            "return 2 * self.config.theta ** (-numpy.arange"]]}},
        ]
        (self.folder / "breaks.json").write_text(json.dumps(breaks))
        lines = self.try_recipes([honest], "--breaks", self.folder / "breaks.json")
        self.assertEqual([line.split(" | ")[0] for line in lines],
                         [f"| honest: {name}" for name in ("theta", "bias", "gate-up", "frequencies")])

    def test_edits_that_cannot_be_made(self):
        (self.folder / "program.py").write_text("print('right')\n")
        for edits, complaint in (({"program.py": [["wrong", "right"]]}, "0 times instead of once"),
                                 ({"other.py": [["a", "b"]]}, "no such file among the arguments"),
                                 ({"fractions": [["a", "b"]]}, "never imported")):
            (self.folder / "edits.json").write_text(json.dumps(edits))
            done = subprocess.run([sys.executable, SCRIPTS / "run_edited.py", self.folder / "edits.json",
                                   self.folder / "program.py"], capture_output=True, text=True, check=False)
            self.assertEqual((done.returncode, complaint in done.stderr), (2, True), done.stderr)
        (self.folder / "edits.json").write_text(json.dumps({"program.py": [["right", "wrong"]]}))
        done = subprocess.run([sys.executable, SCRIPTS / "run_edited.py", self.folder / "edits.json",
                               self.folder / "program.py"], capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout, "wrong\n")

    def test_breaks_are_whole(self):
        recipes = {recipe["name"] for recipe in json.loads((SCRIPTS / "recipes/engines.json").read_text())}
        breaks = json.loads((SCRIPTS / "recipes/breaks.json").read_text())
        for one in breaks:
            self.assertTrue(set(one.get("engines", ())) <= recipes, one["name"])
            self.assertTrue({"config", "exchanged", "edits", "export_edits"} & set(one), one["name"])
            self.assertIn(" at ", one["expected"])

    def test_what_cannot_be_tried(self):
        broken = {"name": "broken", "packages": [], "record": [*RECORD, "--no-such-option"], "expected": {"float32": "match"}}
        self.assertIn("failed:", self.try_recipes([broken], status=1)[-1])
        self.assertIn("no recipe nobody", self.try_recipes_error([broken], "--only", "nobody"))
        for place in (self.folder / "environments").rglob("python"):
            place.unlink()
        (self.folder / "recipes.json").write_text(json.dumps([broken]))
        done = subprocess.run([sys.executable, SCRIPTS / "try_engines.py", self.folder / "recipes.json",
                               "--environments", self.folder / "environments", "--qdiff", QDIFF],
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 77, done.stdout)

    def try_recipes_error(self, recipes, *arguments):
        (self.folder / "recipes.json").write_text(json.dumps(recipes))
        done = subprocess.run([sys.executable, SCRIPTS / "try_engines.py", self.folder / "recipes.json",
                               "--environments", self.folder / "environments", "--qdiff", QDIFF, *arguments],
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 2)
        return done.stderr

    def test_recipes_are_whole(self):
        for path in (SCRIPTS / "recipes/engines.json", SCRIPTS / "recipes/museum.json"):
            recipes = json.loads(path.read_text())
            names = [recipe["name"] for recipe in recipes]
            self.assertEqual(len(names), len(set(names)))
            for recipe in recipes:
                self.assertTrue((SCRIPTS / recipe["record"][0]).is_file(), recipe["name"])
                self.assertTrue(recipe["packages"] and recipe["expected"], recipe["name"])
                for package in recipe["packages"]:
                    self.assertNotIn(" ", package)


if __name__ == "__main__":
    unittest.main()
