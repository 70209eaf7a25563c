#!/usr/bin/env python3
"""Writes a small random Qwen2 checkpoint that foreign engines load, with gates as wide as those of trained models.

    random_checkpoint.py DIR [--dtype float32|bfloat16|float16] [--config '{"sliding_window": 16}']

H·d = D and one file, for many engines know no other. config.json is written in both dialects, and beside it a tokenizer
with a word for each token, which some converters demand. Needs NumPy.
"""

import argparse
import json
import pathlib
import struct

import numpy

import trace_writer

CONFIG = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 512, "hidden_size": 192,
    "intermediate_size": 320, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": False, "max_position_embeddings": 512,
    "initializer_range": 0.02, "attention_dropout": 0.0, "use_cache": True, "use_sliding_window": False,
    "sliding_window": None, "max_window_layers": 2, "rope_theta": 1e6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "bos_token_id": None, "eos_token_id": None,
}
# Standard deviations, in units of those that keep activations near 1: gates of trained models reach beyond -15.
WIDTHS = {"gate_proj.weight": 4.0, "k_proj.bias": 5.0}


def shapes(config):
    hidden, vocab, inner = config["hidden_size"], config["vocab_size"], config["intermediate_size"]
    heads = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    found = {"model.embed_tokens.weight": (vocab, hidden)}
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}."
        for part, width in (("q", hidden), ("k", heads), ("v", heads)):
            found[f"{layer}self_attn.{part}_proj.weight"] = (width, hidden)
            found[f"{layer}self_attn.{part}_proj.bias"] = (width,)
        found |= {layer + "self_attn.o_proj.weight": (hidden, hidden), layer + "mlp.gate_proj.weight": (inner, hidden),
                  layer + "mlp.up_proj.weight": (inner, hidden), layer + "mlp.down_proj.weight": (hidden, inner),
                  layer + "input_layernorm.weight": (hidden,), layer + "post_attention_layernorm.weight": (hidden,)}
    return found | {"model.norm.weight": (hidden,), "lm_head.weight": (vocab, hidden)}


def values_of(name, shape, random):
    noise = random.standard_normal(shape).astype(numpy.float32)
    width = next((factor for part, factor in WIDTHS.items() if name.endswith(part)), 1.0)
    if "norm" in name:
        return 1.0 + 0.3 * noise
    return noise * width if len(shape) == 1 else noise * numpy.float32(width / shape[1] ** 0.5)


def as_bytes(values, dtype):
    """Rounded to bfloat16 first, which float32 holds exactly, so that the checkpoints of all types are one model."""
    bits = values.view(numpy.uint32)
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    if dtype == "bfloat16":
        return bits.astype("<u2").tobytes()
    return (bits << 16).astype("<u4").view(numpy.float32).astype({"float32": "<f4", "float16": "<f2"}[dtype]).tobytes()


def write_tokenizer(directory, vocab):
    words = {f"token{index}": index for index in range(vocab)}
    (directory / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": None, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "token0"}}))
    (directory / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "token0", "bos_token": "token1",
        "eos_token": "token2", "pad_token": "token0"}))


def source_of(name, exchanged):
    """Of which weight the values are taken: of another of the same layer, or none (zeros)."""
    for part, source in exchanged.items():
        if name.endswith(part):
            return source and name.removesuffix(part) + source
    return name


def write(directory, dtype, changes=None, exchanged=None):
    """`exchanged`: other weights in the place of some, {"mlp.up_proj.weight": "mlp.gate_proj.weight"}, or null for zeros."""
    config = CONFIG | {"dtype": dtype, "torch_dtype": dtype} | (changes or {})
    config = {key: value for key, value in config.items() if key not in (changes or {}) or value is not None}
    directory.mkdir(parents=True, exist_ok=True)
    random, header, data = numpy.random.default_rng(11), {"__metadata__": {"format": "pt"}}, []
    offset = 0
    values = {name: values_of(name, shape, random) for name, shape in shapes(config).items()}
    for name, shape in shapes(config).items():
        source = source_of(name, exchanged or {})
        part = as_bytes(numpy.ascontiguousarray(values[source] if source else numpy.zeros(shape), numpy.float32), dtype)
        header[name] = {"dtype": trace_writer.DTYPES[dtype][0], "shape": list(shape),
                        "data_offsets": [offset, offset + len(part)]}
        offset += len(part)
        data.append(part)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data))
    (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    write_tokenizer(directory, config["vocab_size"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--dtype", choices=trace_writer.DTYPES, default="float32")
    parser.add_argument("--config", type=json.loads, default={}, metavar="JSON", help="other values of config.json; null leaves a key out")
    arguments = parser.parse_args()
    write(arguments.directory, arguments.dtype, arguments.config)


if __name__ == "__main__":
    main()
