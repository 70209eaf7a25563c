"""Runs the qdiff executable for the tests of this folder, and makes the small inputs that they need."""
import json
import os
import pathlib
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(__file__).resolve().parents[3]
QDIFF = None  # set by main()

MATCH, DIVERGED, BAD_INPUT, CANNOT_JUDGE = 0, 1, 2, 125
SCHEDULERS = ("SLURM_", "CI_NODE_", "JOB_COMPLETION_", "BUILDKITE_", "TEST_")  # variables that say which shard this is
MODEL = "synthetic:toy-d64,layers=2"  # K = 3, so that every wrong head map differs from the right one


def case(**changes):
    document = {
        "format": "qdiff-case", "version": 1, "id": "tiny", "title": "Two steps", "hypothesis": None,
        "stresses": "The command line.", "model": MODEL, "batch": 1, "left_padding": [0], "capacity": 8, "seed": 1,
        "logits": "all", "steps": [{"phase": "prefill", "tokens": 5}, {"phase": "decode", "tokens": 1}],
    }
    document.update(changes)
    return document


def write_case(path, **changes):
    path.write_text(json.dumps(case(**changes)))
    return path


def small_files_alone():
    """For a process about to start: no file that it writes may be larger than 1 KiB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))


def tensor_names(path):
    """Of a safetensors file."""
    raw = path.read_bytes()
    size, = struct.unpack("<Q", raw[:8])
    return [name for name in json.loads(raw[8:8 + size]) if name != "__metadata__"]


def drop_tensor(path, name):
    """Takes one tensor out of a safetensors file, which stays well-formed."""
    raw = path.read_bytes()
    size, = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + size])
    begin, end = header.pop(name)["data_offsets"]
    data = raw[8 + size:]
    data = data[:begin] + data[end:]
    for key, entry in header.items():
        if key != "__metadata__" and entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [offset - (end - begin) for offset in entry["data_offsets"]]
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


class CommandLineTest(unittest.TestCase):
    """Each test has a folder of its own, which is also the working directory of what it runs."""

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="qdiff-cli-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.case = write_case(self.folder / "tiny.json")

    def qdiff(self, *arguments, **options):
        # What GitHub Actions is told stays in the tests, wherever they run, and each test runs all that it asks for.
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("GITHUB_", *SCHEDULERS))}
        options = {"env": environment, "cwd": self.folder, "stdin": subprocess.DEVNULL, "capture_output": True, "timeout": 300, **options}
        return subprocess.run([QDIFF, *map(str, arguments)], check=False, **options)

    def refused(self, *arguments, status=BAD_INPUT, says=()):
        """The command ends with `status`, one clean line on standard error, and nothing on standard output."""
        result = self.qdiff(*arguments)
        error = result.stderr.decode()
        self.assertEqual(result.returncode, status, (arguments, error))
        self.assertEqual(result.stdout, b"", arguments)
        self.assertRegex(error, r"\Aqdiff: [^\n]+\n\Z", arguments)
        self.assertNotIn("\x1b", error)
        self.assertNotIn("internal error", error)
        for words in [says] if isinstance(says, str) else says:
            self.assertIn(words, error)
        return error

    def copy_checkpoint(self, name="tied-float16"):
        target = self.folder / name
        shutil.copytree(SOURCE / "harness/model/tests/data" / name, target)
        for path in [target, *target.iterdir()]:
            path.chmod(path.stat().st_mode | 0o200)
        return target


def main():
    global QDIFF
    QDIFF = os.path.abspath(sys.argv.pop(1))
    os.environ["QDIFF_PROGRESS_SECONDS"] = "1e9"  # a slow machine does not change what is printed
    # The tests import this module by its name, and here it runs as __main__.
    sys.modules["driver"] = sys.modules["__main__"]
    pattern = sys.argv.pop(1)
    suite = unittest.defaultTestLoader.discover(str(pathlib.Path(__file__).parent), pattern=pattern)
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    sys.exit(0 if result.testsRun and result.wasSuccessful() else 1)


if __name__ == "__main__":
    main()
