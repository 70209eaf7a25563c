#!/usr/bin/env python3
"""Changes a room's sources one place at a time and asks whether the room's own tests notice. scripts/mutation.sh sets up
what this needs, and its head comment says how to use it.

The tree is never written to: a changed source is compiled from a folder of its own, and a changed header lies in a folder
that the compiler searches before the tree. The changes are those of universalmutator (PyPI), drawn with a seed.
A change is not counted where it does not compile, or where the compiler makes the same machine code of it.
"""
import argparse
import concurrent.futures
import difflib
import json
import os
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Room:
    library: str  # the target that holds the sources
    tests: str    # the target whose program has to notice
    changed: tuple  # patterns of the sources to change, from the root
    only: tuple = ()  # arguments that select the tests


ROOMS = {
    # Headers of which more than declarations is compiled. bounds_table.inc is measured, mutants.h is of the tests.
    "compare": Room("qdiff_compare", "compare_tests",
                    ("harness/compare/*.cpp", "harness/compare/bounds.h", "harness/compare/gates.h",
                     "harness/compare/sums.h")),
    "explain": Room("qdiff_explain", "explain_tests", ("harness/explain/*.cpp",)),
    "noise": Room("qdiff_reference", "reference_tests", ("reference/noise.cpp", "reference/arithmetic/*.cpp"), ("[noise]",)),
}

# Of a compile command: warnings are nothing here, and each object is written elsewhere, optimised as little as shows that
# two sources are the same program.
DROPPED = {"-Werror", "-O0", "-O1", "-O2", "-O3", "-Winvalid-pch"}
DROPPED_WITH_VALUE = {"-o", "-c", "-include"}
SOURCES = {".cpp", ".h", ".inc"}
COPIED = ["cmake", "harness", "optimized", "reference"]
OPTIMISED = "-O1"
MEMORY = 4 << 30  # a change may ask for any amount


def stop(message):
    print(f"mutation: {message}", file=sys.stderr)
    sys.exit(2)


def run(command, **options):
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False,
                          stdin=subprocess.DEVNULL, **options)


def link_command(folder, room):
    """The words of the command that links a room's tests, without what the build puts around it."""
    commands = run(["ninja", "-C", str(folder), "-t", "commands", room.tests])
    found = [part for line in commands.stdout.splitlines() for part in line.split(" && ")
             if f"/{room.tests} " in part + " " and " -o " in part and ".o " in part and " -c " not in part]
    if len(found) != 1:
        stop(f"{folder} has no single command that links {room.tests}; build that target first")
    return shlex.split(found[0])


