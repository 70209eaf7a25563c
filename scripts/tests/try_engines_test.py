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
        for path in sorted((SCRIPTS / "recipes").glob("*.json")):
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
