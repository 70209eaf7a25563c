#!/usr/bin/env python3
"""Records a qdiff trace (docs/trace-format.md) of KerasHub's Qwen running a Qwen2 checkpoint.

    KERAS_BACKEND=jax record_keras.py --model Qwen2.5-0.5B --trace trace --prompt-tokens 64 --decode 4

The layers of the model hand on each tensor as they made it, in eager mode. Rows are of one length, for a cached step
of KerasHub gives all rows the same positions. Needs keras-hub with one of its backends, and NumPy.
"""

import recording
import trace_writer
from recording import UsageError

SPARE_SLOTS = 8

# What KerasHub rounds in 16 bits between named tensors: every operation is one of its own, but for the norm and silu.
POINTS = ["matmul.before_bias", "rope.table", "rope.products", "attention.scores", "attention.scaled_scores",
          "attention.probs", "mlp.silu"]
DENSE = {"_feedforward_gate_dense": "mlp.gate_proj", "_feedforward_intermediate_dense": "mlp.up_proj",
         "_feedforward_output_dense": "mlp.down_proj"}


class Loader:
    """What keras_hub's own converter takes weights from."""

    def __init__(self, weights):
        self._weights = weights

    def port_weight(self, keras_variable, hf_weight_key, hook_fn=None):
        values = self._weights[hf_weight_key]
        keras_variable.assign(hook_fn(values, list(keras_variable.shape)) if hook_fn else values)


def after(layer, put):
    """Hands what a layer gives, and was given, to `put(arguments, keywords, output)`."""
    original = layer.call

    def call(*arguments, **keywords):
        output = original(*arguments, **keywords)
        put(arguments, keywords, output)
        return output
    layer.call = call


def hook(backbone, put, slots):
    """`put(name, values)` of each tensor; `slots()` says how many slots of the cache this step uses."""
    def joined(values):  # [B, T, heads, d] to [B, T, heads * d]
        return values.reshape(*values.shape[:2], -1)

    def embedding(arguments, keywords, output):
        put("lm_head" if keywords.get("reverse") else "model.embed_tokens", output)
    after(backbone.token_embedding, embedding)
    after(backbone.layer_norm, lambda arguments, keywords, output: put("model.norm", output))
    for index, layer in enumerate(backbone.transformer_layers):
        prefix, attention, turned = f"model.layers.{index}.", layer._self_attention_layer, []

        def rotated(arguments, keywords, output, prefix=prefix, turned=turned):
            put(f"{prefix}self_attn.{'qk'[len(turned) % 2]}_rope", output)
            turned.append(1)

        def attended(arguments, keywords, output, prefix=prefix):
            put(prefix + "self_attn.o_proj", output[0])
            for place, part in enumerate("kv"):
                put(f"{prefix}self_attn.{part}_cache", output[1][:, place, :slots()])

        def projected(name):
            return lambda arguments, keywords, output: put(name, joined(output))

        def dense(name):
            return lambda arguments, keywords, output: put(name, output)
        for part, projection in (("q", attention._query_dense), ("k", attention._key_dense),
                                 ("v", attention._value_dense)):
            after(projection, projected(f"{prefix}self_attn.{part}_proj"))
        after(attention.rotary_embedding_layer, rotated)
        after(attention._output_dense, lambda arguments, keywords, output, prefix=prefix:
              put(prefix + "self_attn.attn_output", joined(arguments[0])))
        after(attention, attended)
        after(layer._self_attention_layernorm, dense(prefix + "input_layernorm"))

        def second_norm(arguments, keywords, output, prefix=prefix):
            put(prefix + "resid_mid", arguments[0])
            put(prefix + "post_attention_layernorm", output)
        after(layer._feedforward_layernorm, second_norm)
        for name, part in DENSE.items():
            def product(arguments, keywords, output, name=prefix + part):
                if name.endswith("down_proj"):
                    put(name.replace("down_proj", "act"), arguments[0])
                put(name, output)
            after(getattr(layer, name), product)
        after(layer, lambda arguments, keywords, output, prefix=prefix: put(prefix + "output", output[0]))


def load(arguments, config):
    import keras
    import keras_hub
    import numpy
    from keras_hub.src.utils.transformers import convert_qwen
    from engines import checkpoint
    try:
        backbone = keras_hub.models.QwenBackbone(
            **{key: value for key, value in convert_qwen.convert_backbone_config(
                {"use_sliding_window": False, "sliding_window": None, "tie_word_embeddings": False} | config).items()
               if key not in ("use_sliding_window", "sliding_window_size")}, dtype=arguments.dtype)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{arguments.model}: keras-hub cannot make it: {error}") from error
    convert_qwen.convert_weights(backbone, Loader(checkpoint.read_weights(arguments.model)), config)
    model = keras_hub.models.QwenCausalLM(backbone=backbone, preprocessor=None)

    def run(plan, writer, put):
        used = [0]
        capacity = len(plan.prompt[0]) + plan.num_decode + SPARE_SLOTS
        cache = [keras.ops.zeros((len(plan.prompt), config["num_hidden_layers"], 2, capacity,
                                  config["num_key_value_heads"], backbone.hidden_dim // backbone.num_query_heads),
                                 dtype=arguments.dtype)]
        hook(backbone, lambda name, values: put(name, values), lambda: used[0])

        def step(tokens, positions, past):
            used[0] = past + len(tokens[0])
            logits, _, cache[0] = model.call_with_cache(keras.ops.convert_to_tensor(tokens, "int32"), cache[0], past)
            last = keras.ops.convert_to_numpy(keras.ops.cast(logits[:, -1], "float32"))
            return numpy.argmax(last, -1).tolist()
        plan.run(writer, step)
    engine = {"name": f"keras-hub-{keras.backend.backend()}", "version": keras_hub.__version__, "device": "cpu"}
    points = {} if arguments.dtype == "float32" else {point: arguments.dtype for point in POINTS}
    return engine, trace_writer.compute(arguments.dtype, points=points), run


if __name__ == "__main__":
    recording.run_main(lambda: recording.record(__doc__, load))
