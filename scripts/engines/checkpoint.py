"""Reads a Qwen2 checkpoint directory with the standard library and NumPy."""

import json
import struct

import numpy

from recording import UsageError

_ELEMENTS = {"F32": (numpy.float32, 4), "F16": (numpy.float16, 2), "BF16": (numpy.uint16, 2)}


def read_weights_file(path):
    try:
        with open(path, "rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            header = json.loads(file.read(length))
            data = file.read()
    except (OSError, struct.error, ValueError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _ELEMENTS:
            raise UsageError(f"{path}: {name} is {entry['dtype']}, but must be F32, F16 or BF16")
        element, _ = _ELEMENTS[entry["dtype"]]
        begin, end = entry["data_offsets"]
        values = numpy.frombuffer(data[begin:end], dtype=element).reshape(entry["shape"])
        if entry["dtype"] == "BF16":
            values = (values.astype(numpy.uint32) << 16).view(numpy.float32)
        tensors[name] = values.astype(numpy.float32)
    return tensors


def read_weights(directory):
    """All tensors by name, in float32, which holds every stored type exactly."""
    index = directory / "model.safetensors.index.json"
    if (directory / "model.safetensors").exists() or not index.exists():
        return read_weights_file(directory / "model.safetensors")
    tensors = {}
    for shard in sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())):
        tensors |= read_weights_file(directory / shard)
    return tensors


class Config:
    """The hyper-parameters under short names; defaults are those of transformers' Qwen2Config."""

    def __init__(self, raw):
        try:
            self.hidden, self.num_layers = raw["hidden_size"], raw["num_hidden_layers"]
            self.num_q_heads, self.intermediate, self.vocab = (
                raw["num_attention_heads"], raw["intermediate_size"], raw["vocab_size"])
        except KeyError as error:
            raise UsageError(f"config.json has no {error.args[0]}") from error
        self.num_kv_heads = raw.get("num_key_value_heads") or self.num_q_heads
        self.head_dim = raw.get("head_dim") or self.hidden // self.num_q_heads
        self.eps = raw.get("rms_norm_eps", 1e-6)
        rope = raw.get("rope_parameters") or {}
        self.theta = rope.get("rope_theta", raw.get("rope_theta", 10000.0))
        self.tied = raw.get("tie_word_embeddings", False)
        if rope.get("rope_type", "default") != "default" or raw.get("rope_scaling") or raw.get("use_sliding_window"):
            raise UsageError("config.json asks for RoPE scaling or a sliding window, which this engine does not have")
