"""Records a qdiff trace (docs/trace-format.md) of any PyTorch engine, by hooks that a name map describes.

    record_torch.py --engine my_engine.py --map names.json --model DIR --trace DIR --prompt-tokens 64 --decode 4

my_engine.py defines load(directory), which returns (module, step): the engine's torch.nn.Module, and a function
step(tokens, positions, past_length, left_padding) that runs one step with its KV cache and returns its logits,
[B, T, V] or those of the last token. tokens and positions are [B][T] lists, left_padding [B]. docs/recording.md describes the name map.
"""

import argparse
import contextlib
import importlib
import importlib.metadata
import importlib.util
import math
import pathlib

from qdiff import recording, trace_writer
from qdiff.recording import UsageError

TAKE_KEYS = {"tensor", "take", "layout", "columns", "slots", "call"}


def read_map(path):
    names = recording.read_json(path)
    if not isinstance(names, dict) or not isinstance(names.get("compute"), dict):
        raise UsageError(f'{path}: must be an object with "compute", and "modules" or "functions"')
    unknown = set(names) - {"engine", "package", "compute", "cache_capacity", "layers", "modules", "functions"}
    if unknown:
        raise UsageError(f"{path}: unknown key {sorted(unknown)[0]!r}")
    if not isinstance(names.get("layers", ""), str):
        raise UsageError(f'{path}: "layers" must be the path of a layer, as "model.layers.{{i}}"')
    if not isinstance(names.get("package", ""), str):
        raise UsageError(f'{path}: "package" must be the name of the engine\'s Python package')
    if not isinstance(names.get("engine", {}), dict):
        raise UsageError(f'{path}: "engine" must be an object')
    capacity = names.get("cache_capacity")
    if capacity is not None and (not isinstance(capacity, int) or capacity < 1):
        raise UsageError(f'{path}: "cache_capacity" is {capacity!r}, but must be the slots of a row of the cache')
    for group in ("modules", "functions"):
        if not isinstance(names.get(group, {}), dict):
            raise UsageError(f'{path}: "{group}" must be an object, from a name to {{"input": …, "output": …}}')
        for target, places in names.get(group, {}).items():
            if not isinstance(places, dict):
                raise UsageError(f'{path}: {target}: {places!r} must be an object, as {{"output": {places!r}}}')
            for place, takes in places.items():
                if place not in ("input", "output"):
                    raise UsageError(f'{path}: {target}: {place!r} is neither "input" nor "output"')
                for take in as_list(takes):
                    if not isinstance(take, (str, dict)) or isinstance(take, dict) and (
                            "tensor" not in take or set(take) - TAKE_KEYS):
                        raise UsageError(f"{path}: {target}: {take!r} must be a tensor's name, or an object with "
                                         f"\"tensor\" and perhaps {', '.join(sorted(TAKE_KEYS - {'tensor'}))}")
                    tensor = take if isinstance(take, str) else take["tensor"]
                    if not isinstance(tensor, str):
                        raise UsageError(f"{path}: {target}: {tensor!r} is no tensor's name")
                    how = {} if isinstance(take, str) else take
                    if not isinstance(how.get("layout", ""), str):
                        raise UsageError(f'{path}: {target}: "layout" is {how["layout"]!r}, but must be as "T B H*d"')
                    for key, example in (("columns", '[0, "H*d"]'), ("slots", '[0, "S"]')):
                        edges = how.get(key, [0, 0])
                        if not isinstance(edges, list) or len(edges) != 2:
                            raise UsageError(f'{path}: {target}: "{key}" is {edges!r}, but must be as {example}')
                    call = how.get("call", 0)
                    if not isinstance(call, int) or call < 0:
                        raise UsageError(f'{path}: {target}: "call" is {call!r}, but must be 0 for the first call of a '
                                         'layer, 1 for the second, and so on')
                    trace_writer.shape_of(tensor.replace("{i}", "0"))
                    if "{i}" in tensor and "layers" not in names and (group == "functions" or "{i}" not in target):
                        raise UsageError(f'{path}: {target}: {tensor!r} needs to know which layer runs; name the layers '
                                         'with "layers", as "model.layers.{i}"')
    return names


def as_list(takes):
    return takes if isinstance(takes, list) else [takes]


def size_of(text, sizes):
    """A number, a product of letters, or a sum of products: "H*d+K*d"."""
    try:
        return sum(math.prod(sizes[part] if part in sizes else int(part) for part in term.split("*"))
                   for term in str(text).replace(" ", "").split("+"))
    except ValueError as error:
        raise UsageError(f"{text!r} is no size; write numbers and the letters of docs/trace-format.md") from error


def of_slots(value, name, layout, edges):
    """Slots [first, last) of a cache that has room for more."""
    parts = layout.split()
    if "S" not in parts or len(parts) != value.dim():
        raise UsageError(f'{name}: "slots" needs a layout with S for each dimension of {list(value.shape)}, as "B K S d"')
    axis = parts.index("S")
    first, last = edges
    if not 0 <= first <= last <= value.shape[axis]:
        raise UsageError(f"{name}: slots {first} to {last} of {value.shape[axis]}")
    return value.narrow(axis, first, last - first)


