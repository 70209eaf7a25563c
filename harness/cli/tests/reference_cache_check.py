"""What the reference computes is kept: the second run reads it, and nothing else of it changes."""
import json
import os
import re

import driver
from driver import DIVERGED, MATCH, MODEL, SCHEDULERS, CommandLineTest, write_case

TIMES = re.compile(r'("seconds": ?|time=")[0-9.e+-]+')
COUNTS = re.compile(r'"reference_values": ?(null|\{[^}]*\})')
COMMAND = re.compile(r'"command": ?"[^"]*"')


class ReferenceCache(CommandLineTest):
    def run_kept(self, *arguments, cache="cache", status=MATCH, warns=None):
        """The reports of a run, times and the counts taken out, and the counts."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("GITHUB_", *SCHEDULERS))}
        if cache is not None:
            environment["QDIFF_REFERENCE_CACHE"] = str(self.folder / cache)
        result = self.qdiff(*arguments, "--out", "report", env=environment)
        self.assertEqual(result.returncode, status, result.stderr)
        if warns is None:
            self.assertEqual(result.stderr, b"")
        else:
            self.assertRegex(result.stderr.decode(), rf"\Aqdiff: warning: [^\n]*{warns}[^\n]*\n\Z")
        counts = json.loads((self.folder / "report/report.json").read_text())["reference_values"]
        reports = {}
        for path in sorted((self.folder / "report").rglob("*")):
            if path.is_file() and path.parent.name != "units" and path.name != "durations.json":
                text = COUNTS.sub("", TIMES.sub("", path.read_text()))
                reports[str(path.relative_to(self.folder))] = text
        if counts is not None:
            said = f"reference {counts['computed']} values? computed, {counts['from_cache']} from the cache"
            self.assertRegex(re.sub(r"\s+", " ", result.stdout.decode()), said)
        return reports, counts

    def assert_kept(self, *arguments, status=MATCH):
        """Without a cache, with an empty one and with a warm one: the same reports."""
        plain, none = self.run_kept(*arguments, cache=None, status=status)
        first, computed = self.run_kept(*arguments, status=status)
        second, read = self.run_kept(*arguments, status=status)
        self.assertIsNone(none)
        self.assertGreater(computed["computed"], 50)
        # What is asked twice to explain a bug is read the second time.
        self.assertEqual(read, {"computed": 0, "from_cache": computed["computed"] + computed["from_cache"]})
        for name in plain:
            self.assertEqual(first[name], plain[name], name)
            self.assertEqual(second[name], plain[name], name)
        return plain

    def files(self):
        return sorted(path for path in (self.folder / "cache").rglob("*") if path.is_file())

    def test_a_match_is_judged_without_computing_anything(self):
        self.assert_kept("run", self.case, "H05-gqa")

    def test_so_is_a_bug_with_all_that_explains_it(self):
        reports = self.assert_kept("run", self.case, "--inject", "H05.modulo", status=DIVERGED)
        self.assertIn("H05.modulo", reports["report/report.json"])

    def test_so_is_a_trace_right_or_wrong(self):
        for trace, more, status in [("right", [], MATCH), ("wrong", ["--inject", "H03.theta"], DIVERGED)]:
            recorded = self.qdiff("record", "--model", MODEL, "--case", self.case, "--engine", "cpu", "--trace", trace, *more)
            self.assertEqual(recorded.returncode, MATCH, recorded.stderr)
            self.assert_kept("diagnose", "--model", MODEL, "--trace", trace, status=status)

    def test_another_model_type_or_case_reads_nothing_of_it(self):
        self.run_kept("run", self.case)
        write_case(self.folder / "other.json", seed=2)
        for other in [["--dtype", "float32"], ["--model", MODEL + ",seed=1"]]:
            _, counts = self.run_kept("run", self.case, *other)
            self.assertEqual(counts["from_cache"], 0, other)
        _, counts = self.run_kept("run", "other.json")
        self.assertEqual(counts["from_cache"], 0)

    def test_a_weight_that_changed_is_another_model(self):
        model = self.copy_checkpoint()
        run = ["run", self.case, "--model", model.name]
        self.run_kept(*run)
        _, counts = self.run_kept(*run)
        self.assertEqual(counts["computed"], 0)
        weights = next(model.glob("*.safetensors"))
        raw = bytearray(weights.read_bytes())
        raw[-1] ^= 1
        weights.write_bytes(raw)
        _, counts = self.run_kept(*run)
        self.assertEqual(counts["from_cache"], 0)

    def test_shards_share_it_and_merge_to_the_same(self):
        suite = {"format": "qdiff-suite", "version": 1, "dtypes": ["bfloat16", "float32"], "cases": ["tiny.json"],
                 "models": [{"name": "toy", "path": MODEL}]}
        (self.folder / "suite.json").write_text(json.dumps(suite))
        self.assert_kept("run", "--suite", "suite.json")
        options = {"env": {**os.environ, "QDIFF_REFERENCE_CACHE": str(self.folder / "cache")}}
        for shard in (1, 2):
            out = f"shard-{shard}"
            done = self.qdiff("run", "--suite", "suite.json", "--shard", f"{shard}/2", "--out", out, "--quiet", **options)
            self.assertEqual(done.returncode, MATCH, done.stderr)
            counts = json.loads((self.folder / out / "report.json").read_text())["reference_values"]
            self.assertEqual(counts["computed"], 0)
        merged = self.qdiff("merge", "shard-1", "shard-2", "--out", "merged", "--quiet")
        self.assertEqual(merged.returncode, MATCH, merged.stderr)
        merged, whole = (COUNTS.sub("", TIMES.sub("", (self.folder / folder / "report.json").read_text()))
                         for folder in ("merged", "report"))
        self.assertEqual(COMMAND.sub("", merged), COMMAND.sub("", whole))

    def test_damaged_files_are_computed_anew_and_said(self):
        plain, _ = self.run_kept("run", self.case, cache=None)
        _, first = self.run_kept("run", self.case)
        for path in self.files():
            raw = bytearray(path.read_bytes())
            raw[len(raw) // 2] ^= 0x10
            path.write_bytes(raw)
        again, counts = self.run_kept("run", self.case, warns="damaged")
        self.assertEqual(again, plain)
        self.assertEqual(counts, {"computed": first["computed"], "from_cache": 0})
        _, counts = self.run_kept("run", self.case)
        self.assertEqual(counts["computed"], 0)

    def test_its_size_is_kept(self):
        plain, _ = self.run_kept("run", self.case, cache=None)
        arguments = ["run", self.case, "--reference-cache", "cache", "--reference-cache-size", "40K"]
        result = self.qdiff(*arguments)
        self.assertEqual(result.returncode, MATCH, result.stderr)
        self.assertIn(b"more than may be kept", result.stderr)
        self.assertLessEqual(sum(path.stat().st_size for path in self.files()), 40 * 1024)
        again, counts = self.run_kept("run", self.case, "--reference-cache-size", "40K", warns="more than may be kept")
        self.assertGreater(counts["from_cache"], 0)
        for name in plain:
            self.assertEqual(COMMAND.sub("", again[name]), COMMAND.sub("", plain[name]), name)

    def test_a_file_in_its_place_is_refused(self):
        (self.folder / "taken").write_text("no folder")
        self.refused("run", self.case, "--reference-cache", "taken", says="cannot be made")
        self.refused("run", self.case, "--reference-cache-size", "much", says="--reference-cache-size")


if __name__ == "__main__":
    driver.main()
