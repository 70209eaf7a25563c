#!/usr/bin/env python3
"""Writes harness/formats/tests/data/ggml-types.gguf: blocks of every ggml type that qdiff reads, and their values. Beside it
fuzz/seeds/gguf/model.gguf, a header with every key that qdiff reads and some tensors, for the fuzzer to start from.

    make_gguf_goldens.py [ROOT]      needs NumPy and the package gguf (0.19)

For each type there are two tensors of 512 elements: NAME with random blocks, any bits but scales that are not finite, and
NAME.expected with what gguf.quants.dequantize makes of them, in float32. The same seed writes the same bytes.
"""
import sys
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

# Where a block holds float16 numbers: scales and minima. Any other byte may be anything.
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0], "F16": [0], "BF16": [], "F32": []}


def random_blocks(name, elements, random):
    """Blocks of a type as bytes, [elements / block, bytes], whose values are all finite."""
    block_elements, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    count = elements // block_elements
    if name in ("F32", "BF16"):
        values = (random.standard_normal(count) * 10.0 ** random.integers(-30, 30, count)).astype(np.float32)
        return np.frombuffer(values.tobytes(), np.uint8).reshape(count, 4)[:, 4 - block_bytes:]
    blocks = random.integers(0, 256, (count, block_bytes), dtype=np.uint8)
    for place in HALVES[name]:  # an exponent of all ones would be an infinity or NaN
        halves = random.integers(0, 0x7C00, count).astype(np.uint16) | (random.integers(0, 2, count) << 15).astype(np.uint16)
        blocks[:, place:place + 2] = halves.view(np.uint8).reshape(count, 2)
    return blocks


def write_types(path):
    random = np.random.default_rng(7)
    writer = GGUFWriter(path, "qwen2")
    for name in HALVES:
        quantized = GGMLQuantizationType[name]
        blocks = np.ascontiguousarray(random_blocks(name, 512, random)).reshape(1, -1)
        values = dequantize(blocks, quantized) if name not in ("F32", "F16") else blocks.view(
            {"F32": np.float32, "F16": np.float16}[name]).astype(np.float32)
        assert values.shape == (1, 512) and np.isfinite(values).all()
        writer.add_tensor(name, blocks, raw_dtype=quantized)
        writer.add_tensor(name + ".expected", values)
    finish(writer, path)


def write_seed(path):
    writer = GGUFWriter(path, "qwen2")
    writer.add_custom_alignment(32)
    for add, value in [(writer.add_name, "seed"), (writer.add_block_count, 1), (writer.add_context_length, 64),
                       (writer.add_embedding_length, 8), (writer.add_feed_forward_length, 16), (writer.add_head_count, 2),
                       (writer.add_head_count_kv, 1), (writer.add_key_length, 4), (writer.add_value_length, 4),
                       (writer.add_layer_norm_rms_eps, 1e-6), (writer.add_rope_freq_base, 1e6),
                       (writer.add_rope_dimension_count, 4), (writer.add_vocab_size, 4), (writer.add_sliding_window, 0),
                       (writer.add_tokenizer_model, "gpt2"), (writer.add_tokenizer_pre, "qwen2"),
                       (writer.add_token_list, ["a", "b", "ab", "<|end|>"]), (writer.add_token_merges, ["a b"]),
                       (writer.add_token_types, [1, 1, 1, 3]), (writer.add_add_bos_token, False)]:
        add(value)
    for add in (writer.add_uint8, writer.add_int8, writer.add_uint16, writer.add_int16, writer.add_int32, writer.add_uint64,
                writer.add_int64, writer.add_float64):
        add("other." + add.__name__, 1)
    for name, shape in [("token_embd.weight", (4, 8)), ("output_norm.weight", (8,)), ("blk.0.attn_q.weight", (8, 8))]:
        writer.add_tensor(name, np.ones(shape, np.float32))
    finish(writer, path)


def finish(writer, path):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{path.name}: {path.stat().st_size} bytes")


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent)
    for write, name in [(write_types, "harness/formats/tests/data/ggml-types.gguf"), (write_seed, "fuzz/seeds/gguf/model.gguf")]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write(root / name)


if __name__ == "__main__":
    main()
