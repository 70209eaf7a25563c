#!/usr/bin/env python3
"""Writes harness/trace/tests/data: a tiny Qwen2 checkpoint, and traces of right and wrong engines that ran it.

    make_trace_data.py [FOLDER]

Needs torch, transformers and safetensors. Each trace's folder is named for the engine, its precision and its bug; those
of unlisted/ for the bug alone.
"""

import copy
import pathlib
import subprocess
import sys

import torch

import make_goldens
from engines import unlisted

SCRIPTS = pathlib.Path(__file__).resolve().parent
# H·d = 96 is not D = 64; three query heads to each key/value head; no dimension is a multiple of a tile but D.
CONFIG = dict(vocab_size=96, hidden_size=64, intermediate_size=72, num_hidden_layers=2, num_attention_heads=6,
              num_key_value_heads=2, head_dim=16, rope_parameters={"rope_type": "default", "rope_theta": 1e6})

RAGGED = ["--prompt-tokens", "9,6", "--chunks", "5,4", "--decode", "2"]
SHORT = ["--prompt-tokens", "7", "--decode", "2"]
TRACES = {
    "transformers-eager-bfloat16": ["record_transformers.py", *RAGGED, "--attn", "eager"],
    "transformers-sdpa-bfloat16": ["record_transformers.py", *RAGGED, "--attn", "sdpa"],
    "transformers-sdpa-float32": ["record_transformers.py", *SHORT, "--attn", "sdpa", "--dtype", "float32"],
    "transformers-eager-bfloat16-theta": ["record_transformers.py", *SHORT, "--override", "rope_theta=1e4"],
    "transformers-sdpa-bfloat16-logits": ["record_transformers.py", *RAGGED, "--attn", "sdpa", "--zero-bias", "q",
                                          "--tensors", "lm_head"],
    "numpy-bfloat16": ["independent_engine.py", *RAGGED, "--scores"],
    "numpy-float16-online": ["independent_engine.py", *SHORT, "--dtype", "float16", "--softmax", "online"],
    "numpy-bfloat16-H05.modulo": ["independent_engine.py", *SHORT, "--inject", "H05.modulo"],
    # Two bugs do this: a window of 8 slots, and decode that leaves slot 0 out.
    "numpy-bfloat16-tie": ["independent_engine.py", "--prompt-tokens", "8", "--decode", "1", "--inject", "H10.window=8",
                           "--tensors", "embed_tokens|_rope|_cache|attn_output"],
}
# The bugs of unlisted_faults.json, in a folder of their own. The first layer is whole; of the second there is only what
# it gives, as in a trace that narrows a layer down. query_tail_skipped needs more than eight tokens.
UNLISTED = ["--prompt-tokens", "9", "--decode", "1", "--tensors",
            "embed_tokens|layers.0.|layers.1.output|model.norm|lm_head"]


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else SCRIPTS.parent / "harness/trace/tests/data")
    torch.set_num_threads(1)
    make_goldens.CONFIG |= CONFIG
    model = copy.deepcopy(make_goldens.random_model()).to(torch.bfloat16)
    model.save_pretrained(folder / "model")
    (folder / "model/generation_config.json").unlink(missing_ok=True)
    traces = {folder / "traces" / name: command for name, command in TRACES.items()}
    traces |= {folder / "unlisted" / bug: ["independent_engine.py", *UNLISTED, "--unlisted", bug]
               for bug in unlisted.BUGS}
    for trace, (script, *arguments) in traces.items():
        threads = ["--threads", "1"] if script == "record_transformers.py" else []
        subprocess.run([sys.executable, SCRIPTS / script, "--model", folder / "model", "--trace", trace, "--seed", "5",
                        *arguments, *threads], check=True)


if __name__ == "__main__":
    main()
