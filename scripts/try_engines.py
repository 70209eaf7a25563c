#!/usr/bin/env python3
"""Records foreign engines as a list of recipes says, has qdiff judge the traces, and prints a table.

    try_engines.py scripts/recipes/engines.json --environments DIR --qdiff build/default/qdiff [--install] [--only NAME]
    try_engines.py scripts/recipes/museum.json --environments DIR --qdiff build/default/qdiff --install

Each recipe has a Python environment of its own, DIR/NAME; --install makes it with pip, and without that a recipe whose
environment is missing is left out. A result is `match`; `declared`: a match once the roundings that qdiff proposed
are declared; or what qdiff finds wrong. A recipe that is "plain" declares no rounding point of its own. Ends with 1 where a result is not the expected one, and with 77 where no
environment is there. Needs NumPy.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import random_checkpoint

SCRIPTS = pathlib.Path(__file__).resolve().parent
STEPS = ["--prompt-tokens", "47", "--decode", "2", "--seed", "4"]
LONGEST_S = 600


class Failed(Exception):
    """A command of a recipe ended badly; the text is the end of what it printed."""


def run(command, environment=None, allowed=(0,)):
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False,
                              timeout=LONGEST_S, env=os.environ | (environment or {}))
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(str(error)) from error
    if done.returncode not in allowed:
        raise Failed(f"{' '.join(map(str, command[:4]))} … ended with {done.returncode}: "
                     + (done.stderr or done.stdout).strip()[-400:])
    return done


class Recipe:
    def __init__(self, raw, arguments):
        self.raw, self.name, self.arguments = raw, raw["name"], arguments
        self.environment = arguments.environments / self.name
        self.python = self.environment / "bin/python"

    def install(self):
        if self.python.exists():
            return
        print(f"{self.name}: installing {' '.join(self.raw['packages'])}", file=sys.stderr, flush=True)
        run([sys.executable, "-m", "venv", self.environment])
        try:
            run([self.python, "-m", "pip", "install", "--quiet", *self.raw["packages"]])
        except Failed:
            shutil.rmtree(self.environment)
            raise

    def judge(self, model, trace, out):
        done = run([self.arguments.qdiff, "diagnose", "--model", model, "--trace", trace, "--out", out,
                    "--infer-points", "--quiet"], allowed=(0, 1, 125))
        return done.returncode, json.loads((out / "report.json").read_text())

    @staticmethod
    def declare(trace, manifest, points):
        manifest["compute"]["points"] = points
        (trace / "manifest.json").write_text(json.dumps(manifest))

    def result(self, dtype, folder):
        """(version, what was found)"""
        model, trace = folder / "model", folder / "trace"
        random_checkpoint.write(model, dtype, self.raw.get("config"))
        places = {"model": model, "folder": folder, "scripts": SCRIPTS, "bin": self.environment / "bin"}
        variables = self.raw.get("environment", {})
        for command in self.raw.get("prepare", []):
            run([part.format(**places) for part in command], variables)
        script, *options = (part.format(**places) for part in self.raw["record"])
        run([self.python, SCRIPTS / script, "--model", model, "--trace", trace, *options, "--dtype", dtype,
             *self.raw.get("steps", STEPS)], variables)
        manifest = json.loads((trace / "manifest.json").read_text())
        if self.raw.get("plain"):
            self.declare(trace, manifest, {})
        version = manifest["engine"].get("version", "")
        status, report = self.judge(model, trace, folder / "report")
        if status == 0:
            return version, "match"
        kinds = {finding["kind"] for finding in report["findings"]}
        if status == 125 or not kinds:
            return version, "inconclusive"
        if kinds == {"precision"}:
            self.declare(trace, manifest, report["inferred_points"])
            if self.judge(model, trace, folder / "report")[0] == 0:
                return version, "declared"
        first = report["first_divergence"]
        explanation = report["explanation"] or {}
        cause = explanation.get("variant") or explanation.get("mechanism") or "unexplained"
        value = explanation.get("value")
        place = first["tensor"].split(".", 3)[-1] if first["layer"] is not None else first["tensor"]
        return version, f"{cause}{'' if value is None else f'={value:g}'} at {place}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", type=pathlib.Path)
    parser.add_argument("--environments", required=True, type=pathlib.Path, metavar="DIR")
    parser.add_argument("--qdiff", required=True, type=pathlib.Path, metavar="PROGRAM")
    parser.add_argument("--install", action="store_true", help="make the environments that are missing")
    parser.add_argument("--only", action="append", metavar="NAME", help="of these recipes")
    arguments = parser.parse_args()
    arguments.environments, arguments.qdiff = arguments.environments.resolve(), arguments.qdiff.resolve()
    raw = json.loads(arguments.recipes.read_text())
    unknown = set(arguments.only or ()) - {recipe["name"] for recipe in raw}
    if unknown:
        print(f"try_engines.py: error: {arguments.recipes} has no recipe {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    tried, wrong = 0, 0
    for recipe in (Recipe(entry, arguments) for entry in raw if not arguments.only or entry["name"] in arguments.only):
        if arguments.install:
            try:
                recipe.install()
            except Failed as error:
                print(f"| {recipe.name} | | | not installed: {error} | |", flush=True)
                wrong += 1
                continue
        if not recipe.python.exists():
            continue
        for dtype, expected in recipe.raw["expected"].items():
            with tempfile.TemporaryDirectory() as folder:
                try:
                    version, found = recipe.result(dtype, pathlib.Path(folder))
                except Failed as error:
                    version, found = "", f"failed: {' '.join(str(error).split())}"
            as_expected = found == expected
            tried, wrong = tried + 1, wrong + (not as_expected)
            print(f"| {recipe.name} | {version} | {dtype} | {found} |"
                  + ("" if as_expected else f" expected: {expected} |"), flush=True)
    if not tried and not wrong:
        print("engines: SKIPPED, nothing was checked: no environment of a recipe is there; --install makes them")
        return 77
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
