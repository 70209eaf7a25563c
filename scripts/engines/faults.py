"""The catalogued faults of docs/faults.md, planted in the NumPy engine: `Faulty` overrides the operations that a fault
changes. The semantics are that page's, word for word; the code is this engine's own."""

import re

import numpy

from engines.arithmetic import ROUNDING, to_bfloat16, to_float16
from engines.forward import Engine
from recording import UsageError

TILES = [64, 16, 32, 128]
# Each fault with the values of its parameter, the first of which is taken where none is given; none: no parameter.
FAULTS = {
    "H01.no_batch_stride": [0, 1], "H01.no_head_stride": [], "H01.no_layer_stride": [],
    "H01.head_stride_is_tokens": [], "H01.pos_major": [], "H01.batch_stride_of_one_token": [], "H01.v_into_k": [],
    "H01.pad_slot": [0, -1],
    "H02.scale": [1.01], "H02.no_scale": [], "H02.scale_hidden": [], "H02.scale_twice": [], "H02.scale_after": [],
    "H02.no_max": [], "H02.sum_fp16": [], "H02.qk_fp16": [], "H02.tile_max": [64, 128, 32, 16],
    "H02.tail_zero": [64, 128, 32, 16],
    "H03.theta": [10000, 1000, 500000, 1000000], "H03.interleaved": [], "H03.half_slice": [2, 4],
    "H03.slice_hidden": [], "H03.q_only": [], "H03.k_only": [], "H03.none": [], "H03.twice": [], "H03.reverse": [],
    "H03.after_cache": [], "H03.decode_pos_zero": [], "H03.decode_pos_plus_one": [], "H03.chunk_local_pos": [],
    "H03.table_bf16": [], "H03.batch_pos": [],
    "H04.wo_rows": [], "H04.wo_cols": TILES, "H04.residual_lost": [2, 1], "H04.norm_into_residual": [],
    "H04.down_in_act": TILES,
    "H05.modulo": [], "H05.divide_by_kv": [], "H05.group_off_by_one": [1, -1], "H05.head_zero": [],
    "H05.prefill_only": [], "H05.decode_only": [],
    "H06.missing_q": [], "H06.missing_k": [], "H06.missing_v": [], "H06.missing_all": [], "H06.prefill_missing": [],
    "H06.decode_missing": [], "H06.row_axis": [], "H06.first_row_only": [], "H06.kv_swapped": [],
    "H06.length_hidden": [], "H06.fp16": [], "H06.bf16": [], "H06.int8": [], "H06.after_rope": [],
    "H07.transposed_q": [], "H07.transposed_k": [], "H07.transposed_v": [], "H07.transposed_o": [],
    "H07.transposed_gate": [], "H07.transposed_up": [], "H07.transposed_down": [], "H07.lda": [1, 8, -1],
    "H07.column_major_out": [], "H07.packed_order": [], "H07.first_tile_only": TILES,
    "H07.acc_bf16": [32, 16, 64, 128], "H07.out_fp16": [],
    "H08.write_plus_one": [], "H08.write_minus_one": [], "H08.read_minus_one": [], "H08.first_token": [],
    "H08.read_minus_first": [], "H08.read_plus_one": [0], "H08.length_counts_current": [],
    "H09.eps": [1e-5, 1e-8, 1e-12, 0], "H09.layernorm": [], "H09.layernorm_full": [], "H09.one_plus_weight": [],
    "H09.no_weight": [], "H09.no_sqrt": [], "H09.fp16_sum": [], "H09.weight_from_other_layer": [1, -1],
    "H09.final_norm_eps": [1e-5],
    "H10.none": [], "H10.strict": [], "H10.one_ahead": [], "H10.top_left": [], "H10.chunk_only": [],
    "H10.pad_visible": [], "H10.pad_query_axis": [], "H10.finite_fp16": [-65504, -10000],
    "H10.window": [4096, 1024, 512, 256, 128, 64, 32, 16, 8],
    "X.gate_up_swapped": [], "X.no_silu": [], "X.wrong_token_embedding": [], "X.no_final_norm": [],
    "X.untied_lm_head": [], "X.layer_repeated": [],
}


