#!/usr/bin/env python3
"""llama.cpp as it runs here, over every type that qdiff reads: models are written, quantised, run and judged.

    llamacpp_test.py QDIFF      77 means skipped: NumPy, gguf or llama-cpp-python is not here
"""
import os
import pathlib
import subprocess
import sys
import tempfile

try:
    import gguf  # noqa: F401
    import llama_cpp  # noqa: F401
    import numpy  # noqa: F401
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

ROOT = pathlib.Path(__file__).resolve().parents[2]


def main():
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, ROOT / "scripts/make_llamacpp_data.py", folder, "--all-types"], check=True)
        status = subprocess.run([sys.executable, ROOT / "harness/cli/tests/driver.py", sys.argv[1], "llamacpp_check.py"],
                                env={**os.environ, "QDIFF_LLAMACPP_DATA": folder}, check=False).returncode
    sys.exit(status)


if __name__ == "__main__":
    main()
