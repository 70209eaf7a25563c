#!/usr/bin/env python3
"""The CUDA engine and its peers in turn, several rounds over, so that heat and clocks are alike for all.

    bench_rounds.py ENGINE 0.5b|7b [--contexts 0,1024] [--prompts 512,4096] [--batches 8,32] [--rounds 3]
                    [--transformers] [--llama-bench PROGRAM --llama-model FILE] [--qdiff PROGRAM]

Batches are decoded at a context of 1024, also by transformers; llama-bench has no such measurement. With qdiff, a case
is judged in each round.

ENGINE is cuda_engine_bench. Prints one JSON object a measurement, with its round, and at the end one a quantity: the
median over the rounds with the fastest and the slowest, and how many times the peer's time the engine takes.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from bench_shapes import SHAPES

TOKENS = 48  # decoded in a row
BATCH_CONTEXT = 1024
JUDGED_CASE = "end-to-end"


def numbers(text):
    return [int(number) for number in text.split(",") if number]


def joined(values):
    return ",".join(map(str, values))


def engine(program, model, contexts, prompts, batches):
    """One start of the engine's benchmark; it prints its own objects."""
    done = subprocess.run([program, model, "--contexts", joined(contexts), "--prompts", joined(prompts), "--batches",
                           joined(batches), "--batch-context", str(BATCH_CONTEXT), "--repeats", "20", "--tokens",
                           str(TOKENS)], capture_output=True, text=True, check=False)
    yield from (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    if done.returncode != 0:
        yield {"what": "prefill", "error": f"status {done.returncode}: {done.stderr.strip()[-300:]}"}


def llama(program, file, contexts, prompts):
    """llama.cpp's own benchmark. Its best setting: whole graphs, flash attention."""
    runs = [["-p", joined(prompts), "-n", "0"]] if prompts else []
    runs += [["-p", "0", "-n", str(TOKENS), "-d", joined(contexts)]] if contexts else []
    for options in runs:
        done = subprocess.run([program, "-m", file, "-ngl", "99", "-fa", "1", "-r", "3", "-o", "jsonl", *options],
                              env={**os.environ, "GGML_CUDA_GRAPH_OPT": "1"}, capture_output=True, text=True,
                              check=False)
        for line in done.stdout.splitlines():
            if not line.startswith("{"):
                continue
            run = json.loads(line)
            tokens = run["n_gen"] or run["n_prompt"]
            each = 1e-3 * statistics.median(run["samples_ns"]) / (run["n_gen"] or 1)
            place = {"context": run.get("n_depth", 0)} if run["n_gen"] else {"prompt": run["n_prompt"]}
            yield {"what": "llama_decode" if run["n_gen"] else "llama_prefill", **place, "us_median": round(each, 1),
                   "tokens_per_s": round(1e9 * tokens / statistics.median(run["samples_ns"]), 1)}
        if done.returncode != 0:
            yield {"what": "llama", "error": f"status {done.returncode}: {done.stderr.strip()[-300:]}"}


def judging(program, model):
    """The case on a synthetic model, from the start of the program to its reports."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        done = subprocess.run([program, "run", JUDGED_CASE, "--model", f"synthetic:qwen2.5-{model}", "--backend", "cuda",
                               "--quiet", "--out", os.path.join(folder, "report")], capture_output=True, text=True,
                              check=False)
        seconds = time.monotonic() - started
    result = {"what": "judging", "case": JUDGED_CASE}
    if done.returncode == 0:
        yield {**result, "us_median": round(1e6 * seconds)}
    else:
        yield {**result, "error": f"status {done.returncode}: {done.stderr.strip()[-300:]}"}


def place_of(result):
    """Where a quantity was measured; a peer that names no batch decodes one row."""
    if "case" in result:
        return (("case", result["case"]),)
    if "prompt" in result:
        return (("prompt", result["prompt"]),)
    return (("context", result["context"]), ("batch", result.get("batch", 1)))


def summaries(found):
    """One object a quantity; `found` holds those of all rounds."""
    times, shares = {}, {}
    for result in found:
        if "us_median" in result:
            quantity = (result["what"], place_of(result))
            times.setdefault(quantity, []).append(result["us_median"])
            if "percent_of_read" in result:
                shares.setdefault(quantity, []).append(result["percent_of_read"])
    own = {"prefill": "prefill", "decode": "decode"}
    for (what, place), values in times.items():
        middle = statistics.median(values)
        summary = {"what": "summary", "of": what, **dict(place), "rounds": len(values), "us_median": round(middle, 1),
                   "us_fastest": min(values), "us_slowest": max(values)}
        if (what, place) in shares:
            summary["percent_of_read"] = round(statistics.median(shares[what, place]), 1)
        kind = next((kind for kind in own if what.endswith(kind) or f"_{kind}_" in what), None)
        ours = times.get((kind, place))
        if ours and what not in own and not what.endswith("tapped"):
            summary["engine_takes"] = round(statistics.median(ours) / middle, 3)
        yield summary


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine")
    parser.add_argument("model", choices=SHAPES)
    parser.add_argument("--contexts", type=numbers, default=[0, 1024])
    parser.add_argument("--prompts", type=numbers, default=[512, 4096])
    parser.add_argument("--batches", type=numbers, default=[])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--transformers", action="store_true")
    parser.add_argument("--llama-bench")
    parser.add_argument("--llama-model")
    parser.add_argument("--qdiff")
    arguments = parser.parse_args()
    if bool(arguments.llama_bench) != bool(arguments.llama_model):
        parser.error("--llama-bench and --llama-model go together")
    places = (arguments.contexts, arguments.prompts)
    peers = [lambda: engine(arguments.engine, arguments.model, *places, arguments.batches)]
    if arguments.transformers:
        from bench_transformers import Transformers  # loads PyTorch
        transformers = Transformers(arguments.model)
        peers.append(lambda: transformers.measure(*places, arguments.batches, BATCH_CONTEXT, TOKENS))
    if arguments.llama_bench:
        peers.append(lambda: llama(arguments.llama_bench, arguments.llama_model, *places))
    if arguments.qdiff:
        peers.append(lambda: judging(arguments.qdiff, arguments.model))

    found, failed = [], False
    for number in range(1, arguments.rounds + 1):
        for peer in peers:
            for result in peer():
                found.append({"model": arguments.model, "round": number, **result})
                failed |= "error" in result
                print(json.dumps(found[-1]), flush=True)
    for summary in summaries(found):
        print(json.dumps({"model": arguments.model, **summary}), flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