def to_contract(value, name, layout, sizes, left_padding):
    """`value`, whose dimensions `layout` names, in the order of docs/trace-format.md.

    A layout is as "T B H*d". N stands for the packed real tokens of all rows, one row after the other; without B the
    batch has one row.
    """
    import torch
    wanted = trace_writer.shape_of(name).split()
    letters = [letter for part in wanted for letter in part.split("*")]
    parts = layout.split()
    if len(parts) != value.dim():
        raise UsageError(f"{name}: the layout {layout!r} has {len(parts)} dimensions, the tensor {list(value.shape)}")
    if "N" in parts:
        axis = parts.index("N")
        value = value.movedim(axis, 0)
        parts = ["B*T"] + parts[:axis] + parts[axis + 1:]
        first = sizes["S"] - sizes["T"]
        real = torch.tensor([[first + t >= padding for t in range(sizes["T"])] for padding in left_padding])
        if value.shape[0] != int(real.sum()):
            raise UsageError(f"{name}: {value.shape[0]} packed tokens, but the step has {int(real.sum())} real ones")
        rows = value.new_zeros((real.numel(), *value.shape[1:]))
        rows[real.flatten().to(value.device)] = value
        value = rows
    split = [letter for part in parts for letter in part.split("*")]
    if "B" not in split and sizes["B"] == 1:
        split, value = ["B"] + split, value[None]
    if sorted(split) != sorted(letters):
        raise UsageError(f"{name}: the layout {layout!r} does not name the dimensions of [{', '.join(wanted)}]")
    try:
        value = value.reshape([1 if name == "lm_head" and letter == "T" and value.numel() == sizes["B"] * sizes["V"]
                               else sizes[letter] for letter in split])
    except RuntimeError as error:
        raise UsageError(f"{name}: a tensor of {list(value.shape)} is no {layout!r}") from error
    value = value.permute([split.index(letter) for letter in letters])
    shape, taken = [], 0
    for part in wanted:
        count = len(part.split("*"))
        shape.append(math.prod(value.shape[taken:taken + count]))
        taken += count
    return value.reshape(shape)


class Recorder:
    """Hooks on a module and wrappers of functions, each handing its tensors to a TraceWriter."""

    def __init__(self, module, names, config, writer, selected, left_padding):
        self._names, self._writer, self._selected = names, writer, selected
        self._num_layers = config["num_hidden_layers"]
        self._sizes = trace_writer.dimensions_of(config)
        self._left_padding = left_padding
        self._layer = None
        self._calls, self._entered = {}, {}
        self._hooks = []
        if "layers" in names:
            for layer, indices in self._found(module, names["layers"]):
                self._hooks.append(layer.register_forward_pre_hook(
                    lambda module, arguments, indices=indices: self._enter(module, indices)))
        for path, places in names.get("modules", {}).items():
            for found, indices in self._found(module, path):
                # Of a module that stands in several layers the layer that runs says which one it is.
                index = indices[0] if len(indices) == 1 else None
                if "input" in places:
                    self._hooks.append(found.register_forward_pre_hook(
                        lambda module, arguments, keywords, takes=places["input"], index=index, path=path:
                        self._take(takes, index, arguments, keywords, (path, "input")), with_kwargs=True))
                if "output" in places:
                    self._hooks.append(found.register_forward_hook(
                        lambda module, arguments, output, takes=places["output"], index=index, path=path:
                        self._take(takes, index, output, {}, (path, "output"))))

    def remove(self):
        """Leaves the module as it was."""
        for hook in self._hooks:
            hook.remove()

    def _found(self, module, path):
        """The modules of a path, each once, with the layers in which it stands; [None] where the path names no layer."""
        if "{i}" not in path:
            return [(self._find(module, path), [None])]
        layers = {}
        for index in range(self._num_layers):
            found = self._find(module, path.replace("{i}", str(index)))
            layers.setdefault(id(found), (found, []))[1].append(index)
        return list(layers.values())

    def _enter(self, module, indices):
        """A layer that stands in several places is called once for each of them."""
        times = self._entered[id(module)] = self._entered.get(id(module), -1) + 1
        self._layer = indices[times % len(indices)]

    @staticmethod
    def _find(module, path):
        try:
            return module.get_submodule(path)
        except AttributeError as error:
            raise UsageError(f"the engine's module has no {path!r}: {error}") from error

    def begin_step(self, batch, num_tokens, past, left_padding=None):
        self._sizes |= {"B": batch, "T": num_tokens, "S": past + num_tokens}
        if left_padding is not None:
            self._left_padding = left_padding
        self._layer = None
        self._calls.clear()
        self._entered.clear()

    def _take(self, takes, layer, value, keywords, place=None):
        layer = self._layer if layer is None else layer
        call = self._calls[place, layer] = self._calls.get((place, layer), -1) + 1
        for take in as_list(takes):
            take = {"tensor": take} if isinstance(take, str) else take
            if take.get("call", call) != call:
                continue
            if layer is None and "{i}" in take["tensor"]:
                raise UsageError(f'{take["tensor"]}: it ran before any of the layers that "layers" names')
            name = take["tensor"].replace("{i}", str(layer))
            if not self._selected(name):
                continue
            key, found = take.get("take", 0), value
            try:
                if key in keywords:
                    found = keywords[key]
                elif isinstance(value, (tuple, list, dict)):
                    found = value[key]
            except (KeyError, IndexError) as error:
                raise UsageError(f"{name}: there is no {key!r} to take") from error
            if not hasattr(found, "detach"):
                raise UsageError(f"{name}: what is taken is {type(found).__name__}, no tensor")
            if "columns" in take:
                first, last = (size_of(edge, self._sizes) for edge in take["columns"])
                found = found[..., first:last]
            layout = take.get("layout", trace_writer.shape_of(name))
            if "slots" in take:
                edges = [size_of(edge, self._sizes) for edge in take["slots"]]
                found = of_slots(found, name, layout, edges)
            self._writer.tensor(name, to_contract(found.detach(), name, layout, self._sizes, self._left_padding))

    @contextlib.contextmanager
    def wrapped(self):
        """Within it the functions of the map, "package.module:function", are recorded, too."""
        originals = []
        try:
            for target, places in self._names.get("functions", {}).items():
                module_name, _, function = target.partition(":")
                try:
                    holder = importlib.import_module(module_name)
                    original = getattr(holder, function)
                except (ImportError, AttributeError) as error:
                    raise UsageError(f"functions: {target}: {error}") from error
                originals.append((holder, function, original))
                setattr(holder, function, self._wrapper(original, places, target))
            yield
        finally:
            for holder, function, original in reversed(originals):
                setattr(holder, function, original)

    def _wrapper(self, original, places, target):
        def wrapper(*arguments, **keywords):
            if "input" in places:
                self._take(places["input"], None, arguments, keywords, (target, "input"))
            output = original(*arguments, **keywords)
            if "output" in places:
                self._take(places["output"], None, output, {}, (target, "output"))
            return output
        return wrapper