def parse(text):
    """(id, value, layer) of "ID[=value][@layer]"; value and layer may be None."""
    match = re.fullmatch(r"([\w.]+)(?:=([^@]+))?(?:@(\d+))?", text)
    if not match or match[1] not in FAULTS:
        near = [fault for fault in FAULTS if fault.split(".")[0] == text.split(".")[0]] or ["one of docs/faults.md"]
        raise UsageError(f"--inject {text}: no fault that this engine plants; try {', '.join(near)}")
    values = FAULTS[match[1]]
    if match[2] is not None and not values:
        raise UsageError(f"--inject {text}: {match[1]} takes no value")
    try:
        value = float(match[2]) if match[2] is not None else (values[0] if values else None)
    except ValueError as error:
        raise UsageError(f"--inject {text}: {match[2]!r} is no number") from error
    return match[1], value, None if match[3] is None else int(match[3])


class Faulty(Engine):
    def __init__(self, config, weights, inject, **options):
        super().__init__(config, weights, **options)
        self.fault, self.value, self.only_layer = parse(inject)
        if self.only_layer is not None and self.only_layer >= config.num_layers:
            raise UsageError(f"--inject {inject}: the model has {config.num_layers} layers")
        if self.fault == "X.untied_lm_head" and config.tied:
            raise UsageError(f"--inject {inject}: this model's lm_head is tied, so there is nothing to confuse")
        if self.fault == "H08.read_plus_one":
            self.fill = self.value

    def has(self, fault, layer=None):
        """Whether this fault is planted here; one at a layer does not touch what lies outside the layers."""
        return self.fault == fault and (self.only_layer is None or self.only_layer == layer)

    # ---- H01, H08: memory ------------------------------------------------------------------------------------------

    def cached(self, k, k_plain, v, layer, step):
        if self.has("H03.after_cache", layer):
            return k_plain, v
        return k, v

    def slot(self, layer, b, head, slot, step):
        """Flat slot that the writer means."""
        num_heads, capacity = self.config.num_kv_heads, self.keys.shape[3]
        row = b * num_heads * capacity
        if self.has("H01.no_batch_stride", layer):
            row = 0
        if self.has("H01.batch_stride_of_one_token", layer):
            row = b * num_heads
        if self.has("H01.no_head_stride", layer):
            return row + slot
        if self.has("H01.head_stride_is_tokens", layer):
            return row + head * step.num_tokens + slot
        if self.has("H01.pos_major", layer):
            return row + slot * num_heads + head
        if self.has("H01.pad_slot", layer) and slot < step.pads[b]:
            last = ((step.batch - 1) * num_heads + head) * capacity + capacity - 1
            return head * capacity if self.value == 0 else last
        if step.is_decode and (self.has("H08.write_plus_one", layer) or self.has("H08.length_counts_current", layer)):
            slot = min(slot + 1, capacity - 1) if self.fault == "H08.write_plus_one" else slot + 1
        if step.is_decode and self.has("H08.write_minus_one", layer):
            slot -= 1
        return row + head * capacity + slot

    def write_cache(self, layer, k, v, step):
        """Token by token. Pads write nothing, unless that is the fault."""
        memory = 0 if self.has("H01.no_layer_stride", layer) else layer
        keys = self.keys[memory].reshape(-1, self.config.head_dim)
        values = self.values[memory].reshape(-1, self.config.head_dim)
        skip_pads = not (self.has("H01.pad_slot", layer) or self.has("H01.no_batch_stride", layer) and self.value == 1)
        for b in range(step.batch):
            for head in range(self.config.num_kv_heads):
                for t in range(step.num_tokens):
                    if skip_pads and step.is_pad(b, t):
                        continue
                    place = self.slot(layer, b, head, step.past + t, step)
                    keys[place] = k[b, t, head]
                    if self.has("H01.v_into_k", layer):
                        keys[place] = v[b, t, head]
                    else:
                        values[place] = v[b, t, head]

    def read_cache(self, layer, length):
        memory = 0 if self.has("H01.no_layer_stride", layer) else layer
        keys, values = self.keys[memory], self.values[memory]
        if self.has("H01.no_batch_stride", layer):
            keys, values = (numpy.broadcast_to(memory[:1], memory.shape) for memory in (keys, values))
        if self.has("H01.no_head_stride", layer):
            keys, values = (numpy.broadcast_to(memory[:, :1], memory.shape) for memory in (keys, values))
        return keys[:, :, :length], values[:, :, :length]

    def reads_one_more(self, layer, step):
        return step.is_decode and (self.has("H08.read_plus_one", layer) or self.has("H08.length_counts_current", layer))

    def attended(self, q, k, v, layer, step):
        keys, values = self.read_cache(layer, step.valid + (1 if self.reads_one_more(layer, step) else 0))
        if self.has("H03.after_cache", layer):
            keys = keys.copy()
            keys[:, :, step.past:step.valid] = k.transpose(0, 2, 1, 3)
        return keys, values

    # ---- H10, H08: what a query sees -------------------------------------------------------------------------------

    def visible(self, step, length, layer):
        slots = numpy.arange(length)[None, None, :]
        t = numpy.arange(step.num_tokens)[None, :, None]
        first = step.pads[:, None, None]
        last = step.past + t
        if self.has("H10.none", layer):
            last = numpy.full_like(last, step.valid - 1)
        if self.has("H10.strict", layer) and not step.is_decode:
            last = last - 1
        if self.has("H10.one_ahead", layer):
            last = numpy.minimum(last + 1, step.valid - 1)
        if self.has("H10.top_left", layer):
            last = t
        if self.has("H10.chunk_only", layer):
            first = numpy.maximum(first, step.past)
        if self.has("H10.pad_visible", layer) or self.has("H10.pad_query_axis", layer):
            first = numpy.zeros_like(first)
        if self.has("H10.window", layer):
            first = numpy.maximum(first, last - int(self.value) + 1)
        if step.is_decode:
            if self.has("H08.read_minus_one", layer) or self.has("H08.first_token", layer) and self.num_decoded == 0:
                last = last - 1
            if self.has("H08.read_minus_first", layer):
                first = numpy.maximum(first, 1)
            if self.reads_one_more(layer, step):
                last = last + 1
        return (slots >= first) & (slots <= last)

    def mask(self, scores, step, layer):
        if self.has("H10.finite_fp16", layer):
            return numpy.where(self.visible(step, scores.shape[-1], layer)[:, None], scores, numpy.float32(self.value))
        return super().mask(scores, step, layer)

    def allocate(self, batch, capacity):
        super().allocate(batch, capacity)
        self.num_decoded = 0

    def run(self, step):
        logits = super().run(step)
        self.num_decoded += step.is_decode
        return logits

    # ---- H02: softmax ----------------------------------------------------------------------------------------------

    def scale(self, layer):
        d = self.config.head_dim
        scales = {"H02.scale": d ** -0.5 * (self.value or 1), "H02.no_scale": 1.0, "H02.scale_after": 1.0,
                  "H02.scale_hidden": self.config.hidden ** -0.5, "H02.scale_twice": 1.0 / d}
        if self.fault in scales and self.has(self.fault, layer):
            return numpy.float32(scales[self.fault])
        return super().scale(layer)

    def scores(self, q, keys, layer, step):
        if self.has("H02.qk_fp16", layer):
            dots = self.sums.product(q.transpose(0, 2, 1, 3), keys.transpose(0, 1, 3, 2))
            return to_float16(dots) * self.scale(layer)
        return super().scores(q, keys, layer, step)

    def probs(self, scores, layer, step):
        if not (self.fault or "").startswith("H02.") or not self.has(self.fault, layer):
            return super().probs(scores, layer, step)
        top = scores.max(-1, keepdims=True)
        if self.fault == "H02.scale_after":
            return super().probs(scores, layer, step) * super().scale(layer)
        if self.fault == "H02.no_max":
            exponentials = numpy.exp(scores)
            return exponentials / self.sums.total(exponentials)
        if self.fault == "H02.sum_fp16":
            exponentials = numpy.exp(scores - top)
            total = numpy.zeros_like(top)
            for slot in range(scores.shape[-1]):
                total = to_float16(total + exponentials[..., slot:slot + 1])
            return exponentials / total
        if self.fault == "H02.tile_max":
            return self.unscaled_tiles(scores, int(self.value), step)
        if self.fault == "H02.tail_zero":
            return self.zero_tail(scores, int(self.value), step)
        return super().probs(scores, layer, step)

    def unscaled_tiles(self, scores, tile, step):
        """Each tile's exponentials are taken against the maximum so far, and nothing is made good afterwards."""
        probs = numpy.zeros_like(scores)
        for b in range(step.batch):
            top = numpy.full((*scores.shape[1:3], 1), -numpy.inf, dtype=numpy.float32)
            for first in range(int(step.pads[b]), scores.shape[-1], tile):
                part = scores[b, :, :, first:first + tile]
                top = numpy.maximum(top, part.max(-1, keepdims=True))
                probs[b, :, :, first:first + tile] = numpy.where(numpy.isfinite(part), numpy.exp(part - top), 0)
        return probs / self.sums.total(probs)

    def zero_tail(self, scores, tile, step):
        """Slots from S to the end of the last tile count as score 0, for queries whose last tile is that one."""
        zeros = numpy.zeros((step.batch, 1, step.num_tokens, 1), dtype=numpy.float32)
        for b in range(step.batch):
            for t in range(step.num_tokens):
                seen = step.past + t + 1 - int(step.pads[b])
                end = int(step.pads[b]) + -(-seen // tile) * tile if seen > 0 else 0
                zeros[b, 0, t] = max(end - step.valid, 0)
        top = scores.max(-1, keepdims=True)
        top = numpy.where(zeros > 0, numpy.maximum(top, numpy.float32(0)), top)
        exponentials = numpy.exp(scores - top)
        behind = numpy.where(zeros > 0, zeros * numpy.exp(-top), numpy.float32(0))
        return exponentials / (self.sums.total(exponentials) + behind)

    # ---- H05: heads ------------------------------------------------------------------------------------------------

    def kv_head(self, head, layer, step):
        num_q, num_kv = self.config.num_q_heads, self.config.num_kv_heads
        group = num_q // num_kv
        in_phase = {"H05.prefill_only": not step.is_decode, "H05.decode_only": step.is_decode}
        if self.has("H05.modulo", layer) or in_phase.get(self.fault) and self.has(self.fault, layer):
            return head % num_kv
        if self.has("H05.divide_by_kv", layer):
            return min(head // num_kv, num_kv - 1)
        if self.has("H05.group_off_by_one", layer):
            return min(head // max(1, group + int(self.value)), num_kv - 1)
        if self.has("H05.head_zero", layer):
            return 0
        return super().kv_head(head, layer, step)

    # ---- H03: RoPE -------------------------------------------------------------------------------------------------

    def rope_table_of(self, layer, step):
        positions = step.positions.astype(numpy.int64)
        t = numpy.arange(step.num_tokens)[None, :]
        if step.is_decode:
            if self.has("H03.decode_pos_zero", layer):
                positions = numpy.zeros_like(positions)
            if self.has("H03.decode_pos_plus_one", layer) or self.has("H08.length_counts_current", layer):
                positions = positions + 1
        elif self.has("H03.chunk_local_pos", layer):
            positions = t - numpy.clip(step.pads[:, None] - step.past, 0, step.num_tokens)
        if self.has("H03.batch_pos", layer):
            positions = numpy.broadcast_to(positions[:1], positions.shape)
        d, theta = self.config.head_dim, self.config.theta
        if self.has("H03.theta", layer):
            theta = self.value
        pairs = numpy.arange(d // 2, dtype=numpy.float64)
        length = self.config.hidden if self.has("H03.slice_hidden", layer) else d
        angles = positions[:, :, None, None] * theta ** (-2 * pairs / length)
        if self.has("H03.half_slice", layer):
            angles[..., int(d / 2 / self.value):] = 0
        if self.has("H03.reverse", layer):
            angles = -angles
        table = [numpy.cos(angles).astype(numpy.float32), numpy.sin(angles).astype(numpy.float32)]
        return [to_bfloat16(part) for part in table] if self.has("H03.table_bf16", layer) else table

    def rotate(self, x, part, layer, step):
        still = {"q": ("H03.k_only", "H03.none"), "k": ("H03.q_only", "H03.none")}[part]
        turned = x
        if not any(self.has(fault, layer) for fault in still):
            for _ in range(2 if self.has("H03.twice", layer) else 1):
                turned = self.turn(turned, layer, step)
        if self.has("H06.after_rope", layer):
            turned = turned + self.weight(layer, f"self_attn.{part}_proj.bias").reshape(x.shape[2:])
        return turned

    def turn(self, x, layer, step):
        cos, sin = self.rope_table_of(layer, step)
        half = self.config.head_dim // 2
        if self.has("H03.interleaved", layer):
            result = numpy.empty_like(x)
            result[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
            result[..., 1::2] = x[..., 1::2] * cos + x[..., 0::2] * sin
            return result
        first, second = x[..., :half], x[..., half:]
        return numpy.concatenate((first * cos - second * sin, second * cos + first * sin), -1)

    # ---- H06: biases -----------------------------------------------------------------------------------------------

    def add_biases(self, products, layer, step):
        biases = {part: self.weight(layer, f"self_attn.{part}_proj.bias") for part in "qkv"}
        missing = {"H06.missing_q": "q", "H06.missing_k": "k", "H06.missing_v": "v", "H06.missing_all": "qkv",
                   "H06.prefill_missing": "" if step.is_decode else "qkv",
                   "H06.decode_missing": "qkv" if step.is_decode else "", "H06.after_rope": "qk"}
        if self.fault in missing and self.has(self.fault, layer):
            biases |= {part: numpy.zeros_like(biases[part]) for part in missing[self.fault]}
        if self.has("H06.row_axis", layer):
            if step.num_tokens > len(biases["k"]):
                raise UsageError("--inject H06.row_axis: a step has more tokens than the bias has entries")
            biases = {part: bias[:step.num_tokens, None] for part, bias in biases.items()}
        if self.has("H06.first_row_only", layer):
            for part, product in zip("qkv", products):
                rows = numpy.zeros_like(product)
                rows[0, 0] = biases[part]
                biases[part] = rows
        if self.has("H06.kv_swapped", layer):
            biases["k"], biases["v"] = biases["v"], biases["k"]
        if self.has("H06.length_hidden", layer):
            fused = numpy.concatenate([biases[part] for part in "qkv"])
            read = fused[numpy.arange(len(fused)) % self.config.hidden]
            ends = numpy.cumsum([len(biases[part]) for part in "qkv"])[:-1]
            biases = dict(zip("qkv", numpy.split(read, ends)))
        for fault, dtype in (("H06.fp16", "float16"), ("H06.bf16", "bfloat16")):
            if self.has(fault, layer):
                biases = {part: ROUNDING[dtype](bias) for part, bias in biases.items()}
        if self.has("H06.int8", layer):
            biases = {part: self.to_int8(bias) for part, bias in biases.items()}
        return [product + biases[part] for part, product in zip("qkv", products)]

    @staticmethod
    def to_int8(bias):
        unit = numpy.abs(bias).max() / numpy.float32(127)
        return numpy.rint(bias / unit) * unit if unit > 0 else bias

    # ---- H07: GEMMs ------------------------------------------------------------------------------------------------

    def weight(self, layer, name):
        if self.has("X.layer_repeated", layer) and layer > 0:
            layer -= 1
        return super().weight(layer, name)

    def linear(self, x, layer, name):
        weight = self.weight(layer, name + ".weight")
        if not (self.fault or "").startswith("H07.") or not self.has(self.fault, layer):
            return self.product(x, weight)
        if self.fault == "H07.transposed_" + name.split(".")[1].removesuffix("_proj"):
            weight = weight.reshape(weight.shape[1], weight.shape[0]).T
        if self.fault == "H07.lda":
            weight = self.strided(weight, int(self.value))
        if self.fault == "H07.first_tile_only":
            tile = int(self.value)
            starts = numpy.arange(weight.shape[1]) % tile
            return self.product(x[..., starts], weight)
        if self.fault == "H07.acc_bf16":
            return self.accumulate_bfloat16(x, weight, int(self.value))
        product = self.product(x, weight)
        if self.fault == "H07.column_major_out":
            return product.reshape(-1, weight.shape[0]).T.reshape(product.shape)
        return to_float16(product) if self.fault == "H07.out_fp16" else product

    def strided(self, weight, extra):
        """Row j starts at j·(in + extra); beyond the end nothing is expected, and this memory holds the poison."""
        rows, columns = weight.shape
        places = numpy.arange(rows)[:, None] * (columns + extra) + numpy.arange(columns)[None, :]
        flat = numpy.append(weight.ravel(), numpy.float32(self.fill))
        return flat[numpy.minimum(places, weight.size)]

    def accumulate_bfloat16(self, x, weight, block):
        total = numpy.zeros((*x.shape[:-1], weight.shape[0]), dtype=numpy.float32)
        for first in range(0, weight.shape[1], block):
            total = to_bfloat16(total + self.product(x[..., first:first + block], weight[:, first:first + block]))
        return total

    def qkv_products(self, x, layer):
        if self.has("H07.packed_order", layer):
            weights = [self.weight(layer, f"self_attn.{part}_proj.weight") for part in "qkv"]
            fused, kv = numpy.concatenate(weights), len(weights[1])
            return [self.product(x, part) for part in (fused[2 * kv:], fused[:kv], fused[kv:2 * kv])]
        return super().qkv_products(x, layer)

    # ---- H04: overwritten in place ---------------------------------------------------------------------------------

    def in_column_tiles(self, x, weight, tile):
        """Each tile of output columns is stored over the same columns of the input before the next is computed."""
        memory = x.reshape(-1, x.shape[-1]).copy()
        output = numpy.empty((memory.shape[0], weight.shape[0]), dtype=numpy.float32)
        for first in range(0, weight.shape[0], tile):
            output[:, first:first + tile] = self.round(self.product(memory, weight[first:first + tile]))
            last = min(first + tile, weight.shape[0], memory.shape[1])
            if first < last:
                memory[:, first:last] = output[:, first:last]
        return output.reshape(*x.shape[:-1], -1)

    def in_rows(self, x, weight):
        """Token m's output goes to elements from m·D of the memory that holds the inputs, token m's from m·H·d."""
        out, width = weight.shape
        rows = x.reshape(-1, width)
        memory = numpy.zeros(len(rows) * max(out, width), dtype=numpy.float32)
        memory[:rows.size] = rows.ravel()
        for m in range(len(rows)):
            memory[m * out:(m + 1) * out] = self.round(self.product(memory[None, m * width:(m + 1) * width], weight))[0]
        return memory[:len(rows) * out].reshape(*x.shape[:-1], out)

    def o_proj(self, x, layer):
        weight = self.weight(layer, "self_attn.o_proj.weight")
        if self.has("H04.wo_rows", layer):
            return self.in_rows(x, weight)
        if self.has("H04.wo_cols", layer):
            return self.in_column_tiles(x, weight, int(self.value))
        return super().o_proj(x, layer)

    def down_proj(self, x, layer, step):
        if self.has("H04.down_in_act", layer):
            return self.in_column_tiles(x, self.weight(layer, "mlp.down_proj.weight"), int(self.value))
        return super().down_proj(x, layer, step)

    def add_residual(self, residual, product, normed, layer, name):
        if self.has("H04.residual_lost", layer):
            return product * numpy.float32(self.value)
        if self.has("H04.norm_into_residual", layer):
            return normed + product
        return super().add_residual(residual, product, normed, layer, name)

    # ---- H09: norms ------------------------------------------------------------------------------------------------

    def layer_norm(self, x, layer, name):
        source = layer
        if self.has("H09.weight_from_other_layer", layer):
            source = (layer + int(self.value)) % self.config.num_layers
        return self.wrong_norm(x, self.weight(source, name + ".weight"), layer)

    def final_norm(self, x):
        if self.has("X.no_final_norm"):
            return x
        weight = self.weights["model.norm.weight"]
        if self.has("H09.final_norm_eps"):
            return self.norm(x, weight, self.value)
        return self.wrong_norm(x, weight, None)

    def wrong_norm(self, x, weight, layer):
        eps, size = numpy.float32(self.config.eps), numpy.float32(x.shape[-1])
        if self.has("H09.eps", layer):
            return self.norm(x, weight, self.value)
        if not (self.fault or "").startswith("H09.") or not self.has(self.fault, layer):
            return self.norm(x, weight, self.config.eps)
        squares = self.sums.total(x * x)
        mean_square = squares / size
        centred = x - self.sums.total(x) / size
        if self.fault == "H09.layernorm":
            return centred / numpy.sqrt(mean_square + eps) * weight
        if self.fault == "H09.layernorm_full":
            return centred / numpy.sqrt(self.sums.total(centred * centred) / size + eps) * weight
        if self.fault == "H09.one_plus_weight":
            return x / numpy.sqrt(mean_square + eps) * (numpy.float32(1) + weight)
        if self.fault == "H09.no_weight":
            return x / numpy.sqrt(mean_square + eps)
        if self.fault == "H09.no_sqrt":
            return x / (mean_square + eps) * weight
        if self.fault == "H09.fp16_sum":
            return x / numpy.sqrt(to_float16(squares) / size + eps) * weight
        return self.norm(x, weight, self.config.eps)

    # ---- Outside the ten -------------------------------------------------------------------------------------------

    def embed(self, step):
        if self.has("X.wrong_token_embedding"):
            return self.weights["model.embed_tokens.weight"][(step.tokens + 1) % self.config.vocab]
        return super().embed(step)

    def activation(self, gate, up, layer):
        if self.has("X.gate_up_swapped", layer):
            return self.silu(up) * gate
        if self.has("X.no_silu", layer):
            return gate * up
        return super().activation(gate, up, layer)

    def logits(self, x):
        if self.has("X.untied_lm_head"):
            return self.product(x, self.weights["model.embed_tokens.weight"])
        return super().logits(x)
