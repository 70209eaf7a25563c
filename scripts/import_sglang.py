#!/usr/bin/env python3
"""Makes a qdiff trace (docs/trace-format.md) of what SGLang dumps with --debug-tensor-dump-output-folder.

    python -m sglang.launch_server --model-path DIR --debug-tensor-dump-output-folder dump --disable-cuda-graph \\
        --disable-radix-cache --skip-server-warmup
    import_sglang.py --model DIR --dump dump --trace trace --passes 0-4

The format is that of sglang/srt/debug_utils/tensor_dump_forward_hook.py: a folder for each rank, in it a file for each
forward pass, which holds what each module gave. A pass's logits stand in the file of the pass after it. --passes names
the prefill of some requests and the decode steps behind it; all of them carry the same requests. Needs torch.
"""

import argparse
import pathlib
import re

import record_torch
import recording
import trace_writer
from recording import UsageError

LAYER = "model.layers.{i}."
# What a module gave: (its name, which part, columns) to the tensor of the contract. Norms that add the residual give the
# sum as well, which is the stream of the layer before.
MODULES = [("input_layernorm", 0, None, LAYER + "input_layernorm"),
           ("self_attn.qkv_proj", 0, ("0", "H*d"), LAYER + "self_attn.q_proj"),
           ("self_attn.qkv_proj", 0, ("H*d", "H*d+K*d"), LAYER + "self_attn.k_proj"),
           ("self_attn.qkv_proj", 0, ("H*d+K*d", "H*d+2*K*d"), LAYER + "self_attn.v_proj"),
           ("self_attn.rotary_emb", 0, None, LAYER + "self_attn.q_rope"),
           ("self_attn.rotary_emb", 1, None, LAYER + "self_attn.k_rope"),
           ("self_attn.attn", 0, None, LAYER + "self_attn.attn_output"),
           ("self_attn.o_proj", 0, None, LAYER + "self_attn.o_proj"),
           ("post_attention_layernorm", 1, None, LAYER + "resid_mid"),
           ("post_attention_layernorm", 0, None, LAYER + "post_attention_layernorm"),
           ("mlp.gate_up_proj", 0, ("0", "I"), LAYER + "mlp.gate_proj"),
           ("mlp.gate_up_proj", 0, ("I", "2*I"), LAYER + "mlp.up_proj"),
           ("mlp.act_fn", 0, None, LAYER + "mlp.act"), ("mlp.down_proj", 0, None, LAYER + "mlp.down_proj")]
LAYOUTS = {"self_attn.q_rope": "N H*d", "self_attn.k_rope": "N K*d"}


def takes_of(num_layers):
    """[(module, part, columns, tensor)] of the whole model."""
    takes = [("model.embed_tokens", 0, None, "model.embed_tokens"), ("model.norm", 0, None, "model.norm"),
             ("model.norm", 1, None, f"model.layers.{num_layers - 1}.output")]
    for i in range(num_layers):
        prefix = f"model.layers.{i}."
        takes += [(prefix + module, part, columns, tensor.replace("{i}", str(i)))
                  for module, part, columns, tensor in MODULES]
        if i > 0:
            takes.append((prefix + "input_layernorm", 1, None, f"model.layers.{i - 1}.output"))
    return takes


