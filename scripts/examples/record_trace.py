#!/usr/bin/env python3
"""How a Python engine writes a trace with python/qdiff/trace_writer.py (copy that): record_trace.py CONFIG.JSON TRACE"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from trace_writer import TraceWriter, compute  # noqa: E402

if len(sys.argv) != 3:
    sys.exit(__doc__)
config = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
width, heads = config["hidden_size"], config["num_key_value_heads"]
head_dim = config.get("head_dim") or width // config["num_attention_heads"]
rounding = compute("bfloat16", points={"attention.probs": "bfloat16"})  # this engine casts P before P·V
with TraceWriter(sys.argv[2], {"name": "example", "version": "1", "device": "cpu"}, rounding, config) as trace:
    trace.begin_step("prefill", tokens=[[3, 1, 4]])
    # A NumPy array or a PyTorch tensor goes in as it is; here nested lists, [B][T][D].
    trace.tensor("model.embed_tokens", [[[1.0] * width] * 3], "bfloat16")

    trace.begin_step("decode", tokens=[[5]])
    # A paged cache of 2 tokens a page, [page][token][K*d], becomes the logical view [B,S,K,d]: token by token.
    pages = [[[0.5] * heads * head_dim, [0.25] * heads * head_dim] for _ in range(4)]
    block_table = [2, 0]
    slots = [pages[block_table[slot // 2]][slot % 2] for slot in range(4)]
    values = [value for slot in slots for value in slot]
    trace.tensor("model.layers.0.self_attn.k_cache", values, "bfloat16", (1, 4, heads, head_dim))
