#!/usr/bin/env python3
"""The judge as a CMake package: installed from this build into a prefix, and the example project built against it.

    package_test.py BUILD_FOLDER
"""
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLE = ROOT / "harness/matcher/example"
BUILD = Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 else None


class Package(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        cls.prefix = cls.folder / "a prefix"
        subprocess.run(["cmake", "--install", BUILD, "--prefix", cls.prefix, "--component", "judge"], check=True,
                       stdout=subprocess.DEVNULL)

    def test_the_example_builds_against_it_and_finds_its_bug(self):
        build = self.folder / "build"
        for command in (["cmake", "-S", EXAMPLE, "-B", build, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={self.prefix}"],
                        ["cmake", "--build", build]):
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

        def tested(**environment):
            done = subprocess.run(["ctest", "--test-dir", build, "--output-on-failure", "--no-tests=error"], check=False,
                                  capture_output=True, text=True, env={**os.environ, **environment})
            return done.returncode, done.stdout + done.stderr

        status, said = tested()
        self.assertEqual(status, 0, said)
        status, said = tested(EXAMPLE_WITH_A_BUG="1")
        self.assertNotEqual(status, 0, said)
        tests = said.count("***Failed")  # one of each framework that is here
        self.assertGreater(tests, 0, said)
        self.assertEqual(said.count("not explained by rounding: "), tests, said)
        self.assertIn("worst at [3, ", said)

    def test_the_package_is_the_judge_alone(self):
        files = sorted(path.relative_to(self.prefix).as_posix() for path in self.prefix.rglob("*") if path.is_file())
        expected = ["include/qdiff/catch2.h", "include/qdiff/expected.h", "include/qdiff/googletest.h"]
        self.assertEqual([path for path in files if path.startswith("include/")], expected)
        self.assertEqual([path.rsplit("/", 1)[-1] for path in files if path.endswith(".a")], ["libqdiff_judge.a"])
        self.assertLess(sum(path.stat().st_size for path in self.prefix.rglob("*") if path.is_file()), 2_000_000)
        for path in self.prefix.rglob("*.cmake"):
            self.assertNotIn(str(ROOT), path.read_text(), path)


if __name__ == "__main__":
    unittest.main()
