"""Writes a qdiff trace (docs/trace-format.md, section 3) from a Python engine. One file without dependencies: copy it.

    with TraceWriter("trace", engine={"name": "mine"}, compute=compute("bfloat16"), config=config_json) as trace:
        trace.begin_step("prefill", tokens=[[785, 4843, 318]])
        trace.tensor("model.layers.0.self_attn.q_proj", array)     # as soon as it is computed
        trace.begin_step("decode", tokens=[[311]])
        ...

A tensor is a NumPy array, a PyTorch tensor, an array of jax, mlx or any library that speaks DLPack or NumPy's protocol,
or a (nested) list or bytes with `dtype` (and `shape`). It goes to disk at once. The folder appears under its name, whole, when the `with` block ends well; after an error nothing is left behind.
"""

import array
import ctypes
import difflib
import itertools
import json
import math
import os
import re
import shutil
import struct
import sys
import tempfile

# Names and shapes of docs/trace-format.md, section 2, in execution order.
OUTSIDE_LAYERS = {"model.embed_tokens": "B T D", "model.norm": "B T D", "lm_head": "B T V"}
IN_LAYERS = {
    "input_layernorm": "B T D",
    "self_attn.q_proj.matmul": "B T H*d",
    "self_attn.k_proj.matmul": "B T K*d",
    "self_attn.v_proj.matmul": "B T K*d",
    "self_attn.q_proj": "B T H*d",
    "self_attn.k_proj": "B T K*d",
    "self_attn.v_proj": "B T K*d",
    "self_attn.q_rope": "B T H d",
    "self_attn.k_rope": "B T K d",
    "self_attn.k_cache": "B S K d",
    "self_attn.v_cache": "B S K d",
    "self_attn.scores": "B H T S",
    "self_attn.probs": "B H T S",
    "self_attn.attn_output": "B T H*d",
    "self_attn.o_proj": "B T D",
    "resid_mid": "B T D",
    "post_attention_layernorm": "B T D",
    "mlp.gate_proj": "B T I",
    "mlp.up_proj": "B T I",
    "mlp.act": "B T I",
    "mlp.down_proj": "B T D",
    "output": "B T D",
}
DTYPES = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}
_LAYER_NAME = re.compile(r"model\.layers\.(0|[1-9][0-9]*)\.(.+)")


class TraceError(ValueError):
    """The caller's data does not make a trace; the text says what and where."""


def compute(dtype, accumulate="float32", points=None):
    """The manifest's `compute` block of an engine that stores weights and activations in `dtype`."""
    block = {"weights": dtype, "activations": dtype, "accumulate": accumulate}
    return block | ({"points": dict(points)} if points else {})


def shape_of(name):
    """The shape of a tensor of the contract in letters, "B T H*d"."""
    match = _LAYER_NAME.fullmatch(name)
    letters = IN_LAYERS.get(match[2]) if match else OUTSIDE_LAYERS.get(name)
    if letters is None:
        known = list(OUTSIDE_LAYERS) + [f"model.layers.{match[1] if match else 0}.{part}" for part in IN_LAYERS]
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise TraceError(f"{name!r} is no tensor of docs/trace-format.md{hint}")
    return letters


def dimensions_of(config):
    """What a config.json says of the letters in shapes; those that it does not name are absent."""
    get = config.get
    sizes = {"D": get("hidden_size"), "H": get("num_attention_heads"), "I": get("intermediate_size"),
             "K": get("num_key_value_heads") or get("num_attention_heads"), "V": get("vocab_size"),
             "d": get("head_dim")}
    if not sizes["d"] and sizes["D"] and sizes["H"]:
        sizes["d"] = sizes["D"] // sizes["H"]
    return {letter: size for letter, size in sizes.items() if size}


