"""An engine for record_torch.py: litgpt's GPT with the weights of a Qwen2 checkpoint. Beside it its name map."""

import json

import torch
from litgpt import Config
from litgpt.model import GPT
from safetensors.torch import load_file

MOST_ROWS = 4
NAMES = {"input_layernorm": "norm_1", "self_attn.o_proj": "attn.proj", "post_attention_layernorm": "norm_2",
         "mlp.gate_proj": "mlp.fc_1", "mlp.up_proj": "mlp.fc_2", "mlp.down_proj": "mlp.proj"}


def load(directory):
    raw = json.loads((directory / "config.json").read_text())
    theta = raw.get("rope_theta") or raw["rope_parameters"]["rope_theta"]
    config = Config(name="qwen2", block_size=raw["max_position_embeddings"], n_layer=raw["num_hidden_layers"],
                    n_embd=raw["hidden_size"], n_head=raw["num_attention_heads"],
                    n_query_groups=raw["num_key_value_heads"],
                    head_size=raw.get("head_dim") or raw["hidden_size"] // raw["num_attention_heads"],
                    vocab_size=raw["vocab_size"], padded_vocab_size=raw["vocab_size"], rotary_percentage=1.0,
                    parallel_residual=False, bias=False, attn_bias=True, norm_class_name="RMSNorm",
                    norm_eps=raw["rms_norm_eps"], mlp_class_name="LLaMAMLP", intermediate_size=raw["intermediate_size"],
                    rope_base=theta)
    weights = load_file(directory / "model.safetensors")
    ours = {"transformer.wte.weight": weights["model.embed_tokens.weight"],
            "transformer.ln_f.weight": weights["model.norm.weight"],
            "lm_head.weight": weights.get("lm_head.weight", weights["model.embed_tokens.weight"])}
    for index in range(config.n_layer):
        theirs, prefix = f"model.layers.{index}.", f"transformer.h.{index}."
        for name, here in NAMES.items():
            ours[f"{prefix}{here}.weight"] = weights[f"{theirs}{name}.weight"]
        for part in ("weight", "bias"):
            ours[f"{prefix}attn.qkv.{part}"] = torch.cat([weights[f"{theirs}self_attn.{q}_proj.{part}"] for q in "qkv"])
    dtype = ours["lm_head.weight"].dtype
    model = GPT(config).to(dtype).eval()
    model.load_state_dict(ours)
    model.max_seq_length = config.block_size
    model.set_kv_cache(batch_size=MOST_ROWS, dtype=dtype)  # before the recorder looks for its modules

    def step(tokens, positions, past_length, left_padding):
        if any(left_padding):
            raise ValueError("litgpt knows no pads: give rows of one length")
        if len(tokens) > MOST_ROWS:
            raise ValueError(f"this engine's cache has room for {MOST_ROWS} rows")
        return model(torch.tensor(tokens), torch.arange(past_length, past_length + len(tokens[0])))
    return model, step
