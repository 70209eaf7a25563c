"""The forward pass of Qwen2 in NumPy: an engine that shares nothing with reference/ and optimized/.

Sources: the Qwen2 report (arXiv 2407.10671), RMSNorm (1910.07467), RoFormer (2104.09864), GQA (2305.13245), SwiGLU
(2002.05202), and the conventions of transformers' checkpoints (rotation of halves, [out, in] weights).

Each named tensor is rounded to the storage type, and the engine goes on with the rounded one; everything between is
float32. Arrays are float32 and hold rounded values. Each operation is a method of its own, so that faults.py and
unlisted.py can override it.
"""

import dataclasses

import numpy

from engines.arithmetic import ROUNDING, Sums

FILL = 11.0  # what cache memory holds where nothing was written; a right engine never reads it


@dataclasses.dataclass
class Step:
    """Tokens [B,T] that enter after `past` cached slots; `pads` [B] counts those at the left of each row."""
    phase: str
    tokens: numpy.ndarray
    positions: numpy.ndarray
    past: int
    pads: numpy.ndarray

    @property
    def batch(self):
        return self.tokens.shape[0]

    @property
    def num_tokens(self):
        return self.tokens.shape[1]

    @property
    def valid(self):
        return self.past + self.num_tokens

    @property
    def is_decode(self):
        return self.phase == "decode"

    def is_pad(self, b, t):
        return self.past + t < self.pads[b]


