#!/usr/bin/env python3
"""scripts/setup.sh on planted machines: a PATH without some tool, a false apt-get that notes its calls, a false LibTorch.

    setup_test.py [-v] [name of a test]

Nothing is installed or downloaded.
"""
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent
PINS = SCRIPTS / "libtorch.txt"
VERSION = next(line.split("==")[1].split()[0] for line in PINS.read_text().splitlines() if line.startswith("torch=="))

SKIPPED = 77
OPTIONAL = ["ccache", "clang-format-14", "clang-tidy-14", "shellcheck", "chromium", "tidy", "clang++"]
TOOLS = ["g++", "cmake", "ninja", "python3", *OPTIONAL, "bash", "cat", "cut", "dirname", "env", "find", "flock", "grep",
         "head", "mkdir", "mktemp", "rm", "sed", "sha256sum", "sort", "tail", "uname"]


@unittest.skipUnless(importlib.util.find_spec("jsonschema"), "this Python has no jsonschema, which set-up looks for")
class PlantedMachine(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.bin = self.folder / "bin"
        self.bin.mkdir()
        self.calls = self.folder / "calls"
        self.environment = {"PATH": str(self.bin), "HOME": str(self.folder),
                            "QDIFF_TORCH_DIR": str(self.plant_torch(self.folder / "torch"))}

    def plant_tools(self, *missing):
        """A PATH with the tools that set-up looks for or uses, less the missing ones; apt-get only notes its calls."""
        for tool in {*TOOLS} - {*missing}:
            found = sys.executable if tool == "python3" else shutil.which(tool)
            if found:
                (self.bin / tool).symlink_to(found)
            elif tool in OPTIONAL:
                self.plant_script(tool, "exit 0")  # only looked for, never run
            else:
                self.skipTest(f"this machine has no {tool}")
        self.plant_script("apt-get", f'echo "$@" >>"{self.calls}"')
        self.plant_script("sudo", '"$@"')

    def plant_script(self, name, body):
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)
        return path

    def plant_torch(self, folder, version=VERSION):
        for name in ("include/ATen/ATen.h", "lib/libtorch_cpu.so", "lib/libc10.so"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("")
        (folder / "version.py").write_text(f"__version__ = '{version}'\ncuda: Optional[str] = None\n")
        return folder

    def setup_sh(self, *arguments, **variables):
        environment = {**self.environment, **variables}
        done = subprocess.run(["/bin/bash", str(SCRIPTS / "setup.sh"), *arguments], env=environment, check=False,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True)
        calls = self.calls.read_text().splitlines() if self.calls.exists() else []
        return done.returncode, done.stderr, calls


class Packages(PlantedMachine):
    def test_nothing_is_installed_where_all_is_there(self):
        self.plant_tools()
        status, output, calls = self.setup_sh()
        self.assertEqual((status, calls), (0, []), output)

    def test_only_the_missing_package_is_installed(self):
        self.plant_tools("ninja")
        status, output, calls = self.setup_sh()
        self.assertEqual(status, 0, output)
        self.assertEqual(calls, ["update -qq", "install -y -qq --no-install-recommends ninja-build"])

    def test_all_compiler_packages_without_a_compiler(self):
        self.plant_tools("g++", "cmake")
        _, output, calls = self.setup_sh()
        self.assertEqual(calls[1:], ["install -y -qq --no-install-recommends catch2 cmake g++ libcli11-dev "
                                     "nlohmann-json3-dev"], output)

    def test_an_old_compiler_counts_as_missing(self):
        self.plant_tools()
        old = self.plant_script("old-g++", 'exec g++ -U__GNUC__ -D__GNUC__=11 "$@"')
        _, output, calls = self.setup_sh(CXX=str(old))
        self.assertIn("g++", calls[-1].split(), output)

    def test_the_checks_need_a_clang_that_has_its_fuzzer(self):
        self.plant_tools()
        self.plant_script("clang++", "exit 1")
        _, output, calls = self.setup_sh("--checks")
        self.assertEqual(calls[1:], ["install -y -qq --no-install-recommends clang libclang-rt-dev"], output)
        self.plant_script("clang++", "exit 0")
        _, output, calls = self.setup_sh("--checks")
        self.assertEqual(len(calls), 2, output)

    def test_coverage_needs_a_gcovr_that_sums_up_as_json(self):
        self.plant_tools()
        self.plant_script("gcovr", "echo gcovr 4.2")
        _, output, calls = self.setup_sh("--coverage")
        self.assertEqual(calls[1:], ["install -y -qq --no-install-recommends gcovr"], output)
        self.plant_script("gcovr", "echo gcovr 5.2")
        _, output, calls = self.setup_sh("--coverage")
        self.assertEqual(len(calls), 2, output)

    def test_no_apt_get(self):
        self.plant_tools("ninja", "ccache")
        (self.bin / "apt-get").unlink()
        status, output, _ = self.setup_sh()
        self.assertEqual(status, 2, output)
        self.assertIn("no apt-get", output)
        self.assertIn("ccache ninja-build", output)

    def test_goes_on_without_an_optional_tool(self):
        self.plant_tools("ccache")
        for apt_get in ("exit 100", None):
            (self.bin / "apt-get").unlink()
            if apt_get:
                self.plant_script("apt-get", apt_get)
            status, output, _ = self.setup_sh()
            self.assertEqual(status, 0, output)
            self.assertIn("without ccache", output)
            (self.folder / ".cache/qdiff/not-installed").unlink(missing_ok=True)

    def test_a_refused_optional_tool_is_not_asked_for_each_time(self):
        self.plant_tools("ccache")
        self.plant_script("apt-get", f'echo "$@" >>"{self.calls}"; exit 100')
        for _ in range(3):
            self.assertEqual(self.setup_sh()[0], 0)
        self.assertEqual(self.calls.read_text(), "update -qq\n")
        (self.bin / "ninja").unlink()  # another one is missing: asked again
        self.assertEqual(self.setup_sh()[0], 2)

    def test_no_install_wanted(self):
        self.plant_tools("ninja")
        status, output, calls = self.setup_sh(QDIFF_NO_INSTALL="1")
        self.assertEqual((status, calls), (2, []), output)
        self.assertIn("ninja-build", output)

    def test_apt_get_fails(self):
        self.plant_tools("ninja")
        self.plant_script("apt-get", "echo 'Unable to locate package' >&2; exit 100")
        status, output, _ = self.setup_sh()
        self.assertEqual(status, 2, output)
        self.assertIn("Unable to locate package", output)
        self.assertIn("status 100", output)

    def test_unknown_option(self):
        self.plant_tools()
        self.assertEqual(self.setup_sh("--chekcs")[0], 2)


class LibTorch(PlantedMachine):
    def setUp(self):
        super().setUp()
        self.plant_tools()

    def test_given_folder_without_torch(self):
        status, output, _ = self.setup_sh(QDIFF_TORCH_DIR=str(self.folder))
        self.assertEqual(status, 2, output)
        self.assertIn("QDIFF_TORCH_DIR", output)

    def test_given_folder_of_another_version(self):
        other = self.plant_torch(self.folder / "other", version="2.10.0")
        self.assertEqual(self.setup_sh(QDIFF_TORCH_DIR=str(other))[0], 2)

    def test_torch_for_cuda_without_the_cuda_runtime(self):
        torch = self.plant_torch(self.folder / "site-packages" / "torch")
        (torch / "version.py").write_text(f"__version__ = '{VERSION}+cu130'\ncuda: Optional[str] = '13.0'\n")
        toolkits = Path("/usr/local")
        if not [*toolkits.glob("cuda*/lib64/libcupti.so.13"), *toolkits.glob("cuda*/extras/CUPTI/lib64/libcupti.so.13")]:
            self.assertEqual(self.setup_sh(QDIFF_TORCH_DIR=str(torch))[0], 2)
        libraries = self.folder / "site-packages" / "nvidia" / "cu13" / "lib"
        libraries.mkdir(parents=True)
        for name in ("libcudart.so.13", "libcupti.so.13"):
            (libraries / name).write_text("")
        self.assertEqual(self.setup_sh(QDIFF_TORCH_DIR=str(torch))[0], 0)

    def plant_cache(self, pins):
        environment = self.folder / "cache" / f"libtorch-{VERSION}"
        torch = self.plant_torch(environment / "lib" / "python3.11" / "site-packages" / "torch")
        (environment / "complete").write_text(pins + "\n")
        return torch

    def test_complete_cache_is_used(self):
        torch = self.plant_cache(hashlib.sha256(PINS.read_bytes()).hexdigest())
        status, output, calls = self.setup_sh(QDIFF_TORCH_DIR="", QDIFF_CACHE=str(self.folder / "cache"))
        self.assertEqual((status, calls), (0, []), output)
        self.assertIn(str(torch), output)

    def test_cache_of_other_pins_is_not_used(self):
        torch = self.plant_cache("0" * 64)
        status, output, _ = self.setup_sh(QDIFF_TORCH_DIR="", QDIFF_CACHE=str(self.folder / "cache"),
                                          QDIFF_NO_INSTALL="1")
        self.assertNotIn(str(torch), output)  # a Python of this machine may bring a torch of its own: then 0
        self.assertIn(status, (0, 2), output)


if __name__ == "__main__":
    program = unittest.main(exit=False)
    nothing_ran = len(program.result.skipped) == program.result.testsRun
    sys.exit(SKIPPED if nothing_ran else not program.result.wasSuccessful())
