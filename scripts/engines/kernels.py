"""Kernels of right engines that compute a function otherwise than a textbook does: each replaces one operation of a
NumPy engine, and none is a bug. The functions are those of libraries in use.
"""

import types

import numpy

from recording import UsageError

ONE, HALF = numpy.float32(1), numpy.float32(0.5)


def sigmoid_rounded(engine):
    """mlx: x * sigmoid(x) in the storage type, two roundings where a fused kernel has none."""
    def silu(self, x):
        with numpy.errstate(over="ignore"):
            return self.round(x * self.round(ONE / (ONE + numpy.exp(-x))))
    return {"silu": silu}


def exponential_rounded(engine):
    """A softmax that holds exp(score - maximum) in the storage type and divides by the sum of what it rounded."""
    def probs(self, scores, layer, step):
        weights = self.round(_exponentials(scores))
        return numpy.nan_to_num(weights / self.sums.total(weights))
    return {"probs": probs}


def exponential_cubic(engine):
    """An exponential in half precision by a cubic polynomial, off by 1e-4, as PyTorch's flash attention on CPUs has."""
    coefficients = numpy.polynomial.chebyshev.Chebyshev.interpolate(numpy.exp2, 3, [0, 1]).convert(
        kind=numpy.polynomial.Polynomial).coef.astype(numpy.float32)

    def probs(self, scores, layer, step):
        exponent = _below_maximum(scores) * numpy.float32(numpy.log2(numpy.e))
        whole = numpy.floor(exponent)
        part = exponent - whole
        a, b, c, d = coefficients
        with numpy.errstate(invalid="ignore"):
            weights = self.round(numpy.ldexp(a + part * (b + part * (c + part * d)),
                                             numpy.maximum(whole, -200).astype(numpy.int32)))
        weights = numpy.where(numpy.isfinite(scores), weights, numpy.float32(0))
        return numpy.nan_to_num(weights / self.sums.total(weights))
    return {"probs": probs}


def sigmoid_rational(engine):
    """A rational function of the argument, clamped to ±18 as onnxruntime's: accurate absolutely, not relatively."""
    def silu(self, x):
        inner = numpy.clip(x * HALF, -9, 9)
        return x * (HALF + HALF * _rational_tanh(inner))
    return {"silu": silu}


def sigmoid_by_tanh(engine):
    """sigmoid(x) = (1 + tanh(x/2))/2, as XLA and kernels for hardware with a tanh have it."""
    return {"silu": lambda self, x: x * (HALF + HALF * numpy.tanh(x * HALF))}


def sigmoid_base_two(engine):
    """exp(-x) as exp2(-x log2 e), with the product in float32: tinygrad, Triton."""
    def silu(self, x):
        with numpy.errstate(over="ignore"):
            return x / (ONE + numpy.exp2(x * numpy.float32(-numpy.log2(numpy.e))))
    return {"silu": silu}


def softmax_base_two(engine):
    """The same in the softmax, with results below the smallest normal number taken for 0."""
    def probs(self, scores, layer, step):
        weights = numpy.exp2(_below_maximum(scores) * numpy.float32(numpy.log2(numpy.e)))
        weights = numpy.where(weights < numpy.finfo(numpy.float32).tiny, numpy.float32(0), weights)
        return numpy.nan_to_num(weights / self.sums.total(weights))
    return {"probs": probs}


def cosine_by_sine(engine):
    """cos x = sin(pi/2 - x) in float32, as tinygrad has it: less than a unit of the angle, the first pair's too."""
    def rope_table(self, step):
        angles = _float32_angles(self, step)
        return numpy.sin(numpy.float32(numpy.pi / 2) - angles), numpy.sin(angles)
    return {"rope_table": rope_table}


