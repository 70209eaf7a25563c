"""Runs by units: plan, shards, resume, merge."""
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time

import driver
from driver import BAD_INPUT, CANNOT_JUDGE, DIVERGED, MATCH, CommandLineTest, write_case

MODELS = {"a": "synthetic:toy-d64,layers=1", "b": "synthetic:toy-d64,layers=1,seed=2", "c": "synthetic:toy-mha,layers=1"}
DTYPES = ["float32", "bfloat16", "float16"]
UNITS = [f"{model}/{dtype}/{case}" for model in MODELS for dtype in DTYPES for case in ["tiny", "other"]]


def reports_in(folder):
    """The reports' bytes, the fields that hold times taken out. The results of units and their durations are none."""
    reports = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not name.startswith("units/") and name not in ("plan.json", "durations.json"):
            reports[name] = re.sub(r'("seconds": ?|time=")[0-9.e+-]+', r"\1", path.read_text())
    return reports


def without_times(text):
    return re.sub(rb", [0-9.]+ m?s\n|, [0-9]+ min[^\n]*\n", b"\n", text)


class Units(CommandLineTest):
    def setUp(self):
        super().setUp()
        write_case(self.folder / "other.json", id="other", seed=2, steps=[{"phase": "prefill", "tokens": 3}])
        self.suite = self.write_suite()

    def write_suite(self, name="suite.json", **changes):
        document = {"format": "qdiff-suite", "version": 1, "dtypes": DTYPES, "cases": ["tiny.json", "other.json"],
                    "models": [{"name": name, "path": path} for name, path in MODELS.items()]}
        document.update(changes)
        path = self.folder / name
        path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))
        return path

    def run_suite(self, *arguments, status=MATCH):
        result = self.qdiff("run", "--suite", "suite.json", "--quiet", *arguments)
        self.assertEqual(result.returncode, status, result.stderr)
        return result

    def units_in(self, folder):
        return sorted((self.folder / folder / "units").glob("*.json"))

    def assert_same_reports(self, first, second):
        first, second = reports_in(self.folder / first), reports_in(self.folder / second)
        self.assertEqual(sorted(first), sorted(second))
        self.assertIn("report.json", first)
        for name in first:
            self.assertEqual(first[name], second[name], name)

    # ---- Plans ----

    def test_a_plan_names_every_combination(self):
        listed = self.qdiff("plan", self.suite, "--json")
        self.assertEqual((listed.returncode, listed.stderr), (MATCH, b""))
        plan = json.loads(listed.stdout)
        self.assertEqual([unit["name"] for unit in plan], UNITS)
        self.assertEqual(len({unit["identity"] for unit in plan}), len(UNITS))
        for unit in plan:
            self.assertGreater(unit["seconds"], 0)
            self.assertGreater(unit["bytes"], 1e6)
            self.assertEqual((unit["backend"], unit["mode"], unit["layers"]), ("cpu", "both", ""))
        self.assertEqual(self.qdiff("plan", "--suite", self.suite, "--json").stdout, listed.stdout)
        table = self.qdiff("plan", self.suite).stdout.decode().splitlines()
        self.assertEqual([line.split()[0] for line in table[:-1]], UNITS)
        self.assertTrue(table[-1].startswith("18 units, about "), table[-1])

    def test_a_plan_of_nothing_is_one_of_the_built_in_cases(self):
        plan = json.loads(self.qdiff("plan", "--json").stdout)
        self.assertIn("H05-gqa", [unit["name"] for unit in plan])
        self.assertGreater(len(plan), 15)

    def test_shards_of_a_plan_hold_each_unit_once_and_follow_durations(self):
        seconds = {name: 1.0 for name in UNITS}
        seconds[UNITS[7]] = 17.0
        (self.folder / "d.json").write_text(json.dumps({"format": "qdiff-durations", "version": 1, "seconds": seconds}))
        shards = []
        for i in (1, 2):
            listed = self.qdiff("plan", self.suite, "--json", "--shard", f"{i}/2", "--durations", "d.json")
            shards.append([unit["name"] for unit in json.loads(listed.stdout)])
        self.assertEqual(shards[0], [UNITS[7]])
        self.assertEqual(sorted(shards[0] + shards[1]), sorted(UNITS))

    def test_lockstep_is_split_by_layers(self):
        self.write_suite(modes=["lockstep"], layers_per_unit=2, dtypes=["bfloat16"], cases=["tiny.json"],
                         models=[{"name": "deep", "path": "synthetic:toy-d64,layers=3"}])
        self.run_suite("--out", "split")
        report = json.loads((self.folder / "split/report.json").read_text())
        names = ["deep/bfloat16/tiny/lockstep/layers-0-1", "deep/bfloat16/tiny/lockstep/layers-2-2"]
        self.assertEqual([case["id"] for case in report["cases"]], names)
        judged = {}
        for line in (self.folder / "split/tensors.jsonl").read_text().splitlines():
            tensor = json.loads(line)
            judged.setdefault(tensor["case"], set()).add((tensor["step"], tensor["tensor"]))
        self.assertFalse(judged[names[0]] & judged[names[1]])
        self.write_suite(modes=["lockstep"], dtypes=["bfloat16"], cases=["tiny.json"],
                         models=[{"name": "deep", "path": "synthetic:toy-d64,layers=3"}])
        self.run_suite("--out", "whole")
        whole = {(tensor["step"], tensor["tensor"]) for tensor in
                 map(json.loads, (self.folder / "whole/tensors.jsonl").read_text().splitlines())}
        self.assertEqual(judged[names[0]] | judged[names[1]], whole)

    # ---- Shards, resume, merge ----

    def test_shards_in_any_order_and_killed_merge_to_the_report_of_one_machine(self):
        single = self.qdiff("run", "--suite", "suite.json", "--out", "single")
        self.assertEqual((single.returncode, single.stderr), (MATCH, b""))
        shards = [1, 2, 3, 4]
        random.Random(1).shuffle(shards)
        for i in shards:
            arguments = ["--shard", f"{i}/4", "--out", f"shard-{i}"]
            if i in (2, 3):
                self.kill_between_units(*arguments)
                self.run_suite(*arguments, "--resume")
            else:
                self.run_suite(*arguments)
        merged = self.qdiff("merge", *[f"shard-{i}" for i in shards], "--out", "merged")
        self.assertEqual((merged.returncode, merged.stderr), (MATCH, b""))
        self.assert_same_reports("single", "merged")
        self.assertEqual(without_times(merged.stdout), without_times(single.stdout).replace(b"single", b"merged"))
        report = json.loads((self.folder / "merged/report.json").read_text())
        self.assertEqual([case["id"] for case in report["cases"]], UNITS)
        self.assertEqual({case["dtype"] for case in report["cases"]}, set(DTYPES))
        self.assertEqual(report["command"], "qdiff run --suite suite.json")
        durations = json.loads((self.folder / "merged/durations.json").read_text())["seconds"]
        self.assertEqual(sorted(durations), sorted(UNITS))

        lost = self.units_in("shard-1")[0]
        lost.unlink()
        partial = self.qdiff("merge", *[f"shard-{i}" for i in shards], "--out", "partial")
        self.assertEqual(partial.returncode, CANNOT_JUDGE)
        name = lost.stem.replace(",", "/")
        self.assertEqual(partial.stderr.decode(), f"qdiff: 1 of 18 units has no result: {name}\n")
        never = self.qdiff("merge", *[f"shard-{i}" for i in shards], "shard-5", "--out", "never", "--quiet")
        self.assertEqual(never.returncode, CANNOT_JUDGE)
        self.assertEqual(never.stderr.decode(),
                         f"qdiff: no shard has begun in this folder: shard-5; 1 of 18 units has no result: {name}\n")
        report = json.loads((self.folder / "partial/report.json").read_text())
        self.assertEqual(report["verdict"], "inconclusive")
        self.assertIn(name, report["reason"])
        self.assertEqual(len(report["cases"]), 17)
        self.assertIn("<error", (self.folder / "partial/junit.xml").read_text())

    def kill_between_units(self, *arguments):
        """Starts the run and kills it when its first result is there."""
        folder = self.folder / arguments[-1]
        process = subprocess.Popen([driver.QDIFF, "run", "--suite", "suite.json", "--quiet", *arguments],
                                   cwd=self.folder, stdin=subprocess.DEVNULL)
        while process.poll() is None and not list(folder.glob("units/*.json")):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.assertFalse((folder / "report.json").exists())

    def test_a_killed_run_goes_on_where_it_stood(self):
        self.kill_between_units("--out", "out")
        kept = {path: path.stat().st_mtime_ns for path in self.units_in("out")}
        self.assertTrue(kept)
        self.run_suite("--out", "out", "--resume")
        self.assertEqual(len(self.units_in("out")), len(UNITS))
        for path, changed in kept.items():
            self.assertEqual(path.stat().st_mtime_ns, changed)
        self.run_suite("--out", "again")
        self.assert_same_reports("out", "again")
        # Without --resume nothing is kept.
        self.run_suite("--out", "out")
        self.assertTrue(all(path.stat().st_mtime_ns != changed for path, changed in kept.items()))

    def test_a_planted_bug_is_the_same_finding_by_units(self):
        for out, shard in [("single", "1/1"), ("one", "1/2"), ("two", "2/2")]:
            result = self.qdiff("run", self.case, "other.json", "--inject", "H05.modulo", "--shard", shard, "--out", out,
                                "--quiet")
            self.assertEqual((result.returncode, result.stderr), (DIVERGED, b""))
        result = self.qdiff("merge", "two", "one", "--out", "merged")
        self.assertEqual((result.returncode, result.stderr), (DIVERGED, b""))
        self.assert_same_reports("single", "merged")
        report = json.loads((self.folder / "merged/report.json").read_text())
        self.assertEqual(report["injected"]["fault"], "H05.modulo")
        self.assertGreater(report["injected"]["executions"], 0)
        self.assertEqual(report["explanation"]["variant"], "H05.modulo")
        command = report["first_divergence"]["command"].split()
        self.assertEqual(self.qdiff(*command[1:], "--out", "repeated").returncode, DIVERGED)
        repeated = json.loads((self.folder / "repeated/report.json").read_text())
        self.assertEqual(repeated["first_divergence"]["tensor"], report["first_divergence"]["tensor"])
        self.assertEqual(repeated["first_divergence"]["actual"], report["first_divergence"]["actual"])

    def test_two_engines_share_a_report(self):
        self.write_suite(models=None, backends=["cpu", "reference"], dtypes=["bfloat16"], cases=["tiny.json"])
        self.run_suite("--out", "both")
        report = json.loads((self.folder / "both/report.json").read_text())
        self.assertEqual(report["engine"]["name"], "cpu, reference")
        self.assertEqual([case["engine"] for case in report["cases"]], ["cpu", "reference"])
        self.assertEqual([case["id"] for case in report["cases"]], ["bfloat16/cpu/tiny", "bfloat16/reference/tiny"])
        self.assertEqual({case["model"] for case in report["cases"]}, {report["model"]["argument"]})

    def test_a_merge_takes_baselines(self):
        for i in (1, 2):
            self.qdiff("run", self.case, "other.json", "--inject", "H05.modulo", "--shard", f"{i}/2", "--out", str(i), "--quiet")
        self.assertEqual(self.qdiff("merge", "1", "2", "--out", "base").returncode, DIVERGED)
        known = self.qdiff("merge", "1", "2", "--out", "again", "--baseline", "base")
        self.assertEqual(known.returncode, MATCH, known.stderr)
        next(iter(self.units_in("2"))).unlink()
        partial = self.qdiff("merge", "1", "2", "--out", "partial", "--baseline", "base")
        self.assertEqual(partial.returncode, CANNOT_JUDGE, partial.stderr)

    def test_a_selftest_of_two_machines_is_that_of_one(self):
        novel = ["selftest", "--only", "novel", "--novel", "2", "--pairs", "1", "--spoiled", "2", "--seed", "103", "--quiet"]
        single = self.qdiff(*novel, "--out", "single")
        self.assertEqual(single.stderr, b"")
        for i in (1, 2):
            shard = self.qdiff(*novel, "--shard", f"{i}/2", "--out", f"shard-{i}")
            self.assertEqual((shard.returncode, shard.stderr, shard.stdout), (MATCH, b"", b""))
            self.assertFalse((self.folder / f"shard-{i}/selftest.json").exists())
        self.assertEqual(len(self.units_in("shard-1") + self.units_in("shard-2")), 5)
        lost = self.units_in("shard-2")[0]
        kept = self.units_in("shard-1") + self.units_in("shard-2")[1:]
        times = [path.stat().st_mtime_ns for path in kept]
        lost.unlink()
        self.refused("merge", "shard-1", "shard-2", "--out", "merged", status=CANNOT_JUDGE,
                     says=f"1 of 5 units has no result: {lost.stem.replace(',', '/')}")
        self.qdiff(*novel, "--shard", "2/2", "--out", "shard-2", "--resume")
        self.assertEqual([path.stat().st_mtime_ns for path in kept], times)
        merged = self.qdiff("merge", "shard-1", "shard-2", "--out", "merged", "--quiet")
        self.assertEqual((merged.returncode, merged.stderr), (single.returncode, b""))
        scores = {}
        for out in ["single", "merged"]:
            scores[out] = json.loads((self.folder / out / "selftest.json").read_text())
            del scores[out]["seconds"]
        self.assertEqual(scores["merged"].pop("command"), " ".join(["qdiff", *novel[:-1]]))
        del scores["single"]["command"]
        self.assertEqual(scores["merged"], scores["single"])

    # ---- What does not fit together ----

    def test_units_run_twice_and_contradictions_are_named(self):
        for out in ["one", "two"]:
            self.run_suite("--shard", "1/9", "--out", out)
        name = self.units_in("one")[0].stem.replace(",", "/")
        result = self.qdiff("merge", "one", "two", "--out", "merged", "--quiet")
        self.assertEqual(result.returncode, CANNOT_JUDGE)
        self.assertIn(f"2 units have the same result in two folders: {name}, ".encode(), result.stderr)
        result = self.qdiff("merge", "one", "--rerun", "two", "--out", "merged", "--quiet")
        self.assertNotIn(b"in two folders", result.stderr)
        self.assertIn(b"16 of 18 units have no result", result.stderr)

    def test_damaged_and_foreign_results_are_refused_by_name(self):
        self.run_suite("--shard", "1/9", "--out", "out")
        unit = self.units_in("out")[0]
        whole = unit.read_bytes()
        resume = ["run", "--suite", "suite.json", "--quiet", "--shard", "1/9", "--out", "out", "--resume"]
        for bad in [b"", whole[:len(whole) // 2], whole.replace(b"match", b"natch", 1)]:
            unit.write_bytes(bad)
            self.refused(*resume, says=unit.name)
            self.refused("merge", "out", "--out", "merged", says=unit.name)
        unit.write_bytes(whole)
        (self.folder / "out/units/strange.json").write_bytes(whole)
        self.refused(*resume, says=["strange.json", "does not have"])
        self.refused("merge", "out", "--out", "merged", says=["strange.json", "does not have"])
        (self.folder / "out/units/strange.json").unlink()

        write_case(self.folder / "tiny.json", seed=5)
        write_case(self.folder / "other.json", id="other", seed=5, steps=[{"phase": "prefill", "tokens": 3}])
        self.refused(*resume, says=["another case", ".json"])
        self.run_suite("--shard", "2/9", "--out", "next")
        self.run_suite("--shard", "1/9", "--out", "old")
        write_case(self.folder / "tiny.json", seed=6)
        self.run_suite("--shard", "1/9", "--out", "new")
        self.refused("merge", "old", "new", "--out", "merged", says=["new", "its plan is another one"])
        self.refused("merge", "next", "--out", "next", says="one of the folders that are merged")
        self.refused("merge", self.folder, "--out", "merged", says="plan.json")

    def test_a_result_of_other_weights_is_refused(self):
        model = self.copy_checkpoint("tied-float16")
        self.write_suite(models=[{"name": "m", "path": "tied-float16"}], dtypes=None)
        self.run_suite("--out", "out")
        weights = model / "model.safetensors"
        changed = bytearray(weights.read_bytes())
        changed[-2] ^= 1
        weights.write_bytes(changed)
        self.units_in("out")[0].unlink()
        self.refused("run", "--suite", "suite.json", "--quiet", "--out", "out", "--resume", says="other weights than model")

    def test_paths_of_a_suite_are_its_own(self):
        """Where the suite and the folder lie is in no report: another machine keeps them elsewhere."""
        self.copy_checkpoint("tied-float16")
        self.write_suite(models=[{"name": "m", "path": "tied-float16"}], dtypes=None, cases=["tiny.json"])
        elsewhere = self.folder / "elsewhere"
        elsewhere.mkdir()
        for name in ["suite.json", "tiny.json"]:
            shutil.copy(self.folder / name, elsewhere / name)
        shutil.copytree(self.folder / "tied-float16", elsewhere / "tied-float16")
        self.run_suite("--out", "here")
        result = self.qdiff("run", "--suite", elsewhere / "suite.json", "--quiet", "--out", "there")
        self.assertEqual(result.returncode, MATCH, result.stderr)
        self.assert_same_reports("here", "there")
        for path in (self.folder / "there").rglob("*"):
            if path.is_file():
                self.assertNotIn(str(self.folder), path.read_text(), path)

    # ---- The command line ----

    def test_schedulers_choose_the_shard(self):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("GITHUB_", *driver.SCHEDULERS))}
        result = self.qdiff("run", self.case, "other.json", "--out", "out", env={**clean, "CI_NODE_INDEX": "2", "CI_NODE_TOTAL": "2"})
        self.assertEqual(result.returncode, MATCH)
        self.assertEqual(result.stderr, b"qdiff: shard 2/2, from CI_NODE_INDEX: 1 of 2 units\n")
        self.assertEqual(len(self.units_in("out")), 1)
        both = self.qdiff("run", self.case, "other.json", "--out", "both", "--shard", "1/1",
                          env={**clean, "CI_NODE_INDEX": "2", "CI_NODE_TOTAL": "2"})
        self.assertEqual((both.returncode, both.stderr), (MATCH, b""))
        self.assertEqual(len(self.units_in("both")), 2)
        half = self.qdiff("run", self.case, env={**clean, "JOB_COMPLETION_INDEX": "2"})
        self.assertEqual(half.returncode, BAD_INPUT)
        self.assertIn(b"QDIFF_SHARDS", half.stderr)

    def test_a_shard_without_units_is_no_match(self):
        self.refused("run", self.case, "--shard", "2/2", status=CANNOT_JUDGE, says=["0 of 1 units", "fewer shards"])

    def test_bad_usage(self):
        self.refused("run", self.case, "--shard", "0/2", says="--shard '0/2'")
        self.refused("run", "--suite", "suite.json", self.case, says="instead of cases")
        self.refused("run", "--suite", "suite.json", "--model", "m", says=["--suite and --model", "the suite says"])
        self.refused("run", "--suite", "none.json", says="none.json")
        self.refused("run", self.case, "--resume", "--print-gemms", says=["--resume and --print-gemms"])
        self.refused("plan", "none.json", says="none.json")
        self.refused("plan", "suite.json", "--suite", "other.json", says=["--suite and 'suite.json'", "leave one out"])
        self.refused("merge", "none", says="none: there is no such folder")
        self.refused("merge", says="DIR")
        self.write_suite(cases=["none.json"])
        self.refused("plan", "suite.json", says="none.json")
        self.write_suite(cases=["tiny.json", "./tiny.json"])
        self.refused("plan", "suite.json", says="two units a/float32/tiny")
        self.refused("run", "--suite", "suite.json", "--durations", "suite.json", says="qdiff-durations")
        self.write_suite(modes=["free"], layers_per_unit=1)
        self.refused("plan", "suite.json", says="layers_per_unit")
