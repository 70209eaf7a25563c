#!/usr/bin/env python3
"""Whole GGUF models, written by the package gguf and read by qdiff: every value has the bits that gguf gives.

    gguf_test.py QDIFF_FOREIGN      77 means skipped: NumPy or the package gguf is not here

For each type there is a Qwen2 model whose matrices are of that type, with widths that are multiples of 256, and one of the
architecture llama, whose q and k lie permuted. `qdiff_foreign export` writes what qdiff reads as safetensors. Quantised by
gguf where it can; elsewhere the blocks are random bits with finite scales, which are as valid.
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import dequantize, quantize
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from make_gguf_goldens import HALVES, random_blocks  # noqa: E402

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, VOCAB, LAYERS = 512, 768, 8, 4, 96, 2
LARGE_VOCAB = 80000
HEAD_DIM = HIDDEN // HEADS
NAMES = {"attn_q": ("self_attn.q_proj", HIDDEN, HIDDEN), "attn_k": ("self_attn.k_proj", KV_HEADS * HEAD_DIM, HIDDEN),
         "attn_v": ("self_attn.v_proj", KV_HEADS * HEAD_DIM, HIDDEN), "attn_output": ("self_attn.o_proj", HIDDEN, HIDDEN),
         "ffn_gate": ("mlp.gate_proj", INTERMEDIATE, HIDDEN), "ffn_up": ("mlp.up_proj", INTERMEDIATE, HIDDEN),
         "ffn_down": ("mlp.down_proj", HIDDEN, INTERMEDIATE)}


def permute(weights, heads):
    """As LlamaModel.permute of llama.cpp's convert_hf_to_gguf.py."""
    return weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def permuted_rows(rows, heads):
    """For each row of the file, which row of the checkpoint it is."""
    return permute(np.arange(rows).reshape(rows, 1), heads)[:, 0]


def stored(name, shape, random):
    """A matrix as a file holds it: bytes [rows, bytes], and its values."""
    kind = GGMLQuantizationType[name]
    if name in ("F32", "F16"):
        data = random.standard_normal(shape).astype({"F32": np.float32, "F16": np.float16}[name])
        return data, data.astype(np.float32)
    try:
        data = quantize(random.standard_normal(shape).astype(np.float32), kind)
    except NotImplementedError:
        data = random_blocks(name, shape[0] * shape[1], random).reshape(shape[0], -1)
    return data, dequantize(data, kind)


def write_model(path, architecture, kind, random, vocab=VOCAB):
    """Writes the file; gives back the values of every weight under its name in a checkpoint, in the checkpoint's order."""
    expected = {}
    writer = GGUFWriter(path, architecture)
    for add, value in [(writer.add_block_count, LAYERS), (writer.add_context_length, 256), (writer.add_embedding_length, HIDDEN),
                       (writer.add_feed_forward_length, INTERMEDIATE), (writer.add_head_count, HEADS),
                       (writer.add_head_count_kv, KV_HEADS), (writer.add_layer_norm_rms_eps, 1e-6),
                       (writer.add_rope_freq_base, 1e6)]:
        add(value)

    def matrix(name, checkpoint_name, rows, columns, heads=None):
        data, values = stored(kind, (rows, columns), random)
        writer.add_tensor(name, data, raw_dtype=None if kind in ("F32", "F16") else GGMLQuantizationType[kind])
        if heads is not None:
            ordered = np.empty_like(values)
            ordered[permuted_rows(rows, heads)] = values
            values = ordered
        expected[checkpoint_name] = values

    def vector(name, checkpoint_name, size):
        expected[checkpoint_name] = random.standard_normal(size).astype(np.float32)
        writer.add_tensor(name, expected[checkpoint_name])

    matrix("token_embd.weight", "model.embed_tokens.weight", vocab, HIDDEN)
    matrix("output.weight", "lm_head.weight", vocab, HIDDEN)
    vector("output_norm.weight", "model.norm.weight", HIDDEN)
    for layer in range(LAYERS):
        ours, theirs = f"blk.{layer}.", f"model.layers.{layer}."
        vector(ours + "attn_norm.weight", theirs + "input_layernorm.weight", HIDDEN)
        vector(ours + "ffn_norm.weight", theirs + "post_attention_layernorm.weight", HIDDEN)
        for name, (checkpoint_name, rows, columns) in NAMES.items():
            heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(name) if architecture == "llama" else None
            matrix(f"{ours}{name}.weight", f"{theirs}{checkpoint_name}.weight", rows, columns, heads)
            if architecture == "qwen2" and name in ("attn_q", "attn_k", "attn_v"):
                vector(f"{ours}{name}.bias", f"{theirs}{checkpoint_name}.bias", rows)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expected


def read_safetensors(path):
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    tensors = {}
    for name, entry in json.loads(raw[8:8 + length]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        data = np.frombuffer(raw, np.uint8, end - begin, 8 + length + begin)
        if entry["dtype"] == "BF16":
            values = (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            values = data.view({"F32": np.float32, "F16": np.float16}[entry["dtype"]]).astype(np.float32)
        tensors[name] = values.reshape(entry["shape"])
    return tensors


def run_measured(command):
    """Peak memory in MiB. A process that starts from this one counts this one's memory as its own, so a small one stands
    between."""
    between = ("import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
               "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")
    result = subprocess.run([sys.executable, "-c", between, *command], check=True, stdout=subprocess.PIPE)
    return int(result.stdout.split()[-1]) / 1024


def check(program, architecture, kind, random, vocab=VOCAB):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.gguf"
        expected = write_model(file, architecture, kind, random, vocab)
        peak = run_measured([program, "export", str(file), str(Path(folder) / "out")])
        actual = read_safetensors(Path(folder) / "out/model.safetensors")
    assert set(actual) == set(expected), set(actual) ^ set(expected)
    for name, values in expected.items():
        assert actual[name].shape == values.shape, (name, actual[name].shape)
        assert np.isfinite(values).all(), name
        assert (actual[name].view(np.uint32) == values.view(np.uint32)).all(), f"{architecture} {kind} {name}"
    print(f"{architecture} {kind}: {sum(v.size for v in expected.values())} values of {len(expected)} weights, equal bits")
    return peak


def main():
    random = np.random.default_rng(11)
    small = max(check(sys.argv[1], architecture, kind, random) for architecture in ("qwen2", "llama") for kind in HALVES)
    # Beside what the program takes for a small model there is room for one tensor in float32, and not for the other.
    peak = check(sys.argv[1], "qwen2", "Q8_0", random, LARGE_VOCAB)
    largest = 4 * LARGE_VOCAB * HIDDEN / 2 ** 20
    print(f"peak memory of the reader: {small:.0f} MiB, with two tensors of {largest:.0f} MiB {peak:.0f} MiB")
    assert peak < small + 1.5 * largest


if __name__ == "__main__":
    main()
