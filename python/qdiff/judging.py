"""Runs the program qdiff, and reads its report."""

import html
import json
import os
import pathlib
import shutil
import subprocess
import tempfile

STATUS_BAD_INPUT = 2


def program():
    """The path of the program: what QDIFF names, that of this package, or the one on PATH."""
    named = os.environ.get("QDIFF")
    if named:
        return named
    own = pathlib.Path(__file__).resolve().parent / "bin" / "qdiff"
    found = str(own) if own.is_file() else shutil.which("qdiff")
    if found is None:
        raise FileNotFoundError("the program qdiff is neither in this package nor on PATH; build it with scripts/run.sh, "
                                "and name it with the environment's QDIFF")
    return found


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
    command = [program(), "diagnose", "--model", str(model), "--trace", str(trace), "--out", str(out), "--color", "never",
               *map(str, arguments)]
    with tempfile.TemporaryFile() as errors:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, check=False)
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip()
    if done.returncode == STATUS_BAD_INPUT or not (out / "report.json").is_file():
        raise RuntimeError(said or f"qdiff ended with {done.returncode}")
    return Report(out, done.stdout.decode(errors="replace"), done.returncode)
