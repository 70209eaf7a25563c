#!/usr/bin/env python3
"""Records the logits of CTranslate2 running a Qwen2 checkpoint, as a qdiff trace (docs/trace-format.md).

    ct2-transformers-converter --model Qwen2.5-0.5B --output_dir converted
    record_ctranslate2.py --model Qwen2.5-0.5B --converted converted --trace trace --prompt-tokens 64 --decode 4

CTranslate2 hands out no other tensor. The prefill's logits are those of its `forward_batch`; those of the decode steps
come from `generate_batch`, which computes with its cache. Needs ctranslate2 and NumPy.
"""

import pathlib

import recording
import trace_writer
from recording import UsageError


def load(arguments, config):
    import ctranslate2
    import numpy
    try:
        generator = ctranslate2.Generator(arguments.converted, compute_type=arguments.dtype, intra_threads=1)
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"{arguments.converted}: CTranslate2 cannot load it: {error}") from error

    def run(plan, writer, put):
        if plan.given or len(plan.chunks) > 1:
            raise UsageError("CTranslate2 prefills in one step and decodes its own tokens: "
                             "no --chunks and no --decode-tokens")
        # It takes tokens as text; their ids are the places in the converted model's vocabulary.
        words = recording.read_json(pathlib.Path(arguments.converted) / "vocabulary.json",
                                    "; --converted needs what ct2-transformers-converter wrote")
        prefill = numpy.array(generator.forward_batch(plan.prompt, return_log_probs=False))
        # No text ends with the least likely token; a least length would do, but it masks the logits of the end token.
        found = generator.generate_batch([[words[token] for token in row] for row in plan.prompt],
                                         max_length=plan.num_decode + 1, end_token=[int(prefill[0, -1].argmin())],
                                         sampling_topk=1, include_prompt_in_result=False, return_logits_vocab=True)
        step_of = iter(range(plan.num_decode + 1))

        def step(tokens, positions, past):
            index = next(step_of)
            logits = prefill if index == 0 else numpy.stack([numpy.array(row.logits[0][index]) for row in found])[:, None]
            put("lm_head", logits.astype("float32"))
            return [row.sequences_ids[0][index] for row in found]
        plan.run(writer, step)
    engine = {"name": "ctranslate2", "version": ctranslate2.__version__, "device": "cpu"}
    return engine, trace_writer.compute(arguments.dtype), run


def options(parser):
    parser.add_argument("--converted", required=True, metavar="DIR", help="what ct2-transformers-converter wrote")


if __name__ == "__main__":
    recording.run_main(lambda: recording.record(__doc__, load, add=options))
