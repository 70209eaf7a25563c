"""An engine for record_torch.py: transformers' Qwen2, of version 4 or 5, as if it were any PyTorch module. Beside it its
name map. The environment's ATTENTION chooses eager or sdpa (default: sdpa)."""

import os

import torch
from transformers import DynamicCache, Qwen2ForCausalLM


def load(directory):
    model = Qwen2ForCausalLM.from_pretrained(directory, attn_implementation=os.environ.get("ATTENTION", "sdpa"),
                                             torch_dtype="auto", local_files_only=True).eval()
    cache = DynamicCache()

    def step(tokens, positions, past_length, left_padding):
        slots = torch.arange(past_length + len(tokens[0]))
        mask = (slots[None, :] >= torch.tensor(left_padding)[:, None]).long()
        return model(input_ids=torch.tensor(tokens), position_ids=torch.tensor(positions), attention_mask=mask,
                     past_key_values=cache, use_cache=True).logits
    return model, step