class TraceWriter:
    def __init__(self, directory, engine, compute, config, cache_capacity=None, positions_requested=False):
        """`engine` has name, version, device; `compute` says how it rounds; `config` is the model's config.json.

        `cache_capacity`: the slots of each row's KV cache, where it has a fixed number of them.
        `positions_requested`: the caller chose positions that do not follow from slots and padding.
        """
        self._directory = os.path.abspath(directory)
        self._capacity = cache_capacity
        self._positions_requested = positions_requested
        self._about = {"engine": dict(engine), "compute": compute, "config": config}
        self._dimensions = dimensions_of(config)
        self._steps, self._entries, self._data = [], None, None
        refuse_other_folder(self._directory)
        os.makedirs(os.path.dirname(self._directory), exist_ok=True)
        self._committed = False
        self._temporary = tempfile.mkdtemp(prefix=".qdiff-trace-", suffix=".tmp", dir=os.path.dirname(self._directory))
        os.chmod(self._temporary, 0o777 & ~_umask())

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if kind is None and not self._committed:
            try:
                self.commit()
            finally:
                self.abandon()
        else:
            self.abandon()

    @property
    def phase(self):
        """Of the current step."""
        return self._steps[-1]["phase"]

    def begin_step(self, phase, tokens, past_length=None, positions=None, left_padding=None):
        """Ends the step before. `tokens` is [B][T]; `past_length` defaults to the T of all steps before."""
        self._end_step()
        tokens = [[int(token) for token in row] for row in tokens]
        if phase not in ("prefill", "decode"):
            raise TraceError(f"phase is {phase!r}, but must be 'prefill' or 'decode'")
        if not tokens or not tokens[0] or any(len(row) != len(tokens[0]) for row in tokens):
            raise TraceError("tokens must be [B][T], all rows equally long; pad rows on the left")
        if self._steps and len(tokens) != len(self._steps[0]["tokens"]):
            raise TraceError(f"tokens has {len(tokens)} rows, but step 0 has {len(self._steps[0]['tokens'])}")
        past = sum(len(step["tokens"][0]) for step in self._steps)
        if past_length not in (None, past):
            raise TraceError(f"past_length is {past_length}, but the steps before have {past} tokens a row")
        index = len(self._steps)
        step = {"index": index, "phase": phase, "file": f"step-{index:04}.safetensors", "tokens": tokens,
                "past_length": past}
        if positions is not None:
            step["positions"] = [[int(position) for position in row] for row in positions]
        if left_padding is not None:
            step["left_padding"] = [int(padding) for padding in left_padding]
        self._steps.append(step)
        self._entries = {}
        self._data = open(os.path.join(self._temporary, "step.data"), "w+b")

    def tensor(self, name, values, dtype=None, shape=None):
        """Adds a tensor to the current step."""
        if self._entries is None:
            raise TraceError(f"{name}: no step has begun")
        if name in self._entries:
            raise TraceError(f"{name} is there twice in step {len(self._steps) - 1}")
        dtype, shape, data = _to_bytes(name, values, dtype, shape)
        self._check_shape(name, shape)
        if len(data) != math.prod(shape) * DTYPES[dtype][1]:
            raise TraceError(f"{name} has {len(data)} bytes, but {dtype} {list(shape)} has "
                             f"{math.prod(shape) * DTYPES[dtype][1]}")
        self._entries[name] = (dtype, shape, self._data.tell(), len(data))
        self._data.write(data)

    def commit(self):
        """Gives the trace its name. Called by the end of the `with` block, where nobody called it before."""
        if self._committed:
            raise TraceError("the trace was committed already")
        self._end_step()
        if not self._steps:
            raise TraceError("a trace needs at least one step")
        config = json.dumps(self._about["config"])
        architecture = json.dumps(self._about["config"].get("model_type") or "qwen2")
        capacity = f'  "cache_capacity": {int(self._capacity)},\n' if self._capacity else ""
        requested = '  "positions_are": "requested",\n' if self._positions_requested else ""
        lines = ",\n    ".join(json.dumps(step) for step in self._steps)
        text = (f'{{\n  "format": "qdiff-trace", "version": 1,\n  "engine": {json.dumps(self._about["engine"])},\n'
                f'  "compute": {json.dumps(self._about["compute"])},\n'
                f'  "model": {{"architecture": {architecture}, "config": {config}}},\n'
                f'{capacity}{requested}  "steps": [\n    {lines}\n  ]\n}}\n')
        with open(os.path.join(self._temporary, "manifest.json"), "w", encoding="utf-8") as manifest:
            manifest.write(text)
        refuse_other_folder(self._directory)
        older = self._temporary + ".older"
        if os.path.isdir(self._directory):
            os.rename(self._directory, older)
        os.rename(self._temporary, self._directory)
        self._committed = True
        shutil.rmtree(older, ignore_errors=True)

    def abandon(self):
        """Removes what was written, unless it was committed."""
        if self._data:
            self._data.close()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _check_shape(self, name, shape):
        tokens = self._steps[-1]["tokens"]
        sizes = self._dimensions | {"B": len(tokens), "T": len(tokens[0]),
                                    "S": self._steps[-1]["past_length"] + len(tokens[0])}
        expected = []
        for part in shape_of(name).split():
            known = [sizes.get(letter) for letter in part.split("*")]
            expected.append(math.prod(known) if all(known) else None)
        wanted = [expected] + ([[expected[0], 1, expected[2]]] if name == "lm_head" else [])
        if not any(len(shape) == len(w) and all(b in (None, a) for a, b in zip(shape, w)) for w in wanted):
            raise TraceError(f"{name} has shape {list(shape)}, but [{shape_of(name).replace(' ', ', ')}] is {expected}")

    def _end_step(self):
        if self._entries is None:
            return
        # Larger elements first, so that each tensor is aligned to its own element.
        ordered = sorted(self._entries.items(), key=lambda entry: -DTYPES[entry[1][0]][1])
        header, offset = {}, 0
        for name, (dtype, shape, _, size) in ordered:
            header[name] = {"dtype": DTYPES[dtype][0], "shape": list(shape), "data_offsets": [offset, offset + size]}
            offset += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(os.path.join(self._temporary, self._steps[-1]["file"]), "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for _, (_, _, begin, size) in ordered:
                self._data.seek(begin)
                for start in range(0, size, 1 << 20):
                    file.write(self._data.read(min(1 << 20, size - start)))
        self._data.close()
        os.remove(self._data.name)
        self._entries = self._data = None


def refuse_other_folder(directory):
    """Throws TraceError unless the name is free, an empty folder, or a trace, which may be replaced."""
    if os.path.islink(directory) or (os.path.exists(directory) and not os.path.isdir(directory)):
        raise TraceError(f"{directory} is there already and is no folder; choose another name")
    names = os.listdir(directory) if os.path.isdir(directory) else []
    if names:
        try:
            with open(os.path.join(directory, "manifest.json"), encoding="utf-8") as manifest:
                is_trace = json.load(manifest).get("format") == "qdiff-trace"
        except (OSError, ValueError, AttributeError):
            is_trace = False
        if not is_trace or not all(re.fullmatch(r"manifest\.json|step-.*\.safetensors", name) for name in names):
            raise TraceError(f"{directory} is there already and is no trace, so it is not replaced; "
                             "choose another name")


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _to_bytes(name, values, dtype, shape):
    """(dtype, shape, bytes) of whatever holds the elements, little-endian."""
    if hasattr(values, "detach"):  # PyTorch, which need not be there
        torch = sys.modules["torch"]
        values = values.detach().cpu().contiguous()
        dtype, shape = str(values.dtype).removeprefix("torch."), tuple(values.shape)
        _check_dtype(name, dtype)
        return dtype, shape, values.reshape(-1).view(torch.uint8).numpy().tobytes()
    if hasattr(values, "__array_interface__") or type(values).__module__ == "numpy":
        held = values.dtype.name  # "bfloat16" is what the package ml_dtypes calls its type
        if held == "uint16" and dtype == "bfloat16":
            held = dtype
        if dtype not in (None, held):
            raise TraceError(f"{name} holds {held}, but is said to hold {dtype}; record it as the engine held it")
        _check_dtype(name, held)
        if sys.byteorder == "big" or values.dtype.byteorder == ">":
            values = values.astype(values.dtype.newbyteorder("<"))
        return held, tuple(values.shape), values.tobytes()
    if hasattr(values, "__dlpack__") and hasattr(values, "__dlpack_device__"):
        held, *rest = _from_dlpack(name, values)
        if dtype not in (None, held):
            raise TraceError(f"{name} holds {held}, but is said to hold {dtype}; record it as the engine held it")
        _check_dtype(name, held)
        return held, *rest
    if hasattr(values, "__array__"):
        return _to_bytes(name, values.__array__(), dtype, shape)
    if dtype is None:
        raise TraceError(f"{name}: say which dtype the elements have")
    _check_dtype(name, dtype)
    if isinstance(values, (bytes, bytearray, memoryview)):
        if shape is None:
            raise TraceError(f"{name}: bytes need a shape")
        return dtype, tuple(shape), bytes(values)
    found, flat = [], [values]
    while flat and all(isinstance(part, (list, tuple)) for part in flat):
        found.append(len(flat[0]))
        if any(len(part) != found[-1] for part in flat):
            raise TraceError(f"{name}: the nested lists differ in length")
        flat = list(itertools.chain.from_iterable(flat))
    try:
        return dtype, tuple(found if shape is None else shape), _pack(flat, dtype)
    except (OverflowError, struct.error) as error:
        raise TraceError(f"{name}: no list of numbers that {dtype} can hold: {error}") from error


class _DLTensor(ctypes.Structure):
    """dlpack.h of DLPack 0.x and 1.x: the tensor that both kinds of capsule hold."""
    _fields_ = [("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
                ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
                ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
                ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64)]


_DLPACK_FLOATS = {(2, 32): "float32", (2, 16): "float16", (4, 16): "bfloat16"}  # kDLFloat, kDLBfloat
_DLPACK_HOSTS = (1, 3, 11, 13)  # kDLCPU, kDLCUDAHost, kDLROCMHost, kDLCUDAManaged


def _from_dlpack(name, values):
    """Needs no NumPy, which knows no bfloat16. The capsule is not consumed, so that it frees its tensor itself."""
    if values.__dlpack_device__()[0] not in _DLPACK_HOSTS:
        raise TraceError(f"{name}: it lies on a device (DLPack type {int(values.__dlpack_device__()[0])}); "
                         "copy it to the host first")
    capsule = values.__dlpack__()
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    tensor = _DLTensor.from_address(get(capsule, b"dltensor"))
    held = _DLPACK_FLOATS.get((tensor.code, tensor.bits)) if tensor.lanes == 1 else None
    if held is None:
        held = f"DLPack's type {tensor.code} of {tensor.bits} bits"
        _check_dtype(name, held)
    shape = tuple(tensor.shape[:tensor.ndim])
    size = DTYPES[held][1]
    if math.prod(shape) == 0:
        return held, shape, b""
    packed = [math.prod(shape[axis + 1:]) for axis in range(len(shape))]
    strides = tensor.strides[:tensor.ndim] if tensor.strides else packed
    begin = tensor.data + tensor.byte_offset
    if all(length == 1 or stride == wanted for length, stride, wanted in zip(shape, strides, packed)):
        return held, shape, ctypes.string_at(begin, math.prod(shape) * size)
    # A strided view: rows of the innermost run of elements that lie side by side, one after the other.
    inner = shape[-1] if strides[-1] == 1 else 1
    outer = shape[:-1] if inner > 1 or strides[-1] == 1 else shape
    rows = (ctypes.string_at(begin + size * sum(map(int.__mul__, index, strides)), inner * size)
            for index in itertools.product(*map(range, outer)))
    return held, shape, b"".join(rows)


def _check_dtype(name, dtype):
    if dtype not in DTYPES:
        raise TraceError(f"{name} is {dtype}, but a trace holds float32, float16 or bfloat16; "
                         "record it as the engine held it")


def _pack(flat, dtype):
    if dtype == "float16":
        return struct.pack(f"<{len(flat)}e", *flat)
    packed = struct.pack(f"<{len(flat)}f", *flat)
    if dtype == "float32":
        return packed
    halves = array.array("H")
    for (bits,) in struct.iter_unpack("<I", packed):  # to the nearest bfloat16, ties to even; NaN stays NaN
        nan = bits & 0x7FFFFFFF > 0x7F800000
        halves.append((bits >> 16) | 0x40 if nan else (bits + 0x7FFF + (bits >> 16 & 1)) >> 16)
    if sys.byteorder == "big":
        halves.byteswap()
    return halves.tobytes()
