#!/usr/bin/env python3
"""gpu-check.sh and bench.sh with stand-ins for the GPU, CMake and the programs: what they say of failures and of what
could not be run.

    gpu_scripts_test.py [-v] [name of a test]
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent
PASS = "#!/bin/sh\nexit 0\n"


class StandIns(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        (self.root / "scripts").mkdir()
        for name in ("gpu-check.sh", "bench.sh"):
            shutil.copy(SCRIPTS / name, self.root / "scripts")
        for name in ("nvidia-smi", "cmake", "nproc"):
            self.program(f"bin/{name}", PASS)
        # compute-sanitizer finds an error in the controls alone.
        self.program("bin/compute-sanitizer", '#!/bin/sh\ncase "$*" in *controls*) exit 9;; esac\nexit 0\n')
        self.with_torch(False)

    def program(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def with_torch(self, there):
        self.program("bin/python3", '#!/bin/sh\ncase "$2" in "import torch"*) '
                     f'exit {0 if there else 1};; esac\nexec {sys.executable} "$@"\n')

    def run_script(self, name, *arguments):
        environment = {**os.environ, "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}"}
        return subprocess.run(["bash", str(self.root / "scripts" / name), *arguments, "--out",
                               str(self.root / "out.json"), "--build", str(self.root / "build")], env=environment,
                              cwd=self.root, capture_output=True, text=True, check=False)

    def results(self):
        return json.loads((self.root / "out.json").read_text())


class GpuCheck(StandIns):
    def setUp(self):
        super().setUp()
        for name in ("cuda_engine_tests", "kv_cache_layout_cuda_test", "cuda_engine_bench"):
            self.program(f"build/optimized/cuda/{name}", PASS)

    def qdiff(self, variant):
        """A judge that diverges under --inject, and names `variant`."""
        report = json.dumps({"variant": variant, "blind_variants": [{"variant": "H05.modulo"}]})
        self.program("build/qdiff", f"""#!/bin/sh
status=0
for word; do
  case "$previous" in
    --inject) status=1; fault="$word";;
    --out) out="$word";;
  esac
  previous="$word"
done
mkdir -p "$out/hypotheses"
printf '%s' '{report}' | sed "s/INJECTED/$fault/" >"$out/hypotheses/H05.json"
exit $status
""")

    def test_without_torch_nothing_is_judged_and_it_says_so(self):
        done = self.run_script("gpu-check.sh")
        self.assertEqual(done.returncode, 125, done.stdout + done.stderr)
        results = self.results()
        self.assertFalse(results["passed"])
        skipped = {check["name"]: check["tail"] for check in results["checks"] if check["status"] == "skipped"}
        self.assertEqual(len(skipped), 9)
        self.assertIn("PyTorch", skipped["named_H05.modulo"][0])
        self.assertEqual({check["status"] for check in results["checks"]}, {"passed", "skipped"})

    def test_a_fault_is_named_by_the_variant_alone(self):
        self.with_torch(True)
        self.qdiff("INJECTED")
        done = self.run_script("gpu-check.sh")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertTrue(self.results()["passed"])
        self.qdiff("H05.head_zero")  # blind_variants lists H05.modulo
        done = self.run_script("gpu-check.sh")
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        failed = [check["name"] for check in self.results()["checks"] if check["status"] == "failed"]
        self.assertEqual(failed, ["named_H05.modulo", "named_H05.divide_by_kv", "named_H05.decode_only"])


class Bench(StandIns):
    def test_a_failing_benchmark_is_no_success(self):
        for status, ended in ((0, 0), (3, 1)):
            self.program("build/optimized/cuda/cuda_engine_bench",
                         f"#!/bin/sh\necho '{{}}'\n[ $1 = 0.5b ] || exit {status}\n")
            done = self.run_script("bench.sh", "--no-peers")
            self.assertEqual(done.returncode, ended, done.stderr)
            self.assertEqual(len(self.results()["results"]), 2)
            self.assertEqual("bench: failed" in done.stderr, status != 0)


if __name__ == "__main__":
    unittest.main()