def angle_reduced_in_parts(engine):
    """Angles less a multiple of pi/2 in three parts of float32 (Cody and Waite), then polynomials."""
    parts = [numpy.float32(part) for part in (1.5703125, 4.837512969970703125e-4, 7.54978995489188216e-8)]

    def rope_table(self, step):
        angles = _float32_angles(self, step)
        turns = numpy.rint(angles * numpy.float32(2 / numpy.pi))
        reduced = angles
        for part in parts:
            reduced = reduced - turns * part
        square = reduced * reduced
        sine = reduced + reduced * square * (numpy.float32(-1.6666654611e-1) + square * (
            numpy.float32(8.3321608736e-3) + square * numpy.float32(-1.9515295891e-4)))
        cosine = ONE - HALF * square + square * square * (numpy.float32(4.166664568298827e-2) + square * (
            numpy.float32(-1.388731625493765e-3) + square * numpy.float32(2.443315711809948e-5)))
        quarter = turns.astype(numpy.int64) % 4
        sines = numpy.choose(quarter, [sine, cosine, -sine, -cosine])
        cosines = numpy.choose(quarter, [cosine, -sine, -cosine, sine])
        return cosines, sines
    return {"rope_table": rope_table}


def root_by_newton(engine):
    """1/sqrt from an estimate of twelve bits and one step of Newton, as vector units without a root have it."""
    def norm(self, x, weight, eps):
        mean_square = self.sums.total(x * x) / numpy.float32(x.shape[-1]) + numpy.float32(eps)
        bits = (ONE / numpy.sqrt(mean_square)).astype(numpy.float32).view(numpy.uint32)
        estimate = ((bits + numpy.uint32(0x800)) & numpy.uint32(0xFFFFF000)).view(numpy.float32)
        root = estimate * (numpy.float32(1.5) - HALF * mean_square * estimate * estimate)
        return x * root * weight
    return {"norm": norm}


def query_scaled(engine):
    """The scale goes onto the query, which is rounded to the storage type before QK^T."""
    def scores(self, q, keys, layer, step):
        q = self.round(q * self.scale(layer))
        return self.sums.product(q.transpose(0, 2, 1, 3), keys.transpose(0, 1, 3, 2))
    return {"scores": scores}


def _below_maximum(scores):
    top = scores.max(-1, keepdims=True)
    return scores - numpy.where(numpy.isfinite(top), top, numpy.float32(0))


def _exponentials(scores):
    return numpy.exp(_below_maximum(scores))


def _float32_angles(engine, step):
    positions = engine.rope_positions(step)[:, :, None, None].astype(numpy.float32)
    return positions * engine.frequencies().astype(numpy.float32)


# Coefficients of x, x^3, … over those of 1, x^2, … of tanh on ±9 (Eigen's ptanh_float, from which MLAS has its own).
_ODD = (4.89352455891786e-03, 6.37261928875436e-04, 1.48572235717979e-05, 5.12229709037114e-08, -8.60467152213735e-11,
        2.00018790482477e-13, -2.76076847742355e-16)
_EVEN = (4.89352518554385e-03, 2.26843463243900e-03, 1.18534705686654e-04, 1.19825839466702e-06)


def _rational_tanh(x):
    def horner(coefficients, square):
        total = numpy.zeros_like(square)
        for coefficient in reversed(coefficients):
            total = total * square + numpy.float32(coefficient)
        return total
    square = x * x
    return x * horner(_ODD, square) / horner(_EVEN, square)


KERNELS = {kernel.__name__: kernel for kernel in (
    sigmoid_rounded, exponential_rounded, exponential_cubic, sigmoid_rational, sigmoid_by_tanh, sigmoid_base_two,
    softmax_base_two, cosine_by_sine, angle_reduced_in_parts, root_by_newton, query_scaled)}
# The storage types in which a kernel is right and differs from a plain one. A kernel that rounds to the type inside its
# operation is covered by a rounding point; the others need none.
POINTS = {"sigmoid_rounded": "mlp.silu", "exponential_rounded": "attention.probs",
          "exponential_cubic": "attention.probs", "query_scaled": "attention.query"}
TYPES = {name: ("bfloat16", "float16") if name in POINTS else ("float32", "bfloat16") for name in KERNELS}


def install(engine, name):
    if name not in KERNELS:
        raise UsageError(f"--kernel {name}: no such kernel; there are {', '.join(KERNELS)}")
    for method, kernel in KERNELS[name](engine).items():
        setattr(engine, method, types.MethodType(kernel, engine))
