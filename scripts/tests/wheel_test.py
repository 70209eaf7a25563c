#!/usr/bin/env python3
"""The wheel of this build's program, in a virtual environment of its own, beside the torch that the build was linked with.

    wheel_test.py BUILD_FOLDER TORCH_FOLDER        ends with 77, skipped, where pip cannot bring scikit-build-core
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD, TORCH = (Path(path).resolve() for path in (sys.argv.pop(1), sys.argv.pop(1)))
MODEL = ROOT / "reference/tests/data/golden-model"
VERSION = re.search(r"project\(qdiff VERSION ([\d.]+)", (ROOT / "CMakeLists.txt").read_text()).group(1)


def run(*command, **options):
    return subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True, **options)


class Wheel(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        cls.environment = cls.folder / "environment"
        venv.create(cls.environment, with_pip=True)
        cls.python = cls.environment / "bin/python"
        pip = [cls.python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        if run(*pip, "install", "scikit-build-core>=0.10").returncode != 0:
            print("skipped: pip cannot bring scikit-build-core")
            sys.exit(77)
        made = run(*pip, "wheel", ROOT, "--no-deps", "--no-build-isolation", "--wheel-dir", cls.folder,
                   "-C", f"cmake.define.QDIFF_WHEEL_OF={BUILD}", "-C", f"build-dir={cls.folder}/build")
        assert made.returncode == 0, made.stdout + made.stderr
        cls.wheel = next(cls.folder.glob("qdiff-*.whl"))
        installed = run(*pip, "install", "--no-deps", cls.wheel)
        assert installed.returncode == 0, installed.stderr
        cls.packages = next(cls.environment.glob("lib/python3*/site-packages"))

    def setUp(self):
        for name in ("torch", "nvidia"):
            (self.packages / name).unlink(missing_ok=True)

    def have_torch(self, packages=None):
        for name in ("torch", "nvidia"):
            if (TORCH.parent / name).exists():
                ((packages or self.packages) / name).symlink_to(TORCH.parent / name)

    def qdiff(self, *arguments, **variables):
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return run(self.environment / "bin/qdiff", *arguments, cwd=self.folder, env={**kept, **variables})

    def test_it_holds_the_module_and_the_program_alone(self):
        self.assertRegex(self.wheel.name, rf"^qdiff-{re.escape(VERSION)}-py3-none-linux_x86_64\.whl$")
        names = {name for name in zipfile.ZipFile(self.wheel).namelist() if ".dist-info/" not in name}
        modules = {f"qdiff/{path.name}" for path in (ROOT / "python/qdiff").glob("*.py")}
        self.assertEqual(names, modules | {"qdiff/bin/qdiff"})
        found = run("readelf", "-d", self.packages / "qdiff/bin/qdiff").stdout
        self.assertEqual(re.search(r"\(R(?:UN)?PATH\).*\[(.*)\]", found).group(1),
                         "$ORIGIN/../../torch/lib:$ORIGIN/../../nvidia/cu13/lib")

    def test_it_runs_beside_torch(self):
        self.have_torch()
        self.assertEqual(self.qdiff("--version").stdout, f"qdiff {VERSION}\n")
        done = self.qdiff("run", "H09-tiny-norm", "--layers", "0", "--steps", "0", "--mode", "lockstep")
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)

    def test_it_finds_the_torch_of_another_folder(self):
        elsewhere = self.folder / "elsewhere"
        elsewhere.mkdir()
        self.addCleanup(shutil.rmtree, elsewhere)
        self.have_torch(elsewhere)
        self.assertEqual(self.qdiff("--version", PYTHONPATH=str(elsewhere)).stdout, f"qdiff {VERSION}\n")

    def test_without_a_fitting_torch_it_says_what_to_do(self):
        done = self.qdiff("--version")
        self.assertEqual(done.returncode, 2)
        self.assertIn("pip install 'torch==2.11.*'", done.stderr)
        (self.packages / "torch").mkdir()
        self.addCleanup(shutil.rmtree, self.packages / "torch")
        (self.packages / "torch/version.py").write_text("__version__ = '2.10.1'\n")
        done = self.qdiff("--version")
        self.assertEqual(done.returncode, 2)
        self.assertIn("this Python has torch 2.10.1", done.stderr)

    def test_a_trace_is_judged_and_the_report_draws_itself(self):
        self.have_torch()
        self.qdiff("record", "--model", MODEL, "--case", "H05-gqa", "--engine", "cpu", "--trace", "trace", "--inject",
                   "H05.modulo")
        script = ("import qdiff, json; report = qdiff.diagnose({!r}, 'trace'); page = report._repr_html_();"
                  "print(json.dumps([report.verdict, report.explanation['variant'], page[:15], page.count('<iframe')]))")
        done = run(self.python, "-c", script.format(str(MODEL)), cwd=self.folder)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout), ["diverged", "H05.modulo", "<iframe srcdoc=", 1])


if __name__ == "__main__":
    unittest.main()