def read_passes(dump, span):
    """The files' contents of passes [first, last], and of the one behind them where it is there."""
    import torch
    ranks = sorted(path for path in dump.iterdir() if re.fullmatch(r"TP\d+_PP\d+_Rank\d+_pid\d+", path.name)) \
        if dump.is_dir() else []
    if len(ranks) != 1:
        raise UsageError(f"{dump}: has {len(ranks)} folders of ranks (TP0_PP0_Rank0_pid…), but a trace is made of one; "
                         "run the server with one rank, and give a folder of its own to each run")
    first, last = span
    passes = []
    for index in range(first, last + 2):
        path = ranks[0] / f"Pass{index:05d}.pt"
        if not path.is_file():
            if index <= last:
                raise UsageError(f"{path}: is not there; a pass's file is written when the next pass ends")
            break
        try:
            passes.append(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:
            raise UsageError(f"{path}: torch cannot read it: {error}") from error
    return passes, last - first + 1


def parts(value):
    return value if isinstance(value, (list, tuple)) else [value]


def rows_of(values, lengths):
    """Packed numbers as one list for each request."""
    rows, begin = [], 0
    for length in lengths:
        rows.append(values[begin:begin + length])
        begin += length
    return rows


def step_of(held, before):
    """(tokens, positions, past, padding) of a pass; `before` are the slots filled so far, a number for all rows."""
    info = {name: held[f"model.forward_batch_info.{name}"].tolist() for name in ("input_ids", "seq_lens", "positions")}
    if before is None:
        lengths = info["seq_lens"]
        if sum(lengths) != len(info["input_ids"]) or any(row[0] != 0 for row in rows_of(info["positions"], lengths)):
            raise UsageError("the first of --passes is no whole prefill: some of its tokens were cached; run the server "
                             "with --disable-radix-cache and without chunked prefill")
    else:
        lengths = [1] * len(info["seq_lens"])
        if len(info["input_ids"]) != len(lengths):
            raise UsageError("a pass behind the first one is no decode step; choose others with --passes")
    longest = max(lengths)
    padding = [longest - length for length in lengths]

    def padded(values):
        return [[0] * (longest - len(row)) + row for row in rows_of(values, lengths)]
    return padded(info["input_ids"]), padded(info["positions"]), before or 0, padding


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=pathlib.Path, metavar="DIR", help="a Hugging Face directory")
    parser.add_argument("--dump", required=True, type=pathlib.Path, metavar="DIR", help="the folder that SGLang wrote to")
    parser.add_argument("--trace", required=True, type=pathlib.Path, metavar="DIR", help="the trace to write")
    parser.add_argument("--passes", required=True, metavar="M-N", help="a prefill and the decode steps behind it, as 0-4")
    parser.add_argument("--tensors", default="", metavar="REGEX", help="only tensors whose name this matches somewhere")
    arguments = parser.parse_args()
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", arguments.passes)
    if not found or int(found[2] or found[1]) < int(found[1]):
        raise UsageError(f"--passes {arguments.passes}: must be as 0-4")
    config = recording.read_config(arguments.model, ("qwen2", "llama"))
    selected = recording.Filter(arguments.tensors, config["num_hidden_layers"])
    trace_writer.refuse_other_folder(arguments.trace)
    passes, count = read_passes(arguments.dump, (int(found[1]), int(found[2] or found[1])))
    dtype = str(passes[0]["model.embed_tokens"].dtype).removeprefix("torch.")
    sizes = trace_writer.dimensions_of(config)
    before, left_padding = None, None
    with trace_writer.TraceWriter(arguments.trace, {"name": "sglang", "device": "cuda"}, trace_writer.compute(dtype),
                                  config) as writer:
        for index in range(count):
            held = passes[index]
            tokens, positions, past, padding = step_of(held, before)
            left_padding = left_padding or padding
            if len(tokens) != len(left_padding):
                raise UsageError(f"pass {index} of --passes has {len(tokens)} requests, the first one "
                                 f"{len(left_padding)}; choose passes of the same requests")
            writer.begin_step("prefill" if before is None else "decode", tokens, past, positions, left_padding)
            before = past + len(tokens[0])
            here = sizes | {"B": len(tokens), "T": len(tokens[0]), "S": before}
            for module, part, columns, name in takes_of(config["num_hidden_layers"]):
                if not selected(name) or part >= len(parts(held.get(module, []))):
                    continue
                value = parts(held[module])[part]
                if columns:
                    begin, end = (record_torch.size_of(edge, here) for edge in columns)
                    value = value[..., begin:end]
                layout = LAYOUTS.get(name.split(".", 3)[-1], "N " + trace_writer.shape_of(name).split()[-1])
                writer.tensor(name, record_torch.to_contract(value.flatten(1), name, layout, here, left_padding))
            behind = passes[index + 1] if index + 1 < len(passes) else {}
            if selected("lm_head") and "logits_processor" in behind:
                logits = parts(behind["logits_processor"])[0]
                writer.tensor("lm_head", logits[:, None, :config["vocab_size"]].contiguous())
    print(f"{arguments.trace}: {count} steps")


if __name__ == "__main__":
    recording.run_main(main)
