"""Decode and prefill of transformers' Qwen2 on this GPU: eager, and compiled with a static cache. Random bfloat16
weights."""
import statistics
import time

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from bench_shapes import SHAPES

FEW = 8      # tokens of the shorter generation
REPEATS = 3  # of each measurement in a round


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


class Transformers:
    def __init__(self, shape):
        self.model = make_model(shape)
        self.warm = set()  # what has run before, and is compiled

    def measure(self, contexts, prompts, batches, batch_context, tokens):
        """One object a measurement, in the fields of cuda_engine_bench; of so few samples the fastest and the slowest
        stand for the percentiles."""
        with torch.inference_mode():
            for length in prompts:
                yield self.result("transformers_prefill", {"prompt": length}, lambda n=length: self.prefill(n))
            for batch, context in [(1, context) for context in contexts] + [(batch, batch_context) for batch in batches]:
                for what, static in (("transformers_decode_eager", False), ("transformers_decode_compiled", True)):
                    yield self.result(what, {"batch": batch, "context": context},
                                      lambda b=batch, c=context, s=static: self.decode(b, c, tokens, s))

    @staticmethod
    def result(what, place, measurement):
        fields = {"what": what, "dtype": "bfloat16", **place}
        try:
            times = sorted(measurement())
        except Exception as error:  # one measurement that does not run must not hide the others
            return {**fields, "error": f"{type(error).__name__}: {error}"[:300]}
        middle = statistics.median(times)
        return {**fields, "us_median": round(middle, 1), "us_fastest": round(times[0], 1),
                "us_slowest": round(times[-1], 1), "tokens_per_s": round(1e6 * place.get("prompt", place.get("batch", 1)) / middle, 1)}

    def prompt(self, length, batch=1):
        return torch.randint(0, self.model.config.vocab_size, (batch, length), device="cuda")

    def generate(self, prompt, tokens, static):
        options = {"cache_implementation": "static"} if static else {}
        torch.cuda.synchronize()
        started = time.perf_counter()
        out = self.model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=tokens,
                                  min_new_tokens=tokens, do_sample=False, **options)
        torch.cuda.synchronize()
        if out.shape[1] != prompt.shape[1] + tokens:
            raise RuntimeError(f"asked for {tokens} tokens, got {out.shape[1] - prompt.shape[1]}")
        return time.perf_counter() - started

    def decode(self, batch, context, tokens, static):
        """Microseconds a step: the difference of two generations, so that the prefill and the start do not count."""
        prompt = self.prompt(max(1, context), batch)
        # The first call compiles, and one that follows others records its graphs anew.
        for _ in range(1 if (batch, context, static) in self.warm else 2):
            self.generate(prompt, FEW, static)
            self.generate(prompt, FEW + tokens, static)
        self.warm.add((batch, context, static))
        return [1e6 * (self.generate(prompt, FEW + tokens, static) - self.generate(prompt, FEW, static)) / tokens
                for _ in range(REPEATS)]

    def prefill(self, length):
        prompt = self.prompt(length)
        times = []
        for i in range(REPEATS + 3):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            self.model(prompt, use_cache=True)  # the logits of all tokens, as the engine computes them
            end.record()
            torch.cuda.synchronize()
            if i >= 3:
                times.append(1e3 * begin.elapsed_time(end))
        return times
