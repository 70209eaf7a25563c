"""Finds the first wrong tensor of a language model's forward pass, from Python.

    import qdiff
    with qdiff.record(model, "trace") as trace:
        model.generate(**tokenizer("The capital of France is", return_tensors="pt"), max_new_tokens=4, do_sample=False)
    print(trace.diagnose())

`record` writes what a transformers model, or any PyTorch module with a name map (docs/recording.md), computes within the
`with` block. `diagnose` lets the program qdiff judge a trace against the checkpoint. Neither imports torch by itself.
"""

from qdiff.judging import Report, diagnose, program
from qdiff.session import record
from qdiff.trace_writer import TraceError, TraceWriter, compute

__all__ = ["Report", "TraceError", "TraceWriter", "compute", "diagnose", "program", "record"]
