#!/usr/bin/env python3
"""Checks that every include follows the arrows between the rooms of the tree.

    check_arrows.py [ROOT]      prints each include that breaks an arrow; ends with 1 if there is one, or where
                                the picture in docs/architecture.md has other arrows

A room is a folder. Each room may include itself, the rooms listed for it, and the C++ standard library; libraries from
elsewhere are listed by the start of their include path. Tests and benchmarks obey the table of their room, and may
besides include what TESTS_MAY and BENCHMARKS_MAY list. A source file outside every room is an error, so that a new
folder must be entered here.
"""
import re
import sys
from pathlib import Path

COMPARING = ["harness/contract", "harness/formats", "harness/compare"]

# room: rooms that it may include
ROOMS = {
    "harness/contract": [],
    "harness/formats": ["harness/contract"],
    "harness/compare": ["harness/contract"],
    "harness/pattern": ["harness/contract", "harness/compare"],
    "harness/findings": ["harness/contract", "harness/compare"],  # data: what the diagnosis hands to the reports
    "harness/acceptance": COMPARING + ["harness/findings"],
    "harness/model": COMPARING,
    "harness/trace": COMPARING,
    "harness/cases": COMPARING,
    "harness/report": COMPARING + ["harness/findings"],
    "harness/shards": COMPARING + ["harness/findings", "harness/report"],
    "harness/reference_cache": COMPARING + ["harness/pattern", "harness/findings", "harness/shards", "harness/diagnose"],
    "harness/explain": ["harness/contract", "harness/compare"],
    # It judges recordings, which are traces in memory.
    "harness/diagnose": COMPARING + ["harness/pattern", "harness/explain", "harness/findings", "harness/trace"],
    "harness/cli": COMPARING + ["harness/findings", "harness/acceptance", "harness/model", "harness/trace", "harness/cases", "harness/report",
                                "harness/shards", "harness/diagnose", "harness/reduce", "harness/reference_cache", "harness/selftest",
                                "harness/calibration", "reference", "optimized"],
    "harness/selftest": COMPARING + ["harness/findings", "harness/model", "harness/trace", "harness/cases",
                                     "harness/report", "harness/shards", "harness/diagnose", "harness/explain"],
    # The judge as a package for other people's tests.
    "harness/matcher": ["harness/contract", "harness/compare"],
    "harness/reduce": COMPARING + ["harness/findings", "harness/trace"],
    # A program: measures the judge's bounds.
    "harness/calibration": COMPARING + ["harness/model", "harness/findings", "harness/trace", "harness/diagnose",
                                        "reference"],
    "reference": ["harness/contract"],
    "optimized": ["harness/contract"],
    "fuzz": COMPARING + ["harness/model", "harness/trace", "harness/cases"],
    "cmake": [],
}

# start of a library's include path: rooms that may include it
LIBRARIES = {
    "ATen/": ["reference"],
    "c10/": ["reference"],
    "torch/": ["reference"],
    "nlohmann/": ["harness/formats", "harness/model", "harness/trace", "harness/cases", "harness/report", "harness/shards",
                  "harness/cli"],
    "CLI/": ["harness/cli", "harness/calibration", "optimized/cpu/bench",
             "optimized/cuda/bench"],
    "cuda": ["optimized/cuda"],
}

# Headers of the installed package, which name each other as its users do.
PACKAGED, PACKAGED_BY = "qdiff/", "harness/matcher"
# Made by the build from data files (qdiff_embed), with the header that describes them.
EMBEDDED = ("embedded/", "cmake/embedded.h")
TESTS_MAY = ("cmake/catch2.h", "nlohmann/")
# Benchmarks read real models.
BENCHMARKS_MAY = ("harness/model/",)

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
SUFFIXES = {".h", ".hpp", ".cpp", ".cc", ".cu", ".cuh"}
SKIPPED_FOLDERS = re.compile(r"^(build(-[^/]*)?|qdiff-report|\.[^/]*)/")


def room_of(path):
    """The room that a path from the root lies in, or None."""
    fitting = [room for room in ROOMS if path.startswith(room + "/")]
    return max(fitting, key=len, default=None)


def is_test(path):
    return "/tests/" in path


def judge_include(source, room, bracket, target, root):
    """Why the include is not allowed, or None."""
    if target.startswith(EMBEDDED) or (is_test(source) and target.startswith(TESTS_MAY)):
        return None
    if "/bench/" in source and target.startswith(BENCHMARKS_MAY):
        return None
    for start, rooms in LIBRARIES.items():
        if target.startswith(start):
            if any(source.startswith(allowed + "/") for allowed in rooms):
                return None
            return f"only {', '.join(rooms)} may include <{start}…>"
    if bracket == "<":
        # The standard library, the C library and the operating system's headers.
        return None
    if target.startswith(PACKAGED) and room == PACKAGED_BY:
        return None
    if not (root / target).exists():
        beside = (root / source).parent / target
        if beside.exists() and "/example/" in source:  # a project of its own, that people copy
            return None
        if beside.exists():
            return "write the path from the root of the tree"
        return "there is no such file in the tree"
    other = room_of(target)
    if other is None:
        return "it lies in no room"
    if other == room or other in ROOMS[room]:
        return None
    allowed = ", ".join(ROOMS[room]) or "nothing but itself"
    return f"{room} may include {allowed}"


def pictured(root):
    """What the page on the architecture says: room -> rooms that it may include, by their short names."""
    page = root / "docs" / "architecture.md"
    block = re.search(r"^```\ncontract → nothing\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    arrows = {"contract": set()}
    for line in re.sub(r",\n +", ", ", block.group(1) if block else "").splitlines():
        rooms, targets = (set(side.split(", ")) for side in line.split(" → "))
        arrows.update({room: targets for room in rooms})
    return arrows


def check_picture(root):
    def short(room):
        return room.removeprefix("harness/")

    wanted = {short(room): {short(other) for other in others} for room, others in ROOMS.items() if room != "cmake"}
    arrows = pictured(root)
    return [f"docs/architecture.md: the picture of {room} is not that of scripts/check_arrows.py"
            for room in sorted(wanted.keys() | arrows.keys()) if wanted.get(room) != arrows.get(room)]


def check(root):
    problems = check_picture(root)
    num_includes = 0
    for file in sorted(root.rglob("*")):
        path = file.relative_to(root).as_posix()
        if file.suffix not in SUFFIXES or SKIPPED_FOLDERS.match(path) or not file.is_file():
            continue
        room = room_of(path)
        if room is None:
            problems.append(f"{path}: in no room; enter its folder in scripts/check_arrows.py")
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            match = INCLUDE.match(line)
            if not match:
                continue
            num_includes += 1
            reason = judge_include(path, room, match.group(1), match.group(2), root)
            if reason:
                problems.append(f"{path}:{number}: includes {match.group(2)}: {reason}")
    return problems, num_includes


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent)
    problems, num_includes = check(root)
    for problem in problems:
        print(problem)
    if num_includes == 0:
        print(f"{root}: no include found, so nothing was checked")
        return 1
    print(f"arrows: {num_includes} includes checked, {len(problems)} wrong")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
