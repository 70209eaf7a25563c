#!/usr/bin/env python3
"""Writes small GGUF files and the traces of llama.cpp that ran them, right and wrong.

    make_llamacpp_data.py FOLDER [--all-types]

Needs NumPy, gguf and llama-cpp-python. FOLDER/NAME.gguf is a model of random weights, quantised by llama.cpp, and
FOLDER/NAME its trace; NAME-theta, NAME-eps and NAME-heads are traces of a llama.cpp that was told another base, epsilon
or head count than the file's. Without --all-types it is what harness/trace/tests/data/llamacpp holds.
"""

import argparse
import ctypes
import pathlib
import subprocess
import sys

import numpy as np
from gguf import GGUFWriter
from llama_cpp import llama_cpp

SCRIPTS = pathlib.Path(__file__).resolve().parent
# Widths are multiples of 256, as the K types need.
HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, VOCAB, LAYERS, CONTEXT = 256, 512, 8, 2, 96, 1, 64
HEAD_DIM = HIDDEN // HEADS
TYPES = ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_NL",
         "IQ4_XS"]
KEPT = [("qwen2", "F16"), ("qwen2", "Q8_0"), ("qwen2", "Q4_1"), ("qwen2", "Q4_K_M"), ("llama", "Q4_0")]
WRONG = {"theta": ["--override", "rope_freq_base=10000"], "eps": ["--override", "rms_eps=1e-5"],
         "heads": ["--override", "head_count=16", "--override", "head_count_kv=4"]}


def write_model(path, architecture):
    """Float16 matrices whose activations stay near 1; a massive channel in the embedding, as trained models have."""
    random = np.random.default_rng(23)
    writer = GGUFWriter(path, architecture)
    for add, value in [(writer.add_block_count, LAYERS), (writer.add_context_length, CONTEXT),
                       (writer.add_embedding_length, HIDDEN), (writer.add_feed_forward_length, INTERMEDIATE),
                       (writer.add_head_count, HEADS), (writer.add_head_count_kv, KV_HEADS),
                       (writer.add_layer_norm_rms_eps, 1e-6), (writer.add_rope_freq_base, 1e6),
                       (writer.add_vocab_size, VOCAB), (writer.add_tokenizer_model, "no_vocab"),
                       (writer.add_file_type, 1)]:
        add(value)

    def matrix(name, rows, columns, size):
        values = random.standard_normal((rows, columns)) * size
        if name == "token_embd":
            values[:, 5] *= 40
        writer.add_tensor(f"{name}.weight", values.astype(np.float16))

    def vector(name, size, middle, spread):
        writer.add_tensor(name, (middle + spread * random.standard_normal(size)).astype(np.float32))

    matrix("token_embd", VOCAB, HIDDEN, 0.02)
    vector("output_norm.weight", HIDDEN, 2, 0.2)
    for layer in range(LAYERS):
        prefix = f"blk.{layer}."
        vector(prefix + "attn_norm.weight", HIDDEN, 1, 0.2)
        vector(prefix + "ffn_norm.weight", HIDDEN, 1, 0.2)
        for name, rows, columns in [("attn_q", HIDDEN, HIDDEN), ("attn_k", KV_HEADS * HEAD_DIM, HIDDEN),
                                    ("attn_v", KV_HEADS * HEAD_DIM, HIDDEN), ("attn_output", HIDDEN, HIDDEN),
                                    ("ffn_gate", INTERMEDIATE, HIDDEN), ("ffn_up", INTERMEDIATE, HIDDEN),
                                    ("ffn_down", HIDDEN, INTERMEDIATE)]:
            matrix(prefix + name, rows, columns, columns ** -0.5)
            if architecture == "qwen2" and name in ("attn_q", "attn_k", "attn_v"):
                vector(f"{prefix}{name}.bias", rows, 0, 1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantise(source, destination, kind):
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    parameters.nthread = 1
    status = llama_cpp.llama_model_quantize(bytes(source), bytes(destination), ctypes.byref(parameters))
    if status != 0:
        sys.exit(f"llama_model_quantize to {kind} ended with {status}")


def record(folder, name, model, *more):
    subprocess.run([sys.executable, SCRIPTS / "record_llamacpp.py", "--model", folder / f"{model}.gguf", "--trace",
                    folder / name, "--prompt-tokens", "9", "--chunks", "5,4", "--decode", "1", *more], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--all-types", action="store_true")
    arguments = parser.parse_args()
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(silent, None)
    both = [(architecture, kind) for architecture in ("qwen2", "llama") for kind in TYPES]
    for architecture in ("qwen2", "llama"):
        write_model(folder / f"{architecture}.f16", architecture)
    for architecture, kind in both if arguments.all_types else KEPT:
        name = f"{architecture}-{kind.lower()}"
        quantise(folder / f"{architecture}.f16", folder / f"{name}.gguf", kind)
        record(folder, name, name)
    for wrong, more in WRONG.items():
        record(folder, f"qwen2-q8_0-{wrong}", "qwen2-q8_0", *more)
    for architecture in ("qwen2", "llama"):
        (folder / f"{architecture}.f16").unlink()


if __name__ == "__main__":
    main()
