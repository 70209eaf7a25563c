"""`qdiff bisect` over a small repository whose engine is a script around `qdiff record --inject`."""
import os
import re
import signal
import subprocess
import time

import driver
from driver import CANNOT_JUDGE, DIVERGED, MATCH, CommandLineTest

# What each commit's engine computes with; "-": it cannot be built.
RIGHT, HEADS, BIAS, BROKEN = "", "H05.modulo", "H06.missing_q", "-"
BUILD = "test -s engine.sh && ! grep -q broken engine.sh"
RECORD = 'sh engine.sh "$QDIFF_TRACE"'


class Bisect(CommandLineTest):
    def git(self, *arguments):
        environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
        return subprocess.run(["git", "-C", self.engine, *arguments], env=environment, check=True, capture_output=True,
                              text=True).stdout.strip()

    def commits(self, *bugs):
        """A repository with a commit for each of the engine's states; their names."""
        self.engine = self.folder / "engine's"
        self.engine.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "user.name", "A. U. Thor")
        self.git("config", "user.email", "author@example.org")
        names = []
        for number, bug in enumerate(bugs):
            inject = f"--inject {bug}" if bug not in (RIGHT, BROKEN) else ""
            self.write_engine("broken" if bug == BROKEN else "", inject, number)
            self.git("add", "engine.sh")
            self.git("commit", "--quiet", "--message", f"Change number {number}")
            names.append(self.git("rev-parse", "HEAD"))
        return names

    def write_engine(self, word, inject, number):
        (self.engine / "engine.sh").write_text(
            f"# {number} {word}\nexec '{driver.QDIFF}' record --quiet --model {driver.MODEL} --case '{self.case}' --engine cpu "
            f"--trace \"$1\" {inject}\n")

    def bisect(self, good, bad, *options, status=DIVERGED, **more):
        result = self.qdiff("bisect", "--good", good, "--bad", bad, "--build", BUILD, "--record", RECORD, "--model", driver.MODEL,
                            "--repository", self.engine, *options, **more)
        self.assertEqual(result.returncode, status, result.stdout + result.stderr)
        # The checkout is as it was.
        self.assertEqual(self.git("symbolic-ref", "--short", "HEAD"), "main")
        self.assertEqual(self.git("status", "--porcelain"), "")
        self.assertFalse((self.engine / ".git/BISECT_START").exists())
        return result.stdout.decode(), result.stderr.decode()

    def test_the_first_bad_commit_its_tensor_and_its_cause(self):
        commits = self.commits(RIGHT, RIGHT, BROKEN, RIGHT, RIGHT, HEADS, HEADS, HEADS, HEADS)
        output, error = self.bisect(commits[0], "main")
        self.assertRegex(output, r"\AFIRST BAD  [0-9a-f]+ Change number 5\n")
        self.assertIn(f"  commit    {commits[5]}\n  author    A. U. Thor, ", output)
        self.assertIn("  first at  model.layers.0.self_attn.attn_output\n  where     step 0 (prefill)\n"
                      "  cause     H05.modulo (confirmed)\n", output)
        self.assertTrue((self.folder / "qdiff-bisect" / commits[5] / "report.html").exists())
        lines = error.splitlines()
        self.assertRegex(lines[0], r"\Aqdiff: [0-9a-f]+ Change number 0: right\Z")
        self.assertRegex(lines[1], r"\Aqdiff: [0-9a-f]+ Change number 8: wrong\Z")
        self.assertIn(f"  judged    {len(lines)} commits", output)
        self.assertLess(len(lines), 8)

    def test_what_was_wrong_before_is_known(self):
        commits = self.commits(BIAS, BIAS, HEADS, HEADS)
        output, error = self.bisect(commits[0], commits[3])
        self.assertIn("qdiff: the good commit diverges too; what is wrong there counts as known\n", error)
        self.assertIn(f"  commit    {commits[2]}\n", output)
        self.assertIn("  cause     H05.modulo (confirmed)\n", output)
        output, _ = self.bisect(commits[0], commits[1], "--quiet", status=MATCH)
        self.assertEqual(output, "")

    def test_commits_that_cannot_be_told(self):
        commits = self.commits(RIGHT, BROKEN, BROKEN, HEADS)
        output, error = self.bisect(commits[0], commits[3], "--quiet", status=CANNOT_JUDGE)
        self.assertEqual(error, "")
        self.assertEqual(re.findall(r"Change number (\d)", output), ["3", "2", "1"])
        self.assertTrue(output.startswith("UNDECIDED  "), output)
        _, error = self.bisect(commits[1], commits[3], status=CANNOT_JUDGE)
        self.assertRegex(error, r"(?m)^qdiff: --good [0-9a-f]+ Change number 1 cannot be built, recorded or judged; .*/log says why$")
        self.assertIn("Change number 1: cannot be built; ", error)

    def test_an_interrupt_leaves_the_checkout_as_it_was(self):
        commits = self.commits(RIGHT, HEADS)
        search = subprocess.Popen([driver.QDIFF, "bisect", "--good", commits[0], "--bad", commits[1], "--build", "touch started; sleep 60",
                                   "--record", RECORD, "--model", driver.MODEL, "--repository", self.engine],
                                  cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        started = self.engine / "started"
        deadline = time.monotonic() + 60
        while not started.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        self.assertTrue(started.exists())
        os.killpg(search.pid, signal.SIGINT)  # as a terminal does
        output, error = search.communicate(timeout=60)
        self.assertEqual((search.returncode, output), (CANNOT_JUDGE, b""), error)
        self.assertIn(b"the search was interrupted; the checkout is as it was", error)
        self.assertEqual(self.git("symbolic-ref", "--short", "HEAD"), "main")

    def test_nothing_is_wrong(self):
        commits = self.commits(RIGHT, RIGHT)
        output, _ = self.bisect(commits[0], commits[1], status=MATCH)
        self.assertRegex(output, r"\AMATCH  [0-9a-f]+ Change number 1: nothing diverges, so there is no bad commit\n\Z")

    def test_refused(self):
        commits = self.commits(RIGHT, HEADS)
        usual = ["bisect", "--record", RECORD, "--model", driver.MODEL]
        ends = ["--good", commits[0], "--bad", commits[1]]
        self.refused(*usual, says="--good")
        self.refused(*usual, *ends, says="git says")  # the test's folder is no checkout
        here = ["--repository", self.engine]
        self.refused(*usual, *here, "--good", "nowhere", "--bad", "main", says="--good 'nowhere': there is no such commit")
        self.refused(*usual, *here, "--good", commits[1], "--bad", commits[0], says="is no ancestor of --bad")
        self.refused(*usual, *here, *ends, "--record", "", says="--record")
        self.refused("bisect", "--record", RECORD, "--model", "synthetic:toy-d46", *here, *ends, says="toy-d64")
        (self.folder / "out/trace").mkdir(parents=True)
        self.refused(*usual, *here, *ends, "--out", "out", says="would be replaced")
        self.git("bisect", "start")
        self.refused(*usual, *here, *ends, says="a bisection is under way")
        self.git("bisect", "reset")
        self.write_engine("changed", "", 9)
        self.refused(*usual, *here, *ends, "--bad-input-status", "9", status=9, says="tracked files are changed ( M engine.sh")
        self.assertIn("changed", (self.engine / "engine.sh").read_text())
