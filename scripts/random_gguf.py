#!/usr/bin/env python3
"""Writes a GGUF file with random bfloat16 weights in the shapes of Qwen2.5-0.5B or -7B, for llama.cpp's llama-bench,
which needs a file and reads no meaning into it.

    random_gguf.py 0.5b|7b FILE

The layout is that of ggml's docs/gguf.md, version 3; names and keys are those of llama.cpp's architecture "qwen2".
"""
import argparse
import math
import pathlib
import random
import struct

from bench_shapes import SHAPES

ALIGNMENT = 32
STRING, UINT32, FLOAT32 = 8, 4, 6  # types of values
F32, BF16 = 0, 30                  # types of tensors


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def entry(key, kind, value):
    packed = text(value) if kind == STRING else struct.pack("<I" if kind == UINT32 else "<f", value)
    return text(key) + struct.pack("<I", kind) + packed


def entries(shape):
    numbers = {"block_count": shape["num_hidden_layers"], "context_length": 32768,
               "embedding_length": shape["hidden_size"], "feed_forward_length": shape["intermediate_size"],
               "attention.head_count": shape["num_attention_heads"],
               "attention.head_count_kv": shape["num_key_value_heads"], "vocab_size": shape["vocab_size"]}
    found = [entry("general.architecture", STRING, "qwen2"), entry("tokenizer.ggml.model", STRING, "no_vocab"),
             entry("qwen2.attention.layer_norm_rms_epsilon", FLOAT32, 1e-6),
             entry("qwen2.rope.freq_base", FLOAT32, 1e6)]
    return found + [entry(f"qwen2.{key}", UINT32, value) for key, value in numbers.items()]


def tensors(shape):
    """(name, dimensions with the fastest first, type)"""
    hidden, inner, vocab = shape["hidden_size"], shape["intermediate_size"], shape["vocab_size"]
    keys = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    found = [("token_embd.weight", (hidden, vocab), BF16), ("output_norm.weight", (hidden,), F32)]
    if not shape["tie_word_embeddings"]:
        found.append(("output.weight", (hidden, vocab), BF16))
    for layer in range(shape["num_hidden_layers"]):
        matrices = {"attn_q": (hidden, hidden), "attn_k": (hidden, keys), "attn_v": (hidden, keys),
                    "attn_output": (hidden, hidden), "ffn_gate": (hidden, inner), "ffn_up": (hidden, inner),
                    "ffn_down": (inner, hidden)}
        found += [(f"blk.{layer}.{name}.weight", size, BF16) for name, size in matrices.items()]
        found += [(f"blk.{layer}.{name}.bias", (matrices[name][1],), F32) for name in ("attn_q", "attn_k", "attn_v")]
        found += [(f"blk.{layer}.{name}.weight", (hidden,), F32) for name in ("attn_norm", "ffn_norm")]
    return found


def num_bytes(size, kind):
    return math.prod(size) * (4 if kind == F32 else 2)


def padding(length):
    return bytes(-length % ALIGNMENT)


def random_block(count):
    """`count` bfloat16 numbers from 2^-7 to 2^-5, of both signs."""
    draw = random.Random(1)
    block = bytearray(2 * count)
    block[0::2] = draw.randbytes(count)
    block[1::2] = bytes(0x3C | byte & 0x80 for byte in draw.randbytes(count))
    return bytes(block)


def write(shape, path):
    header, offset = b"", 0
    for name, size, kind in tensors(shape):
        header += text(name) + struct.pack(f"<I{len(size)}QIQ", len(size), *size, kind, offset)
        offset += num_bytes(size, kind)
        offset += -offset % ALIGNMENT
    keys = entries(shape)
    start = b"GGUF" + struct.pack("<IQQ", 3, len(tensors(shape)), len(keys)) + b"".join(keys) + header
    block = random_block(1 << 22)  # over and over: the values do not matter, and making them all would take minutes
    with path.open("wb") as file:
        file.write(start + padding(len(start)))
        for _, size, kind in tensors(shape):
            left = num_bytes(size, kind)
            if kind == F32:
                file.write(struct.pack("<f", 1.0) * (left // 4))
            while kind == BF16 and left > 0:
                file.write(block[:left])
                left -= min(left, len(block))
            file.write(padding(num_bytes(size, kind)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("file", type=pathlib.Path)
    arguments = parser.parse_args()
    write(SHAPES[arguments.shape], arguments.file)


if __name__ == "__main__":
    main()
