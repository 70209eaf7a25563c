#!/usr/bin/env python3
"""Records right engines on drawn models and batches, keeps few tensors of each trace, and has `qdiff diagnose` judge it:
whatever is wrong there is a false alarm.

    honest_few.py --qdiff build/default/qdiff --runs 400
    honest_few.py --qdiff build/default/qdiff --runs 1 --seed 17 --tensors logits     what run 17 was

--runs runs of the layers' outputs, and as many of logits alone; the types and the two engines go round. Each is one
`qdiff record` and one `qdiff diagnose`, a second or two on one processor. Ends with 0 where every run ends with 0, with 1
where one does not: the runs that were accused (status 1), and those that could not be judged (125), are listed.
"""
import argparse
import collections
import concurrent.futures
import itertools
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

KEPT = {"layer outputs": lambda name: name.startswith("model.layers.") and name.endswith(".output"),
        "logits": lambda name: name == "lm_head"}
DTYPES = ["float32", "bfloat16", "float16"]
ENGINES = ["cpu", "reference"]


def drawn_model(draw, seed):
    kv_heads, head_dim = draw.randint(1, 3), draw.choice([32, 64])
    sizes = {"kv_heads": kv_heads, "q_heads": kv_heads * draw.randint(1, 4), "head_dim": head_dim, "hidden": 8 * draw.randint(4, 30),
             "intermediate": 8 * draw.randint(4, 60), "layers": draw.randint(1, 3), "vocab": draw.randint(40, 600),
             "eps": draw.choice(["1e-05", "1e-06"]), "theta": draw.choice(["10000", "1e+06"]),
             "tied": draw.choice(["true", "false"]), "profile": draw.choice(["qwen", "plain"])}
    return f"synthetic:toy-d64,seed={seed}," + ",".join(f"{name}={size}" for name, size in sizes.items())


def drawn_case(draw, seed):
    """A ragged batch in up to three prefill chunks, and up to three decode steps."""
    chunks = [draw.randint(1, 12) for _ in range(draw.randint(1, 3))]
    num_decodes = draw.randint(0, 3)
    batch = draw.randint(1, 3)
    steps = [{"phase": "prefill", "tokens": tokens} for tokens in chunks]
    steps += [{"phase": "decode", "tokens": 1}] * num_decodes
    return {"format": "qdiff-case", "version": 1, "id": f"honest-{seed}", "title": "A drawn batch", "hypothesis": "H01",
            "stresses": "nothing", "model": "synthetic:toy-mha", "batch": batch,
            "left_padding": [0] + [draw.randrange(sum(chunks)) for _ in range(batch - 1)],
            "capacity": sum(chunks) + num_decodes, "seed": seed, "logits": "all", "steps": steps}


def keep(trace, kept):
    """Leaves these tensors alone in a trace's files."""
    for path in trace.glob("*.safetensors"):
        whole = path.read_bytes()
        start = 8 + int.from_bytes(whole[:8], "little")
        header, data = {}, b""
        for name, entry in json.loads(whole[8:start]).items():
            if name == "__metadata__":
                header[name] = entry
            elif kept(name):
                first, last = entry["data_offsets"]
                header[name] = {**entry, "data_offsets": [len(data), len(data) + last - first]}
                data += whole[start + first:start + last]
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def run(command):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)


def judge(qdiff, what, seed, inject=None):
    """(type, status of the diagnosis, what the run was and what was said)."""
    draw = random.Random(f"{what} {seed}")
    dtype, engine = DTYPES[seed % len(DTYPES)], ENGINES[seed // len(DTYPES) % len(ENGINES)]
    model = drawn_model(draw, seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case, trace, report = folder / "case.json", folder / "trace", folder / "report"
        case.write_text(json.dumps(drawn_case(draw, seed)), encoding="utf-8")
        recorded = run([qdiff, "record", "--model", model, "--case", case, "--engine", engine, "--dtype", dtype,
                        "--trace", trace, "--quiet", "--threads", 1, *(["--inject", inject] if inject else [])])
        if recorded.returncode != 0:
            sys.exit(f"honest_few: seed {seed}: qdiff record ended with {recorded.returncode}:\n{recorded.stderr}")
        keep(trace, KEPT[what])
        judged = run([qdiff, "diagnose", "--model", model, "--trace", trace, "--out", report, "--quiet", "--threads", 1])
        said = f"{what}, seed {seed}: {model}, {dtype}, {engine}: status {judged.returncode}"
        if judged.returncode not in (0, 1, 125):
            sys.exit(f"honest_few: {said}:\n{judged.stderr}")
        if judged.returncode != 0:
            result = json.loads((report / "report.json").read_text(encoding="utf-8"))
            first = result["first_divergence"]
            said += ": " + (f"{first['kind']} at {first['tensor']} of step {first['step']}: {first['reason']}" if first
                            else str(result["reason"]))
        return dtype, judged.returncode, said


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qdiff", type=Path, required=True, metavar="FILE", help="the program")
    parser.add_argument("--runs", type=int, default=400, metavar="N", help="of each kind (default: 400)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the first run; the others follow (default: 1)")
    parser.add_argument("--tensors", choices=list(KEPT), action="append", help="this kind alone")
    parser.add_argument("--inject", metavar="FAULT", help="to see an alarm: plant this in the engines, as H02.no_scale")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs side by side (default: 1)")
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error("--runs must be at least 1")
    wanted = list(itertools.product(arguments.tensors or KEPT, range(arguments.seed, arguments.seed + arguments.runs)))
    statuses = collections.defaultdict(collections.Counter)
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        done = pool.map(lambda item: (item[0], *judge(arguments.qdiff, *item, arguments.inject)), wanted)
        for what, dtype, status, said in done:
            statuses[what, dtype][status] += 1
            if status != 0:
                print(said, flush=True)
    for (what, dtype), counted in statuses.items():
        print(f"{what}, {dtype}: {counted.total()} runs, {counted[1]} accused, {counted[125]} not judged")
    print(f"{sum(counted[1] for counted in statuses.values())} of {len(wanted)} runs were accused")
    return 0 if all(set(counted) == {0} for counted in statuses.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
