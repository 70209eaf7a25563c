"""Completion scripts and the manual page, as shells and man read them."""
import re
import shutil
import subprocess

import driver
from driver import MATCH, CommandLineTest

ASK = """
source ./qdiff.bash
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_qdiff 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""


class Completion(CommandLineTest):
    def script(self, shell):
        result = self.qdiff("completion", shell)
        self.assertEqual((result.returncode, result.stderr), (MATCH, b""))
        path = self.folder / f"qdiff.{shell}"
        path.write_bytes(result.stdout)
        return path

    def offered(self, *words):
        """What bash offers for the last of the words of a line."""
        result = subprocess.run(["bash", "-c", ASK, "bash", "qdiff", *words], cwd=self.folder, capture_output=True, text=True,
                                check=True)
        return set(result.stdout.split())

    def test_bash_offers_what_help_lists(self):
        self.script("bash")
        listed = re.findall(r"(?m)^  ([a-z]+) ", self.qdiff("--help").stdout.decode().split("Subcommands:")[1].split("\n\n")[0])
        self.assertIn("diagnose", listed)
        self.assertEqual(self.offered(""), {*listed, "--help", "--version"})
        self.assertEqual(self.offered("diag"), {"diagnose"})
        for command in listed:
            text = self.qdiff(command, "--help").stdout.decode()
            options = set(re.findall(r"(?m)^  (?:-h,)?(--[a-z-]+)", text))
            self.assertEqual(self.offered(command, "--"), options, command)

    def test_bash_offers_values(self):
        self.script("bash")
        self.assertEqual(self.offered("run", "--backend", ""), {"cpu", "cuda", "reference"})
        self.assertEqual(self.offered("run", "--dtype", "b"), {"bfloat16"})
        self.assertEqual(self.offered("run", "--dtype", "=", "b"), {"bfloat16"})  # as readline cuts --dtype=b
        self.assertEqual(self.offered("run", "--dtype", "="), {"float32", "bfloat16", "float16"})
        self.assertEqual(self.offered("run", "--inject", "H05.mod"), {"H05.modulo"})
        self.assertEqual(self.offered("run", "H05"), {"H05-gqa"})
        self.assertEqual(self.offered("run", "tin"), {"tiny.json"})
        (self.folder / "traces").mkdir()
        self.assertEqual(self.offered("diagnose", "--trace", "t"), {"traces"})  # a folder, and tiny.json is none

    def test_other_shells(self):
        for shell, check in [("bash", ["bash", "-n"]), ("zsh", ["zsh", "-n"]), ("fish", ["fish", "--no-execute"])]:
            path = self.script(shell)
            text = path.read_text()
            for word in ["diagnose", "bad-input-status", "H05.modulo", "bfloat16", "H05-gqa"]:
                self.assertIn(word, text)
            if shutil.which(check[0]):
                done = subprocess.run([*check, path], capture_output=True, text=True, check=False)
                self.assertEqual((done.returncode, done.stderr), (0, ""), shell)
        self.refused("completion", "zhs", says=["SHELL 'zhs'", 'did you mean "zsh"?'])
        self.refused("completion", says="SHELL")


class ManualPage(CommandLineTest):
    def test_it_says_what_help_says(self):
        page = self.qdiff("man")
        self.assertEqual((page.returncode, page.stderr), (MATCH, b""))
        if not shutil.which("groff"):
            self.skipTest("there is no groff")
        done = subprocess.run(["groff", "-man", "-Tascii", "-ww", "-P-c", "-rLL=200n"], input=page.stdout, capture_output=True,
                              check=True)
        self.assertEqual(done.stderr, b"")
        text = re.sub(r".\x08", "", done.stdout.decode())
        for command in ["run", "record", "diagnose", "inspect", "compare", "reconcile", "selftest", "completion", "man"]:
            self.assertRegex(text, rf"(?m)^   {command}$")
            for option in re.findall(r"--[a-z-]+", self.qdiff(command, "--help").stdout.decode()):
                self.assertIn(option, text)
        self.assertIn("qdiff run H05-gqa --inject H05.modulo\n", text)
        self.assertIn("125  cannot judge here", text)
        self.assertIn(driver.subprocess.run([driver.QDIFF, "--version"], capture_output=True, text=True,
                                            check=True).stdout.strip(), text)