class Engine:
    def __init__(self, config, weights, dtype="bfloat16", order="blocked", softmax="two-pass", record_scores=False):
        self.config, self.dtype = config, dtype
        self.round = ROUNDING[dtype]
        self.sums = Sums(order)
        self.softmax_kind, self.record_scores = softmax, record_scores
        self.weights = {name: self.round(value) for name, value in weights.items()}
        self.fill = FILL
        self.keys = self.values = None  # [layer][B][K][C][d]
        self.put = lambda name, values, dtype=None: None

    # ---- The step --------------------------------------------------------------------------------------------------

    def allocate(self, batch, capacity):
        c = self.config
        shape = (c.num_layers, batch, c.num_kv_heads, capacity, c.head_dim)
        self.keys, self.values = (numpy.full(shape, self.fill, dtype=numpy.float32) for _ in range(2))

    def run(self, step):
        """Logits [B,T,V]."""
        hidden = self.keep("model.embed_tokens", self.embed(step))
        for layer in range(self.config.num_layers):
            hidden = self.run_layer(layer, hidden, step)
        normed = self.keep("model.norm", self.final_norm(hidden))
        return self.keep("lm_head", self.logits(normed))

    def run_layer(self, layer, hidden, step):
        prefix = f"model.layers.{layer}."
        normed = self.keep(prefix + "input_layernorm", self.layer_norm(hidden, layer, "input_layernorm"))
        products = self.qkv_products(normed, layer)
        q, k, v = (self.keep(prefix + f"self_attn.{part}_proj", value)
                   for part, value in zip("qkv", self.add_biases(products, layer, step)))
        q = self.keep(prefix + "self_attn.q_rope", self.rotate(self.split_heads(q), "q", layer, step))
        k_plain = self.split_heads(k)
        k = self.keep(prefix + "self_attn.k_rope", self.rotate(k_plain, "k", layer, step))
        v = self.split_heads(v)
        self.write_cache(layer, *self.cached(k, k_plain, v, layer, step), step)
        keys, values = self.read_cache(layer, step.valid)
        self.put(prefix + "self_attn.k_cache", keys.transpose(0, 2, 1, 3))
        self.put(prefix + "self_attn.v_cache", values.transpose(0, 2, 1, 3))
        context = self.attention(q, k, v, layer, step)
        context = self.keep(prefix + "self_attn.attn_output", self.merge_heads(context, layer, step))
        projected = self.keep(prefix + "self_attn.o_proj", self.o_proj(context, layer))
        middle = self.keep(prefix + "resid_mid", self.add_residual(hidden, projected, normed, layer, "resid_mid"))
        normed = self.keep(prefix + "post_attention_layernorm",
                           self.layer_norm(middle, layer, "post_attention_layernorm"))
        gate = self.keep(prefix + "mlp.gate_proj", self.linear(normed, layer, "mlp.gate_proj"))
        up = self.keep(prefix + "mlp.up_proj", self.linear(normed, layer, "mlp.up_proj"))
        act = self.keep(prefix + "mlp.act", self.activation(gate, up, layer))
        down = self.keep(prefix + "mlp.down_proj", self.down_proj(act, layer, step))
        return self.keep(prefix + "output", self.add_residual(middle, down, normed, layer, "output"))

    def keep(self, name, values):
        """Rounds a named tensor to the storage type and records it; the rounded one is used from here on."""
        rounded = self.round(values)
        self.put(name, rounded)
        return rounded

    # ---- Operations ------------------------------------------------------------------------------------------------

    def weight(self, layer, name):
        return self.weights[f"model.layers.{layer}.{name}"]

    def embed(self, step):
        return self.weights["model.embed_tokens.weight"][step.tokens]

    def eps(self, layer, name):
        return self.config.eps

    def norm(self, x, weight, eps):
        mean_square = self.sums.total(x * x) / numpy.float32(x.shape[-1])
        return x / numpy.sqrt(mean_square + numpy.float32(eps)) * weight

    def layer_norm(self, x, layer, name):
        return self.norm(x, self.weight(layer, name + ".weight"), self.eps(layer, name))

    def final_norm(self, x):
        return self.norm(x, self.weights["model.norm.weight"], self.eps(None, "model.norm"))

    def product(self, x, weight):
        """x [..., in] times the transpose of weight [out, in], in float32."""
        rows = x.reshape(-1, x.shape[-1])
        return self.sums.product(rows, weight.T).reshape(*x.shape[:-1], weight.shape[0])

    def linear(self, x, layer, name):
        return self.product(x, self.weight(layer, name + ".weight"))

    def qkv_products(self, x, layer):
        return [self.linear(x, layer, f"self_attn.{part}_proj") for part in "qkv"]

    def bias(self, layer, part, step):
        return self.weight(layer, f"self_attn.{part}_proj.bias")

    def add_biases(self, products, layer, step):
        return [product + self.bias(layer, part, step) for part, product in zip("qkv", products)]

    def split_heads(self, x):
        """[B,T,heads*d] to [B,T,heads,d]."""
        return x.reshape(*x.shape[:2], -1, self.config.head_dim)

    def frequencies(self):
        d = self.config.head_dim
        return self.config.theta ** (-numpy.arange(0, d, 2, dtype=numpy.float64) / d)

    def rope_positions(self, step):
        return step.positions

    def rope_table(self, step):
        """cos and sin, [B,T,1,d/2]; the angle in float64, so that its rounding is the table's own."""
        angles = self.rope_positions(step)[:, :, None, None].astype(numpy.float64) * self.frequencies()
        return numpy.cos(angles).astype(numpy.float32), numpy.sin(angles).astype(numpy.float32)

    def rotate(self, x, part, layer, step):
        cos, sin = self.rope_table(step)
        half = self.config.head_dim // 2
        first, second = x[..., :half], x[..., half:]
        return numpy.concatenate((first * cos - second * sin, second * cos + first * sin), -1)

    def cached(self, k, k_plain, v, layer, step):
        """What of this step's keys and values, [B,T,K,d], goes into the cache."""
        return k, v

    def write_cache(self, layer, k, v, step):
        """Memory is [B][K][C][d]; token t goes to slot past + t."""
        for memory, new in ((self.keys[layer], k), (self.values[layer], v)):
            memory[:, :, step.past:step.valid] = new.transpose(0, 2, 1, 3)

    def read_cache(self, layer, length):
        """Slots 0..length-1 of keys and values, [B,K,length,d]."""
        return self.keys[layer][:, :, :length], self.values[layer][:, :, :length]

    def attended(self, q, k, v, layer, step):
        """Keys and values as attention sees them, [B,K,slots,d]."""
        return self.read_cache(layer, step.valid)

    def visible(self, step, length, layer):
        """[B,T,length]: query t of row b sees slots pads[b]..past+t."""
        slots = numpy.arange(length)[None, None, :]
        queries = step.past + numpy.arange(step.num_tokens)[None, :, None]
        return (slots >= step.pads[:, None, None]) & (slots <= queries)

    def kv_head(self, head, layer, step):
        return head // (self.config.num_q_heads // self.config.num_kv_heads)

    def scale(self, layer):
        return numpy.float32(self.config.head_dim ** -0.5)

    def scores(self, q, keys, layer, step):
        """q [B,T,H,d], keys [B,H,S,d]; scaled, not yet masked, [B,H,T,S]."""
        return self.sums.product(q.transpose(0, 2, 1, 3), keys.transpose(0, 1, 3, 2)) * self.scale(layer)

    def mask(self, scores, step, layer):
        seen = self.visible(step, scores.shape[-1], layer)[:, None]
        return numpy.where(seen, scores, numpy.float32(-numpy.inf))

    def attention(self, q, k, v, layer, step):
        """[B,H,T,d]"""
        keys, values = self.attended(q, k, v, layer, step)
        heads = [self.kv_head(head, layer, step) for head in range(self.config.num_q_heads)]
        keys, values = keys[:, heads], values[:, heads]
        scores = self.mask(self.scores(q, keys, layer, step), step, layer)
        with numpy.errstate(invalid="ignore", over="ignore", divide="ignore"):
            if self.softmax_kind == "online":
                return self.online_attention(scores, values)
            probs = self.probs(scores, layer, step)
        if self.record_scores:  # held in float32, and so recorded
            name = f"model.layers.{layer}.self_attn."
            if scores.shape[-1] == step.valid:
                self.put(name + "scores", scores, "float32")
                self.put(name + "probs", probs, "float32")
        return self.mix(probs, values, layer, step)

    def probs(self, scores, layer, step):
        # A pad query sees nothing; all its weights are 0.
        top = scores.max(-1, keepdims=True)
        exponentials = numpy.exp(scores - numpy.where(numpy.isfinite(top), top, numpy.float32(0)))
        return numpy.nan_to_num(exponentials / self.sums.total(exponentials))

    def mix(self, probs, values, layer, step):
        return self.sums.product(probs, values)

    def online_attention(self, scores, values, tile=40):
        """One pass over key tiles with a running maximum, as flash attention does it."""
        top = numpy.full((*scores.shape[:-1], 1), -numpy.inf, dtype=numpy.float32)
        total = numpy.zeros_like(top)
        output = numpy.zeros((*scores.shape[:-1], values.shape[-1]), dtype=numpy.float32)
        for first in range(0, scores.shape[-1], tile):
            part = scores[..., first:first + tile]
            raised = numpy.maximum(top, part.max(-1, keepdims=True))
            exponentials = numpy.where(numpy.isfinite(part), numpy.exp(part - raised), numpy.float32(0))
            shrink = numpy.where(numpy.isfinite(top), numpy.exp(top - raised), numpy.float32(0))
            total = total * shrink + self.sums.total(exponentials)
            output = output * shrink + self.sums.product(exponentials, values[..., first:first + tile, :])
            top = raised
        return numpy.nan_to_num(output / total)

    def merge_heads(self, context, layer, step):
        """[B,H,T,d] to [B,T,H*d]."""
        return context.transpose(0, 2, 1, 3).reshape(step.batch, step.num_tokens, -1)

    def o_proj(self, x, layer):
        return self.linear(x, layer, "self_attn.o_proj")

    def add_residual(self, residual, product, normed, layer, name):
        return residual + product

    def silu(self, x):
        with numpy.errstate(over="ignore"):
            return x / (numpy.float32(1) + numpy.exp(-x))

    def activation(self, gate, up, layer):
        return self.silu(gate) * up

    def down_proj(self, x, layer, step):
        return self.linear(x, layer, "mlp.down_proj")

    def logits(self, x):
        name = "model.embed_tokens.weight" if self.config.tied else "lm_head.weight"
        return self.product(x, self.weights[name])