def load_engine(path, model):
    specification = importlib.util.spec_from_file_location(path.stem, path)
    if specification is None or not path.is_file():
        raise UsageError(f"{path}: no Python file")
    engine = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(engine)
    if not hasattr(engine, "load"):
        raise UsageError(f"{path}: defines no load(directory)")
    return engine.load(model)


def refuse_compiled(module, path):
    """Hooks do not run inside a compiled graph, and what it fuses is no tensor at all."""
    from torch._dynamo.eval_frame import OptimizedModule
    for name, part in module.named_modules():
        if isinstance(part, OptimizedModule) or getattr(part, "_compiled_call_impl", None) is not None:
            raise UsageError(f"{path}: {name or 'the module'} is compiled, and hooks do not run in it; load the engine "
                             "without torch.compile(), or record its logits alone by trace_writer.py")


def version_of(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def compute_of(declared, dtype):
    """The map's `compute` for an engine that runs in another type than the map was written for."""
    if dtype is None:
        return declared
    points = {} if dtype == "float32" else {point: dtype for point in declared.get("points", {})}
    return declared | {"weights": dtype, "activations": dtype, "points": points}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    recording.add_arguments(parser)
    parser.add_argument("--engine", required=True, type=pathlib.Path, metavar="FILE", help="defines load(directory)")
    parser.add_argument("--map", required=True, type=pathlib.Path, metavar="FILE", help="the name map, JSON")
    parser.add_argument("--dtype", choices=trace_writer.DTYPES, help="in the place of the 16-bit type in the map's compute")
    arguments = parser.parse_args()
    config = recording.read_config(arguments.model, ("qwen2", "llama"))
    plan = recording.Plan(arguments, config)
    names = read_map(arguments.map)
    selected = recording.Filter(arguments.tensors, config["num_hidden_layers"])
    trace_writer.refuse_other_folder(arguments.trace)
    try:
        import torch
    except ImportError as error:
        raise UsageError("this Python has no torch") from error
    module, run_step = load_engine(arguments.engine, arguments.model)
    refuse_compiled(module, arguments.engine)
    engine = {"name": arguments.engine.stem, "device": "cpu"} | names.get("engine", {})
    if "package" in names:
        engine.setdefault("version", version_of(names["package"]))
    with trace_writer.TraceWriter(arguments.trace, engine, compute_of(names["compute"], arguments.dtype), config,
                                  names.get("cache_capacity")) as writer:
        recorder = Recorder(module, names, config, writer, selected, plan.left_padding)

        def step(tokens, positions, past):
            recorder.begin_step(len(tokens), len(tokens[0]), past)
            with torch.no_grad():
                logits = run_step(tokens, positions, past, plan.left_padding)
            return logits.reshape(len(tokens), -1, logits.shape[-1])[:, -1].float().argmax(-1).tolist()

        with recorder.wrapped():
            plan.run(writer, step)
    print(f"{arguments.trace}: {plan.num_decode + len(plan.chunks)} steps")
