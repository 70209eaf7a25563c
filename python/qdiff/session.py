"""`with qdiff.record(model, path) as trace:` around whatever calls a PyTorch model."""

import contextlib
import json
import pathlib

from qdiff import judging, record_torch, record_transformers, recording, trace_writer
from qdiff.trace_writer import TraceError


class Trace:
    """The trace that is being written, and afterwards the folder that holds it."""

    def __init__(self, path, model):
        self.path = pathlib.Path(path)
        self.model = model  # the checkpoint that it is judged against
        self.num_steps = 0

    def diagnose(self, model=None, out=None, arguments=()):
        """The report of `qdiff diagnose`, against the checkpoint that the model was loaded from, or another."""
        model = model or self.model
        if not model:
            raise TraceError("the model does not say which checkpoint it was loaded from; name it: diagnose(model=…)")
        return judging.diagnose(model, self.path, out, arguments)

    def __repr__(self):
        return f"<qdiff.Trace {self.num_steps} steps, {str(self.path)!r}>"


class _Steps:
    """Each call of the whole model is a step; its arguments say which tokens enter where."""

    def __init__(self, writer, trace, begin, keeps_cache):
        self._writer, self._trace, self._begin = writer, trace, begin
        self._keeps_cache = keeps_cache  # the module, where no cache is handed to it
        self._past = 0

    def before(self, _, arguments, keywords):
        tokens = keywords.get("input_ids", arguments[0] if arguments else None)
        if tokens is None or not hasattr(tokens, "tolist"):
            raise TraceError("the model was called without input_ids, so that the tokens of the step are not known")
        rows = tokens.tolist()
        rows = [rows] if rows and not isinstance(rows[0], list) else rows
        past = self._past_of(keywords)
        if past != self._past:
            raise TraceError(f"step {self._trace.num_steps} begins behind {past} tokens, but the steps before have "
                             f"{self._past}; record each sequence into a folder of its own")
        padding = self._padding(keywords.get("attention_mask"), len(rows))
        positions = self._positions(keywords.get("position_ids"), rows, past, padding or [0] * len(rows))
        self._begin(len(rows), len(rows[0]), past, padding or [0] * len(rows))
        phase = "decode" if past > 0 and len(rows[0]) == 1 else "prefill"
        self._writer.begin_step(phase, rows, past, positions, padding)
        self._trace.num_steps += 1
        self._past = past + len(rows[0])

    def _past_of(self, keywords):
        # `past_key_values`, or `cache` since transformers 5.20.
        for value in keywords.values():
            if hasattr(value, "get_seq_length"):
                return int(value.get_seq_length())
        return self._past if self._keeps_cache else 0

    @staticmethod
    def _positions(given, rows, past, padding):
        """What the caller asked for, where that is not what follows from the slots; pads have none."""
        if getattr(given, "ndim", 0) != 2:
            return None
        usual = [[max(0, past + t - pads) for t in range(len(row))] for row, pads in zip(rows, padding)]
        asked = [[position if past + t >= pads else 0 for t, position in enumerate(row)]
                 for row, pads in zip(given.expand(len(rows), -1).tolist(), padding)]
        return None if asked == usual else asked

    @staticmethod
    def _padding(mask, batch):
        """How many slots at the left of each row the mask leaves out; None where there is no mask of slots."""
        if getattr(mask, "ndim", 0) != 2 or mask.shape[0] != batch:
            return None
        return [row.index(1) if 1 in row else len(row) for row in mask.long().tolist()]


def _config_of(model, config):
    if config is None:
        config = getattr(model, "config", None)
        config = config.to_dict() if hasattr(config, "to_dict") else config
    if isinstance(config, (str, pathlib.Path)):
        config = recording.read_config(pathlib.Path(config))
    if not isinstance(config, dict):
        raise TraceError("the model has no config; give one: record(model, path, config=the dictionary of config.json)")
    return json.loads(json.dumps(config, default=str))


def _is_transformers(model):
    return getattr(getattr(model, "config", None), "model_type", None) == "qwen2" and hasattr(model, "lm_head")


@contextlib.contextmanager
def record(model, path, names=None, compute=None, tensors="", config=None):
    """Records every step that `model` computes within the `with` block as the trace `path`.

    `model` is a Qwen2 model of transformers or, with a name map `names` (a dictionary or a JSON file, docs/recording.md), any
    torch.nn.Module that is called with input_ids. `compute` declares how it rounds, where the default is not right: the
    model's type and, for transformers, what its attention is known to round. `tensors` is a regular expression of the names
    to record. After an error within the block no trace is left behind.
    """
    config = _config_of(model, config)
    try:
        selected = recording.Filter(tensors, int(config["num_hidden_layers"]))
    except recording.UsageError as error:
        raise TraceError(str(error)) from error
    checkpoint = getattr(model, "name_or_path", None) or None
    trace = Trace(path, checkpoint)
    parameter = next(model.parameters())
    dtype = str(parameter.dtype).removeprefix("torch.")
    engine = {"name": type(model).__name__, "version": "", "device": parameter.device.type}
    if names is None:
        if not _is_transformers(model):
            raise TraceError(f"{type(model).__name__} is no Qwen2 model of transformers; give a name map: record(model, path, "
                             "names=…)")
        import transformers
        attention = model.config._attn_implementation
        engine |= {"name": f"transformers-{attention}", "version": transformers.__version__}
        compute = compute or trace_writer.compute(dtype, points=record_transformers.points(attention, dtype))
    else:
        try:
            names = record_torch.read_map(pathlib.Path(names)) if isinstance(names, (str, pathlib.Path)) else names
        except recording.UsageError as error:
            raise TraceError(str(error)) from error
        engine |= names.get("engine", {})
        compute = compute or names["compute"]
    with trace_writer.TraceWriter(path, engine, compute, config, (names or {}).get("cache_capacity")) as writer:
        if names is None:
            recorder = record_transformers.Recorder(
                model, lambda name, tensor: writer.tensor(name, tensor) if selected(name) else None)

            def begin(batch, num_tokens, past, padding):
                recorder.slots = past + num_tokens  # a static cache has more

            steps = _Steps(writer, trace, begin, keeps_cache=False)
        else:
            try:
                record_torch.refuse_compiled(model, type(model).__name__)
            except recording.UsageError as error:
                raise TraceError(str(error)) from error
            recorder = record_torch.Recorder(model, names, config, writer, selected, [])
            steps = _Steps(writer, trace, recorder.begin_step, keeps_cache=True)
        hook = model.register_forward_pre_hook(steps.before, with_kwargs=True)
        try:
            with recorder.wrapped():
                yield trace
        finally:
            hook.remove()
            recorder.remove()
