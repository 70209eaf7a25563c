#!/usr/bin/env python3
"""Records a qdiff trace (docs/trace-format.md) of tinygrad's own Transformer with the weights of a Qwen2 checkpoint.

    record_tinygrad.py --model Qwen2.5-0.5B --trace trace --prompt-tokens 64 --decode 4

Activations are float32, as tinygrad.llm has them; --dtype says what weights are kept in. Each recorded tensor is
computed where it stands, so that no kernel reaches across it. Rows are of one length.
Needs tinygrad and NumPy.
"""

import contextlib
import os

import recording
import trace_writer

SPARE_SLOTS = 8
NAMES = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
         "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
INPUTS = {"attn_output": "self_attn.attn_output", "ffn_norm": "resid_mid", "ffn_down": "mlp.act"}


def state_of(weights, num_layers):
    """The weights under the names of tinygrad's state."""
    state = {"token_embd.weight": weights["model.embed_tokens.weight"], "output_norm.weight": weights["model.norm.weight"],
             "output.weight": weights.get("lm_head.weight", weights["model.embed_tokens.weight"])}
    for index in range(num_layers):
        for ours, theirs in NAMES.items():
            for part in ("weight", "bias"):
                name = f"model.layers.{index}.{theirs}.{part}"
                if name in weights:
                    state[f"blk.{index}.{ours}.{part}"] = weights[name]
    return state


class Tapped:
    """A module that hands on what it was given and what it gave, computed."""

    def __init__(self, module, before, after):
        self._module, self._before, self._after = module, before, after

    def __call__(self, values, *rest):
        if self._before:
            values = self._before(values)
        return self._after(self._module(values, *rest))

    def __getattr__(self, name):
        return getattr(self._module, name)


@contextlib.contextmanager
def recorded(model, file, put):
    """Within it each tensor of the model goes to `put(name, values)`."""
    def at(name):
        def take(values):
            put(name, values.realize())
            return values
        return take
    layers = {}
    for index, block in enumerate(model.blk):
        prefix = f"model.layers.{index}."
        layers[id(block)] = index
        for ours, theirs in NAMES.items():
            setattr(block, ours, Tapped(getattr(block, ours), at(prefix + INPUTS[ours]) if ours in INPUTS else None,
                                        at(prefix + theirs)))
    rotate, function, current, calls = file.apply_rope, file.function, [0], [0]

    def recorded_rotate(values, *rest):
        turned = rotate(values, *rest)
        put(f"model.layers.{current[0]}.self_attn.{'qk'[calls[0] % 2]}_rope", turned.realize().transpose(1, 2))
        calls[0] += 1
        return turned
    file.apply_rope = recorded_rotate
    file.function = lambda *arguments, **keywords: lambda run: run  # a block is not compiled as one
    try:
        def run_block(index, values, past):
            current[0] = index
            output = at(f"model.layers.{index}.output")(model.blk[index](values, past))
            slots = past + values.shape[1]
            for place, part in enumerate("kv"):
                put(f"model.layers.{index}.self_attn.{part}_cache",
                    model.blk[index].cache_kv[place, :, :, :slots].realize().transpose(1, 2))
            return output
        yield run_block
    finally:
        file.apply_rope, file.function = rotate, function


def load(arguments, config):
    os.environ.setdefault("DEV", "CPU")
    import importlib.metadata
    from tinygrad import Tensor, nn
    from tinygrad.llm import model as file
    from engines import checkpoint
    about, weights = checkpoint.Config(config), checkpoint.read_weights(arguments.model)
    num_layers = about.num_layers

    def run(plan, writer, put):
        capacity = len(plan.prompt[0]) + plan.num_decode + SPARE_SLOTS
        model = file.Transformer(file.TransformerConfig(
            num_blocks=num_layers, dim=about.hidden, hidden_dim=about.intermediate, n_heads=about.num_q_heads,
            n_kv_heads=about.num_kv_heads, norm_eps=about.eps, vocab_size=about.vocab, head_dim=about.head_dim,
            rope_theta=about.theta, rope_dim=about.head_dim, v_head_dim=about.head_dim, max_context=capacity,
            qkv_bias=True))
        nn.state.load_state_dict(model, {name: Tensor(values).cast(arguments.dtype).realize()
                                         for name, values in state_of(weights, num_layers).items()},
                                 verbose=False, realize=False)

        def taken(name, values):
            put(name, values.contiguous().numpy())
        with recorded(model, file, taken) as run_block:
            def step(tokens, positions, past):
                values = model.token_embd(Tensor(tokens)).float().realize()
                taken("model.embed_tokens", values)
                for index in range(num_layers):
                    values = run_block(index, values, past)
                values = model.output_norm(values).realize()
                taken("model.norm", values)
                logits = model.output(values).realize()
                taken("lm_head", logits)
                return logits[:, -1].argmax(-1).tolist()
            plan.run(writer, step)
    engine = {"name": "tinygrad", "version": importlib.metadata.version("tinygrad"), "device": os.environ["DEV"]}
    return engine, {"weights": arguments.dtype, "activations": "float32", "accumulate": "float32"}, run


if __name__ == "__main__":
    recording.run_main(lambda: recording.record(__doc__, load))