class Build:
    """The objects and commands of a built tree, taken apart so that one source can be put in place of another."""

    def __init__(self, folder, room, work):
        self.folder, self.room, self.work = folder, room, work
        # A copy of all that is compiled, so that who works on in the tree or builds it disturbs nothing here.
        self.tree = work / "tree"
        for top in COPIED:
            for path in (ROOT / top).glob("**/*"):
                if path.suffix in SOURCES and path.is_file():
                    copied = self.tree / path.relative_to(ROOT)
                    copied.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, copied)
        self.changed = sorted({path for pattern in room.changed for path in self.tree.glob(pattern)})
        entries = json.loads((folder / "compile_commands.json").read_text(encoding="utf-8"))
        self.entries = {}  # object, from the build folder: entry
        for entry in entries:
            words = shlex.split(entry["command"])
            self.entries[words[words.index("-o") + 1]] = (words, Path(entry["file"]))
        self.link = link_command(folder, room)
        self.library = next((word for word in self.link if word.endswith(f"lib{room.library}.a")), None)
        if self.library is None:
            stop(f"{room.tests} does not link {room.library}")
        self.tests = [word for word in self.link if word.endswith(".o")]
        self.kept = {}  # object or archive of the build: its copy
        for word in self.link:
            if word.endswith((".o", ".a")) and word != self.library:
                self.kept[word] = work / "kept" / f"{len(self.kept)}{Path(word).suffix}"
                self.kept[word].parent.mkdir(exist_ok=True)
                shutil.copyfile(folder / word, self.kept[word])
        self.precompiled = None
        self.sources = self.listed_sources()  # now: a build that goes on may list others

    def flags(self, words, keep_header=False):
        """What a command says beyond its files."""
        kept, skip = [], False
        for word in words[1:]:
            if skip:
                skip = False
            elif word in DROPPED_WITH_VALUE and not (keep_header and word == "-include"):
                skip = True
            elif word not in DROPPED and not word.startswith(("-W", "-g")):
                kept.append(word.replace(f"-I{ROOT}", f"-I{self.tree}") if word.startswith("-I") else word)
        return [words[0], *kept, OPTIMISED, "-w"]

    def listed_sources(self):
        """Of the library: (sources compiled together, flags)."""
        found = []
        for name, (words, file) in self.entries.items():
            if f"CMakeFiles/{self.room.library}.dir/" not in name or file.suffix not in (".cpp", ".cxx"):
                continue
            if "cmake_pch" in file.name:
                continue
            parts = [file]
            if file.suffix == ".cxx":
                lines = file.read_text(encoding="utf-8").splitlines()
                parts = [Path(line.split('"')[1]) for line in lines if line.startswith("#include")]
            found.append(([self.tree / part.relative_to(ROOT) for part in parts], self.flags(words)))
        return found

    def precompile(self, flags):
        """Headers of the system and of other rooms, which no change touches."""
        names = []
        rooms = {str(path.parent.relative_to(self.tree)) for path in self.changed}
        for parts, _ in self.sources:
            for source in parts:
                for line in source.read_text(encoding="utf-8").splitlines():
                    if not line.startswith("#include "):
                        continue
                    name = line.split(" ", 1)[1].split("//")[0].strip()
                    own = name.startswith('"') and (str(Path(name.strip('"')).parent) in rooms)
                    if not own and name not in names and not name.endswith('.inc"'):
                        names.append(name)
        # Only what has not a word of the room's own headers may be precompiled: a change of those would go unseen.
        header = self.work / "all.h"
        system = [name for name in names if name.startswith("<")]
        foreign = [name for name in names if name.startswith('"') and name.strip('"').startswith("harness/contract/")]
        large = [name for name in names if name == '"reference/torch.h"']
        header.write_text("".join(f"#include {name}\n" for name in large + system + foreign), encoding="utf-8")
        made = run([*flags, "-x", "c++-header", str(header), "-o", f"{header}.gch"], cwd=self.folder)
        if made.returncode != 0:
            stop(f"the headers could not be precompiled:\n{made.stderr}")
        self.precompiled = header

    def compile(self, source, flags, target, overlay=None):
        """None, or what the compiler says against it. Writes beside `target` which headers were read."""
        header = ["-include", str(self.precompiled)] if "-fopenmp" not in flags and self.precompiled else []
        over = [f"-I{overlay}"] if overlay else []
        done = run([flags[0], *over, *flags[1:], *header, "-MMD", "-MF", f"{target}.d", "-c", source.name, "-o", str(target)],
                   cwd=source.parent)
        return None if done.returncode == 0 else done.stderr

    def prepare(self, jobs):
        """Each source that is to be changed as an object of its own, and the others."""
        self.objects = {}  # source: (object, flags)
        self.others = []
        work = []
        batches = self.sources
        plain = next(flags for parts, flags in batches if parts)
        self.precompile([flag for flag in plain if flag != "-fopenmp"])
        for parts, flags in batches:
            rest = [part for part in parts if part not in self.changed]
            for part in parts:
                if part in self.changed:
                    target = self.work / "kept" / f"{part.relative_to(self.tree)}.o".replace("/", "_")
                    self.objects[part] = (target, flags)
                    work.append((part, flags, target))
            if rest:
                together = self.work / "kept" / f"others_{len(self.others)}.cpp"
                together.write_text("".join(f'#include "{part}"\n' for part in rest), encoding="utf-8")
                self.others.append(together.with_suffix(".o"))
                work.append((together, flags, self.others[-1]))
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            for said in pool.map(lambda item: self.compile(*item), work):
                if said is not None:
                    stop(f"a source does not compile by itself:\n{said}")

    def program(self, folder, replaced=None, tests=None):
        """Links the tests with the room's objects, those in `replaced` (by source) and `tests` (by object) put in place."""
        objects = [str((replaced or {}).get(source, target)) for source, (target, _) in self.objects.items()]
        objects += [str(other) for other in self.others]
        command, skip = [], False
        for word in self.link:
            if skip:
                command.append(str(folder / "tests"))
                skip = False
            elif word == "-o":
                command.append(word)
                skip = True
            elif word == self.library:
                command += objects
            elif word in self.kept:
                command.append(str((tests or {}).get(word, self.kept[word])))
            elif word != ":":
                command.append(word)
        done = run(command, cwd=self.folder)
        return None if done.returncode == 0 else done.stderr

    def test(self, folder, seconds):
        """None where the tests pass, else how they ended."""
        def limit():
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        done = run([str(folder / "tests"), *self.room.only, "--abort"], cwd=ROOT, preexec_fn=limit)
        return None if done.returncode == 0 else f"status {done.returncode}"

    def readers(self, header):
        """Of a changed header: the sources and the test objects that read it."""
        sources = []
        for source, (target, _) in self.objects.items():
            if str(header) in Path(f"{target}.d").read_text(encoding="utf-8").replace("\\\n", " ").split():
                sources.append(source)
        known = run(["ninja", "-C", str(self.folder), "-t", "deps", *self.tests]).stdout
        tests, current = [], None
        for line in known.splitlines():
            if line and not line.startswith(" "):
                current = line.split(":")[0]
            elif line.strip() and (self.folder / line.strip()).resolve() == ROOT / header.relative_to(self.tree):
                tests.append(current)
        return sources, tests


