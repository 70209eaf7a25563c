"""The module qdiff.recording of python/, under the name by which the scripts of this folder import it."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "python"))
import qdiff.recording  # noqa: E402

sys.modules[__name__] = qdiff.recording
