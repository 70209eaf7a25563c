#!/usr/bin/env python3
"""The grid of clean runs on the shapes of Qwen2.5-0.5B and -7B that gpu-check.sh makes: prompts from 1 to 4096 tokens,
one row or three ragged ones, both 16-bit types, two profiles.

    gpu_grid.py FOLDER               the pairwise part: every two values of any two columns meet in some case
    gpu_grid.py FOLDER --rest N/OF   all that the pairwise part leaves out, in parts of about equal cost

Writes the cases into FOLDER and prints a line for each run of qdiff, the longest first: its name, the GiB of the GPU's
memory that it takes, the model, the type, the mode and the cases, with tabs between.
"""
import argparse
import itertools
import json
import math
import pathlib

PROMPTS = (1, 2, 17, 129, 1000, 4096)
BATCHES = (1, 3)
# Two layers: the second one's input is a layer's output, and the cache has a layer stride.
MODELS = ("qwen2.5-0.5b,layers=2", "qwen2.5-7b,layers=2")
HEADS = (14, 28)
WEIGHTS, WEIGHTS_OF_SHORT = (3, 8), (6, 16)  # GiB, by model, with all else that does not grow with the prompt
# Of long prompts the logits would be most of the work, ten times all else; shorter ones have the shapes' own
# vocabulary.
LONG, FEW_TOKENS = 1000, ",vocab=8192"
# Which faults a case would show is asked of the case that names no hypothesis, with the rows of a short prompt; of a
# long one only those that no other case shows, and those of this hypothesis, the cheapest to ask.
COMPANION, ASKED_OF_LONG = 17, "H09"
PROFILES = ("plain", "qwen")
TYPES = ("bfloat16", "float16")
DECODE_STEPS = 3

# By prompt: model, profile and type of the single row; the three ragged rows take the other one of each. So every
# prompt meets both of each, and all eight combinations of the three occur. The longest batch runs on the smaller model.
OF_SINGLE_ROW = {1: (0, 0, 0), 2: (0, 1, 1), 17: (1, 0, 1), 129: (1, 1, 0), 1000: (0, 1, 0), 4096: (1, 0, 0)}


def pairwise():
    for prompt in PROMPTS:
        single = OF_SINGLE_ROW[prompt]
        yield prompt, 1, single
        yield prompt, 3, tuple(1 - choice for choice in single)


def rest():
    done = set(pairwise())
    everything = itertools.product(PROMPTS, BATCHES, itertools.product(range(2), repeat=3))
    return [cell for cell in everything if cell not in done]


def left_padding(prompt, batch):
    """None, a third of the prompt, all but one token of it."""
    return [0, (prompt + 2) // 3, prompt - 1][:batch]


def case_of(prompt, batch, hypothesis=None):
    return {
        "format": "qdiff-case", "version": 1, "id": f"grid-{prompt}x{batch}",
        "title": f"A prompt of {prompt} tokens, {batch} row{'s' if batch > 1 else ''}",
        "hypothesis": hypothesis,
        "stresses": "Every kernel of prefill and decode at this length, with free slots behind the last one.",
        "model": f"synthetic:{MODELS[0]}", "batch": batch, "left_padding": left_padding(prompt, batch),
        "capacity": prompt + DECODE_STEPS + 5, "seed": 100 + prompt, "logits": "all",
        "steps": [{"phase": "prefill", "tokens": prompt}] + [{"phase": "decode", "tokens": 1}] * DECODE_STEPS}


def mode_of(cell):
    """Where a run would take most of the time that there is, the engine is not run free, only on the reference's inputs.
    Of the longest prompts the single rows that the pairwise part leaves out are run free as well."""
    return "lockstep" if cell[0] == max(PROMPTS) and (cell[1] == 3 or cell in set(pairwise())) else "both"


def cost(cell):
    """Seconds, roughly (an H100, 16 cores, four runs side by side)."""
    prompt, batch, (model, _, _) = cell
    seconds = 5 + batch * prompt * (0.04 if model else 0.01)
    return seconds / 2 if mode_of(cell) == "lockstep" else seconds


def memory(cell):
    """GiB on the GPU, rather too many: weights in float64, with the whole vocabulary where prompts are short, and a few
    float64 copies of one layer's scores (47 GiB were seen of the largest cell, 14 of short prompts on 7B)."""
    prompt, batch, (model, _, _) = cell
    scores = 8 * batch * HEADS[model] * prompt**2 / 2**30
    return math.ceil(4 * scores + (WEIGHTS if prompt >= LONG else WEIGHTS_OF_SHORT)[model])


def part_of(cells, number, count):
    """The `number`-th of `count` parts: the dearest cell goes to the cheapest part so far."""
    parts = [[] for _ in range(count)]
    for cell in sorted(cells, key=cost, reverse=True):
        min(parts, key=lambda part: sum(map(cost, part))).append(cell)
    return parts[number - 1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--rest", metavar="N/OF")
    arguments = parser.parse_args()
    cells = list(pairwise())
    if arguments.rest:
        number, count = map(int, arguments.rest.split("/"))
        if not 1 <= number <= count:
            parser.error(f"--rest {arguments.rest}: there are parts 1 to {count}")
        cells = part_of(rest(), number, count)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    # Short prompts of one model, profile and type share a run; a long one has its own.
    runs = {}
    for cell in sorted(cells, key=lambda cell: (-cost(cell), cell)):
        runs.setdefault(cell if cell[0] >= LONG else cell[2], []).append(cell)
    for of_run in runs.values():
        prompt, _, (model, profile, dtype) = of_run[0]
        is_long = prompt >= LONG
        cases = [case_of(*cell[:2], ASKED_OF_LONG if is_long else None) for cell in of_run]
        if is_long:
            cases.insert(0, {**case_of(COMPANION, 3), "id": "companion"})
        files = [arguments.folder / f"{case['id']}.json" for case in cases]
        for file, case in zip(files, cases):
            file.write_text(json.dumps(case, indent=1) + "\n")
        size = MODELS[model].split(",")[0].removeprefix("qwen2.5-")
        name = "_".join([size, PROFILES[profile], TYPES[dtype]] + [f"{prompt}x{of_run[0][1]}"] * is_long)
        spec = f"synthetic:{MODELS[model]},profile={PROFILES[profile]}{FEW_TOKENS if is_long else ''}"
        print(name, max(map(memory, of_run)), spec, TYPES[dtype], mode_of(of_run[0]), *files, sep="\t")


if __name__ == "__main__":
    main()
