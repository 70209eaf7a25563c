"""An engine for record_torch.py: torchtune's Qwen2 with the weights of a checkpoint. Beside it its name map."""

import json

import torch
from safetensors.torch import load_file
from torchtune.models.qwen2 import qwen2
from torchtune.models.qwen2._convert_weights import qwen2_hf_to_tune


def load(directory):
    raw = json.loads((directory / "config.json").read_text())
    theta = raw.get("rope_theta") or raw["rope_parameters"]["rope_theta"]
    weights = load_file(directory / "model.safetensors")
    dtype, tied = weights["model.embed_tokens.weight"].dtype, raw.get("tie_word_embeddings", False)
    model = qwen2(vocab_size=raw["vocab_size"], num_layers=raw["num_hidden_layers"],
                  num_heads=raw["num_attention_heads"], num_kv_heads=raw["num_key_value_heads"],
                  embed_dim=raw["hidden_size"], intermediate_dim=raw["intermediate_size"],
                  max_seq_len=raw["max_position_embeddings"], norm_eps=raw["rms_norm_eps"], rope_base=theta,
                  tie_word_embeddings=tied).to(dtype).eval()
    model.load_state_dict(qwen2_hf_to_tune(weights, raw["num_attention_heads"], raw["num_key_value_heads"],
                                           raw["hidden_size"], tie_word_embeddings=tied), strict=False)
    capacity, ready = raw["max_position_embeddings"], []
    slots = torch.arange(capacity)

    def step(tokens, positions, past_length, left_padding):
        if not ready:
            model.setup_caches(len(tokens), dtype)
            ready.append(True)
        queries = torch.arange(past_length, past_length + len(tokens[0]))
        padding = torch.tensor(left_padding)[:, None, None]
        mask = (slots[None, None, :] <= queries[None, :, None]) & (
            (slots[None, None, :] >= padding) | (slots[None, None, :] == queries[None, :, None]))
        return model(torch.tensor(tokens), mask=mask, input_pos=torch.tensor(positions))
    return model, step
