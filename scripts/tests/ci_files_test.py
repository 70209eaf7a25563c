#!/usr/bin/env python3
"""The steps of the composite action, run as GitHub would run them, with a stand-in for the program.

    ci_files_test.py [-v] [name of a test]

Ends with 77 without ruamel.yaml, which PyPI's check-jsonschema brings along.
"""
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
ACTION = ROOT / ".github/actions/qdiff/action.yml"

# Builds what prints its arguments and ends with the status that STATUS names.
BUILD = """#!/usr/bin/env bash
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
mkdir -p "$root/build/default"
printf '#!/usr/bin/env bash\\nprintf "[%%s]" "$@"\\nexit "${STATUS:-0}"\\n' >"$root/build/default/qdiff"
chmod +x "$root/build/default/qdiff"
"""


class Action(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        from ruamel.yaml import YAML
        document = YAML(typ="safe").load(ACTION.read_text())
        cls.steps = {step["name"]: step for step in document["runs"]["steps"]}
        cls.inputs = document["inputs"]

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.tree = self.folder / "a tree"
        for name in ["cmake", "cases", "harness", "optimized", "reference", "scripts", ".github/actions/qdiff"]:
            (self.tree / name).mkdir(parents=True)
        shutil.copy(ROOT / "CMakePresets.json", self.tree)
        (self.tree / "CMakeLists.txt").write_text("")
        (self.tree / "harness/a.cpp").write_text("int a;")
        script = self.tree / "scripts/run.sh"
        script.write_text(BUILD)
        script.chmod(0o755)

    def run_step(self, name, **variables):
        """The step's outputs and what it printed."""
        output = self.folder / "output"
        output.write_text("")
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "GITHUB_OUTPUT": str(output),
                       "GITHUB_ACTION_PATH": str(self.tree / ".github/actions/qdiff"), **variables}
        done = subprocess.run(["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", self.steps[name]["run"]],
                              env=environment, cwd=self.folder, capture_output=True, text=True, check=False)
        return done, dict(line.split("=", 1) for line in output.read_text().splitlines())

    def judge(self, arguments, status=0, **options):
        variables = {"ARGUMENTS": arguments, "BASELINE": "", "WAIVERS": "", "FAIL_ON": "", "OUT": "qdiff-report", **options}
        self.assertEqual(set(variables), set(self.steps["Judge"]["env"]))
        return self.run_step("Judge", STATUS=str(status), **variables)

    def build(self):
        _, outputs = self.run_step("What this qdiff is built from")
        self.assertEqual(outputs["root"], str(self.tree))
        done, _ = self.run_step("Build qdiff", ROOT=outputs["root"])
        self.assertEqual(done.returncode, 0, done.stderr)
        return outputs["key"]

    def test_another_source_is_another_program(self):
        key = self.build()
        self.assertRegex(key, r"\A[0-9a-f]{32}\Z")
        self.assertEqual(self.build(), key)
        (self.tree / "harness/tests").mkdir()
        (self.tree / "harness/tests/a_test.cpp").write_text("int b;")
        self.assertEqual(self.build(), key)
        (self.tree / "harness/a.cpp").write_text("int b;")
        self.assertNotEqual(self.build(), key)

    def test_arguments_are_words_and_nothing_is_expanded(self):
        self.build()
        done, outputs = self.judge("run --prompt 'The capital of' \"a b\" $HOME *")
        self.assertEqual(done.stdout, "[run][--prompt][The capital of][a b][$HOME][*][--out][qdiff-report]")
        self.assertEqual((done.returncode, outputs), (0, {"status": "0"}))

    def test_what_a_pipeline_accepts(self):
        self.build()
        done, _ = self.judge("run", BASELINE="known", WAIVERS="w.json", FAIL_ON="logic", OUT="o")
        self.assertEqual(done.stdout, "[run][--out][o][--waivers][w.json][--fail-on][logic]")  # no baseline is there yet
        (self.folder / "known").mkdir()
        (self.folder / "known/report.json").write_text("{}")
        done, _ = self.judge("run", BASELINE="known")
        self.assertEqual(done.stdout, "[run][--out][qdiff-report][--baseline][known]")

    def test_the_exit_status_is_passed_on(self):
        self.build()
        for status in [1, 2, 125]:
            done, outputs = self.judge("run", status)
            self.assertEqual((done.returncode, outputs), (status, {"status": str(status)}))

    def test_each_input_is_used(self):
        text = ACTION.read_text()
        for name in self.inputs:
            self.assertRegex(text, rf"(?m)^      .*\binputs\.{name}\b")


if __name__ == "__main__":
    if importlib.util.find_spec("ruamel") is None or importlib.util.find_spec("ruamel.yaml") is None:
        print("skipped: Python has no ruamel.yaml (PyPI)")
        sys.exit(77)
    unittest.main()
