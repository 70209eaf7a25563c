#!/usr/bin/env python3
"""Makes harness/model/tests/data: small Qwen2 checkpoints as transformers writes them.

Needs torch and transformers (made with torch 2.11.0, transformers 5.17.0, safetensors 0.8.0). The weights are random
but fixed by a seed; beside each checkpoint expected.json lists, as PyTorch sees them, every tensor's dtype, shape,
first and last element and sum.

  python3 scripts/make_test_checkpoint.py harness/model/tests/data
"""

import json
import pathlib
import sys

import torch
import transformers

CHECKPOINTS = {
    # Untied, in shards, H*d = 64 is not D = 32.
    "sharded-bfloat16": dict(
        dtype=torch.bfloat16,
        max_shard_size="20KB",
        config=dict(tie_word_embeddings=False, head_dim=16, rope_parameters={"rope_theta": 1e6, "rope_type": "default"}),
    ),
    # Tied, one file, head_dim left to hidden_size / num_attention_heads, theta as in models made from Qwen2.5.
    "tied-float16": dict(
        dtype=torch.float16,
        max_shard_size="1GB",
        config=dict(tie_word_embeddings=True, rope_parameters={"rope_theta": 1e4, "rope_type": "default"}),
    ),
    "untied-float32": dict(
        dtype=torch.float32,
        max_shard_size="1GB",
        config=dict(tie_word_embeddings=False, num_hidden_layers=1, rms_norm_eps=1e-5),
    ),
}


def make(directory: pathlib.Path, dtype, max_shard_size, config) -> None:
    torch.manual_seed(20)
    sizes = dict(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**(sizes | config)))
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases start as ones and zeros
            parameter.normal_(0.0, 0.5)
    model = model.to(dtype)
    model.save_pretrained(directory, max_shard_size=max_shard_size)
    (directory / "generation_config.json").unlink(missing_ok=True)
    expected = {}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        flat = value.double().flatten()
        expected[name] = {
            "dtype": str(value.dtype).removeprefix("torch."),
            "shape": list(value.shape),
            "first": flat[0].item(),
            "last": flat[-1].item(),
            "sum": flat.sum().item(),
        }
    (directory / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for name, how in CHECKPOINTS.items():
        make(pathlib.Path(sys.argv[1]) / name, **how)


if __name__ == "__main__":
    main()
