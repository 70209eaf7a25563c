#!/usr/bin/env python3
"""How runs by units grow: many workers of which some are killed, and the time and memory of plan and merge.

    scale.py kill QDIFF FOLDER [--units 10000] [--workers 100] [--at-once 100] [--kills 200]
    scale.py grow QDIFF FOLDER [--units 100 1000 10000 100000]

`kill` does a plan of small units in as many shards as there are workers, kills random ones of those that run, starts each
again, and merges: every unit has to be there once. `grow` runs one unit for real and makes the results of all others from
it, for what it measures is plan and merge. Both print a table (docs/scale.md) and end with 1 where something is not as it
should be. FOLDER is made, and must not be there before.
"""
import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

CASES = 100  # of a suite; what more units there are come from more models


def write_suite(folder, num_units):
    """Units of one layer, one step and a few tokens."""
    folder.mkdir(parents=True)
    for number in range(CASES):
        case = {"format": "qdiff-case", "version": 1, "id": f"case-{number}", "title": "One small step", "hypothesis": None,
                "stresses": "Nothing but the number of units.", "model": "synthetic:toy-d64,layers=1", "batch": 1, "left_padding": [0],
                "capacity": 2, "seed": number, "logits": "all", "steps": [{"phase": "prefill", "tokens": 2}]}
        (folder / f"case-{number}.json").write_text(json.dumps(case))
    models = [{"name": f"model-{seed}", "path": f"synthetic:toy-d64,layers=1,seed={seed}"}
              for seed in range(max(1, num_units // CASES))]
    suite = {"format": "qdiff-suite", "version": 1, "models": models, "modes": ["lockstep"], "dtypes": ["bfloat16"],
             "cases": [f"case-{number}.json" for number in range(min(CASES, num_units))]}
    (folder / "suite.json").write_text(json.dumps(suite))
    return len(models) * len(suite["cases"])


def measured(command, **options):
    """Its exit status, and in words its seconds, those of the processor, and its largest memory in MB."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **options)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - start
    return process.returncode, f"{seconds:.1f} | {usage.ru_utime + usage.ru_stime:.1f} | {usage.ru_maxrss / 1024:.0f}"


class Workers:
    """Shards of one plan, so many at a time, each started again when it was killed."""

    def __init__(self, options):
        self.options = options
        self.waiting = list(range(1, options.workers + 1))
        self.running = {}  # process: shard
        self.kills = 0
        self.started = 0

    def command(self, shard):
        return [self.options.qdiff, "run", "--suite", "suite.json", "--shard", f"{shard}/{self.options.workers}", "--threads", "1",
                "--quiet", "--resume", "--out", f"shard-{shard}"]

    def start(self):
        while self.waiting and len(self.running) < self.options.at_once:
            shard = self.waiting.pop(0)
            process = subprocess.Popen(self.command(shard), cwd=self.options.folder, stdin=subprocess.DEVNULL)
            self.running[process] = shard
            self.started += 1

    def reap(self):
        for process in [process for process in self.running if process.poll() is not None]:
            shard = self.running.pop(process)
            if process.returncode == -signal.SIGKILL:
                self.waiting.append(shard)
            elif process.returncode != 0:
                sys.exit(f"shard {shard} ended with {process.returncode}")

    def run(self):
        draw = random.Random(1)
        while self.waiting or self.running:
            self.start()
            if self.running and self.kills < self.options.kills:
                victim = draw.choice(list(self.running))
                victim.send_signal(signal.SIGKILL)
                victim.wait()
                self.kills += victim.returncode == -signal.SIGKILL
            time.sleep(draw.uniform(0, 2 * self.options.pause))
            self.reap()


def kill(options):
    num_units = write_suite(options.folder, options.units)
    start = time.monotonic()
    workers = Workers(options)
    workers.run()
    seconds = time.monotonic() - start
    folders = [f"shard-{shard}" for shard in range(1, options.workers + 1)]
    results = [path.name for folder in folders for path in (options.folder / folder / "units").iterdir()]
    status, merge = measured([options.qdiff, "merge", *folders, "--out", "report", "--quiet"], cwd=options.folder)
    report = json.loads((options.folder / "report/report.json").read_text())
    print(f"| units | workers | kills | starts | seconds | results | merge, s | CPU, s | MB |\n|---|---|---|---|---|---|---|---|---|\n"
          f"| {num_units} | {options.workers} | {workers.kills} | {workers.started} | {seconds:.0f} | {len(results)} | "
          f"{merge} |")
    whole = len(results) == len(set(results)) == len(report["cases"]) == num_units
    return 0 if whole and status == 0 and workers.kills >= options.kills else 1


MASK = (1 << 64) - 1


def mix(state):
    """As splitmix64() in harness/contract/splitmix64.h."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def content_hash(data):
    """As ContentHash in harness/formats/content_hash.cpp, of one piece."""
    state = 0
    words = [len(data)] + [int.from_bytes(data[at:at + 8], "little") for at in range(0, len(data), 8)]
    for word in words:
        state = mix(((state ^ word) + 0x9E3779B97F4A7C15) & MASK)
    return f"{state:016x}"


def make_results(folder):
    """The results of all units of the plan, from the one that is there."""
    plan = json.loads((folder / "plan.json").read_text())["units"]
    [path] = (folder / "units").iterdir()
    header, found = path.read_text().splitlines()
    header = json.loads(header)
    if content_hash(found.encode()) != header["content"]:
        sys.exit("the content hash is another one here than in qdiff")
    name = header["unit"]
    for unit in plan:
        text = found.replace(name, unit["name"])
        entry = {**header, "unit": unit["name"], "identity": unit["identity"], "inputs": "of " + unit["model"],
                 "content": content_hash(text.encode())}
        (folder / "units" / (unit["name"].replace("/", ",") + ".json")).write_text(json.dumps(entry) + "\n" + text + "\n")


def grow(options):
    right = True
    print("| units | plan, s | CPU, s | MB | results, MB | merge, s | CPU, s | MB |\n|---|---|---|---|---|---|---|---|")
    options.folder.mkdir(parents=True)
    for wanted in options.units:
        folder = options.folder / str(wanted)
        num_units = write_suite(folder, wanted)
        run = [options.qdiff, "run", "--suite", "suite.json", "--shard", f"{num_units}/{num_units}", "--quiet", "--out", "results"]
        subprocess.run(run, cwd=folder, check=True)
        make_results(folder / "results")
        size = sum(path.stat().st_size for path in (folder / "results/units").iterdir()) / 2**20
        with open(os.devnull, "wb") as nothing:
            planned, plan = measured([options.qdiff, "plan", "suite.json"], cwd=folder, stdout=nothing)
        merged, merge = measured([options.qdiff, "merge", "results", "--out", "report", "--quiet"], cwd=folder)
        right &= planned == 0 and merged == 0
        print(f"| {num_units} | {plan} | {size:.1f} | {merge} |", flush=True)
    return 0 if right else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, function in [("kill", kill), ("grow", grow)]:
        command = commands.add_parser(name)
        command.add_argument("qdiff", type=lambda text: str(Path(text).resolve()))
        command.add_argument("folder", type=Path)
        command.set_defaults(function=function)
        if name == "kill":
            command.add_argument("--units", type=int, default=10_000)
            command.add_argument("--workers", type=int, default=100)
            command.add_argument("--at-once", type=int, default=100)
            command.add_argument("--kills", type=int, default=200)
            command.add_argument("--pause", type=float, default=0.5, help="mean seconds between two kills")
        else:
            command.add_argument("--units", type=int, nargs="+", default=[100, 1000, 10_000, 100_000])
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(options.function(options))


if __name__ == "__main__":
    main()
