#!/usr/bin/env python3
"""`cmake --install` of this build into a prefix of its own: the program runs from there, with its manual page and completions.

    install_test.py BUILD_FOLDER
"""
import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 else None


class Installed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        cls.prefix = Path(cls.folder.name) / "a prefix"
        subprocess.run(["cmake", "--install", BUILD, "--prefix", cls.prefix, "--component", "program"], check=True,
                       stdout=subprocess.DEVNULL)

    def qdiff(self, *arguments):
        environment = {"PATH": "/usr/bin:/bin", "HOME": self.folder.name, "QDIFF_PROGRESS_SECONDS": "1e9"}
        return subprocess.run([self.prefix / "bin/qdiff", *arguments], cwd=self.folder.name, env=environment, check=False,
                              capture_output=True, text=True)

    def test_the_program_runs(self):
        version = re.search(r"project\(qdiff VERSION ([\d.]+)", (ROOT / "CMakeLists.txt").read_text()).group(1)
        self.assertEqual(self.qdiff("--version").stdout, f"qdiff {version}\n")
        done = self.qdiff("run", "H09-tiny-norm", "--layers", "0", "--steps", "0", "--mode", "lockstep")
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)

    def test_what_belongs_to_it_is_there(self):
        self.assertEqual((self.prefix / "share/man/man1/qdiff.1").read_text(), self.qdiff("man").stdout)
        for shell, name in [("bash", "bash-completion/completions/qdiff"), ("zsh", "zsh/vendor-completions/_qdiff"),
                            ("fish", "fish/vendor_completions.d/qdiff.fish")]:
            self.assertEqual((self.prefix / "share" / name).read_text(), self.qdiff("completion", shell).stdout)

    def test_nothing_of_the_build_is_left_in_it(self):
        found = subprocess.run(["readelf", "-d", self.prefix / "bin/qdiff"], capture_output=True, text=True, check=True).stdout
        paths = re.search(r"\(R(?:UN)?PATH\).*\[(.*)\]", found).group(1).split(":")
        self.assertEqual([path for path in paths if str(ROOT) in path or str(BUILD) in path], [])
        self.assertEqual(len(paths), len(set(paths)), paths)


class Changes(unittest.TestCase):
    def test_the_version_has_its_place_among_the_changes(self):
        version = re.search(r"project\(qdiff VERSION ([\d.]+)", (ROOT / "CMakeLists.txt").read_text()).group(1)
        headings = re.findall(r"(?m)^## (.+)$", (ROOT / "CHANGELOG.md").read_text())
        self.assertIn(version, [heading.split()[0] for heading in headings])


if __name__ == "__main__":
    os.umask(0o022)
    unittest.main()
