#!/usr/bin/env python3
"""Runs a Qwen2 checkpoint through the NumPy engine of scripts/engines/ and writes a qdiff trace.

    independent_engine.py --model DIR --trace DIR --prompt-tokens 20,13 --chunks 12,8 --decode 3
    independent_engine.py ... --inject H03.theta=1e4@1         a catalogued fault (docs/faults.md)
    independent_engine.py ... --unlisted rope_on_values        a bug that no catalogue lists
    independent_engine.py ... --kernel cosine_by_sine          a right kernel of another kind

It serves to score the diagnosis: no line of it is shared with the reference or the optimized engines. It needs NumPy.
"""

import argparse

import recording
import trace_writer
from recording import UsageError


def capacity_of(arguments, num_tokens):
    """Cache slots of a row."""
    beyond = (arguments.inject or "").startswith("H08.")
    if arguments.capacity is None:
        return num_tokens + 2 if beyond else num_tokens
    if arguments.capacity < num_tokens + (2 if beyond else 0):
        raise UsageError(f"--capacity is {arguments.capacity}, but {num_tokens} tokens a row need room"
                         + (", and H08 two slots beyond them" if beyond else ""))
    return arguments.capacity


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    recording.add_arguments(parser)
    parser.add_argument("--dtype", choices=trace_writer.DTYPES, help="storage; default: the checkpoint's")
    parser.add_argument("--order", choices=["blocked", "pairwise", "reversed"], default="blocked",
                        help="of all sums (default: blocked)")
    parser.add_argument("--softmax", choices=["two-pass", "online"], default="two-pass", help="(default: two-pass)")
    parser.add_argument("--scores", action="store_true", help="record scores and probs, which are held in float32")
    parser.add_argument("--capacity", type=int, metavar="N",
                        help="cache slots of a row (default: as many as tokens, and two more for H08, which goes beyond)")
    parser.add_argument("--kernel", action="append", default=[], metavar="NAME",
                        help="a right kernel of another kind, of scripts/engines/kernels.py; as often as wanted")
    parser.add_argument("--library", metavar="NAME",
                        help="compute with a library's kernels: onnxruntime, tinygrad, jax or torch")
    wrong = parser.add_mutually_exclusive_group()
    wrong.add_argument("--inject", action="append", default=[], metavar="ID[=VALUE][@LAYER]", help="plant a fault of docs/faults.md")
    wrong.add_argument("--unlisted", metavar="NAME", help="plant a bug of scripts/engines/unlisted_faults.json")
    arguments = parser.parse_args()
    if len(arguments.inject) > 1:  # argparse would take the last one and say nothing
        raise UsageError(f"--inject is given {len(arguments.inject)} times; give it once")
    arguments.inject = arguments.inject[0] if arguments.inject else None
    raw = recording.read_config(arguments.model)
    plan = recording.Plan(arguments, raw)
    selected = recording.Filter(arguments.tensors, raw["num_hidden_layers"])
    trace_writer.refuse_other_folder(arguments.trace)
    dtype = arguments.dtype or raw.get("dtype") or raw.get("torch_dtype") or "float32"
    if dtype not in trace_writer.DTYPES:
        raise UsageError(f"{arguments.model}: dtype is {dtype!r}; choose one with --dtype")
    if arguments.scores and arguments.softmax == "online":
        raise UsageError("--scores: an online softmax never holds them")
    try:
        import numpy
    except ImportError as error:
        raise UsageError("this Python has no NumPy") from error
    from engines import arithmetic, checkpoint, faults, forward, kernels, libraries, unlisted
    config = checkpoint.Config(raw)
    options = {"dtype": dtype, "order": arguments.order, "softmax": arguments.softmax,
               "record_scores": arguments.scores}
    weights = checkpoint.read_weights(arguments.model)
    if arguments.inject:
        if arguments.inject.startswith("H02.") and arguments.softmax == "online":
            raise UsageError("--inject H02: planted in the two-pass softmax alone")
        engine = faults.Faulty(config, weights, arguments.inject, **options)
    else:
        engine = forward.Engine(config, weights, **options)
        if arguments.unlisted:
            unlisted.plant(engine, arguments.unlisted)
    library = libraries.install(engine, arguments.library) if arguments.library else None
    for kernel in arguments.kernel:
        kernels.install(engine, kernel)
    engine.allocate(len(plan.prompt), capacity_of(arguments, len(plan.prompt[0]) + plan.num_decode))
    about = {"name": f"numpy-{arguments.order}-{arguments.softmax}", "version": numpy.__version__, "device": "cpu"}
    if library:
        about |= {"name": f"numpy-with-{arguments.library}", "version": library}
    with trace_writer.TraceWriter(arguments.trace, about, trace_writer.compute(dtype), raw) as writer:
        def put(name, values, stored=dtype):
            if selected(name):
                writer.tensor(name, arithmetic.bits_of(values, stored), stored)
        engine.put = put

        def step(tokens, positions, past):
            phase = writer.phase
            logits = engine.run(forward.Step(phase, numpy.array(tokens), numpy.array(positions), past,
                                             numpy.array(plan.left_padding)))
            return logits[:, -1].argmax(-1).tolist()
        plan.run(writer, step)
    print(f"{arguments.trace}: {plan.num_decode + len(plan.chunks)} steps")


if __name__ == "__main__":
    recording.run_main(main)
