"""`kill -9` at random moments: a folder of reports or a trace is the old one or the new one, never a mixture or a half,
and the next run starts clean. QDIFF_KILLS says how many kills (default: a few), QDIFF_KILLS_SEED which moments.
"""
import json
import os
import random
import re
import signal
import subprocess
import time

import driver
from driver import DIVERGED, MATCH, MODEL, CommandLineTest

KILLS = int(os.environ.get("QDIFF_KILLS", "3"))
SEED = int(os.environ.get("QDIFF_KILLS_SEED", "1"))
TIMES = re.compile(rb'("seconds": ?|time=")[0-9.e+-]+')


def contents(folder):
    """What is in a folder, times aside; None where there is none, or an empty one."""
    return {str(path.relative_to(folder)): TIMES.sub(b"", path.read_bytes())
            for path in sorted(folder.rglob("*")) if path.is_file()} or None


class KillsTest(CommandLineTest):
    def setUp(self):
        super().setUp()
        self.random = random.Random(SEED)
        self.counts = {"old": 0, "new": 0, "none": 0, "while writing": 0, "ended first": 0}

    def arguments(self, command, bug):
        """The same command with another result, so that a mixture of two shows."""
        if command == "run":
            return ["run", self.case, "--quiet", "--out", "out", *(["--inject", bug] if bug else [])]
        if command == "record":
            return ["record", "--model", MODEL, "--case", self.case, "--engine", "cpu", "--trace", "out", "--quiet",
                    *(["--inject", bug] if bug else [])]
        return ["diagnose", "--model", MODEL, "--trace", f"trace-{bug or 'right'}", "--quiet", "--out", "out"]

    def whole(self, command, bug):
        """Runs to the end, and gives what the folder then holds and how long that took."""
        if command == "record":
            subprocess.run(["rm", "-rf", self.folder / "out"], check=True)  # a trace is never written over
        started = time.monotonic()
        result = self.qdiff(*self.arguments(command, bug))
        self.assertEqual(result.returncode, DIVERGED if bug and command != "record" else MATCH, result.stderr)
        seconds = time.monotonic() - started
        self.assertEqual(self.left_over(), [])
        return contents(self.folder / "out"), seconds

    def left_over(self):
        return [str(path) for path in self.folder.rglob(".qdiff-*")]

    def kill(self, command, bug, seconds):
        """Starts the command and kills it, in half of the cases as soon as something is being written."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("GITHUB_", *driver.SCHEDULERS))}
        process = subprocess.Popen([driver.QDIFF, *map(str, self.arguments(command, bug))], cwd=self.folder,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   env=environment)
        if self.random.random() < 0.5:
            time.sleep(self.random.random() * 1.1 * seconds)
        else:
            while process.poll() is None and not self.left_over():
                time.sleep(0.0005)
            time.sleep(self.random.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.counts["ended first"] += process.returncode != -signal.SIGKILL
        self.counts["while writing"] += bool(self.left_over())

    def check(self, command):
        bugs = ["H05.modulo", None]
        for bug in bugs if command == "diagnose" else []:
            inject = ["--inject", bug] if bug else []
            made = self.qdiff("record", "--model", MODEL, "--case", self.case, "--engine", "cpu", "--trace",
                              f"trace-{bug or 'right'}", "--quiet", *inject)
            self.assertEqual(made.returncode, MATCH, made.stderr)
        results, durations = {}, []
        for bug in bugs:
            results[bug], seconds = self.whole(command, bug)
            durations.append(seconds)
        for i in range(KILLS):
            bug, other = bugs[i % 2], bugs[1 - i % 2]
            # Before it stands the other's result; every third time none.
            before = results[other]
            if command == "record" or i % 3 == 2:
                subprocess.run(["rm", "-rf", self.folder / "out"], check=True)
                before = None
            elif contents(self.folder / "out") != before:
                self.assertEqual(self.whole(command, other)[0], before)
            self.kill(command, bug, max(durations))
            now = contents(self.folder / "out")
            with self.subTest(command=command, kill=i):
                self.assertTrue(now in (before, results[bug]), "neither what stood there nor the new result")
                self.counts["none" if now is None else "new" if now == results[bug] else "old"] += 1
                if now is not None and command != "record":
                    json.loads((self.folder / "out/report.json").read_text())
            # The next run clears what was left, and gives what it always gives.
            self.assertTrue(self.whole(command, bug)[0] == results[bug], "the next run gives something else")
        print(f"{command}: {KILLS} kills, {self.counts}", flush=True)

    def test_run(self):
        self.check("run")

    def test_record(self):
        self.check("record")

    def test_diagnose(self):
        self.check("diagnose")