def all_changes(tool, build, work):
    """Every change of the tool: (source, the changed text), in an order that does not depend on the machine."""
    changes = []
    for source in build.changed:
        folder = work / "made" / str(source.relative_to(build.tree)).replace("/", "_")
        folder.mkdir(parents=True)
        # The tool tells a language by the file's ending, and knows none for .h.
        made = run([tool, str(source), "cpp", "--noCheck", "--mutantDir", str(folder)], cwd=folder)
        texts = {path.read_text(encoding="utf-8") for path in folder.iterdir()}
        if made.returncode != 0 or not texts:
            stop(f"{tool} made nothing of {source.relative_to(build.tree)}:\n{made.stdout[-2000:]}{made.stderr[-2000:]}")
        texts.discard(source.read_text(encoding="utf-8"))
        changes += [(source, text) for text in sorted(texts)]
        shutil.rmtree(folder)
    return changes


def listed_changes(path, build):
    """Changes out of a list: one JSON object a line, with file, old and new (the first place of old is changed)."""
    changes = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        entry = json.loads(line)
        source = next((file for file in build.changed if file.name == entry["file"]), None)
        if source is None:
            stop(f"{path}:{number}: {entry['file']} is no file of this room")
        text = source.read_text(encoding="utf-8")
        if entry["old"] not in text:
            print(f"{path}:{number}: {entry['file']} has no '{entry['old']}' any more", file=sys.stderr)
            continue
        changes.append((source, text.replace(entry["old"], entry["new"], 1)))
    return changes


def shown(name, source, text):
    """The change as lines that a person reads."""
    lines = difflib.unified_diff(source.read_text(encoding="utf-8").splitlines(), text.splitlines(), n=0, lineterm="")
    kept, place = [], "?"
    for line in list(lines)[2:]:
        if line.startswith("@@"):
            place = line.split(" ")[1].lstrip("-").split(",")[0]
        else:
            kept.append(f"    {line[0]} {line[1:].strip()}")
    return f"{name}:{place}\n" + "\n".join(kept)


