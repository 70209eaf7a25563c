"""The peak of memory of `run`, `record` and `diagnose` beside the smallest --max-memory that they accept: at most 5 %
above it. QDIFF_MEMORY_SHAPES says how many of the shapes below (default: the first), and with it a table is printed.
"""
import os
import re
import subprocess

import driver
from driver import MATCH, CommandLineTest, drop_tensor, tensor_names, write_case

MIB = 1 << 20
ALLOWED = 1.05
# Model, rows of the batch, tokens of each step, slots. Behind each stands what takes most there.
SHAPES = [
    ("synthetic:toy-d64", 1, [8, 1], 16),                                # the program itself
    ("synthetic:toy-14x2,layers=1", 1, [384], 384),                      # scores
    ("synthetic:qwen2.5-0.5b,layers=1,vocab=2000", 1, [32, 1], 64),      # one layer of weights
    ("synthetic:toy-d64", 4, [16, 1], 16384),                            # caches
    ("synthetic:toy-d32,vocab=60000", 2, [48, 1], 64),                   # logits
    ("synthetic:toy-15x5", 3, [96, 64, 1, 1], 192),                      # several steps and rows
    ("synthetic:qwen2.5-0.5b,layers=3,vocab=4000", 1, [64, 1], 80),      # weights in turns
    ("synthetic:qwen2.5-0.5b,layers=1", 1, [4, 1], 8),                   # the whole vocabulary
    ("synthetic:qwen2.5-1.5b,layers=1,vocab=2000", 1, [16], 32),         # a wider layer
    ("synthetic:toy-mha,layers=12", 2, [128, 1, 1, 1], 256),             # many layers
]
NUMBER = int(os.environ.get("QDIFF_MEMORY_SHAPES", "1"))


class MemoryTest(CommandLineTest):
    def peak(self, arguments, limit):
        """Bytes at the peak, or None where the command refuses the limit."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("GITHUB_", *driver.SCHEDULERS))}
        with open(self.folder / "said", "w+b") as said:
            process = subprocess.Popen([driver.QDIFF, *map(str, arguments), "--quiet", "--max-memory", str(limit)],
                                       cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            said.seek(0)
            self.said = said.read().decode()
        if process.returncode == driver.BAD_INPUT and "--max-memory allows" in self.said:
            return None
        self.assertEqual(process.returncode, MATCH, self.said)
        return usage.ru_maxrss * 1024

    def smallest_accepted(self, arguments):
        """The limit and the peak under it. A refusal says what would be needed, to a tenth."""
        self.assertIsNone(self.peak(arguments, MIB))
        number, unit = re.search(r"this needs about ([\d.]+) ([MG])iB", self.said).groups()
        limit = int((float(number) - 0.05) * MIB * (1024 if unit == "G" else 1))
        while (peak := self.peak(arguments, limit)) is None:
            limit = int(1.01 * limit)
        return limit, peak

    def thin(self, trace, kept):
        """Leaves the tensors whose names end so."""
        for file in trace.rglob("*.safetensors"):
            for name in tensor_names(file):
                if not re.search(f"({kept})$", name):
                    drop_tensor(file, name)

    def test_the_peak_is_what_was_allowed(self):
        self.assertGreater(len(SHAPES), NUMBER - 1)
        lines = []
        for number, (model, batch, tokens, capacity) in enumerate(SHAPES[:NUMBER]):
            steps = [{"phase": "decode" if n == 1 else "prefill", "tokens": n} for n in tokens]
            case = write_case(self.folder / f"{number}.json", model=model, batch=batch, left_padding=[0] * batch,
                              capacity=capacity, steps=steps)
            trace = self.folder / f"trace-{number}"
            diagnose = ["diagnose", "--model", model, "--trace", trace, "--out", f"diagnosed-{number}"]
            shares = []
            for arguments, kept in [(["run", case, "--out", f"out-{number}"], ""),
                                    (["record", "--model", model, "--case", case, "--engine", "cpu", "--trace", trace], ""),
                                    (diagnose, ""), (diagnose, r"embed_tokens|layers\.\d+\.output|lm_head"), (diagnose, "lm_head")]:
                with self.subTest(model=model, command=arguments[0], kept=kept):
                    if kept:
                        self.thin(trace, kept)
                    limit, peak = self.smallest_accepted(arguments)
                    shares.append(f"{peak / MIB:.0f} of {limit / MIB:.0f}")
                    self.assertLessEqual(peak, ALLOWED * limit)
            lines.append(f"| {model.removeprefix('synthetic:')} | {batch} × {' + '.join(map(str, tokens))} | "
                         f"{capacity} | {' | '.join(shares)} |")
        if "QDIFF_MEMORY_SHAPES" in os.environ:
            print("\n| model | rows × tokens | slots | run | record | diagnose | layer outputs | logits alone |\n"
                  "|---|---|---|---|---|---|---|---|\n" + "\n".join(lines))
