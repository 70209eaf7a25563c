#!/usr/bin/env python3
"""Runs a Python program with some lines of what it imports changed, as by one who edits an installed package.

    run_edited.py EDITS.json record_mlx.py --model DIR --trace DIR --prompt-tokens 47
    run_edited.py EDITS.json -m optimum.exporters.onnx --model DIR exported

EDITS.json has the edits of each module, named as Python imports it, or of each file among the arguments, named without its
folders: {"mlx_lm.models.qwen2": [["keys = self.rope(keys)", "keys = keys"]], "my_engine.py": [["old", "new"]]}. An old
text stands exactly once in its file, else nothing is run and the status is 2; so it is where an edited module was never
imported, for then the program that ran was the right one.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import json
import pathlib
import runpy
import sys
import tempfile


class EditError(Exception):
    """An edit that cannot be made; the command ends with status 2."""


def edited(path, edits):
    text = path.read_text(encoding="utf-8")
    for old, new in edits:
        if text.count(old) != 1:
            raise EditError(f"{path.name} has {text.count(old)} times instead of once: {old!r}")
        text = text.replace(old, new)
    return text


class EditedLoader(importlib.machinery.SourceFileLoader):
    """Reads a module's source with its edits; nothing of it is kept as byte code."""

    def __init__(self, name, path, edits):
        super().__init__(name, path)
        self._edits = edits

    def get_code(self, fullname):
        return compile(edited(pathlib.Path(self.path), self._edits), self.path, "exec", dont_inherit=True)

    def get_source(self, fullname):
        return edited(pathlib.Path(self.path), self._edits)


class EditedModules(importlib.abc.MetaPathFinder):
    def __init__(self, edits):
        self._edits, self.imported = edits, set()

    def find_spec(self, fullname, path, target=None):
        if fullname not in self._edits:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None:
            raise EditError(f"{fullname}: no module of that name has a source")
        self.imported.add(fullname)
        spec.loader = EditedLoader(fullname, spec.origin, self._edits[fullname])
        return spec


def run(program):
    try:
        if program[0] == "-m":
            sys.path[0] = ""
            runpy.run_module(program[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(program[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise


def main():
    if len(sys.argv) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    edits = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    files = {name: edits.pop(name) for name in list(edits) if name.endswith(".py")}
    finder = EditedModules(edits)
    sys.meta_path.insert(0, finder)
    with tempfile.TemporaryDirectory() as folder:
        program = sys.argv[2:]
        sys.path[0] = str(pathlib.Path(program[0]).resolve().parent)
        try:
            for place, argument in enumerate(program):
                name = pathlib.Path(argument).name
                if name in files:
                    copy = pathlib.Path(folder) / name
                    copy.write_text(edited(pathlib.Path(argument), files.pop(name)), encoding="utf-8")
                    program[place] = str(copy)
            if files:
                raise EditError(f"{', '.join(files)}: no such file among the arguments")
            sys.argv = program[1:] if program[0] == "-m" else program
            run(program)
            if set(edits) - finder.imported:
                raise EditError(f"{', '.join(sorted(set(edits) - finder.imported))}: never imported")
        except EditError as error:
            print(f"run_edited.py: error: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
