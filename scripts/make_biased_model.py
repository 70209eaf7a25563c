#!/usr/bin/env python3
"""Makes a Qwen2-architecture GGUF file of SmolLM2, a small trained model, with biases that matter.

    make_biased_model.py SMOLLM2.gguf FILE.gguf

The slowest pairs of RoPE hardly turn within a text, so that a bias of k there adds the same to the scores of all keys, and
softmax does not see it: the new model writes what SmolLM2 writes. An engine that adds them to some keys only writes garbage.
Needs NumPy and gguf.
"""

import argparse
import pathlib

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize

SLOWEST_PAIRS, BIAS = 2, 40.0


def k_bias(num_heads, head_dim):
    """Large in the slowest pairs, which are the last dimensions of both halves of a head, and of both signs."""
    bias = np.zeros((num_heads, 2, head_dim // 2), np.float32)
    bias[:, :, -SLOWEST_PAIRS:] = BIAS * np.random.default_rng(5).choice([-1, 1], (num_heads, 2, SLOWEST_PAIRS))
    return bias.reshape(-1)


def rows_apart(matrix, heads):
    """Rows in the checkpoint's order: the file holds the two that RoPE turns together side by side."""
    return matrix.reshape(heads, -1, 2, matrix.shape[-1]).swapaxes(1, 2).reshape(matrix.shape)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("source", "file"):
        parser.add_argument(name, type=pathlib.Path)
    arguments = parser.parse_args()
    reader = GGUFReader(arguments.source)
    values_of = {field.name: field.contents() for field in reader.fields.values()}
    writer = GGUFWriter(arguments.file, "qwen2")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "llama.rope.dimension_count"):
            continue
        key = "qwen2." + field.name.removeprefix("llama.") if field.name.startswith("llama.") else field.name
        value = 1 if key == "general.file_type" else values_of[field.name]
        kind, element = field.types[0], field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(key, value, kind, element)
    heads = {"attn_q": values_of["llama.attention.head_count"], "attn_k": values_of["llama.attention.head_count_kv"]}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        part = tensor.name.split(".")[2] if tensor.name.startswith("blk.") else ""
        if part in heads:
            values = rows_apart(values, heads[part])
        writer.add_tensor(tensor.name, values if values.ndim == 1 else values.astype(np.float16))
        if part in ("attn_q", "attn_k", "attn_v"):
            rows = len(values)
            bias = k_bias(heads[part], rows // heads[part]) if part == "attn_k" else np.zeros(rows, np.float32)
            writer.add_tensor(tensor.name.replace("weight", "bias"), bias)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
