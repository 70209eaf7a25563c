#!/usr/bin/env python3
"""gpu-check.sh and bench.sh with stand-ins for the GPU, CMake and the programs: what they say of failures and of what
could not be run.

    gpu_scripts_test.py [-v] [name of a test]
"""
import itertools
import json
import math
import os
import shutil
import struct
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
        for name in ("gpu-check.sh", "gpu_grid.py", "gpu_planted.py", "bench.sh", "bench_rounds.py", "bench_shapes.py",
                     "bench_table.py"):
            shutil.copy(SCRIPTS / name, self.root / "scripts")
        for name in ("cmake", "nproc"):
            self.program(f"bin/{name}", PASS)
        self.gpu_memory(81559)
        # compute-sanitizer finds an error in the controls alone.
        self.program("bin/compute-sanitizer", '#!/bin/sh\ncase "$*" in *controls*) exit 9;; esac\nexit 0\n')
        self.with_torch(False)

    def program(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def gpu_memory(self, mebibytes):
        self.program("bin/nvidia-smi", f"#!/bin/sh\necho {mebibytes}\n")

    def with_torch(self, there):
        self.program("bin/python3", '#!/bin/sh\ncase "$2" in "import torch"*) '
                     f'exit {0 if there else 1};; esac\nexec {sys.executable} "$@"\n')

    def run_script(self, name, *arguments, **variables):
        environment = {**os.environ, **variables, "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}"}
        return subprocess.run(["bash", str(self.root / "scripts" / name), *arguments, "--out",
                               str(self.root / "out.json"), "--build", str(self.root / "build")], env=environment,
                              cwd=self.root, capture_output=True, text=True, check=False)

    def says_what_it_takes(self, name, *options):
        done = self.run_script(name, "--help")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        for option in options:
            self.assertIn(option, done.stdout)
        self.assertFalse((self.root / "out.json").exists())

    def results(self):
        return json.loads((self.root / "out.json").read_text())


def trial(fault, dtype="bfloat16", miss=None, detectable=True):
    return {"fault": fault, "dtype": dtype, "miss": miss, "detectable": detectable}


EVERY_FAULT = [trial(f"H{number:02}.{name}") for number in range(1, 11) for name in ("a", "b=2", "c@1")]
MISSED = "named H01.b"


class GpuCheck(StandIns):
    def setUp(self):
        super().setUp()
        for name in ("optimized/cuda/cuda_engine_tests", "optimized/cuda/kv_cache_layout_cuda_test",
                     "reference/reference_gpu_tests"):
            self.program(f"build/{name}", PASS)
        self.program("build/optimized/cuda/cuda_engine_bench", "#!/bin/sh\necho '{\"what\": \"decode\"}'\n")

    def qdiff(self, trials, matches=True):
        """A judge whose selftest has these trials, and whose runs match or not."""
        (self.root / "trials.json").write_text(json.dumps({"trials": trials}))
        self.program("build/qdiff", f"""#!/bin/sh
for word; do
  [ "$previous" = --out ] && out="$word"
  previous="$word"
done
[ "$1" = selftest ] || exit {0 if matches else 1}
mkdir -p "$out"
cp {self.root}/trials.json "$out/selftest.json"
""")

    def failed(self):
        return [check["name"] for check in self.results()["checks"] if check["status"] == "failed"]

    def test_help(self):
        self.says_what_it_takes("gpu-check.sh", "--full N", "--out FILE", "--build DIR")

    def test_without_torch_nothing_is_judged_and_it_says_so(self):
        done = self.run_script("gpu-check.sh")
        self.assertEqual(done.returncode, 125, done.stdout + done.stderr)
        results = self.results()
        self.assertFalse(results["passed"])
        skipped = {check["name"]: check["tail"] for check in results["checks"] if check["status"] == "skipped"}
        self.assertEqual(set(skipped), {"reference_on_gpu", "judged_bfloat16", "judged_float16", "selftest",
                                        "planted_faults", "grid"})
        self.assertIn("PyTorch", skipped["selftest"][0])
        self.assertEqual({check["status"] for check in results["checks"]}, {"passed", "skipped"})

    def test_everything(self):
        self.with_torch(True)
        self.qdiff(EVERY_FAULT)
        done = self.run_script("gpu-check.sh")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        results = self.results()
        self.assertTrue(results["passed"])
        self.assertEqual(len(results["planted"]), 30)
        self.assertEqual(len(results["bench"]), 2)
        names = {check["name"] for check in results["checks"]}
        self.assertEqual(len([name for name in names if name.startswith("grid_")]), 13)  # the cases, and 12 runs
        for tool in ("memcheck", "racecheck", "initcheck", "synccheck"):
            self.assertLessEqual({f"sanitizer_{tool}", f"control_{tool}"}, names)

    def test_planted_faults_that_were_missed_or_are_too_few(self):
        self.with_torch(True)
        for trials, complaint in (
                (EVERY_FAULT + [trial("H05.d", miss=MISSED)], MISSED),
                ([one for one in EVERY_FAULT if one["fault"] != "H07.a"], "H07: 2 faults were found"),
                (EVERY_FAULT + [trial("H06.fp16", detectable=False)], "H06.fp16: no case shows it in any type")):
            self.qdiff(trials)
            done = self.run_script("gpu-check.sh")
            self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
            self.assertEqual(self.failed(), ["planted_faults"])
            self.assertIn(complaint, done.stdout)
        self.qdiff(EVERY_FAULT + [trial("H06.fp16", detectable=False), trial("H06.fp16", dtype="float32")])
        self.assertEqual(self.run_script("gpu-check.sh").returncode, 0)

    def test_a_part_of_the_whole_grid(self):
        self.with_torch(True)
        self.qdiff([])
        done = self.run_script("gpu-check.sh", "--full", "2")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("part 2 of 4", done.stdout)
        self.assertEqual(self.results()["part"], 2)
        names = {check["name"] for check in self.results()["checks"]}
        self.assertEqual({name for name in names if not name.startswith("grid_")}, {"configure", "build"})
        self.qdiff([], matches=False)
        self.assertEqual(self.run_script("gpu-check.sh", "--full", "3").returncode, 1)
        self.assertNotIn("grid_cases", self.failed())
        for part in ("0", "5", "x"):
            done = self.run_script("gpu-check.sh", "--full", part)
            self.assertEqual(done.returncode, 2)
            self.assertIn("from 1 to 4", done.stderr)

    def test_runs_of_the_grid_share_the_memory_of_the_gpu(self):
        self.with_torch(True)
        self.qdiff([])
        judge = (self.root / "build/qdiff").read_text()
        alone = f'#!/bin/sh\nmkdir {self.root}/busy || exit 1\nsleep 0.05\nrmdir {self.root}/busy\n'
        self.program("build/qdiff", judge.replace("#!/bin/sh\n", alone, 1))
        self.gpu_memory(10240)  # room for the smallest run alone
        done = self.run_script("gpu-check.sh", "--full", "1")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.gpu_memory(81559)
        self.assertEqual(self.run_script("gpu-check.sh", "--full", "1").returncode, 1)

    def test_the_grid_leaves_nothing_out_and_its_pairwise_part_no_pair(self):
        def cells(*arguments):
            done = subprocess.run([sys.executable, str(SCRIPTS / "gpu_grid.py"), str(self.root / "grid"), *arguments],
                                  capture_output=True, text=True, check=True)
            found = []
            for line in done.stdout.splitlines():
                _, _, model, dtype, _, *files = line.split("\t")
                size, profile = (next(word for word in model.split(",") if key in word) for key in ("qwen2.5", "profile"))
                for file in files:
                    case = json.loads(Path(file).read_text())
                    if case["id"] == "companion":
                        continue
                    found.append((case["steps"][0]["tokens"], case["batch"], size, profile, dtype))
            return found

        pairwise = cells()
        everything = pairwise + [cell for part in "1234" for cell in cells("--rest", f"{part}/4")]
        self.assertEqual(len(everything), 6 * 2 * 2 * 2 * 2)
        self.assertEqual(len(set(everything)), len(everything))
        for a, b in itertools.combinations(range(5), 2):
            self.assertEqual({(cell[a], cell[b]) for cell in pairwise}, {(cell[a], cell[b]) for cell in everything})


class Bench(StandIns):
    def engine(self, status=0):
        self.program("build/optimized/cuda/cuda_engine_bench", f"""#!/bin/sh
echo '{{"what": "prefill", "prompt": 512, "us_median": 50}}'
echo '{{"what": "decode", "batch": 8, "context": 1024, "us_median": 4, "percent_of_read": 61.5}}'
[ $1 = 0.5b ] || exit {status}
""")

    def of(self, what):
        return [result for result in self.results()["results"] if result["what"] == what]

    def test_help(self):
        self.says_what_it_takes("bench.sh", "--rounds", "--prompts", "--batches", "--no-peers", "--no-judging")

    def test_a_failing_benchmark_is_no_success(self):
        for status, ended in ((0, 0), (3, 1)):
            self.engine(status)
            done = self.run_script("bench.sh", "--no-peers", "--rounds", "2")
            self.assertEqual(done.returncode, ended, done.stderr)
            self.assertEqual(len([result for result in self.of("prefill") if "us_median" in result]), 4)
            self.assertEqual("bench: failed" in done.stderr, status != 0)

    def test_judging_is_measured_where_there_is_a_reference(self):
        self.engine()
        self.program("build/qdiff", '#!/bin/sh\ncase "$*" in *end-to-end*0.5b*cuda*) exit 0;; esac\necho late >&2\nexit 1\n')
        done = self.run_script("bench.sh", "--no-peers", "--rounds", "2")
        self.assertIn("judging is not measured", done.stderr)
        self.assertEqual((done.returncode, self.of("judging")), (0, []))
        self.with_torch(True)
        self.assertEqual(self.run_script("bench.sh", "--no-peers", "--no-judging").returncode, 0)
        self.assertEqual(self.of("judging"), [])
        done = self.run_script("bench.sh", "--no-peers", "--rounds", "2")
        self.assertEqual(done.returncode, 1, done.stderr)
        judged = [result for result in self.of("judging") if "us_median" in result]
        self.assertEqual([(result["model"], result["case"]) for result in judged], [("0.5b", "end-to-end")] * 2)
        self.assertEqual({result["error"] for result in self.of("judging") if "error" in result}, {"status 1: late"})
        self.assertRegex(done.stdout, r"(?m)^0\.5b +judging end-to-end +[\d.]+ +[\d.]+\.\.[\d.]+$")

    def test_engine_and_llama_bench_take_turns(self):
        self.engine()
        # As llama-bench -o jsonl writes them: samples in nanoseconds, of a prompt or of n_gen tokens behind n_depth.
        self.program("bin/llama-bench", """#!/bin/sh
case "$*" in
  *"-n 0"*) echo '{"n_prompt": 512, "n_gen": 0, "n_depth": 0, "samples_ns": [99000, 100000, 101000]}' ;;
  *) echo '{"n_prompt": 0, "n_gen": 10, "n_depth": 1024, "samples_ns": [20000, 20000, 20000]}' ;;
esac
""")
        models = self.root / "models"
        models.mkdir()
        for name in ("0.5b", "7b"):
            (models / f"{name}.gguf").write_text("stand-in")
        done = self.run_script("bench.sh", "--rounds", "2", LLAMA_MODELS=str(models))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("transformers", done.stderr)
        turns = [(result["model"], result["round"], result["what"]) for result in self.results()["results"]
                 if result["what"] != "summary"]
        one_round = ["prefill", "decode", "llama_prefill", "llama_decode"]
        self.assertEqual(turns, [(model, number, what) for model in ("0.5b", "7b") for number in (1, 2)
                                 for what in one_round])
        self.assertEqual({result["us_median"] for result in self.of("llama_prefill")}, {100.0})
        self.assertEqual({result["us_median"] for result in self.of("llama_decode")}, {2.0})
        summary = next(result for result in self.of("summary") if result["of"] == "llama_prefill")
        self.assertEqual((summary["engine_takes"], summary["rounds"], summary["us_slowest"]), (0.5, 2, 100.0))
        # One row of llama.cpp's is no peer of eight rows of the engine's.
        table = [" ".join(line.split()) for line in done.stdout.splitlines()]
        self.assertIn("7b prefill 512 50.0 50.0..50.0 10240000.0 llama 0.500", table)
        self.assertIn("7b decode @1024, 8 rows 4.0 4.0..4.0 61.5 2000000.0", table)
        self.assertNotIn('"what"', done.stdout)

    def test_random_weights_for_llama_bench(self):
        """The file's own account of itself: its tensors fill it to the end."""
        code = ("import sys; sys.path.insert(0, sys.argv[1]); import random_gguf, pathlib; "
                "random_gguf.write(dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, "
                "num_key_value_heads=2, intermediate_size=96, vocab_size=50, tie_word_embeddings=False), "
                "pathlib.Path(sys.argv[2]))")
        path = self.root / "random.gguf"
        subprocess.run([sys.executable, "-c", code, str(SCRIPTS), str(path)], check=True)
        data = path.read_bytes()
        magic, version, num_tensors, num_keys = struct.unpack_from("<4sIQQ", data)
        self.assertEqual((magic, version, num_tensors, num_keys), (b"GGUF", 3, 3 + 2 * 12, 11))
        at = 24

        def take(layout):
            nonlocal at
            values = struct.unpack_from("<" + layout, data, at)
            at += struct.calcsize("<" + layout)
            return values

        def text():
            nonlocal at
            length, = take("Q")
            at += length
            return data[at - length:at].decode()

        for _ in range(num_keys):
            text()
            kind, = take("I")
            text() if kind == 8 else take("I")
        ends = []
        for _ in range(num_tensors):
            text()
            dims, = take("I")
            size = take(f"{dims}Q")
            kind, offset = take("IQ")
            ends.append(offset + math.prod(size) * {0: 4, 30: 2}[kind])
        self.assertEqual((at + 31) // 32 * 32 + (max(ends) + 31) // 32 * 32, len(data))


if __name__ == "__main__":
    unittest.main()
