#!/usr/bin/env python3
"""The drivers of scripts/cluster/, with a stand-in for the scheduler and the real qdiff.

    cluster_test.py QDIFF [-v] [name of a test]
"""
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CLUSTER = ROOT / "scripts/cluster"
QDIFF = None  # set at the end

# Does what sbatch would, at once: each task of an array, or the job that depends on it. LOST is a task whose node is lost.
SBATCH = r"""#!/usr/bin/env bash
set -u
tasks=none
for word in "$@"; do
  case "$word" in
    --array=1-*) tasks="${word#--array=1-}"; shift ;;
    --*) shift ;;
    *) break ;;
  esac
done
echo "$(date +%N)" >>sbatch.log
if [[ "$tasks" == none ]]; then "$@" >merge.out 2>&1; echo "$?" >merge.status; echo 2; exit 0; fi
for ((i = 1; i <= tasks; ++i)); do
  [[ "${LOST:-}" == "$i" ]] || SLURM_ARRAY_TASK_ID="$i" "$@" || exit 1
done >tasks.out 2>&1
echo 1
"""

SHARD_VARIABLES = ("SLURM_", "CI_NODE_", "JOB_COMPLETION_", "BUILDKITE_", "TEST_", "GITHUB_", "QDIFF_SHARDS")


def without_times(text):
    return re.sub(r'("seconds": ?|time=")[0-9.e+-]+', r"\1", text)


class Cluster(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        sbatch = self.folder / "bin/sbatch"
        sbatch.parent.mkdir()
        sbatch.write_text(SBATCH)
        sbatch.chmod(0o755)
        for number in range(3):
            case = {"format": "qdiff-case", "version": 1, "id": f"case-{number}", "title": "One step", "hypothesis": None,
                    "stresses": "Drivers.", "model": "synthetic:toy-d64,layers=1", "batch": 1, "left_padding": [0], "capacity": 4,
                    "seed": number, "logits": "all", "steps": [{"phase": "prefill", "tokens": 3}]}
            (self.folder / f"case-{number}.json").write_text(json.dumps(case))
        suite = {"format": "qdiff-suite", "version": 1, "cases": [f"case-{number}.json" for number in range(3)]}
        (self.folder / "suite.json").write_text(json.dumps(suite))

    def run_in(self, *command, **variables):
        environment = {k: v for k, v in os.environ.items() if not k.startswith(SHARD_VARIABLES)}
        environment |= {"PATH": f"{self.folder}/bin:{os.environ['PATH']}", "QDIFF": QDIFF, **variables}
        return subprocess.run([str(word) for word in command], cwd=self.folder, env=environment, capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, check=False)

    def report(self, folder):
        return without_times((self.folder / folder / "report.json").read_text())

    # More shards than units: some have none, and the merge takes them as they are.
    def test_a_slurm_array_merges_to_the_report_of_one_machine(self):
        done = self.run_in(CLUSTER / "slurm.sh", "suite.json", "4", "out", "--mem=1G")
        self.assertEqual((done.returncode, done.stdout.strip()), (0, "2"), done.stderr)
        self.assertEqual((self.folder / "merge.status").read_text().strip(), "0", (self.folder / "merge.out").read_text())
        single = self.run_in(QDIFF, "run", "--suite", "suite.json", "--out", "single")
        self.assertEqual(single.returncode, 0, single.stderr)
        self.assertEqual(self.report("out/report"), self.report("single"))

    def test_a_lost_task_is_named_and_the_same_command_goes_on(self):
        done = self.run_in(CLUSTER / "slurm.sh", "suite.json", "3", "out", LOST="2")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual((self.folder / "merge.status").read_text().strip(), "125")
        output = (self.folder / "merge.out").read_text()
        self.assertIn("no shard has begun in this folder: out/shard-2; 1 of 3 units has no result: case-1", output)
        kept = {path: path.stat().st_mtime_ns for path in (self.folder / "out").glob("shard-*/units/*.json")}
        self.assertEqual(len(kept), 2)
        self.run_in(CLUSTER / "slurm.sh", "suite.json", "3", "out")
        self.assertEqual((self.folder / "merge.status").read_text().strip(), "0")
        self.assertEqual({path: path.stat().st_mtime_ns for path in kept}, kept)

    def test_bad_usage_submits_nothing(self):
        for arguments in [[], ["suite.json", "8"], ["suite.json", "none", "out"], ["suite.json", "0", "out"]]:
            self.assertEqual(self.run_in(CLUSTER / "slurm.sh", *arguments).returncode, 2)
        self.assertFalse((self.folder / "sbatch.log").exists())

    @unittest.skipIf(shutil.which("snakemake") is None, "there is no snakemake (PyPI)")
    def test_snakemake_merges_to_the_report_of_one_machine(self):
        command = ["snakemake", "--snakefile", CLUSTER / "Snakefile", "--cores", "2", "--quiet", "all", "--config",
                   "suite=suite.json", "shards=2", f"qdiff={QDIFF}"]
        done = self.run_in(*command)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.run_in(QDIFF, "run", "--suite", "suite.json", "--out", "single")
        self.assertEqual(self.report("qdiff-out/report"), self.report("single"))

    @unittest.skipIf(importlib.util.find_spec("ruamel") is None, "there is no ruamel.yaml (PyPI's check-jsonschema)")
    def test_numbers_that_stand_twice_are_the_same(self):
        from ruamel.yaml import YAML
        github = YAML(typ="safe").load((CLUSTER / "github.yml").read_text())
        shards = github["jobs"]["shard"]["strategy"]["matrix"]["shard"]
        self.assertEqual(shards, list(range(1, len(shards) + 1)))
        self.assertIn(f"${{{{ matrix.shard }}}}/{len(shards)} ", github["jobs"]["shard"]["steps"][1]["run"])
        job, merge = YAML(typ="safe").load_all((CLUSTER / "kubernetes.yml").read_text())
        completions = job["spec"]["completions"]
        [container] = job["spec"]["template"]["spec"]["containers"]
        self.assertEqual(container["env"], [{"name": "QDIFF_SHARDS", "value": str(completions)}])
        [container] = merge["spec"]["template"]["spec"]["containers"]
        self.assertIn(f"-ge {completions} ]", container["command"][-1])


if __name__ == "__main__":
    QDIFF = os.path.abspath(sys.argv.pop(1))
    unittest.main()
