#!/usr/bin/env python3
"""scripts/run.sh and scripts/test.sh on a small project of the same shape: a program `qdiff` that prints its arguments and
folder and ends with 7.

    run_test.py [-v] [name of a test]
"""
import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPTS = ("setup.sh", "build.sh", "run.sh", "test.sh", "libtorch.txt")

PROGRAM = """#include <cstdio>
#include <filesystem>
int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) std::printf("[%s]", argv[i]);
  std::printf(" in %s\\n", std::filesystem::current_path().c_str());
  return argc == 2 && argv[1][0] == '0' ? 0 : 7;
}
"""
LISTS = """cmake_minimum_required(VERSION 3.25)
project(small CXX)
enable_testing()
add_executable(qdiff main.cpp)
"""


class SmallProject(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name).resolve() / "a tree"  # a blank in the path must not matter
        (self.root / "scripts").mkdir(parents=True)
        for name in SCRIPTS:
            shutil.copy(ROOT / "scripts" / name, self.root / "scripts")
        shutil.copy(ROOT / "CMakePresets.json", self.root)
        torch = self.root / "torch"
        for name in ("include/ATen/ATen.h", "lib/libtorch_cpu.so", "lib/libc10.so"):
            (torch / name).parent.mkdir(parents=True, exist_ok=True)
            (torch / name).write_text("")
        pins = (ROOT / "scripts" / "libtorch.txt").read_text()
        version = next(line.split("==")[1].split()[0] for line in pins.splitlines() if line.startswith("torch=="))
        (torch / "version.py").write_text(f"__version__ = '{version}'\ncuda: Optional[str] = None\n")
        self.write("main.cpp", PROGRAM)
        self.write("CMakeLists.txt", LISTS)

    def write(self, name, text):
        (self.root / name).write_text(text)

    def script(self, name, *arguments, folder=None):
        environment = {**os.environ, "QDIFF_TORCH_DIR": str(self.root / "torch"), "QDIFF_NO_INSTALL": "1"}
        return subprocess.run(["bash", str(self.root / "scripts" / name), *arguments], env=environment, check=False,
                              cwd=folder or self.root, stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def test_run_without_arguments_is_the_main_job(self):
        done = self.script("run.sh")
        self.assertEqual(done.returncode, 7, done.stderr)
        self.assertTrue(done.stdout.startswith("[run] in "), done.stdout)

    def test_run_passes_arguments_folder_and_status(self):
        elsewhere = self.root / "else where"
        elsewhere.mkdir()
        done = self.script("run.sh", "inspect", "a b", "--x=*", folder=elsewhere)
        self.assertEqual(done.returncode, 7, done.stderr)
        self.assertEqual(done.stdout, f"[inspect][a b][--x=*] in {elsewhere}\n")
        self.assertEqual(self.script("run.sh", "0").returncode, 0)

    def test_help_builds_nothing(self):
        for arguments in [["--help"], ["-h"], ["run", "--help"]]:
            done = self.script("run.sh", *arguments)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertIn("scripts/run.sh ARGUMENTS…", done.stdout)
            self.assertIn("qdiff is not built yet", done.stdout)
            self.assertNotIn("pipefail", done.stdout)
            self.assertFalse((self.root / "build").exists())
        self.script("run.sh")
        self.write("main.cpp", "int main() { return undeclared_name; }\n")
        done = self.script("run.sh", "run", "--help")
        self.assertEqual((done.returncode, done.stdout), (7, f"[run][--help] in {self.root}\n"))

    def test_a_long_build_says_how_far_it_is(self):
        self.write("CMakeLists.txt", LISTS + "add_custom_command(OUTPUT late COMMAND sleep 34)\n"
                   "add_custom_target(wait DEPENDS late)\nadd_dependencies(qdiff wait)\n")
        done = self.script("run.sh")
        self.assertEqual(done.returncode, 7, done.stderr)
        self.assertRegex(done.stderr, r"(?m)^qdiff: building, 30 s, (\[\d+/\d+\]|starting)$")

    def test_a_broken_build_shows_the_compilers_words(self):
        self.write("main.cpp", "int main() { return undeclared_name; }\n")
        done = self.script("run.sh")
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertIn("undeclared_name", done.stderr)

    def test_a_broken_configuration_shows_cmakes_words(self):
        self.write("CMakeLists.txt", LISTS + 'message(FATAL_ERROR "no such thing")\n')
        done = self.script("test.sh")
        self.assertEqual(done.returncode, 2)
        self.assertIn("no such thing", done.stderr)

    def test_tests_that_pass_fail_and_are_slow(self):
        self.write("CMakeLists.txt", LISTS + "add_test(NAME right COMMAND qdiff 0)\n"
                   "add_test(NAME late COMMAND qdiff 1)\nset_tests_properties(late PROPERTIES LABELS slow)\n")
        done = self.script("test.sh")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertRegex(done.stdout, "100% tests passed.* out of 1\n")
        self.assertNotEqual(self.script("test.sh", "--slow").returncode, 0)
        self.assertEqual(self.script("test.sh", "--slow", "-R", "right").returncode, 0)

    def test_no_test_is_a_failure(self):
        self.assertNotEqual(self.script("test.sh").returncode, 0)


if __name__ == "__main__":
    unittest.main()
