#!/usr/bin/env python3
"""Writes the goldens that reference/tests compares with: a small random Qwen2 model and every named tensor that
transformers computes from it in float32, for a whole prefill, a prefill in chunks with decode, and a left-padded batch.

usage: make_goldens.py [FOLDER]        (default: reference/tests/data)

Needs torch, transformers and safetensors; their versions are recorded in goldens.json. The weights come from a seed
and are stored in bfloat16, which float32 holds exactly.
"""

import copy
import json
import pathlib
import sys

import safetensors
import safetensors.torch
import torch
import transformers
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2 import modeling_qwen2

SEED = 20240917
CONFIG = dict(
    vocab_size=260, hidden_size=96, intermediate_size=112, num_hidden_layers=2, num_attention_heads=6,
    num_key_value_heads=2, head_dim=32, rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
    rms_norm_eps=1e-6, tie_word_embeddings=False, max_position_embeddings=512, use_sliding_window=False,
    bos_token_id=None, eos_token_id=None,
)

# Each case is a list of step lengths over its own random tokens.
CASES = {
    "whole": dict(lengths=[6], left_padding=[0]),
    "chunked": dict(lengths=[4, 2, 1, 1], left_padding=[0]),
    "padded": dict(lengths=[4, 1], left_padding=[2, 0]),
}


def random_model():
    """Random weights of the sizes that keep activations near 1, with biases that matter: k's are large."""
    model = Qwen2ForCausalLM._from_config(Qwen2Config(**CONFIG), attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if "norm" in name:
                value = 1.0 + 0.3 * noise
            elif name.endswith("k_proj.bias"):
                value = 5.0 * noise
            elif name.endswith("bias"):
                value = noise
            else:
                value = noise / weight.shape[1] ** 0.5
            weight.copy_(value.to(torch.bfloat16).float())
    return model


class Recorder:
    """Takes every named tensor of a forward pass, by hooks on the modules and by wrapping the two functions of
    modeling_qwen2 that lie between them."""

    def __init__(self, model):
        self.tensors = {}
        self.layer = None
        model.model.embed_tokens.register_forward_hook(self.output_of("model.embed_tokens"))
        model.model.norm.register_forward_hook(self.output_of("model.norm"))
        model.lm_head.register_forward_hook(self.output_of("lm_head"))
        for index, layer in enumerate(model.model.layers):
            prefix = f"model.layers.{index}."
            layer.register_forward_pre_hook(lambda module, args, index=index: setattr(self, "layer", index))
            layer.register_forward_hook(self.output_of(prefix + "output"))
            for part in ("input_layernorm", "post_attention_layernorm", "self_attn.o_proj", "mlp.gate_proj",
                         "mlp.up_proj", "mlp.down_proj"):
                layer.get_submodule(part).register_forward_hook(self.output_of(prefix + part))
            for part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
                layer.get_submodule(part).register_forward_hook(self.projection(prefix + part))
            for part, name in (("self_attn.o_proj", "self_attn.attn_output"), ("mlp.down_proj", "mlp.act"),
                               ("post_attention_layernorm", "resid_mid")):
                layer.get_submodule(part).register_forward_pre_hook(self.input_of(prefix + name))
        self.wrap_rope()
        self.wrap_attention()

    def put(self, name, value):
        if isinstance(value, tuple):
            value = value[0]
        self.tensors[name] = value.detach().float().contiguous().clone()

    def output_of(self, name):
        return lambda module, args, output: self.put(name, output)

    def input_of(self, name):
        return lambda module, args: self.put(name, args[0])

    def projection(self, name):
        def hook(module, args, output):
            self.put(name, output)
            self.put(name + ".matmul", torch.nn.functional.linear(args[0], module.weight))
        return hook

    def wrap_rope(self):
        original = modeling_qwen2.apply_rotary_pos_emb

        def wrapped(q, k, cos, sin, *args, **kwargs):
            q_rope, k_rope = original(q, k, cos, sin, *args, **kwargs)
            self.put(f"model.layers.{self.layer}.self_attn.q_rope", q_rope.transpose(1, 2))
            self.put(f"model.layers.{self.layer}.self_attn.k_rope", k_rope.transpose(1, 2))
            return q_rope, k_rope
        modeling_qwen2.apply_rotary_pos_emb = wrapped

    def wrap_attention(self):
        original = modeling_qwen2.eager_attention_forward

        def wrapped(module, query, key, value, attention_mask, scaling, **kwargs):
            output, weights = original(module, query, key, value, attention_mask, scaling, **kwargs)
            prefix = f"model.layers.{self.layer}.self_attn."
            self.put(prefix + "k_cache", key.transpose(1, 2))
            self.put(prefix + "v_cache", value.transpose(1, 2))
            self.put(prefix + "probs", weights)
            repeated = modeling_qwen2.repeat_kv(key, module.num_key_value_groups)
            scores = torch.matmul(query, repeated.transpose(2, 3)) * scaling
            if attention_mask is not None:
                hidden = attention_mask <= torch.finfo(attention_mask.dtype).min / 2
                scores = scores.masked_fill(hidden, float("-inf"))
            self.put(prefix + "scores", scores)
            return output, weights
        modeling_qwen2.eager_attention_forward = wrapped


def run_case(model, recorder, case, generator):
    """Tensors by "step/name", and the case as the test reads it."""
    padding = torch.tensor(case["left_padding"])
    total = sum(case["lengths"])
    tokens = torch.randint(1, CONFIG["vocab_size"], (len(padding), total), generator=generator)
    real = torch.arange(total)[None, :] >= padding[:, None]
    tokens = tokens * real
    positions = (torch.arange(total)[None, :] - padding[:, None]).clamp(min=0)
    cache, tensors, steps, past = DynamicCache(), {}, [], 0
    for index, length in enumerate(case["lengths"]):
        now = slice(past, past + length)
        recorder.tensors = {}
        with torch.no_grad():
            model(input_ids=tokens[:, now], attention_mask=real[:, :past + length].long(),
                  position_ids=positions[:, now], past_key_values=cache, use_cache=True)
        tensors |= {f"{index}/{name}": value for name, value in recorder.tensors.items()}
        steps.append({"tokens": tokens[:, now].tolist(), "past_length": past})
        past += length
    return tensors, {"left_padding": case["left_padding"], "steps": steps}


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else
                          pathlib.Path(__file__).parent.parent / "reference/tests/data")
    torch.set_num_threads(1)
    model = random_model()
    # A copy: the conversion would round the model's RoPE frequencies, too.
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder / "golden-model")
    (folder / "golden-model/generation_config.json").unlink(missing_ok=True)
    recorder = Recorder(model)
    generator = torch.Generator().manual_seed(SEED + 1)
    all_tensors, cases = {}, {}
    for name, case in CASES.items():
        tensors, cases[name] = run_case(model, recorder, case, generator)
        all_tensors |= {f"{name}/{key}": value for key, value in tensors.items()}
    safetensors.torch.save_file(all_tensors, folder / "goldens.safetensors")
    versions = {"torch": torch.__version__, "transformers": transformers.__version__,
                "safetensors": safetensors.__version__}
    description = {"made_by": "scripts/make_goldens.py", "versions": versions, "seed": SEED, "dtype": "float32",
                   "cases": cases}
    (folder / "goldens.json").write_text(json.dumps(description, indent=1) + "\n")
    print(f"{folder}: {len(all_tensors)} tensors")


if __name__ == "__main__":
    main()
