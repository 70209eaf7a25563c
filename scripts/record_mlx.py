#!/usr/bin/env python3
"""Records a qdiff trace (docs/trace-format.md) of mlx-lm running a Qwen2 or Llama checkpoint.

    record_mlx.py --model Qwen2.5-0.5B --trace trace --prompt-tokens 64 --decode 4

The classes of the model's modules, and the function of attention that its file looks up, hand on each tensor as the
model made it. Rows are of one length, for mlx-lm's models know no pads. Needs mlx-lm.
"""

import contextlib
import importlib

import recording
import trace_writer
from recording import UsageError

# Where mlx's kernels round in 16 bits between named tensors: sigmoid(gate), and its product with the gate. In float32
# there is nothing to round. In 16 bits its attention rounds the scaled query, the scores and the probabilities as well.
POINTS = ["mlp.silu"]


def heads_last(values):
    """[B, heads, T, d] to the contract's [B, T, heads, d]."""
    return values.transpose(0, 2, 1, 3)


def places_of(model):
    """{id of a module: (name of what goes in, names of what comes out of one call after the other)}"""
    inner = model.model
    places = {id(inner.embed_tokens): (None, ["model.embed_tokens"]), id(inner.norm): (None, ["model.norm"]),
              id(model): (None, ["lm_head"])}
    for index, layer in enumerate(inner.layers):
        prefix, attention, mlp = f"model.layers.{index}.", layer.self_attn, layer.mlp
        for part in "qkv":
            places[id(attention[f"{part}_proj"])] = None, [f"{prefix}self_attn.{part}_proj"]
        places |= {id(layer): (None, [prefix + "output"]),
                   id(layer.input_layernorm): (None, [prefix + "input_layernorm"]),
                   id(attention.rope): (None, [prefix + "self_attn.q_rope", prefix + "self_attn.k_rope"]),
                   id(attention.o_proj): (prefix + "self_attn.attn_output", [prefix + "self_attn.o_proj"]),
                   id(layer.post_attention_layernorm): (prefix + "resid_mid", [prefix + "post_attention_layernorm"]),
                   id(mlp.gate_proj): (None, [prefix + "mlp.gate_proj"]),
                   id(mlp.up_proj): (None, [prefix + "mlp.up_proj"]),
                   id(mlp.down_proj): (prefix + "mlp.act", [prefix + "mlp.down_proj"])}
    return places


@contextlib.contextmanager
def recorded(model, put):
    """Within it each tensor of the model goes to `put(name, values)`."""
    places, calls, layer_of = places_of(model), {}, [None]
    layers = {id(layer): index for index, layer in enumerate(model.model.layers)}
    kinds = {type(module) for module in model.modules() if id(module) in places} | {type(model)}
    originals = {kind: kind.__call__ for kind in kinds}

    def wrapper(original):
        def call(module, *arguments, **keywords):
            before, after = places.get(id(module), (None, []))
            if id(module) in layers:
                layer_of[0] = layers[id(module)]
            if before:
                put(before, arguments[0])
            output = original(module, *arguments, **keywords)
            if after:
                count = calls[id(module)] = calls.get(id(module), -1) + 1
                name = after[count % len(after)]
                put(name, heads_last(output) if name.endswith("_rope") else output)
            return output
        return call
    file = importlib.import_module(type(model).__module__)
    attention = file.scaled_dot_product_attention

    def recorded_attention(queries, keys, values, *arguments, **keywords):
        for name, array in (("k_cache", keys), ("v_cache", values)):
            put(f"model.layers.{layer_of[0]}.self_attn.{name}", heads_last(array))
        return attention(queries, keys, values, *arguments, **keywords)
    try:
        for kind, original in originals.items():
            kind.__call__ = wrapper(original)
        file.scaled_dot_product_attention = recorded_attention
        yield
    finally:
        for kind, original in originals.items():
            kind.__call__ = original
        file.scaled_dot_product_attention = attention


def load(arguments, config):
    import mlx.core as mx
    import mlx_lm
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.utils import load_model
    try:
        model, _ = load_model(arguments.model)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{arguments.model}: mlx-lm cannot load it: {error}") from error
    model.set_dtype(getattr(mx, arguments.dtype))
    cache = make_prompt_cache(model)

    def run(plan, writer, put):
        def step(tokens, positions, past):
            logits = model(mx.array(tokens), cache=cache)
            return mx.argmax(logits[:, -1].astype(mx.float32), -1).tolist()
        with recorded(model, put):
            plan.run(writer, step)
    engine = {"name": "mlx-lm", "version": mlx_lm.__version__, "device": str(mx.default_device())}
    points = {} if arguments.dtype == "float32" else {point: arguments.dtype for point in POINTS}
    return engine, trace_writer.compute(arguments.dtype, points=points), run


if __name__ == "__main__":
    recording.run_main(lambda: recording.record(__doc__, load, architectures=("qwen2", "llama")))
