#!/usr/bin/env python3
"""Runs clang-tidy, with the checks of .clang-tidy, over every source in a compile database that is no test.

    check_tidy.py BUILD [PATH...]     BUILD: a folder with compile_commands.json, already built (embedded headers);
                                      PATH: only sources whose path from the root starts so

Most of what a file costs is the headers that all files share. So the files of a folder are read together, as many in one
translation unit as have no name of an unnamed namespace in common; where they do not compile together after all, each is
read by itself. Ends with 1 where there is a complaint, with 77 where there is no clang-tidy 14: others know other checks.
"""
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

VERSION = "14"
MOST_TOGETHER = 8  # more gain little, and one complaint costs more to repeat
# What GCC knows and clang does not, and what belongs to the output.
DROPPED = re.compile(r"^(-Wno-restrict|-Wno-dangling-reference|-Werror|-Winvalid-pch|-O\d)$")
COMPILER = re.compile(r"(^|[/-])(g|c|clang)\+\+(-\d+)?$")
DROPPED_WITH_VALUE = {"-o", "-c", "-include", "-MF", "-MT"}
COMPLAINT = re.compile(r"^(.*:\d+:\d+): (?:warning|error): (.*)$")
# Column 0 is where .clang-format puts what a namespace declares.
DECLARED = re.compile(r"^(?:[\w:<>,&*\[\] ]+?[ &*])?(\w+)(?:\(|\{| =|;|\[)")


def clang_tidy():
    for name in [f"clang-tidy-{VERSION}", "clang-tidy"]:
        if shutil.which(name):
            shown = subprocess.run([name, "--version"], capture_output=True, text=True, check=False).stdout
            if f"version {VERSION}." in shown:
                return name
    return None


def flags_of(entry):
    """The flags of a compile command that matter to clang."""
    words = entry.get("arguments") or shlex.split(entry["command"])
    compiler = next(i for i, word in enumerate(words) if COMPILER.search(word))  # a launcher may stand before it
    kept, skip = [], False
    for word in words[compiler + 1:]:
        if skip or DROPPED.match(word) or word.endswith(".cpp"):
            skip = False
        elif word in DROPPED_WITH_VALUE:
            skip = word != "-c"
        else:
            kept.append(word)
    return kept


def unnamed_names(text):
    """Names that a source declares in an unnamed namespace."""
    names, inside = set(), False
    for line in text.splitlines():
        if line == "namespace {":
            inside = True
        elif line == "}  // namespace":
            inside = False
        elif inside and not line.startswith(("//", "#", "}", " ", "using ", "namespace ")):
            found = DECLARED.match(re.sub(r"^(struct|class|enum class|enum) (\w+).*", r"\2;", line))
            if found:
                names.add(found.group(1))
    return names


def sources(root, build, only):
    """{(folder, flags): files}, each file once, in a fixed order."""
    found, seen = {}, set()
    for entry in sorted(json.loads((build / "compile_commands.json").read_text()), key=lambda entry: entry["file"]):
        file = Path(entry["directory"], entry["file"]).resolve()
        if file in seen or file.suffix != ".cpp" or root not in file.parents or build in file.parents:
            continue
        path = file.relative_to(root)
        if "tests" in path.parts or path.parts[0] == "cmake" or (only and not str(path).startswith(tuple(only))):
            continue
        seen.add(file)
        found.setdefault((path.parent, tuple(flags_of(entry))), []).append(file)
    return found


def together(files):
    """The files in groups that have no unnamed name in common."""
    groups = []
    for file in files:
        names = unnamed_names(file.read_text(encoding="utf-8"))
        for group in groups:
            if len(group[0]) < MOST_TOGETHER and not names & group[1]:
                group[0].append(file)
                group[1].update(names)
                break
        else:
            groups.append(([file], set(names)))
    return [group for group, _ in groups]


def complaints(tidy, root, unit, files, flags):
    """What clang-tidy says of the files, read as one; None where they do not compile together."""
    unit.parent.mkdir(parents=True, exist_ok=True)
    unit.write_text("".join(f'#include "{file}"\n' for file in files))
    done = subprocess.run([tidy, "--quiet", f"--config-file={root / '.clang-tidy'}", str(unit), "--", *flags],
                          capture_output=True, text=True, check=False, cwd=root)
    found = [match for match in map(COMPLAINT.match, done.stdout.splitlines()) if match]
    if any("clang-diagnostic-error" in match.group(2) for match in found) and len(files) > 1:
        return None
    if done.returncode != 0 and not found:
        return [f"{unit}: {tidy} ended with {done.returncode}: {done.stderr.strip()[-500:]}"]
    return sorted({f"{os.path.relpath(match.group(1), root)}: {match.group(2)}" for match in found})


def judge(tidy, root, folder, job):
    number, files, flags = job
    found = complaints(tidy, root, folder / f"{number}.cpp", files, flags)
    if found is not None:
        return found
    alone = [complaints(tidy, root, folder / f"{number}-{i}.cpp", [file], flags) for i, file in enumerate(files)]
    return [line for lines in alone for line in lines]


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    tidy = clang_tidy()
    if tidy is None:
        print(f"clang-tidy: SKIPPED, nothing was checked: there is no clang-tidy {VERSION} (apt: clang-tidy-{VERSION})")
        return 77
    started = time.monotonic()
    build = Path(sys.argv[1]).resolve()
    root = next(folder for folder in build.parents if (folder / ".clang-tidy").exists())
    found = sources(root, build, sys.argv[2:])
    jobs = [(files, flags) for (_, flags), all_files in found.items() for files in together(all_files)]
    if not jobs:
        print(f"clang-tidy: no sources in {build}/compile_commands.json, so nothing was checked")
        return 1
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(lambda job: judge(tidy, root, build / "tidy", job),
                                [(number, files, flags) for number, (files, flags) in enumerate(jobs)]))
    lines = sorted({line for result in results for line in result})
    print(*lines, sep="\n", end="\n" if lines else "")
    print(f"clang-tidy: {sum(len(files) for files, _ in jobs)} files in {len(jobs)} units checked, {len(lines)} problems, "
          f"{time.monotonic() - started:.0f} s")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
