#!/usr/bin/env python3
"""Checks what the files of the tree say and point at.

    check_tree.py [ROOT]      prints each problem; ends with 1 if there is one

- Nothing points outside the tree: a link in Markdown leads to a file or a heading of the tree or to the web, a symbolic link
  stays inside, and no file names an absolute path of one person's or one machine's folder.
- No unfinished work is marked: it belongs in an issue. No sign of a merge that was not resolved is left.
- A source file can be read in one sitting: at most 700 lines.
- Code knows the bugs of the fault table by FaultId: outside the tests, no C++ names one as text or asks which comes first.
"""
import re
import shutil
import subprocess
import sys
from pathlib import Path

MAX_SOURCE_LINES = 700
SOURCES = {".h", ".cpp", ".cu", ".cuh", ".py", ".sh", ".cmake"}
TEXTS = SOURCES | {".md", ".txt", ".json", ".yml", ".yaml", ".toml", ".inc", ""}

MARKDOWN_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# A folder below the root that people and machines make for themselves. System folders (/usr, /tmp, /proc) are the same
# everywhere.
LOCAL_PATH = re.compile(r"(?<![\w.~$}*\]/-])/(?:home|root|work|workspace|opt|mnt|srv|Users)/[\w.-]+")
# Put together, so that this file does not mark itself.
UNFINISHED = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]) + r")\b")

MERGE = re.compile(r"^(<{7}|>{7}) ")
COMPILED = {".h", ".cpp", ".cu", ".cuh"}
# Also one with a value or a layer, and the beginning that all bugs of a hypothesis share. A sentence may give an example.
FAULT_AS_TEXT = re.compile(r'"(?:H\d\d|X)\.(?:[a-z][^\s"]*)?"')
FAULT_ORDER = re.compile(r"FaultId::k\w+\s*(?:<=|>=| < | > )|(?:<=|>=| < | > )\s*FaultId::k\w+")


def files_of(root):
    """Files that git tracks or would track; without git, all but build outputs and hidden folders."""
    if shutil.which("git"):
        listing = subprocess.run(["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                                 capture_output=True, check=False)
        if listing.returncode == 0:
            names = listing.stdout.decode().split("\0")
            return sorted(root / name for name in names if name)
    hidden = re.compile(r"^(build|\.git/|qdiff-report)")
    return sorted(p for p in root.rglob("*")
                  if (p.is_symlink() or p.is_file()) and not hidden.match(p.relative_to(root).as_posix()))


def slug(heading):
    """The anchor that Markdown renderers give a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def headings_of(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    return {slug(line.lstrip("#")) for line in lines if re.match(r"#+ ", line)}


def check_links(root, path, text):
    for number, line in enumerate(text.splitlines(), start=1):
        for target in MARKDOWN_LINK.findall(line):
            if re.match(r"(https?|mailto):", target):
                continue
            file_part, _, anchor = target.partition("#")
            linked = (path.parent / file_part).resolve() if file_part else path.resolve()
            if root.resolve() not in [linked, *linked.parents]:
                yield f"{number}: the link {target} leads outside the tree"
            elif not linked.exists():
                yield f"{number}: the link {target} leads to nothing"
            elif anchor and linked.suffix == ".md" and anchor not in headings_of(linked):
                yield f"{number}: the link {target} leads to no heading of that file"


def check_file(root, path):
    if path.is_symlink():
        if root.resolve() not in path.resolve().parents:
            yield f"1: the symbolic link leads outside the tree, to {path.resolve()}"
        return
    if not path.is_file() or path.suffix not in TEXTS:
        return
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return  # not a text
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        for match in LOCAL_PATH.findall(line):
            yield f"{number}: {match} is a path of one machine"
        for match in UNFINISHED.findall(line):
            yield f"{number}: {match} marks unfinished work"
        if MERGE.match(line):
            yield f"{number}: a merge was left unresolved here"
    yield from check_fault_ids(root, path, lines)
    if path.suffix == ".md":
        yield from check_links(root, path, text)
    if path.suffix in SOURCES and len(lines) > MAX_SOURCE_LINES:
        yield f"{len(lines)}: more than {MAX_SOURCE_LINES} lines"


def check_fault_ids(root, path, lines):
    if path.suffix not in COMPILED or "tests" in path.relative_to(root).parts:
        return
    for number, line in enumerate(lines, start=1):
        code = line.split("//")[0]
        for match in FAULT_AS_TEXT.findall(code):
            yield f"{number}: {match} names a known bug as text; take its FaultId"
        for match in FAULT_ORDER.findall(code):
            yield f"{number}: {match.strip()} decides by the order of the fault table"


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent)
    num_files = num_problems = 0
    for path in files_of(root):
        num_files += 1
        for problem in check_file(root, path):
            num_problems += 1
            print(f"{path.relative_to(root)}:{problem}")
    if num_files == 0:
        print(f"{root}: no files found, so nothing was checked")
        return 1
    print(f"tree: {num_files} files checked, {num_problems} problems")
    return 1 if num_problems else 0


if __name__ == "__main__":
    sys.exit(main())
