"""What a user reads: `run --prompt` and `diagnose` on a model with a vocabulary of its own."""
import json
import os
import shlex
import shutil
import subprocess

import driver
from driver import DIVERGED, MATCH, CommandLineTest, write_case


def bytes_as_characters():
    """bytes_to_unicode() of GPT-2: the character that stands for each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


class Text(CommandLineTest):
    def setUp(self):
        super().setUp()
        self.model = self.folder / "model"
        shutil.copytree(driver.SOURCE / "harness/trace/tests/data/model", self.model)
        for path in [self.model, *self.model.iterdir()]:
            path.chmod(path.stat().st_mode | 0o200)
        self.vocab = json.loads((self.model / "config.json").read_text())["vocab_size"]
        self.write_tokenizer()

    def write_tokenizer(self):
        """A token for each byte that the model has one for, letters first; no merges."""
        wanted = sorted(range(256), key=lambda byte: (not chr(byte).isascii() or not chr(byte).isprintable(), byte))
        characters = bytes_as_characters()
        vocab = {characters[byte]: number for number, byte in enumerate(wanted[:self.vocab])}
        (self.model / "tokenizer.json").write_text(json.dumps({
            "model": {"type": "BPE", "vocab": vocab, "merges": []},
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}}))

    def report(self):
        return json.loads((self.folder / "qdiff-report/report.json").read_text())

    def run_prompt(self, *more):
        return self.qdiff("run", "--model", "model", "--prompt", "It's a\ntext", "--tokens", 5, *more)

    def test_the_text_that_both_write(self):
        self.assertGreaterEqual(self.vocab, 95, "the model must have a token for each printable character")
        result = self.qdiff("run", "--model", "model", "--prompt", "It's a text", "--tokens", 5)
        self.assertEqual(result.returncode, MATCH, result.stdout + result.stderr)
        run, = self.report()["free_runs"]
        self.assertTrue(run["greedy"])
        self.assertEqual(run["expected_tokens"], run["actual_tokens"])
        self.assertEqual(len(run["expected_tokens"]), 5)
        self.assertEqual(run["expected_text"], run["actual_text"])
        self.assertEqual((run["expected_written"], run["actual_written"]), (run["expected_text"],) * 2)
        self.assertIn("the reference's next token at all of 15 positions", result.stdout.decode())
        self.assertIn(f'expected  "{run["expected_text"]}"', result.stdout.decode())

    def test_where_a_bug_makes_the_texts_part(self):
        result = self.qdiff("run", "--model", "model", "--prompt", "It's a text", "--inject", "H05.modulo", "--dtype", "float32")
        self.assertEqual(result.returncode, DIVERGED, result.stdout + result.stderr)
        report = self.report()
        self.assertEqual(report["explanation"]["variant"], "H05.modulo")
        run, = report["free_runs"]
        self.assertEqual(run["expected_tokens"][:-1], run["actual_tokens"][:-1])
        self.assertNotEqual(run["expected_tokens"][-1], run["actual_tokens"][-1])
        self.assertGreaterEqual(run["margin"], 0.0)
        # Up to where they part both write what was fed; the engine then goes on by itself.
        self.assertTrue(run["actual_written"].startswith(run["actual_text"]), run)
        self.assertTrue(run["expected_written"].startswith(run["expected_text"]), run)
        self.assertEqual(len(run["actual_written"]), 12)
        self.assertIn("they part in step", " ".join(result.stdout.decode().split()))
        command = report["first_divergence"]["command"]
        self.assertTrue(command.startswith("qdiff run --prompt "), command)
        again = self.qdiff(*shlex.split(command)[1:], "--quiet")
        self.assertEqual(again.returncode, DIVERGED, again.stderr)

    def test_a_command_repeats_a_prompt_of_several_lines(self):
        """As a shell that knows $'…' reads it."""
        if not shutil.which("bash"):
            self.skipTest("this machine has no bash")
        tokenizer = json.loads((self.model / "tokenizer.json").read_text())
        # The line break gets the number of a character that the prompt does not hold.
        tokenizer["model"]["vocab"][bytes_as_characters()[10]] = tokenizer["model"]["vocab"].pop("~")
        (self.model / "tokenizer.json").write_text(json.dumps(tokenizer))
        result = self.run_prompt("--inject", "H05.modulo")
        self.assertEqual(result.returncode, DIVERGED, result.stdout + result.stderr)
        command = self.report()["first_divergence"]["command"]
        self.assertIn(command, result.stdout.decode())  # the terminal shows it as it is
        quiet = command.replace("qdiff", f"'{driver.QDIFF}'", 1) + " --quiet"
        again = subprocess.run(["bash", "-c", quiet], cwd=self.folder, env=os.environ, check=False, capture_output=True)
        self.assertEqual(again.returncode, DIVERGED, again.stderr)

    def test_what_cannot_be_encoded_is_refused(self):
        self.refused("run", "--model", "model", "--prompt", "It's a \x01text", says="no token for byte 1")
        self.refused("run", "--model", "model", "--prompt", b"\xff\xfe".decode("utf-8", "surrogateescape"), says="UTF-8")
        self.refused("run", "--model", driver.MODEL, "--prompt", "a", says="has no vocabulary of byte-level BPE")
        self.refused("run", "--model", "model", "--prompt", "a" * 600, says="position")
        (self.model / "tokenizer.json").write_text("{")
        self.refused("run", "--model", "model", "--prompt", "a", says="tokenizer.json")

    def test_diagnose_shows_the_words_of_a_trace(self):
        case = write_case(self.folder / "words.json", id="words", steps=[{"phase": "prefill", "tokens": [[3, 4, 5]]},
                                                                         {"phase": "decode", "tokens": [[6]]},
                                                                         {"phase": "decode", "tokens": [[7]]}])
        for inject, status in [([], MATCH), (["--inject", "H05.modulo"], DIVERGED)]:
            done = self.qdiff("record", "--model", "model", "--case", case, "--engine", "cpu", "--trace", "t", *inject)
            self.assertEqual(done.returncode, 0, done.stderr)
            result = self.qdiff("diagnose", "--model", "model", "--trace", "t")
            self.assertEqual(result.returncode, status, result.stdout + result.stderr)
            run, = self.report()["free_runs"]
            self.assertEqual((run["case"], run["greedy"], run["tokens_compared"]), ("t", False, 5))
            self.assertEqual(len(run["expected_text"]), len(run["expected_tokens"]))
            if status == MATCH:
                self.assertEqual(len(run["expected_tokens"]), 3)
                self.assertEqual(run["expected_tokens"], run["actual_tokens"])
