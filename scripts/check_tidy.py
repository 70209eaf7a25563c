#!/usr/bin/env python3
"""Runs clang-tidy, with the checks of .clang-tidy, over every source in a compile database that is no test.

    check_tidy.py BUILD [PATH...]     BUILD: a folder with compile_commands.json, already built (embedded headers);
                                      PATH: only sources whose path from the root starts so

Most of what a file costs is the headers that all files share. So sources that the build compiles together (QDIFF_UNITY) are
read together here as well, and so are units whose commands do not contradict each other, many at a time; those that do not go
together, as where two name the same thing, are said and read one by one. Ends with 1 where there is a complaint, with 77
where there is no clang-tidy 14: others know other checks. A unit on which clang-tidy itself crashes is named, and is no
complaint.
"""
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

VERSION = "14"
# What GCC knows and clang does not, and what belongs to the output.
DROPPED = re.compile(r"^(-Wno-restrict|-Wno-dangling-reference|-Werror|-Winvalid-pch|-O\d)$")
COMPILER = re.compile(r"(^|[/-])(g|c|clang)\+\+(-\d+)?$")
DROPPED_WITH_VALUE = {"-o", "-c", "-include", "-MF", "-MT"}
COMPLAINT = re.compile(r"^(.*:\d+:\d+): (?:warning|error): (.*)$")
COMPILE_ERROR = "[clang-diagnostic-error]"
MAIN = re.compile(r"^int main\(", re.MULTILINE)
MOST_BYTES = 700_000  # of sources read together: a processor has one group or two, and a group takes a gigabyte or two
INCLUDED = re.compile(r'^#include "(.*\.cpp)"$', re.MULTILINE)


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
        if skip or DROPPED.match(word) or word.endswith((".cpp", ".cxx")):
            skip = False
        elif word in DROPPED_WITH_VALUE:
            skip = word != "-c"
        else:
            kept.append(word)
    return kept


def units(root, build, only):
    """[(unit, its sources, flags)], each source in one unit, the largest units first."""
    found, seen = [], set()
    for entry in json.loads((build / "compile_commands.json").read_text(encoding="utf-8")):
        unit = Path(entry["directory"], entry["file"]).resolve()
        sources = [unit]
        if build in unit.parents:  # the build's own: several sources, a precompiled header or an embedded file
            sources = [Path(file) for file in INCLUDED.findall(unit.read_text(encoding="utf-8"))] if unit.exists() else []
        new = [file for file in sources if file.suffix == ".cpp" and root in file.parents and file not in seen and
               build not in file.parents and file.relative_to(root).parts[0] != "cmake" and "tests" not in file.parts]
        if new and any(str(file.relative_to(root)).startswith(tuple(only or [""])) for file in new):
            seen.update(new)
            found.append((unit, new, flags_of(entry)))
    return sorted(found, key=lambda job: (-sum(file.stat().st_size for file in job[1]), str(job[0])))


def kind_of(flags):
    """Units of different kinds are never read together: another standard, another processor, headers of other libraries."""
    system = [value for flag, value in zip(flags, flags[1:]) if flag == "-isystem"]
    return tuple(sorted({flag for flag in flags if flag.startswith(("-std", "-m", "-isystem"))} | set(system)))


def together(jobs):
    """Groups of units that can be read as one file: [[job...]]."""
    groups = []
    for unit, sources, flags in jobs:
        macros = {flag.partition("=")[0]: flag for flag in flags if flag.startswith("-D")}
        size = sum(file.stat().st_size for file in sources)
        has_main = any(MAIN.search(file.read_text(encoding="utf-8")) for file in sources)
        for group in groups:
            fits = (group["kind"] == kind_of(flags) and group["size"] + size <= MOST_BYTES and
                    not (has_main and group["has_main"]) and
                    all(group["macros"].get(name, flag) == flag for name, flag in macros.items()))
            if fits:
                break
        else:
            group = {"kind": kind_of(flags), "size": 0, "has_main": False, "macros": {}, "jobs": []}
            groups.append(group)
        group["size"] += size
        group["has_main"] = group["has_main"] or has_main
        group["macros"].update(macros)
        group["jobs"].append((unit, sources, flags))
    return [group["jobs"] for group in sorted(groups, key=lambda group: -group["size"])]


def read_group(tidy, root, folder, group):
    """What clang-tidy says of each part: of the whole group at once, or of each unit where they do not go together."""
    if len(group) > 1:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=folder, suffix=".cpp", delete=False) as whole:
            whole.write("".join(f'#include "{unit}"\n' for unit, _, _ in group))
        flags = list(group[0][2])
        for _, _, more in group[1:]:
            flags += [flag for flag in more if flag.startswith(("-D", "-I")) and flag not in flags]
        found = complaints(tidy, root, Path(whole.name), flags)
        if found is not None and not any(COMPILE_ERROR in line for line in found):
            return [found]
        why = next((line for line in found if COMPILE_ERROR in line), "") if found else f"{tidy} crashed"
        print(f"clang-tidy: {len(group)} units do not go together and are read one by one: {why}", flush=True)
    return [complaints(tidy, root, unit, flags) for unit, _, flags in group]


def complaints(tidy, root, unit, flags):
    """What clang-tidy says of one unit; None where it crashed."""
    done = subprocess.run([tidy, "--quiet", f"--config-file={root / '.clang-tidy'}", str(unit), "--", *flags],
                          capture_output=True, text=True, check=False, cwd=root)
    found = [match for match in map(COMPLAINT.match, done.stdout.splitlines()) if match]
    if done.returncode < 0:
        print(f"clang-tidy: {unit} was not read: {tidy} crashed with signal {-done.returncode}")
        return None
    if done.returncode != 0 and not found:
        return [f"{unit}: {tidy} ended with {done.returncode}: {done.stderr.strip()[-500:]}"]
    return [f"{os.path.relpath(match.group(1), root)}: {match.group(2)}" for match in found]


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
    jobs = units(root, build, sys.argv[2:])
    if not jobs:
        print(f"clang-tidy: no sources in {build}/compile_commands.json, so nothing was checked")
        return 1
    with tempfile.TemporaryDirectory(prefix="qdiff-tidy-") as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        read = pool.map(lambda group: read_group(tidy, root, folder, group), together(jobs))
        results = [result for group in read for result in group]
    crashed = results.count(None)
    lines = sorted({line for result in results if result is not None for line in result})  # a header may be in many units
    print(*lines, sep="\n", end="\n" if lines else "")
    print(f"clang-tidy: {sum(len(files) for _, files, _ in jobs)} files in {len(jobs)} units checked, {len(lines)} problems, "
          f"{crashed} units not read, {time.monotonic() - started:.0f} s")
    return 1 if lines or crashed > len(jobs) // 2 else 0


if __name__ == "__main__":
    sys.exit(main())
