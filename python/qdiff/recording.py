"""What the recorders share: which tokens enter in which step, checked before anything is computed."""

import argparse
import json
import pathlib
import random
import re
import sys

from qdiff import trace_writer


class UsageError(Exception):
    """Bad usage or bad input; the command ends with status 2."""


def add_arguments(parser, model="a Hugging Face directory", texts=False):
    """The options that every recorder has; `texts`: the model comes with a tokenizer."""
    parser.add_argument("--model", required=True, type=pathlib.Path, metavar="MODEL", help=model)
    parser.add_argument("--trace", required=True, type=pathlib.Path, metavar="DIR", help="the trace to write")
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--tokens", type=pathlib.Path, metavar="FILE",
                        help="JSON: a list of token ids, or a list of lists, one for each row of the batch; "
                             "shorter rows are padded on the left")
    prompt.add_argument("--prompt-tokens", type=numbers, metavar="N[,N…]",
                        help="random prompts of these lengths, one for each row of the batch")
    if texts:
        prompt.add_argument("--prompt", metavar="TEXT", help="a text, in the tokens of the model's own vocabulary")
    parser.add_argument("--seed", type=int, default=0, help="of --prompt-tokens (default: 0)")
    parser.add_argument("--chunks", type=numbers, metavar="N[,N…]",
                        help="prefill in steps of these lengths, which add up to the longest row (default: one step)")
    decode = parser.add_mutually_exclusive_group()
    decode.add_argument("--decode", type=int, default=0, metavar="N", help="greedy decode steps after the prefill")
    decode.add_argument("--decode-tokens", type=pathlib.Path, metavar="FILE",
                        help="JSON: tokens to decode instead, a list, or a list for each row")
    parser.add_argument("--tensors", default="", metavar="REGEX",
                        help="record only tensors whose name this matches somewhere, as 'layers.0.|lm_head'")


def numbers(text):
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = [0]
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers from 1")
    return values


def read_json(path, advice=""):
    """What a JSON file holds; `advice` stands behind the reason why it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}{advice}") from error
    except ValueError as error:
        raise UsageError(f"{path}: no JSON: {error}") from error


def read_config(directory, architectures=("qwen2",)):
    """config.json of a checkpoint of one of these architectures."""
    path = directory / "config.json"
    config = read_json(path, "; --model needs a Hugging Face directory")
    kind = config.get("model_type") if isinstance(config, dict) else config
    if kind not in architectures:
        raise UsageError(f"{path}: model_type is {kind!r}, but must be {' or '.join(map(repr, architectures))}")
    for key in ("vocab_size", "num_hidden_layers"):
        if not isinstance(config.get(key), int) or config[key] < 1:
            raise UsageError(f"{path}: {key} is {config.get(key)!r}, but must be a positive integer")
    return config


def _rows(path, vocab):
    rows = read_json(path)
    if isinstance(rows, list) and rows and not isinstance(rows[0], list):
        rows = [rows]
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) and row for row in rows):
        raise UsageError(f"{path}: must hold a list of token ids, or a list of such lists")
    for index, row in enumerate(rows):
        for place, token in enumerate(row):
            if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < vocab:
                raise UsageError(f"{path}: row {index}, token {place} is {token!r}, but must be in [0, {vocab})")
    return rows


class Plan:
    """The steps of one recording. Rows are padded on the left with token 0; slots count pads, positions do not."""

    def __init__(self, arguments, config, rows=None):
        vocab = config["vocab_size"]
        if rows:
            pass
        elif arguments.tokens:
            rows = _rows(arguments.tokens, vocab)
        else:
            generator = random.Random(arguments.seed)
            rows = [[generator.randrange(vocab) for _ in range(length)] for length in arguments.prompt_tokens]
        length = max(map(len, rows))
        self.left_padding = [length - len(row) for row in rows]
        self.prompt = [[0] * padding + row for padding, row in zip(self.left_padding, rows)]
        self.chunks = arguments.chunks or [length]
        if sum(self.chunks) != length:
            raise UsageError(f"--chunks add up to {sum(self.chunks)}, but the longest row has {length} tokens")
        self.given = _rows(arguments.decode_tokens, vocab) if arguments.decode_tokens else None
        if self.given and (len(self.given) != len(rows) or len({len(row) for row in self.given}) != 1):
            raise UsageError(f"{arguments.decode_tokens}: must have {len(rows)} rows of equal length, "
                             "one for each prompt")
        self.num_decode = len(self.given[0]) if self.given else arguments.decode
        if self.num_decode < 0:
            raise UsageError(f"--decode is {self.num_decode}, but must be 0 or more")
        most = config.get("max_position_embeddings", 32768)
        if length + self.num_decode > most:
            raise UsageError(f"{length + self.num_decode} tokens a row are more than the model's "
                             f"max_position_embeddings, {most}")

    def positions(self, past, num_tokens):
        """[B][T]; pads have 0."""
        return [[max(0, past + t - padding) for t in range(num_tokens)] for padding in self.left_padding]

    def run(self, writer, step):
        """`step(tokens, positions, past)` computes one step and returns each row's next token by greedy choice."""
        past, following = 0, None
        for length in self.chunks:
            following = self._one(writer, step, "prefill", [row[past:past + length] for row in self.prompt], past)
            past += length
        for index in range(self.num_decode):
            tokens = [row[index] for row in self.given] if self.given else following
            following = self._one(writer, step, "decode", [[token] for token in tokens], past)
            past += 1

    def _one(self, writer, step, phase, tokens, past):
        positions = self.positions(past, len(tokens[0]))
        writer.begin_step(phase, tokens, past, positions, self.left_padding)
        return step(tokens, positions, past)


