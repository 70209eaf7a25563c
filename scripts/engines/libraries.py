"""The NumPy engine with the kernels of a library: its products, norms, exponentials and trigonometry, in the storage type
where the library has it. So a library's numerics can be judged where nobody has made an engine of it.

A library gives functions of NumPy arrays that hold float32 values rounded to the storage type: matmul, silu, softmax, cos,
sin, rms_norm (or None: from rsqrt as the library has it).
"""

import types

import numpy

from recording import UsageError


def _onnxruntime(dtype):
    """onnxruntime's CPU kernels, one operator a session; SimplifiedLayerNormalization is its RMSNorm."""
    import onnxruntime
    from onnx import TensorProto, helper
    sessions = {}

    def run(operator, *inputs, domain="", **attributes):
        if operator not in sessions:
            names = [f"x{i}" for i in range(len(inputs))]
            graph = helper.make_graph([helper.make_node(operator, names, ["y"], domain=domain, **attributes)], "g",
                                      [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
                                      [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
            model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20),
                                                                          helper.make_opsetid("com.microsoft", 1)])
            sessions[operator] = onnxruntime.InferenceSession(model.SerializeToString(),
                                                              providers=["CPUExecutionProvider"])
        return sessions[operator].run(None, {f"x{i}": numpy.ascontiguousarray(x, dtype=numpy.float32)
                                             for i, x in enumerate(inputs)})[0]
    return {"version": onnxruntime.__version__, "matmul": lambda a, b: run("MatMul", a, b),
            "silu": lambda x: x * run("Sigmoid", x), "softmax": lambda x: run("Softmax", x, axis=-1),
            "cos": lambda x: run("Cos", x), "sin": lambda x: run("Sin", x),
            "rms_norm": lambda x, w, eps: run("SimplifiedLayerNormalization", x, w, axis=-1, epsilon=float(eps))}


def _tinygrad(dtype):
    import importlib.metadata
    from tinygrad import Tensor, dtypes
    kind = getattr(dtypes, dtype)

    def through(function):
        def call(*arrays):
            tensors = [Tensor(numpy.ascontiguousarray(x, dtype=numpy.float32)).cast(kind) for x in arrays]
            return function(*tensors).cast(dtypes.float32).numpy()
        return call

    def in_float32(function):
        return lambda x: function(Tensor(numpy.ascontiguousarray(x, dtype=numpy.float32))).numpy()

    def rms_norm(x, w, eps):
        wide = x.cast(dtypes.float32)
        return (wide * (wide.square().mean(-1, keepdim=True) + float(eps)).rsqrt()).cast(kind) * w
    return {"version": importlib.metadata.version("tinygrad"), "matmul": through(lambda a, b: a.matmul(b)),
            "silu": through(lambda x: x.silu()), "softmax": through(lambda x: x.softmax(-1)),
            "cos": in_float32(lambda x: x.cos()), "sin": in_float32(lambda x: x.sin()),
            "rms_norm": lambda x, w, eps: through(lambda a, b: rms_norm(a, b, eps))(x, w)}


def _jax(dtype):
    import jax
    kind = getattr(jax.numpy, dtype)

    def through(function):
        compiled = jax.jit(function)

        def call(*arrays):
            return numpy.asarray(compiled(*(jax.numpy.asarray(x, dtype=kind) for x in arrays)).astype(
                jax.numpy.float32))
        return call

    def in_float32(function):
        return lambda x: numpy.asarray(jax.jit(function)(jax.numpy.asarray(x, dtype=jax.numpy.float32)))

    def rms_norm(x, w, eps):
        wide = x.astype(jax.numpy.float32)
        return (wide * jax.lax.rsqrt(jax.numpy.mean(wide * wide, -1, keepdims=True) + eps)).astype(kind) * w
    norms = {}
    return {"version": jax.__version__, "matmul": through(jax.numpy.matmul), "silu": through(jax.nn.silu),
            "softmax": through(jax.nn.softmax), "cos": in_float32(jax.numpy.cos), "sin": in_float32(jax.numpy.sin),
            "rms_norm": lambda x, w, eps: norms.setdefault(
                float(eps), through(lambda a, b: rms_norm(a, b, float(eps))))(x, w)}


def _torch(dtype):
    import torch
    kind = getattr(torch, dtype)

    def through(function):
        def call(*arrays):
            tensors = [torch.from_numpy(numpy.ascontiguousarray(x, dtype=numpy.float32)).to(kind) for x in arrays]
            return function(*tensors).float().numpy()
        return call
    in_float32 = {name: lambda x, f=getattr(torch, name): f(torch.from_numpy(numpy.ascontiguousarray(x))).numpy()
                  for name in ("cos", "sin")}
    return {"version": torch.__version__, "matmul": through(torch.matmul), "silu": through(torch.nn.functional.silu),
            "softmax": through(lambda x: torch.softmax(x, -1)), **in_float32,
            "rms_norm": lambda x, w, eps: through(
                lambda a, b: torch.nn.functional.rms_norm(a, (a.shape[-1],), b, float(eps)))(x, w)}


LIBRARIES = {"onnxruntime": (_onnxruntime, ("float32",)), "tinygrad": (_tinygrad, ("float32", "float16", "bfloat16")),
             "jax": (_jax, ("float32", "float16", "bfloat16")), "torch": (_torch, ("float32", "float16", "bfloat16"))}


def install(engine, name):
    """Returns the library's version."""
    if name not in LIBRARIES:
        raise UsageError(f"--library {name}: no such library; there are {', '.join(LIBRARIES)}")
    make, dtypes = LIBRARIES[name]
    if engine.dtype not in dtypes:
        raise UsageError(f"--library {name}: its kernels are used in {', '.join(dtypes)}")
    try:
        library = make(engine.dtype)
    except ImportError as error:
        raise UsageError(f"--library {name}: this Python has no {error.name}") from error

    def product(self, x, weight):
        return library["matmul"](x.reshape(-1, x.shape[-1]), weight.T).reshape(*x.shape[:-1], weight.shape[0])

    def rope_table(self, step):
        positions = self.rope_positions(step)[:, :, None, None].astype(numpy.float32)
        angles = positions * self.frequencies().astype(numpy.float32)
        return library["cos"](angles), library["sin"](angles)

    def scores(self, q, keys, layer, step):
        return library["matmul"](q.transpose(0, 2, 1, 3), keys.transpose(0, 1, 3, 2)) * self.scale(layer)

    def probs(self, scores, layer, step):
        return numpy.nan_to_num(library["softmax"](scores))
    replaced = {"product": product, "rope_table": rope_table, "scores": scores, "probs": probs,
                "norm": lambda self, x, weight, eps: library["rms_norm"](x, weight, eps),
                "mix": lambda self, probs, values, layer, step: library["matmul"](probs, values),
                "silu": lambda self, x: library["silu"](x)}
    for method, function in replaced.items():
        setattr(engine, method, types.MethodType(function, engine))
    return library["version"]
