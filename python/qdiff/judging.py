"""Runs the program qdiff, and reads its report."""

import html
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

STATUS_BAD_INPUT = 2


TORCH = "2.11"  # whose LibTorch the program of this package is linked with
OWN_PROGRAM = pathlib.Path(__file__).resolve().parent / "bin" / "qdiff"


def program():
    """The path of the program: what QDIFF names, that of this package, or the one on PATH."""
    named = os.environ.get("QDIFF")
    if named:
        return named
    found = str(OWN_PROGRAM) if OWN_PROGRAM.is_file() else shutil.which("qdiff")
    if found is None:
        raise FileNotFoundError("the program qdiff is neither in this package nor on PATH; build it with scripts/run.sh, "
                                "and name it with the environment's QDIFF")
    return found


def environment(path):
    """The environment in which the program `path` finds LibTorch.

    That of this package looks for it in the package torch of the same folder; where torch is in another one, as beside an
    environment that sees the system's packages, it is told. Raises FileNotFoundError where there is no fitting torch.
    """
    variables = dict(os.environ)
    if pathlib.Path(path) != OWN_PROGRAM:
        return variables
    found = importlib.util.find_spec("torch")  # imports nothing
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError(f"the program qdiff runs on the LibTorch of the package torch {TORCH}, which this Python does "
                                f"not have: pip install 'torch=={TORCH}.*'")
    torch = pathlib.Path(found.submodule_search_locations[0])
    version = re.search(r"(?m)^__version__ = '([^']*)'", (torch / "version.py").read_text(encoding="utf-8"))
    if version is None or not version.group(1).startswith(TORCH + "."):
        raise FileNotFoundError(f"the program qdiff runs on the LibTorch of torch {TORCH}, and this Python has torch "
                                f"{version.group(1) if version else 'of no known version'}: pip install 'torch=={TORCH}.*', or "
                                "build qdiff for that one")
    if torch.parent != OWN_PROGRAM.parent.parent.parent:
        folders = [torch / "lib", torch.parent / "nvidia" / "cu13" / "lib"]
        before = variables.get("LD_LIBRARY_PATH")
        variables["LD_LIBRARY_PATH"] = os.pathsep.join([*map(str, folders), *([before] if before else [])])
    return variables


class Report:
    """What a run found: report.json as attributes, and the page for a notebook."""

    def __init__(self, folder, text="", status=None):
        self.folder = pathlib.Path(folder)
        self.text = text      # as on a terminal
        self.status = status  # the exit status
        self.data = json.loads((self.folder / "report.json").read_text(encoding="utf-8"))

    @property
    def verdict(self):
        """"match", "diverged" or "inconclusive"."""
        return self.data["verdict"]

    @property
    def findings(self):
        return self.data["findings"]

    @property
    def first_divergence(self):
        return self.data["first_divergence"]

    @property
    def explanation(self):
        return self.data["explanation"]

    def __bool__(self):
        """Whether the run matched."""
        return self.verdict == "match"

    def __str__(self):
        return self.text or f"qdiff: {self.verdict}, {len(self.findings)} findings, in {self.folder}"

    def __repr__(self):
        return f"<qdiff.Report {self.verdict}, {len(self.findings)} findings, {str(self.folder)!r}>"

    def _repr_html_(self):
        page = html.escape((self.folder / "report.html").read_text(encoding="utf-8"), quote=True)
        return f'<iframe srcdoc="{page}" sandbox="allow-scripts" style="width:100%;height:640px;border:1px solid #888"></iframe>'


def diagnose(model, trace, out=None, arguments=()):
    """Judges a trace against a checkpoint; `arguments` are further options of `qdiff diagnose`.

    The reports go to `out`, by default into a folder of their own beside the trace. Raises RuntimeError with the program's
    own words where nothing could be judged.
    """
    trace = pathlib.Path(trace)
    out = pathlib.Path(out) if out is not None else trace.with_name(trace.name + "-report")
    path = program()
    command = [path, "diagnose", "--model", str(model), "--trace", str(trace), "--out", str(out), "--color", "never",
               *map(str, arguments)]
    with tempfile.TemporaryFile() as errors:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, env=environment(path), check=False)
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip()
    if done.returncode == STATUS_BAD_INPUT or not (out / "report.json").is_file():
        raise RuntimeError(said or f"qdiff ended with {done.returncode}")
    return Report(out, done.stdout.decode(errors="replace"), done.returncode)