class Filter:
    """Which tensors --tensors selects."""

    def __init__(self, pattern, num_layers):
        try:
            self._pattern = re.compile(pattern)
        except re.error as error:
            raise UsageError(f"--tensors {pattern!r}: no regular expression: {error}") from error
        names = list(trace_writer.OUTSIDE_LAYERS)
        names += [f"model.layers.{i}.{part}" for i in range(num_layers) for part in trace_writer.IN_LAYERS]
        if not any(map(self, names)):
            raise UsageError(f"--tensors {pattern!r} matches no tensor of docs/trace-format.md")

    def __call__(self, name):
        return bool(self._pattern.search(name))


def record(description, load, pads=False, architectures=("qwen2",), model="a Hugging Face directory", add=None):
    """The whole command of a recorder whose engine `load` prepares.

    `load(arguments, config)` returns the manifest's engine and compute, and `run(plan, writer, put)`, which takes the
    plan's steps and hands each tensor to `put(name, values)`. `pads`: the engine computes rows of several lengths.
    `add(parser)` adds the recorder's own options.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, model)
    parser.add_argument("--dtype", choices=trace_writer.DTYPES, help="default: the checkpoint's")
    parser.add_argument("--plain", action="store_true", help="declare no rounding point, as one does who knows of none")
    if add:
        add(parser)
    arguments = parser.parse_args()
    config = read_config(arguments.model, architectures)
    plan = Plan(arguments, config)
    if any(plan.left_padding) and not pads:
        raise UsageError("this engine knows no pads: give rows of one length")
    selected = Filter(arguments.tensors, config["num_hidden_layers"])
    arguments.dtype = arguments.dtype or config.get("dtype") or config.get("torch_dtype") or "float32"
    if arguments.dtype not in trace_writer.DTYPES:
        raise UsageError(f"{arguments.model}: dtype is {arguments.dtype!r}; choose one with --dtype")
    trace_writer.refuse_other_folder(arguments.trace)
    try:
        engine, compute, run = load(arguments, config)
    except ImportError as error:
        raise UsageError(f"this Python has no {error.name}; docs/recording.md says what to install") from error
    if arguments.plain:
        compute = {key: value for key, value in compute.items() if key != "points"}
    with trace_writer.TraceWriter(arguments.trace, engine, compute, config) as writer:
        run(plan, writer, lambda name, values: writer.tensor(name, values) if selected(name) else None)
    print(f"{arguments.trace}: {plan.num_decode + len(plan.chunks)} steps")


def run_main(main):
    """Ends with the status that docs/trace-format.md, section 4, gives: 2 for bad usage or bad input."""
    try:
        main()
    except (UsageError, trace_writer.TraceError) as error:
        print(f"{pathlib.Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"{pathlib.Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(2)
