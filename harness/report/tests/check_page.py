"""Opens report.html of sample reports in Chromium: it draws, it can be worked with the keyboard, hostile names stay
text, no request leaves the page, and HTML Tidy, where it is installed, finds it valid.

Usage: check_page.py REPORT_SAMPLES; ends with 77 where no Chromium is found.
"""
import base64
import hashlib
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "python/qdiff"))
from trace_writer import IN_LAYERS, OUTSIDE_LAYERS  # noqa: E402: which lies beside no test

TIDY = shutil.which("tidy")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

# What a person would do, run inside a copy of the page, which alone allows it; what it saw is appended to the copy.
STEPS = """
const facts = {};
const grid = document.getElementById('grid');
const cells = () => [...grid.querySelectorAll('td[data-row]')];
facts.badge = document.getElementById('badge').textContent;
facts.sentence = document.getElementById('sentence').textContent;
facts.acceptance = document.getElementById('acceptance').hidden ? '' : document.getElementById('acceptance').textContent;
facts.moved_by_itself = document.activeElement !== document.body || scrollY !== 0;
facts.causes = document.querySelectorAll('#causes tbody tr').length;
facts.cells = cells().length;
facts.wrong = grid.querySelectorAll('td.wrong').length;
const frame = document.getElementById('grid-frame');
facts.overflow = Math.max(0, frame.scrollWidth - frame.clientWidth);
facts.hypotheses = document.querySelectorAll('#hypotheses tbody tr').length;
facts.detail = document.getElementById('detail').textContent;
facts.drawings = document.querySelectorAll('#detail svg').length;
const said = JSON.parse(document.getElementById('data').textContent);
const main = document.querySelector('main').textContent;
facts.unsaid = [said.to_record, said.declaration, ...said.elsewhere].filter((line) => line && !main.includes(line.slice(1)));
const filter = document.getElementById('filter');
filter.value = 'attn_output';
filter.dispatchEvent(new Event('input'));
facts.filtered_rows = grid.querySelectorAll('tbody tr').length;
filter.value = '';
filter.dispatchEvent(new Event('input'));
const start = grid.querySelector('td[tabindex="0"]');
if (start) {
  start.focus();
  start.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowDown', bubbles: true}));
  facts.moved = document.activeElement !== start && document.activeElement.closest('#grid') !== null;
  document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true}));
  facts.chosen = grid.querySelectorAll('td.chosen').length;
}
facts.markup_from_data = document.querySelectorAll('main script, main img, main iframe').length;
facts.outside = performance.getEntriesByType('resource').length;
const result = document.createElement('pre');
result.id = 'facts';
result.textContent = JSON.stringify(facts);
document.body.append(result);
"""


def facts_of(page, folder):
    """What the steps saw in a page, and what the browser complained about."""
    copy = folder / "page.html"
    # The page's own policy stays; the steps are allowed by their own hash.
    digest = base64.b64encode(hashlib.sha256(STEPS.encode()).digest()).decode()
    text = page.read_text().replace("script-src '", f"script-src 'sha256-{digest}' '", 1)
    copy.write_text(text.replace("</body>", f"<script>{STEPS}</script></body>"))
    done = subprocess.run([CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0",
                           f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000", "--window-size=1400,1000", "--dump-dom",
                           copy.as_uri()], capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="facts">(.*?)</pre>', done.stdout, re.DOTALL)
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    if not found:
        return {}, complaints + ["the page did not draw"]
    return json.loads(found.group(1).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")), complaints


def complaints_of_tidy(page):
    if TIDY:
        done = subprocess.run([TIDY, "-errors", "-quiet", page], capture_output=True, text=True, check=False)
        yield from done.stderr.splitlines()


def failures_of(name, page, report, folder):
    yield from (f"{name}: {complaint}" for complaint in complaints_of_tidy(page))
    facts, complaints = facts_of(page, folder)
    yield from (f"{name}: {complaint}" for complaint in complaints)
    if not facts:
        return
    diverged = bool(report["findings"])
    wanted = {"badge": report["verdict"].upper(), "hypotheses": 10, "markup_from_data": 0, "outside": 0, "unsaid": [],
              "moved_by_itself": False}
    if name == "diverged":
        wanted |= {"causes": 1, "wrong": 3, "filtered_rows": 1, "moved": True, "chosen": 1, "drawings": 3}
    for key, value in wanted.items():
        if facts.get(key) != value:
            yield f"{name}: {key} is {facts.get(key)!r}, not {value!r}"
    if diverged and not facts["causes"]:
        yield f"{name}: no cause is shown"
    if name == "diverged" and report["findings"][0]["command"] not in facts["detail"]:
        yield f"{name}: the first finding is not shown with the command that repeats it"
    accepted = report["acceptance"]
    shown = facts["acceptance"]
    if bool(shown) != bool(accepted) or (accepted and not shown.startswith(accepted["verdict"])):
        yield f"{name}: what a pipeline makes of it is shown as {shown!r}"
    closest = report["closest_to_bound"]
    if name == "match" and (not closest or closest["tensor"] not in facts["detail"] or "comes closest" not in facts["detail"]):
        yield f"{name}: the page does not open at the tensor that comes closest to its bound: {facts['detail']!r}"
    if name == "refused" and "the waiver for X.layer_repeated expired on 2026-01-31" not in facts["acceptance"]:
        yield f"{name}: the waiver's problem is not shown"
    links = re.findall(r"""(?:src|href|action)=["'](?!#)[^"']*|url\(|@import""", page.read_text().split("<body>")[0])
    if links:
        yield f"{name}: the page refers to {links[0]}"


def failures_of_large(name, wanted, page, folder):
    """80 layers and 100 steps in two modes: all layers are seen without scrolling, and it is worked as any other."""
    facts, complaints = facts_of(page, folder)
    yield from (f"large {name}: {complaint}" for complaint in complaints)
    cells = 80 * len(IN_LAYERS) + len(OUTSIDE_LAYERS)
    wanted |= {"cells": cells, "filtered_rows": 1, "moved": True, "chosen": 1, "outside": 0, "overflow": 0}
    for key, value in wanted.items():
        if facts.get(key) != value:
            yield f"large {name}: {key} is {facts.get(key)!r}, not {value!r}"


def main():
    if not CHROMIUM:
        print("skipped: no Chromium is installed")
        sys.exit(77)
    failures = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        subprocess.run([sys.argv[1], folder / "samples"], check=True)
        for name in ("match", "diverged", "refused", "hostile", "not_numbers", "empty", "sparse", "rounding"):
            run = folder / "samples/runs" / name
            work = folder / name
            work.mkdir()
            failures += failures_of(name, run / "report.html", json.loads((run / "report.json").read_text()), work)
        for name, wanted in (("match", {"badge": "MATCH", "causes": 0, "wrong": 0}),
                             ("diverged", {"badge": "DIVERGED", "causes": 2, "wrong": 160})):
            work = folder / f"large_{name}"
            work.mkdir()
            failures += failures_of_large(name, wanted, folder / "samples/large" / f"{name}.html", work)
    for failure in failures:
        print(failure)
    print(f"{len(failures)} failures")
    sys.exit(1 if failures else 0)


main()
