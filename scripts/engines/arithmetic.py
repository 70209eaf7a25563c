"""Rounding to the storage types, and sums in float32 in orders of this engine's own."""

import numpy

ORDERS = ("blocked", "pairwise", "reversed")


def to_bfloat16(values):
    """Float32 values rounded to the nearest bfloat16, ties to even; infinities and NaN stay."""
    bits = numpy.ascontiguousarray(values, dtype=numpy.float32).view(numpy.uint32).astype(numpy.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(numpy.uint32).view(numpy.float32)
    return numpy.where(numpy.isfinite(values), rounded, values).astype(numpy.float32)


def to_float16(values):
    with numpy.errstate(over="ignore"):
        return values.astype(numpy.float16).astype(numpy.float32)


ROUNDING = {"float32": lambda values: numpy.asarray(values, dtype=numpy.float32), "bfloat16": to_bfloat16,
            "float16": to_float16}


def bits_of(values, dtype):
    """What a trace file holds: (array, dtype) as trace_writer takes them."""
    if dtype == "bfloat16":
        return (numpy.ascontiguousarray(values).view(numpy.uint32) >> 16).astype(numpy.uint16)
    return values.astype(dtype)


def _blocks(length, size):
    return [(first, min(first + size, length)) for first in range(0, length, size)]


def _tree(parts):
    while len(parts) > 1:
        parts = [parts[i] + parts[i + 1] if i + 1 < len(parts) else parts[i] for i in range(0, len(parts), 2)]
    return parts[0]


class Sums:
    """Dot products and sums over the last axis, in float32 throughout.

    blocked: blocks of 48, one after the other; pairwise: blocks of 16, joined as a tree; reversed: blocks of 32 from
    the end.
    """

    def __init__(self, order="blocked"):
        self._order = order
        self._size = {"blocked": 48, "pairwise": 16, "reversed": 32}[order]

    def _join(self, parts):
        if self._order == "pairwise":
            return _tree(parts)
        total = parts[-1] if self._order == "reversed" else parts[0]
        for part in (parts[-2::-1] if self._order == "reversed" else parts[1:]):
            total = total + part
        return total

    def total(self, values):
        """Sum over the last axis, which stays with length 1."""
        return self._join([values[..., a:b].sum(-1, keepdims=True, dtype=numpy.float32)
                           for a, b in _blocks(values.shape[-1], self._size)])

    def product(self, left, right):
        """left [..., m, n] times right [..., n, k]."""
        return self._join([left[..., a:b] @ right[..., a:b, :] for a, b in _blocks(left.shape[-1], self._size)])
