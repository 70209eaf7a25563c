"""The program qdiff, as this package has it: `python -m qdiff run`, and the command `qdiff`."""

import os
import sys

from qdiff.judging import environment, program


def main():
    try:
        path = program()
        variables = environment(path)
    except FileNotFoundError as error:
        print(f"qdiff: {error}", file=sys.stderr)
        sys.exit(2)
    os.execve(path, ["qdiff", *sys.argv[1:]], variables)


if __name__ == "__main__":
    main()
