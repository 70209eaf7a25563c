"""docs/reading-a-report.md: its commands run, and qdiff prints what the page says that it prints."""
import json
import os
import re
import shutil
import subprocess

import driver
from driver import DIVERGED, SOURCE, CommandLineTest, drop_tensor, tensor_names, write_case

PAGE = SOURCE / "docs/reading-a-report.md"
DATA = "harness/trace/tests/data"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PATTERN_ROW = re.compile(r"^\| `(\w+)` \| `([^`]+)` \|", re.MULTILINE)
GAP = "…"


def comparable(text):
    """The lines of an output, without what another machine or a later build may change: seconds and measured sizes."""
    lines = []
    for line in text.splitlines():
        line = re.sub(r", [\d.e-]+ s$", ", # s", line.rstrip())
        if re.match(r"  (error|closest|free runs|nearest)  ?", line):
            line = re.sub(r"(?<![\w.=])\d[\d.]*(e[+-]\d+)?(?= (of|times) )", "#", line)
        lines.append(line)
    return lines


def parts(text):
    """The runs of lines that a quotation gives, between its gaps."""
    found = [[]]
    for line in comparable(text):
        if line == GAP:
            found.append([])
        elif line or found[-1]:
            found[-1].append(line)
    for part in found:
        while part and not part[-1]:
            part.pop()
    return [part for part in found if part]


class ReadingAReport(CommandLineTest):
    def setUp(self):
        super().setUp()
        shutil.copytree(SOURCE / DATA, self.folder / DATA)  # the page changes a copy of a trace
        for path in self.folder.rglob("*"):
            path.chmod(path.stat().st_mode | 0o200)
        (self.folder / "bin").mkdir()
        (self.folder / "bin/qdiff").symlink_to(driver.QDIFF)

    def make_logits(self):
        """The trace of the page's last example."""
        case = write_case(self.folder / "prompt.json", model="synthetic:toy-d64", capacity=64, steps=[
            {"phase": "prefill", "tokens": 40}, {"phase": "decode", "tokens": 1}, {"phase": "decode", "tokens": 1}])
        result = self.qdiff("record", "--model", "synthetic:toy-d64", "--case", case, "--engine", "cpu", "--inject",
                            "H03.theta", "--trace", "logits")
        self.assertEqual(result.returncode, 0, result.stderr)
        for path in (self.folder / "logits").glob("*.safetensors"):
            for name in tensor_names(path):
                if name != "lm_head":
                    drop_tensor(path, name)

    def run_block(self, commands):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GITHUB_")}
        environment["PATH"] = f"{self.folder / 'bin'}:{environment['PATH']}"
        result = subprocess.run(["bash", "-c", commands], cwd=self.folder, env=environment, check=False,
                                       stdin=subprocess.DEVNULL, capture_output=True, timeout=300)
        self.assertEqual(result.stderr, b"", commands)
        return result

    def check_quotation(self, quoted, printed):
        lines, at = comparable(printed), 0
        for part in parts(quoted):
            places = [i for i in range(at, len(lines)) if lines[i:i + len(part)] == part]
            self.assertTrue(places, "the page quotes\n" + "\n".join(part) + "\nand qdiff prints\n" + printed)
            at = places[0] + len(part)

    def test_what_it_quotes_is_what_qdiff_prints(self):
        self.make_logits()
        printed, quotations = None, 0
        for language, text in BLOCK.findall(PAGE.read_text()):
            if language == "sh":
                printed = self.run_block(text)
                continue
            self.assertEqual(language, "", text)
            quotations += 1
            self.check_quotation(text, printed.stdout.decode())
            report = json.loads((self.folder / "qdiff-report/report.json").read_text())
            outcome = (report["acceptance"] or report)["verdict"]
            self.assertEqual(printed.returncode, {"match": 0, "accepted": 0, "diverged": 1}[outcome], text)
        self.assertEqual(quotations, 7)

    def test_patterns_of_its_table(self):
        rows = PATTERN_ROW.findall(PAGE.read_text())
        self.assertGreater(len(rows), 3)
        for name, pattern in rows:
            result = self.qdiff("diagnose", "--model", f"{DATA}/model", "--trace", f"{DATA}/unlisted/{name}", "--quiet")
            self.assertEqual(result.returncode, DIVERGED, name)
            explanation = json.loads((self.folder / "qdiff-report/report.json").read_text())["explanation"]
            self.assertIn(pattern, explanation["pattern"], name)
            self.assertIsNone(explanation["variant"], name)

    def test_a_quotation_that_is_not_true_fails(self):
        with self.assertRaises(AssertionError):
            self.check_quotation("a\n…\nc", "a\nb\nd")
        with self.assertRaises(AssertionError):
            self.check_quotation("c\n…\na", "a\nb\nc")
        self.check_quotation("…\n  error  1.5 times its bound\n…\nc", "a\n  error  1.7 times its bound\nb\nc")