def judge_change(build, change, seconds):
    """'invalid', 'same', 'noticed' or 'survived'."""
    source, text = change
    with tempfile.TemporaryDirectory(dir=build.work) as name:
        folder = Path(name)
        if source.suffix == ".cpp":
            file = folder / source.name
            file.write_text(text, encoding="utf-8")
            target = folder / "changed.o"
            base, flags = build.objects[source]
            if build.compile(file, flags, target) is not None:
                return "invalid"
            if target.read_bytes() == base.read_bytes():
                return "same"
            replaced, tests = {source: target}, {}
        else:
            overlay = folder / "overlay"
            file = overlay / source.relative_to(build.tree)
            file.parent.mkdir(parents=True)
            file.write_text(text, encoding="utf-8")
            sources, readers = build.readers(source)
            replaced, tests, different = {}, {}, bool(readers)
            for number, reader in enumerate(sources):
                target = folder / f"{number}.o"
                base, flags = build.objects[reader]
                if build.compile(reader, flags, target, overlay) is not None:
                    return "invalid"
                different = different or target.read_bytes() != base.read_bytes()
                replaced[reader] = target
            if not different:
                return "same"
            for number, reader in enumerate(readers):
                words, test = build.entries[reader]
                target = folder / f"test_{number}.o"
                flags = build.flags(words, keep_header=True)
                flags = [flag for flag in flags if flag != str(test)]
                copied = build.tree / test.relative_to(ROOT)
                done = run([flags[0], f"-I{overlay}", *flags[1:], "-c", str(copied), "-o", str(target)], cwd=build.folder)
                if done.returncode != 0:
                    return "invalid"
                tests[reader] = target
        if build.program(folder, replaced, tests) is not None:
            return "invalid"
        return "survived" if build.test(folder, seconds) is None else "noticed"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--room", choices=sorted(ROOMS), default="compare")
    parser.add_argument("--build", type=Path, required=True, help="a build folder in which the room's tests are built")
    parser.add_argument("--tool", required=True, help="the program mutate of universalmutator")
    parser.add_argument("--sample", type=int, default=0, help="how many changes count (0: all)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--changes", type=Path, help="a list of changes in place of the tool's")
    parser.add_argument("--least", type=float, default=0.0, help="percent that have to be noticed")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--survivors", type=Path, help="where to write them")
    options = parser.parse_args()
    room = ROOMS[options.room]
    with tempfile.TemporaryDirectory(prefix="qdiff-mutation-") as name:
        build = Build(options.build.resolve(), room, Path(name))
        changes = listed_changes(options.changes, build) if options.changes else all_changes(options.tool, build, Path(name))
        random.Random(options.seed).shuffle(changes)
        print(f"{len(changes)} changes of {len(build.changed)} files; seed {options.seed}", flush=True)
        build.prepare(options.jobs)
        whole = Path(name) / "whole"
        whole.mkdir()
        said = build.program(whole)
        if said is not None:
            stop(f"the tests could not be linked:\n{said}")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        said = build.test(whole, 600)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if said is not None:
            stop(f"{room.tests} fails without any change ({said})")
        # A change may make a loop endless. Three times the time of the right program is no time that a right one takes:
        # it is time of the processor, which what else runs here hardly changes.
        seconds = 2 + int(3 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))
        counts = {}  # file: {result: count}
        survivors, judged = [], 0
        wanted = options.sample or len(changes)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
        pool = concurrent.futures.ThreadPoolExecutor(options.jobs)
        try:
            position = 0
            while position < len(changes) and judged < wanted:
                # Never more at a time than are still wanted, so that the sample does not depend on --jobs.
                batch = changes[position:position + min(wanted - judged, 4 * options.jobs)]
                position += len(batch)
                for change, result in zip(batch, pool.map(lambda one: judge_change(build, one, seconds), batch)):
                    file = counts.setdefault(str(change[0].relative_to(build.tree)), {})
                    file[result] = file.get(result, 0) + 1
                    judged += result in ("noticed", "survived")
                    if result == "noticed" and judged % 50 == 0:
                        print(f"{judged} judged, {len(survivors)} of them survived", flush=True)
                    if result == "survived":
                        survivors.append(shown(change[0].relative_to(build.tree), *change))
                        print(f"survived: {survivors[-1]}", flush=True)
        except KeyboardInterrupt:
            print(f"interrupted after {judged} of {wanted}", flush=True)
        pool.shutdown(cancel_futures=True)
        print(f"\n{'file':36} {'changes':>8} {'noticed':>8}")
        for file, count in sorted(counts.items()):
            total = count.get("noticed", 0) + count.get("survived", 0)
            print(f"{file:36} {total:8} {count.get('noticed', 0):8}")
        total = {result: sum(count.get(result, 0) for count in counts.values())
                 for result in ("noticed", "survived", "invalid", "same")}
        share = 100.0 * total["noticed"] / judged if judged else 0.0
        print(f"\n{total['noticed']} of {judged} noticed ({share:.1f} %); left out: {total['invalid']} that do not compile, "
              f"{total['same']} that are the same machine code")
        if options.survivors:
            options.survivors.write_text("\n".join(survivors) + "\n", encoding="utf-8")
        # A run that judged nothing is no success.
        return 0 if judged > 0 and share >= options.least else 1


if __name__ == "__main__":
    sys.exit(main())
