#!/usr/bin/env python3
"""Records foreign engines as a list of recipes says, has qdiff judge the traces, and prints a table.

    try_engines.py scripts/recipes/engines.json --environments DIR --qdiff build/default/qdiff [--install] [--only NAME]
    try_engines.py scripts/recipes/museum.json --environments DIR --qdiff build/default/qdiff --install
    try_engines.py scripts/recipes/engines.json --breaks scripts/recipes/breaks.json --environments DIR --qdiff build/default/qdiff

Each recipe has a Python environment of its own, DIR/NAME; --install makes it with pip, and without that a recipe whose
environment is missing is left out. A result is `match`; `declared`: a match once the roundings that qdiff proposed
are declared; or what qdiff finds wrong. A recipe that is "plain" declares no rounding point of its own. Ends with 1 where
a result is not the expected one, and with 77 where no environment is there. Needs NumPy.

--breaks: the engines of the recipes, each made wrong in the ways that this list says: a changed config.json, other weights
in the place of some ("exchanged"), or changed lines of a module ("edits", run_edited.py). No rounding is declared.
"""

import argparse
import contextlib
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
BROKEN_TYPES = ("float32", "bfloat16")


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


def broken(recipes, breaks):
    """Recipes of the engines made wrong: of each break in each engine that it names, or in all that --breaks has."""
    with_own = {name for one in breaks for name in one.get("engines", ())}
    for one in breaks:
        for recipe in recipes:
            if recipe["name"] not in one.get("engines", with_own):
                continue
            expected = {dtype: one.get("otherwise", {}).get(f"{recipe['name']} {dtype}", one["expected"])
                        for dtype in recipe["expected"] if dtype in BROKEN_TYPES}
            if expected:
                yield recipe | {"of": recipe["name"], "name": f"{recipe['name']}: {one['name']}", "plain": True,
                                "broken": one, "expected": expected}


class Recipe:
    def __init__(self, raw, arguments):
        self.raw, self.name, self.arguments = raw, raw["name"], arguments
        self.environment = arguments.environments / raw.get("of", self.name)
        self.python = self.environment / "bin/python"
        self.broken = raw.get("broken", {})

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

    def edited(self, folder, edits):
        """What stands before a Python program so that it runs with these edits."""
        if edits not in self.broken:
            return []
        (folder / f"{edits}.json").write_text(json.dumps(self.broken[edits]))
        return [self.python, SCRIPTS / "run_edited.py", folder / f"{edits}.json"]

    def record(self, dtype, folder, trace):
        """Of the model in folder/model, which a broken engine does not read as it is."""
        config = self.raw.get("config") or {}
        random_checkpoint.write(folder / "model", dtype, config)
        random_checkpoint.write(folder / "taken", dtype, config | self.broken.get("config", {}),
                                self.broken.get("exchanged"))
        places = {"model": folder / "taken", "folder": folder, "scripts": SCRIPTS, "bin": self.environment / "bin"}
        variables = self.raw.get("environment", {})
        for command in self.raw.get("prepare", []):
            run([*self.edited(folder, "export_edits"), *(part.format(**places) for part in command)], variables)
        script, *options = (part.format(**places) for part in self.raw["record"])
        run([*(self.edited(folder, "edits") or [self.python]), SCRIPTS / script, "--model", folder / "taken", "--trace",
             trace, *options, "--dtype", dtype, *self.raw.get("steps", STEPS)], variables)

    def result(self, dtype, folder):
        """(version, what was found)"""
        model, trace = folder / "model", folder / "trace"
        self.record(dtype, folder, trace)
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


def names_of(entry):
    return {entry["name"], entry.get("of"), entry.get("broken", {}).get("name")} - {None}


def folder_for(recipe, dtype, keep):
    if not keep:
        return tempfile.TemporaryDirectory()
    folder = keep / f"{recipe.name}-{dtype}".replace(": ", "-")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return contextlib.nullcontext(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", type=pathlib.Path)
    parser.add_argument("--environments", required=True, type=pathlib.Path, metavar="DIR")
    parser.add_argument("--qdiff", required=True, type=pathlib.Path, metavar="PROGRAM")
    parser.add_argument("--install", action="store_true", help="make the environments that are missing")
    parser.add_argument("--breaks", type=pathlib.Path, metavar="FILE", help="the engines made wrong as this list says")
    parser.add_argument("--only", action="append", metavar="NAME", help="of these recipes, or breaks")
    parser.add_argument("--keep", type=pathlib.Path, metavar="DIR", help="keep models, traces and reports here")
    arguments = parser.parse_args()
    arguments.environments, arguments.qdiff = arguments.environments.resolve(), arguments.qdiff.resolve()
    raw = json.loads(arguments.recipes.read_text())
    if arguments.breaks:
        raw = list(broken(raw, json.loads(arguments.breaks.read_text())))
    unknown = set(arguments.only or ()) - {name for entry in raw for name in names_of(entry)}
    if unknown:
        print(f"try_engines.py: error: {arguments.recipes} has no recipe {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    chosen = [entry for entry in raw if not arguments.only or set(arguments.only) & names_of(entry)]
    tried, wrong = 0, 0
    for recipe in (Recipe(entry, arguments) for entry in chosen):
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
            with folder_for(recipe, dtype, arguments.keep) as folder:
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
