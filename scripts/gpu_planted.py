#!/usr/bin/env python3
"""Whether a selftest of the CUDA engine found every fault that its inputs show, at the right tensor, named as itself,
and at least three of each hypothesis.

    gpu_planted.py selftest.json

Ends with 1 and a line for each that it did not.
"""
import collections
import json
import pathlib
import sys

LEAST = 3
HYPOTHESES = [f"H{number:02}" for number in range(1, 11)]


def complaints(trials):
    found = collections.defaultdict(set)
    for trial in trials:
        fault = trial["fault"].split("@")[0].split("=")[0]
        if trial["miss"]:
            yield f"{trial['fault']} in {trial['dtype']}: {trial['miss']}"
        elif trial["detectable"]:
            found[fault.split(".")[0]].add(fault)
    for hypothesis in HYPOTHESES:
        if len(found[hypothesis]) < LEAST:
            yield f"{hypothesis}: {len(found[hypothesis])} faults were found, at least {LEAST} are wanted"
    planted = {trial["fault"].split("@")[0].split("=")[0] for trial in trials}
    for fault in sorted(planted - set().union(*found.values())):
        yield f"{fault}: no case shows it in any type"


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    trials = json.loads(pathlib.Path(sys.argv[1]).read_text())["trials"]
    wrong = list(complaints(trials))
    for line in wrong:
        print(line)
    print(f"{sum(trial['detectable'] for trial in trials)} planted faults were judged, {len(wrong)} complaints")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
