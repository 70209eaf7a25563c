#!/usr/bin/env python3
"""Scores `qdiff diagnose` on traces of the NumPy engine (scripts/engines/), which shares no line with our own engines.

    score_foreign.py --build build/default --out scores
    score_foreign.py --build build/default --out scores --quick --jobs 2

Every fault that the engine plants, at the first, the middle and the last layer, and clean runs in every order of sums,
softmax and type, on two small checkpoints. A fault counts where the reference says, of a clean trace, that it moves some
recorded element by more than 8 deviations. Prints the tables of `qdiff selftest` and writes scores/selftest.json in the
same format. Ends with 0 where the goals are met, 1 where not. Needs NumPy.
"""

import argparse
import concurrent.futures
import functools
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import threading
import time

import trace_writer
from engines import faults

SCRIPTS = pathlib.Path(__file__).resolve().parent
HYPOTHESES = [f"H{number:02}" for number in range(1, 11)]
DETECTABLE = 8
ORDERS = ["blocked", "pairwise", "reversed"]
SOFTMAXES = ["two-pass", "online"]
DTYPES = ["bfloat16", "float32", "float16"]
# K = 5 and G = 3 are odd, H*d is not D, untied; K = 1 and square projections, tied.
CHECKPOINTS = {"toy-15x5": "synthetic:toy-15x5,profile=qwen", "toy-d32": "synthetic:toy-d32,profile=qwen"}
VOCAB = {"toy-15x5": 911, "toy-d32": 777}
GOALS = [("found", "found", 0.98), ("exact tensor", "exact_tensor", 0.96), ("named, variant", "top1_variant", 0.93)]


# ---- Making traces, and having them judged ---------------------------------------------------------------------------

class Bench:
    """Runs the programs; every output lies below `folder`."""

    def __init__(self, build, folder):
        self.build, self.folder = build, folder
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

    def call(self, *command, statuses=(0,)):
        result = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False,
                                env=self.environment)
        if result.returncode not in statuses:
            raise RuntimeError(f"{' '.join(map(str, command))}: status {result.returncode}: {result.stderr.strip()}")
        return result

    def checkpoint(self, name, dtype):
        """A Hugging Face directory of that type, made when it is first asked for."""
        path = self.folder / "models" / f"{name}-{dtype}"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.call(self.build / "harness/cli/qdiff_foreign", "export", f"{CHECKPOINTS[name]},dtype={dtype}", path)
        return path

    def prompt(self, name, seed):
        """A ragged batch of three rows; every seventh token is one of those at the end of the vocabulary, whose
        embeddings are tiny."""
        path = self.folder / "prompts" / f"{name}-{seed}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            generator = random.Random(seed)
            vocab = VOCAB[name]
            rows = [[vocab - 1 - generator.randrange(16) if (place + row) % 7 == 6 else generator.randrange(vocab - 16)
                     for place in range(length)] for row, length in enumerate([70, 61, 41])]
            path.write_text(json.dumps(rows), encoding="utf-8")
        return path

    def record(self, trace, name, dtype, seed=1, inject=None, order="blocked", softmax="two-pass"):
        wrong = ["--inject", inject] if inject else []
        self.call(sys.executable, SCRIPTS / "independent_engine.py", "--model", self.checkpoint(name, dtype), "--trace",
                  trace, "--tokens", self.prompt(name, seed), "--chunks", "37,33", "--decode", "3", "--order", order,
                  "--softmax", softmax, *wrong)

    def diagnose(self, trace, name, dtype):
        """The report of `qdiff diagnose`."""
        report = trace.with_name(trace.name + "-report")
        self.call(self.build / "qdiff", "diagnose", "--model", self.checkpoint(name, dtype), "--trace", trace, "--out",
                  report, "--quiet", "--threads", 1, statuses=(0, 1, 125))
        return json.loads((report / "report.json").read_text(encoding="utf-8"))

    def clean_trace(self, name, dtype):
        return self.folder / "traces" / f"{name}-{dtype}-clean"

    def shifts(self, name, dtype):
        return json.loads(self.ask("shifts", name, dtype))

    def computes_the_same(self, name, dtype, planted, named):
        """Whether two faults, each as --inject takes it, compute the same of the clean trace."""
        return json.loads(self.ask("same", name, dtype, planted, named))

    def ask(self, question, name, dtype, *faults):
        return self.call(self.build / "harness/cli/qdiff_foreign", question, "--model", self.checkpoint(name, dtype),
                         "--trace", self.clean_trace(name, dtype), *faults).stdout


