#!/usr/bin/env python3
"""Decode and prefill of transformers' Qwen2 on this GPU: eager, and compiled with a static cache.

    bench_peers.py 0.5b|7b [--contexts 0,1024] [--prompts 512,4096] [--tokens 48] [--repeats 7]

Random bfloat16 weights, batch 1. Prints one JSON object a measurement, in the fields of cuda_engine_bench. A token's
time is the difference of two generations of different length, so that the prefill and the start do not count.
"""
import argparse
import json
import statistics
import sys
import time

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

SHAPES = {  # config.json of Qwen/Qwen2.5-0.5B-Instruct and -7B-Instruct on the Hugging Face hub
    "0.5b": dict(hidden_size=896, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2,
                 intermediate_size=4864, vocab_size=151936, tie_word_embeddings=True),
    "7b": dict(hidden_size=3584, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4,
               intermediate_size=18944, vocab_size=152064, tie_word_embeddings=False),
}


def make_model(shape):
    config = Qwen2Config(**SHAPES[shape], max_position_embeddings=32768, rms_norm_eps=1e-6,
                         rope_theta=1e6, eos_token_id=None, bos_token_id=None, pad_token_id=None)
    config._attn_implementation = "sdpa"
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            return Qwen2ForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def spread(microseconds):
    ordered = sorted(microseconds)
    at = lambda q: ordered[round(q * (len(ordered) - 1))]
    return {"us_median": round(statistics.median(ordered), 1), "us_p10": round(at(0.1), 1),
            "us_p90": round(at(0.9), 1)}


def generate(model, prompt, tokens, static):
    options = {"cache_implementation": "static"} if static else {}
    torch.cuda.synchronize()
    started = time.perf_counter()
    out = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=tokens, min_new_tokens=tokens,
                         do_sample=False, **options)
    torch.cuda.synchronize()
    if out.shape[1] != prompt.shape[1] + tokens:
        raise RuntimeError(f"asked for {tokens} tokens, got {out.shape[1] - prompt.shape[1]}")
    return time.perf_counter() - started


def decode(model, context, tokens, repeats, static):
    prompt = torch.randint(0, model.config.vocab_size, (1, max(1, context)), device="cuda")
    few = 8
    for count in (few, few + tokens, few, few + tokens):  # warm-up, and compilation
        generate(model, prompt, count, static)
    times = []
    for _ in range(repeats):
        difference = generate(model, prompt, few + tokens, static) - generate(model, prompt, few, static)
        times.append(1e6 * difference / tokens)
    result = spread(times)
    return {"context": context, "tokens_per_s": round(1e6 / result["us_median"], 1), **result}


def prefill(model, length, repeats):
    prompt = torch.randint(0, model.config.vocab_size, (1, length), device="cuda")
    times = []
    for i in range(repeats + 3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        model(prompt, use_cache=True)  # the logits of all tokens, as the engine computes them
        end.record()
        torch.cuda.synchronize()
        if i >= 3:
            times.append(1e3 * begin.elapsed_time(end))
    result = spread(times)
    return {"prompt": length, "tokens_per_s": round(1e6 * length / result["us_median"]), **result}


def main():
    numbers = lambda text: [int(n) for n in text.split(",") if n]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=SHAPES)
    parser.add_argument("--contexts", type=numbers, default=[0, 1024])
    parser.add_argument("--prompts", type=numbers, default=[512, 4096])
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    failed = False

    def report(what, measure, **fields):
        nonlocal failed
        try:
            fields.update(measure())
        except Exception as error:  # one peer that does not run must not hide the others
            failed = True
            fields["error"] = f"{type(error).__name__}: {error}"[:300]
        print(json.dumps({"what": what, "model": arguments.model, "dtype": "bfloat16", **fields}), flush=True)

    with torch.inference_mode():
        model = make_model(arguments.model)
        for length in arguments.prompts:
            report("transformers_prefill", lambda: prefill(model, length, arguments.repeats), prompt=length)
        for context in arguments.contexts:
            for what, static in (("transformers_decode_eager", False), ("transformers_decode_compiled", True)):
                report(what, lambda: decode(model, context, arguments.tokens, arguments.repeats, static),
                       context=context)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
