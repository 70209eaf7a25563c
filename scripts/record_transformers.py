#!/usr/bin/env python3
"""The recorder qdiff.record_transformers of python/, as a program: --help says how to use it."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "python"))
import qdiff.record_transformers  # noqa: E402
from qdiff.recording import run_main  # noqa: E402

if __name__ == "__main__":
    run_main(qdiff.record_transformers.main)
sys.modules[__name__] = qdiff.record_transformers