def number_text(value):
    return repr(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def fault_text(fault, value, layer):
    """As --inject takes it."""
    return fault + ("" if value is None else "=" + number_text(value)) + ("" if layer is None else f"@{layer}")


def execution_order(place):
    """A key that sorts tensors as they come into being, by step first."""

    parts = place["tensor"].split(".", 3)
    if place["tensor"].startswith("model.layers."):
        inside = (1, int(parts[2]), list(trace_writer.IN_LAYERS).index(parts[3]))
    else:
        inside = ({"model.embed_tokens": 0, "model.norm": 2, "lm_head": 3}[place["tensor"]], 0, 0)
    return (place["step"], *inside)


# ---- One trial -------------------------------------------------------------------------------------------------------

def run_trial(bench, checkpoint, dtype, entry):
    trial = {"planted_in": "numpy", "dtype": dtype, "fault": fault_text(entry["fault"], entry["value"], entry["layer"]), "site": entry["site"],
             "cases": [checkpoint] if entry["moves"] else [], "detectable": entry["moves"] is not None,
             "deviations": entry["deviations"], "moves": entry["moves"], "verdict": None, "first_finding": None,
             "tied": False, "miss": None}
    if not trial["detectable"]:
        return trial, entry
    trace = bench.folder / "traces" / f"{checkpoint}-{dtype}-{trial['fault']}"
    bench.record(trace, checkpoint, dtype, inject=trial["fault"])
    report = bench.diagnose(trace, checkpoint, dtype)
    trial["verdict"] = report["verdict"]
    if report["findings"]:
        finding = report["findings"][0]
        explanation = finding["explanation"]
        trial["first_finding"] = {"case": finding["case"], "tensor": finding["tensor"], "step": finding["step"],
                                  "kind": finding["kind"], "hypothesis": explanation["hypothesis"],
                                  "variant": explanation["variant"], "value": explanation["value"],
                                  "alternatives": explanation["alternatives"]}
    trial["tied"] = is_tie(trial, entry, functools.partial(bench.computes_the_same, checkpoint, dtype))
    trial["miss"] = reason_of_miss(trial, entry, report)
    shutil.rmtree(trace)
    return trial, entry


def is_outsider(entry):
    return entry["fault"].split(".")[0] not in HYPOTHESES


def is_detected(trial):
    return trial["verdict"] == "diverged"


def is_located(trial, entry):
    found = trial["first_finding"]
    return (is_detected(trial) and found is not None and found["tensor"] in entry["changes"]
            and execution_order(found) <= execution_order(trial["moves"]))


def is_tie(trial, entry, computes_the_same):
    """Whether the planted fault stands beside the one that is named, and computes the same on these inputs."""
    found = trial["first_finding"]
    if not found or found["variant"] is None or entry["fault"] not in found["alternatives"]:
        return False
    value = found["value"] if isinstance(found["value"], (int, float)) else None
    return computes_the_same(trial["fault"], fault_text(found["variant"], value, entry["layer"]))


def is_named(trial, entry):
    found = trial["first_finding"]
    return is_detected(trial) and bool(found) and (found["variant"] == entry["fault"] or trial["tied"])


def has_right_hypothesis(trial, entry):
    found = trial["first_finding"]
    right = bool(found) and (found["hypothesis"] == entry["fault"].split(".")[0] or trial["tied"])
    return is_detected(trial) and right


def is_among_first_three(trial, entry):
    found = trial["first_finding"]
    return is_named(trial, entry) or (is_detected(trial) and bool(found) and entry["fault"] in found["alternatives"][:2])


def is_abstained(trial, entry):
    found = trial["first_finding"]
    if not is_detected(trial) or not found:
        return False
    return found["variant"] == entry["fault"] if found["variant"] else found["hypothesis"] is None


def has_right_value(trial, entry):
    value = trial["first_finding"]["value"]
    if not isinstance(value, (int, float)):
        return False
    return abs(value - entry["value"]) <= 0.02 * abs(entry["value"] - entry["right_value"])


def reason_of_miss(trial, entry, report):
    """Why a detectable trial is not all that it should be; None where it is."""
    moves = trial["moves"]
    where = f"{moves['tensor']} of step {moves['step']}"
    if not is_detected(trial):
        return (f"not found: it moves {where} by {trial['deviations']:.3g} deviations, and the verdict is "
                f"{trial['verdict']}" + (f" ({report['reason']})" if report.get("reason") else ""))
    found = trial["first_finding"]
    if found is None:
        return "diverged without a finding"
    reasons = []
    if not is_located(trial, entry):
        reasons.append(f"found at {found['tensor']} of step {found['step']} instead of {where}")
    right = is_abstained(trial, entry) if is_outsider(entry) else is_named(trial, entry)
    if not right:
        names = [found["variant"] or "nothing", *found["alternatives"]]
        reasons.append("named " + " or ".join(names))
    return "; ".join(reasons) or None


# ---- Counting, as harness/selftest/scoring.cpp does ------------------------------------------------------------------

def ratio(hits):
    hits = list(hits)
    return {"hits": sum(hits), "of": len(hits)}


def score(trials):
    seen = [(trial, entry) for trial, entry in trials if trial["detectable"]]
    inside = [pair for pair in seen if not is_outsider(pair[1])]
    valued = [pair for pair in inside
              if is_named(*pair) and not pair[0]["tied"] and pair[1]["right_value"] is not None and pair[1]["value"] is not None]
    return {"planted": len(trials),
            "found": ratio(is_detected(trial) for trial, _ in seen),
            "exact_tensor": ratio(is_located(*pair) for pair in seen),
            "top1_variant": ratio(is_named(*pair) for pair in inside),
            "top1_hypothesis": ratio(has_right_hypothesis(*pair) for pair in inside),
            "top3_variant": ratio(is_among_first_three(*pair) for pair in inside),
            "value": ratio(has_right_value(*pair) for pair in valued),
            "abstained": ratio(is_abstained(*pair) for pair in seen if is_outsider(pair[1]))}


def confusion(trials):
    matrix = {subject: {} for subject in [*HYPOTHESES, "X"]}
    for trial, entry in trials:
        if not trial["detectable"]:
            continue
        found = trial["first_finding"]
        if not is_detected(trial) or not found:
            column = "not_found"
        elif found["hypothesis"]:
            column = found["hypothesis"]
        else:
            column = "X" if found["variant"] else "unexplained"
        row = matrix["X" if is_outsider(entry) else entry["fault"].split(".")[0]]
        row[column] = row.get(column, 0) + 1
    return matrix


def upper_bound(alarms, runs):
    """Of the rate of false alarms, with 95 % confidence: the rule of three, or Wilson's interval."""
    if runs == 0:
        return 1.0
    if alarms == 0:
        return min(1.0, 3 / runs)
    p, z2 = alarms / runs, 1.6449 ** 2
    return (p + z2 / (2 * runs) + (z2 * (p * (1 - p) / runs + z2 / (4 * runs * runs))) ** 0.5) / (1 + z2 / runs)


def goals_of(total, honest, asked=tuple(faults.FAULTS)):
    """`asked`: ids of the faults that were to be planted. What none of them can reach is no goal; what they should have
    reached and did not is one, also where nothing was detectable."""
    outside = {fault.split(".")[0] not in HYPOTHESES for fault in asked}
    goals = [{"what": f"numpy: {what}", "wanted": wanted, "reached": total[field]} for what, field, wanted in GOALS
             if field != "top1_variant" or False in outside]
    if True in outside:
        goals.append({"what": "numpy: outsiders unexplained or named as themselves", "wanted": 1.0,
                      "reached": total["abstained"]})
    quiet = {"hits": sum(runs["runs"] - runs["flagged"] for runs in honest), "of": sum(runs["runs"] for runs in honest)}
    goals.append({"what": "honest runs without an alarm", "wanted": 1.0, "reached": quiet})
    for goal in goals:
        reached = goal["reached"]
        goal["met"] = reached["of"] > 0 and reached["hits"] >= goal["wanted"] * reached["of"]
    return goals


# ---- The table -------------------------------------------------------------------------------------------------------

COLUMNS = [("found", "found"), ("exact tensor", "exact_tensor"), ("named: variant", "top1_variant"),
           ("its hypothesis", "top1_hypothesis"), ("in first three", "top3_variant"), ("value within 2%", "value"),
           ("abstained", "abstained")]


def ratio_text(value):
    if value["of"] == 0:
        return "-"
    return f"{value['hits']}/{value['of']} {value['hits'] * 1000 // value['of'] / 10:5.1f}%"


def print_scores(trials):
    print("\nFaults planted in numpy\n")
    print("  " + " " * 22 + " planted " + " ".join(f"{title:>17}" for title, _ in COLUMNS))

    def line(what, group):
        scored = score(group)
        print(f"  {what:<22} {scored['planted']:7} " + " ".join(f"{ratio_text(scored[field]):>17}"
                                                               for _, field in COLUMNS))

    keys = [lambda trial, entry: "X" if is_outsider(entry) else entry["fault"].split(".")[0],
            lambda trial, entry: trial["dtype"], lambda trial, entry: trial["site"] + " layer",
            lambda trial, entry: "".join(trial["cases"]) or "(no checkpoint shows it)"]
    for key in keys:
        for what in sorted({key(*pair) for pair in trials}):
            line(what, [pair for pair in trials if key(*pair) == what])
    line("all", trials)
    print("\n  planted (down), named (across)\n      "
          + "".join(f"{subject:>6}" for subject in [*HYPOTHESES, "X"]) + f"{'unexplained':>14}{'not found':>11}")
    for subject, row in confusion(trials).items():
        cells = [row.get(column, ".") for column in [*HYPOTHESES, "X"]]
        print(f"  {subject:<4}" + "".join(f"{cell:>6}" for cell in cells)
              + f"{row.get('unexplained', '.'):>14}{row.get('not_found', '.'):>11}")


def print_honest(honest):
    print("\nHonest runs\n\n  " + " " * 30 + "    runs    tensors  flagged   95 % bound of the rate")
    for runs in honest:
        print(f"  {runs['what']:<20} {runs['dtype']:<9} {runs['runs']:8} {runs['tensors']:10} {runs['flagged']:8}   "
              f"{100 * runs['rate_below']:.2g} %")


def print_rest(trials, honest, goals):
    print(f"\nNot detectable: no recorded element moves by more than {DETECTABLE} deviations; not counted")
    for trial, _ in trials:
        if not trial["detectable"]:
            print(f"  {trial['dtype']}, {trial['fault']} ({trial['site']}, {trial['deviations']:.2g} deviations)")
    print("\nMisses")
    misses = [f"{trial['dtype']}, {trial['fault']} in {' '.join(trial['cases'])}: {trial['miss']}"
              for trial, _ in trials if trial["miss"]]
    misses += [f"false alarm: {alarm}" for runs in honest for alarm in runs["alarms"]]
    for miss in misses or ["none"]:
        print("  " + miss)
    print("\nGoals\n")
    for goal in goals:
        wanted = "all" if goal["wanted"] == 1.0 else f"{100 * goal['wanted']:.0f} %"
        print(f"  {'met ' if goal['met'] else 'MISS'} {goal['what']:<58} {ratio_text(goal['reached']):>19}   "
              f"wanted {wanted}")


# ---- All of it -------------------------------------------------------------------------------------------------------

def plan_of(bench, checkpoints, dtypes, quick):
    """(checkpoint, dtype, entry) of every fault and site, once where a checkpoint shows it, with the first dose that
    it shows."""
    planned = []
    for dtype in dtypes:
        entries = {}  # (fault, site) -> the first entry that shows, with its checkpoint; else the first one
        for checkpoint in checkpoints:
            bench.record(bench.clean_trace(checkpoint, dtype), checkpoint, dtype)
            for entry in bench.shifts(checkpoint, dtype):
                if entry["fault"] not in faults.FAULTS:
                    continue
                place = (entry["fault"], entry["site"])
                if place not in entries or (entry["moves"] and not entries[place][1]["moves"]):
                    entries[place] = (checkpoint, entry)
        chosen = list(entries.items())
        if quick:  # each fault once, at one site
            chosen = [pair for pair in chosen if pair[0][1] in ("last", "outside")]
        planned += [(checkpoint, dtype, entry) for _, (checkpoint, entry) in chosen]
    return planned


def run_honest(bench, checkpoint, dtype, order, softmax, seed):
    trace = bench.folder / "traces" / f"{checkpoint}-{dtype}-{order}-{softmax}-{seed}"
    bench.record(trace, checkpoint, dtype, seed=seed, order=order, softmax=softmax)
    report = bench.diagnose(trace, checkpoint, dtype)
    shutil.rmtree(trace)
    alarm = None
    if report["verdict"] != "match":
        first = report["first_divergence"]
        alarm = f"{trace.name}: " + (f"{first['tensor']} step {first['step']}: {first['reason']}" if first
                                     else f"{report['verdict']}: {report['reason']}")
    return {"dtype": dtype, "tensors": report["coverage"]["tensors_compared"], "alarm": alarm}


class Progress:
    def __init__(self, quiet):
        self.shown = not quiet and sys.stderr.isatty()
        self.lock = threading.Lock()

    def __call__(self, what, done, total):
        if self.shown:
            with self.lock:
                print(f"\r{100 * done // total}% ({done} of {total})  {what:<60.60}", end="", file=sys.stderr, flush=True)

    def clear(self):
        if self.shown:
            print("\r" + " " * 79 + "\r", end="", file=sys.stderr, flush=True)


def in_parallel(jobs, what, work, items, progress):
    """work(item) of each item, in order."""
    results = [None] * len(items)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(work, item): index for index, item in enumerate(items)}
        for done, future in enumerate(concurrent.futures.as_completed(waiting), start=1):
            results[waiting[future]] = future.result()
            progress(what, done, len(items))
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, required=True, metavar="DIR", help="the build folder, with qdiff")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR", help="a new folder for all results")
    parser.add_argument("--quick", action="store_true", help="one type, one checkpoint and one layer of each fault; few clean runs")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="programs side by side")
    parser.add_argument("--only", default="", metavar="TEXT", help="faults whose id starts so, as H03")
    parser.add_argument("--quiet", action="store_true", help="no progress line")
    arguments = parser.parse_args()
    start = time.monotonic()
    if arguments.out.exists() and any(arguments.out.iterdir()):
        parser.error(f"{arguments.out} is not empty")
    asked = [fault for fault in faults.FAULTS if fault.startswith(arguments.only)]
    if not asked:
        parser.error(f"--only '{arguments.only}': no fault of the engine starts so; it has {', '.join(faults.FAULTS)}")
    bench = Bench(arguments.build.resolve(), arguments.out)
    (arguments.out / "traces").mkdir(parents=True, exist_ok=True)
    progress = Progress(arguments.quiet)
    checkpoints = list(CHECKPOINTS)[:1] if arguments.quick else list(CHECKPOINTS)
    dtypes = DTYPES[:1] if arguments.quick else DTYPES
    for checkpoint in checkpoints:  # before several jobs ask for the same
        for dtype in DTYPES:
            bench.checkpoint(checkpoint, dtype)
        for seed in range(1, 8):
            bench.prompt(checkpoint, seed)

    planned = [item for item in plan_of(bench, checkpoints, dtypes, arguments.quick)
               if item[2]["fault"].startswith(arguments.only)]
    trials = in_parallel(arguments.jobs, "faults", lambda item: run_trial(bench, *item), planned, progress)

    seeds = range(2, 3) if arguments.quick else range(2, 8)
    clean = [(checkpoint, dtype, order, softmax, seed) for dtype in DTYPES for checkpoint in checkpoints
             for order in ORDERS for softmax in SOFTMAXES for seed in seeds]
    runs = in_parallel(arguments.jobs, "honest runs", lambda item: run_honest(bench, *item), clean, progress)
    progress.clear()
    honest = []
    for dtype in DTYPES:
        of_type = [run for run in runs if run["dtype"] == dtype]
        alarms = [run["alarm"] for run in of_type if run["alarm"]]
        honest.append({"what": "NumPy engine", "dtype": dtype, "runs": len(of_type),
                       "tensors": sum(run["tensors"] for run in of_type), "flagged": len(alarms),
                       "rate_below": upper_bound(len(alarms), len(of_type)), "alarms": alarms})

    goals = goals_of(score(trials), honest, asked)
    passed = all(goal["met"] for goal in goals)
    result = {"format": "qdiff-selftest", "version": 1, "passed": passed, "quick": arguments.quick,
              "detectable_beyond": DETECTABLE, "goals": goals,
              "engines": [{"planted_in": "numpy", "score": score(trials), "confusion": confusion(trials)}],
              "honest": honest, "smallest_doses": [], "trials": [trial for trial, _ in trials],
              "command": " ".join(sys.argv), "seconds": round(time.monotonic() - start, 1)}
    (arguments.out / "selftest.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print("qdiff diagnose on traces of the NumPy engine" + (", a part" if arguments.quick else ""))
    print_scores(trials)
    print_honest(honest)
    print_rest(trials, honest, goals)
    print(f"\n{'All goals met' if passed else 'GOALS NOT MET'} in {result['seconds']:.0f} s")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
