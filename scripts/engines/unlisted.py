"""Bugs of engines that docs/faults.md does not list. Each is a patch of one operation of a NumPy engine; what it is,
and what a report should say of it, stands in unlisted_faults.json."""

import types

import numpy

from recording import UsageError


def attention_branch_scaled(engine):
    right = engine.add_residual

    def add_residual(self, residual, product, normed, layer, name):
        if name == "resid_mid":
            product = product * numpy.float32((2 * self.config.num_layers) ** -0.5)
        return right(residual, product, normed, layer, name)
    return {"add_residual": add_residual}


def heads_reversed(engine):
    right = engine.merge_heads
    return {"merge_heads": lambda self, context, layer, step: right(context[:, ::-1], layer, step)}


def gate_clamped(engine):
    right = engine.activation
    return {"activation": lambda self, gate, up, layer: right(numpy.minimum(gate, numpy.float32(1)), up, layer)}


def gelu_for_silu(engine):
    def silu(self, x):
        inner = numpy.float32((2 / numpy.pi) ** 0.5) * (x + numpy.float32(0.044715) * x * x * x)
        return numpy.float32(0.5) * x * (numpy.float32(1) + numpy.tanh(inner))
    return {"silu": silu}


def rope_on_values(engine):
    return {"cached": lambda self, k, k_plain, v, layer, step: (k, self.round(self.rotate(v, "k", layer, step)))}


def view_without_transpose(engine):
    def merge_heads(self, context, layer, step):
        return numpy.ascontiguousarray(context).reshape(step.batch, step.num_tokens, -1)
    return {"merge_heads": merge_heads}


def norms_exchanged(engine):
    right = engine.layer_norm
    other = {"input_layernorm": "post_attention_layernorm", "post_attention_layernorm": "input_layernorm"}
    return {"layer_norm": lambda self, x, layer, name: right(x, layer, other[name])}


def stale_down_proj(engine):
    right, before = engine.down_proj, {}

    def down_proj(self, x, layer, step):
        result = right(x, layer, step)
        used = before[layer] if step.is_decode and layer in before else result
        before[layer] = result[:, -1:]
        return used
    return {"down_proj": down_proj}


def kv_head_zeroed(engine):
    def cached(self, k, k_plain, v, layer, step):
        v = v.copy()
        v[:, :, -1] = 0
        return k, v
    return {"cached": cached}


def query_key_norm(engine):
    right = engine.rotate
    return {"rotate": lambda self, x, part, layer, step:
            right(self.norm(x, numpy.float32(1), self.config.eps), part, layer, step)}


def logits_softcapped(engine):
    right = engine.logits
    return {"logits": lambda self, x: numpy.float32(30) * numpy.tanh(right(x) / numpy.float32(30))}


def query_tail_skipped(engine):
    right = engine.mix

    def mix(self, probs, values, layer, step):
        context = right(probs, values, layer, step)
        if step.num_tokens > 8:
            context[:, :, step.num_tokens // 8 * 8:] = 0
        return context
    return {"mix": mix}


BUGS = {bug.__name__: bug for bug in (
    attention_branch_scaled, heads_reversed, gate_clamped, gelu_for_silu, rope_on_values, view_without_transpose,
    norms_exchanged, stale_down_proj, kv_head_zeroed, query_key_norm, logits_softcapped, query_tail_skipped)}


def plant(engine, name):
    if name not in BUGS:
        raise UsageError(f"--unlisted {name}: no such bug; there are {', '.join(BUGS)}")
    for method, patch in BUGS[name](engine).items():
        setattr(engine, method, types.MethodType(patch, engine))
