"""What a pipeline accepts: baselines, waivers, kinds of finding, and the exit status for bad input."""
import datetime
import json
import shutil

import driver
from driver import BAD_INPUT, CANNOT_JUDGE, DIVERGED, MATCH, MODEL, CommandLineTest, write_case

TODAY = datetime.datetime.now(datetime.timezone.utc).date()
TRACES = driver.SOURCE / "harness/trace/tests/data/traces"
TRACE_MODEL = driver.SOURCE / "harness/trace/tests/data/model"


def day(days):
    return (TODAY + datetime.timedelta(days=days)).isoformat()


class AcceptanceTest(CommandLineTest):
    def run_case(self, *arguments, out="out"):
        return self.qdiff("run", self.case, "--mode", "lockstep", "--out", out, *arguments)

    def acceptance(self, out="out"):
        return json.loads((self.folder / out / "report.json").read_text())["acceptance"]

    def write_waivers(self, *waivers):
        text = {"format": "qdiff-waivers", "version": 1,
                "waivers": [{"reason": "a test", "link": "https://example.org/7", **waiver} for waiver in waivers]}
        path = self.folder / "waivers.json"
        path.write_text(json.dumps(text))
        return path


class Baseline(AcceptanceTest):
    def test_known_findings_pass_new_ones_fail_and_mended_ones_are_told(self):
        known = self.run_case("--inject", "H05.modulo@0", out="known")
        self.assertEqual(known.returncode, DIVERGED, known.stderr)
        self.assertIsNone(self.acceptance("known"))

        same = self.run_case("--inject", "H05.modulo@0", "--baseline", "known")
        self.assertEqual((same.returncode, same.stderr), (MATCH, b""))
        self.assertTrue(same.stdout.startswith(b"DIVERGED"), same.stdout)
        self.assertIn(b"  accepted  nothing is new\n", same.stdout)
        report = json.loads((self.folder / "out/report.json").read_text())
        self.assertEqual(report["verdict"], "diverged")
        self.assertEqual(set(report["acceptance"]["states"]), {"unchanged"})

        more = self.run_case("--inject", "H05.modulo", "--baseline", "known")
        self.assertEqual(more.returncode, DIVERGED, more.stdout)
        self.assertRegex(more.stdout.decode(), r"  refused   \d+ new findings?: \d+ of H05.modulo\n")
        self.assertEqual(set(self.acceptance()["states"]), {"unchanged", "new"})

        other = self.run_case("--inject", "H05.head_zero@0", "--baseline", "known")
        self.assertEqual(other.returncode, DIVERGED, other.stdout)
        self.assertEqual(set(self.acceptance()["states"]), {"new"})

        mended = self.run_case("--baseline", "known")
        self.assertEqual(mended.returncode, MATCH, mended.stderr)
        self.assertRegex(mended.stdout.decode(), r"fixed since the baseline: \d+ of H05.modulo")
        self.assertFalse(self.acceptance()["not_judged"])

        partly = self.run_case("--baseline", "known", "--layers", "1")
        self.assertEqual(partly.returncode, MATCH, partly.stderr)
        self.assertEqual(self.acceptance()["fixed"], [])
        self.assertIn(b"of the baseline, and not judged in this run", partly.stdout)

    def test_the_pipeline_s_files_agree_with_the_exit_status(self):
        self.run_case("--inject", "H05.modulo@0", out="known")
        environment = {"PATH": "/usr/bin:/bin", "GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(self.folder / "s.md")}
        same = self.qdiff("run", self.case, "--mode", "lockstep", "--inject", "H05.modulo@0", "--baseline", "known", "--out",
                          "out", env=environment)
        self.assertEqual(same.returncode, MATCH, same.stderr)
        self.assertNotIn(b"::error", same.stdout)
        self.assertTrue((self.folder / "s.md").read_text().startswith("### qdiff: diverged, accepted\n"))
        xml = (self.folder / "out/junit.xml").read_text()
        self.assertNotIn("<failure", xml)
        self.assertIn('<testcase classname="qdiff.causes" name="H05.modulo"', xml)

    def test_a_baseline_that_is_none(self):
        self.refused("run", self.case, "--baseline", "nowhere", says="--baseline 'nowhere': there is no report.json in it")
        (self.folder / "qdiff-report").mkdir()
        (self.folder / "qdiff-report/report.json").write_text("{}")
        self.refused("run", self.case, "--baseline", "qdiff-report", says="is where this run's reports go")
        self.refused("run", self.case, "--baseline", "./qdiff-report/", "--out", "out",
                     says='"format" is missing; it must be "qdiff-report"; --baseline takes the folder')
        (self.folder / "qdiff-report/report.json").write_text("[" * 100000)
        self.refused("run", self.case, "--baseline", "qdiff-report", "--out", "out", says="report.json")

    def test_a_baseline_of_something_else(self):
        self.run_case(out="known")
        write_case(self.folder / "other.json", id="other")
        self.refused("run", "other.json", "--baseline", "known", says="the report has none of this run's cases")
        self.qdiff("record", "--model", MODEL, "--case", self.case, "--engine", "cpu", "--trace", "t")
        self.refused("diagnose", "--model", MODEL, "--trace", "t", "--baseline", "known", says="the report is of cases")

    def test_traces_whose_folders_have_other_names(self):
        for name in ["monday", "tuesday"]:
            self.qdiff("record", "--model", MODEL, "--case", self.case, "--engine", "cpu", "--trace", name, "--inject",
                       "H05.modulo@1")
        diagnose = ["diagnose", "--model", MODEL, "--trace"]
        self.assertEqual(self.qdiff(*diagnose, "monday", "--out", "known").returncode, DIVERGED)
        again = self.qdiff(*diagnose, "tuesday", "--baseline", "known")
        self.assertEqual((again.returncode, again.stderr), (MATCH, b""), again.stdout)


class Waivers(AcceptanceTest):
    def test_a_waiver_holds_up_to_its_last_day(self):
        for waiver in [{"variant": "H05.modulo"}, {"tensor": "model.layers.*.self_attn.attn_output", "case": "tiny"}]:
            for expires, status in [(day(30), MATCH), (day(-1), DIVERGED)]:
                path = self.write_waivers({**waiver, "expires": expires})
                result = self.run_case("--inject", "H05.modulo@0", "--waivers", path)
                self.assertEqual(result.returncode, status, result.stdout)
        self.assertRegex(self.acceptance()["reasons"][1], r"\Athe waiver for .* expired on .*, and it still occurs")
        self.assertIn(b"  refused   ", result.stdout)
        self.assertIn('<testcase classname="qdiff.waivers"', (self.folder / "out/junit.xml").read_text())

    def test_a_waiver_for_what_no_longer_occurs(self):
        path = self.write_waivers({"variant": "H05.modulo", "expires": day(30)})
        result = self.run_case("--waivers", path)
        self.assertEqual(result.returncode, DIVERGED, result.stdout)
        self.assertTrue(result.stdout.startswith(b"MATCH"), result.stdout)
        self.assertRegex(result.stdout.decode(),
                         r"  refused   the waiver for H05.modulo is for what no longer occurs; take it out")
        # Only what these inputs would have shown is known to be gone.
        path = self.write_waivers({"tensor": "lm_head", "expires": day(30)})
        result = self.run_case("--waivers", path, "--layers", "0")
        self.assertEqual(result.returncode, MATCH, result.stdout)
        self.assertIn(b"these inputs would not show what the waiver for lm_head is for", result.stdout)

    def test_waivers_that_are_none(self):
        self.refused("run", self.case, "--waivers", "nowhere.json", says="nowhere.json")
        path = self.write_waivers({"variant": "H05.module", "expires": day(30)})
        self.refused("run", self.case, "--waivers", path, says=["waivers[0]", 'did you mean "H05.modulo"?'])
        path.write_text("")
        self.refused("run", self.case, "--waivers", path, says="waivers.json")


class Kinds(AcceptanceTest):
    def undeclared(self):
        """A trace of transformers whose manifest no longer says where it rounds."""
        trace = self.folder / "undeclared"
        shutil.copytree(TRACES / "transformers-eager-bfloat16", trace)
        manifest = trace / "manifest.json"
        manifest.chmod(0o644)
        trace.chmod(0o755)
        document = json.loads(manifest.read_text())
        document["compute"]["points"] = {}
        manifest.write_text(json.dumps(document))
        return trace

    def test_kinds_that_fail(self):
        command = ["diagnose", "--model", TRACE_MODEL, "--trace", self.undeclared(), "--out", "out"]
        for kinds, status, state in [("logic", MATCH, "not_counted"), ("precision", DIVERGED, "new"),
                                     ("logic,precision", DIVERGED, "new"), ("any", DIVERGED, "new")]:
            result = self.qdiff(*command, "--fail-on", kinds)
            self.assertEqual(result.returncode, status, (kinds, result.stdout))
            self.assertEqual(set(self.acceptance()["states"]), {state})
        self.refused(*command, "--fail-on", "logics", says=["--fail-on 'logics'", 'did you mean "logic"?'])
        result = self.run_case("--inject", "H05.modulo@0", "--fail-on", "precision")
        self.assertEqual(result.returncode, MATCH, result.stdout)


class ExitStatuses(AcceptanceTest):
    """Each of the three options with each exit status that it may end with."""

    def setUp(self):
        super().setUp()
        self.clean = self.run_case(out="clean")
        self.wrong = self.run_case("--inject", "H05.modulo@0", out="wrong")
        self.assertEqual((self.clean.returncode, self.wrong.returncode), (MATCH, DIVERGED))
        # A model of as many key/value heads as query heads has no place for the fault: nothing is known of it then.
        self.in_vain = ["--inject", "H05.modulo", "--model", "synthetic:toy-mha"]
        self.run_case("--model", "synthetic:toy-mha", out="clean-mha")

    def ends(self, status, *arguments):
        result = self.run_case(*arguments)
        self.assertEqual((result.returncode, result.stderr), (status, b""), (arguments, result.stdout))
        self.assertEqual(self.acceptance()["verdict"],
                         {MATCH: "accepted", DIVERGED: "refused", CANNOT_JUDGE: "undecided"}[status])
        says = {MATCH: b"", DIVERGED: b"  refused   ", CANNOT_JUDGE: b"  undecided "}[status]
        self.assertIn(says, result.stdout)

    def test_of_a_baseline(self):
        fault = ["--inject", "H05.modulo@0"]
        self.ends(MATCH, "--baseline", "clean")
        self.ends(MATCH, *fault, "--baseline", "wrong")
        self.ends(DIVERGED, *fault, "--baseline", "clean")
        self.ends(CANNOT_JUDGE, *self.in_vain, "--baseline", "clean-mha")
        self.refused("run", self.case, "--baseline", "nowhere")
        self.refused("run", self.case, "--baseline", "nowhere", "--bad-input-status", "125", status=CANNOT_JUDGE)

    def test_of_waivers(self):
        fault, holds = ["--inject", "H05.modulo@0"], {"variant": "H05.modulo", "expires": day(30)}
        self.ends(MATCH, "--waivers", self.write_waivers())
        self.ends(DIVERGED, *fault, "--waivers", self.write_waivers())
        self.ends(MATCH, *fault, "--waivers", self.write_waivers(holds))
        self.ends(DIVERGED, "--inject", "H05.head_zero@0", "--waivers", self.write_waivers(holds))
        self.ends(DIVERGED, *fault, "--waivers", self.write_waivers({**holds, "expires": day(-1)}))
        self.ends(CANNOT_JUDGE, *self.in_vain, "--waivers", self.write_waivers())
        self.refused("run", self.case, "--waivers", "nowhere.json")
        self.refused("run", self.case, "--waivers", "nowhere.json", "--bad-input-status", "125", status=CANNOT_JUDGE)

    def test_of_kinds_that_fail(self):
        fault = ["--inject", "H05.modulo@0"]
        self.ends(MATCH, "--fail-on", "logic")
        self.ends(MATCH, *fault, "--fail-on", "precision")
        self.ends(DIVERGED, *fault, "--fail-on", "logic")
        self.ends(CANNOT_JUDGE, *self.in_vain, "--fail-on", "logic")
        self.refused("run", self.case, "--fail-on", "magic")
        self.refused("run", self.case, "--fail-on", "magic", "--bad-input-status", "125", status=CANNOT_JUDGE)

    def test_of_a_trace_without_anything_to_compare(self):
        self.qdiff("record", "--model", MODEL, "--case", self.case, "--engine", "cpu", "--trace", "t")
        diagnose = ["diagnose", "--model", MODEL, "--trace", "t", "--out"]
        self.assertEqual(self.qdiff(*diagnose, "known").returncode, MATCH)
        for step in sorted((self.folder / "t").glob("step-*.safetensors")):
            for name in driver.tensor_names(step):
                if name != "lm_head":
                    driver.drop_tensor(step, name)
        for accepts in [["--baseline", "known"], ["--fail-on", "logic"], ["--waivers", self.write_waivers()]]:
            result = self.qdiff(*diagnose, "again", "--layers", "1", *accepts)
            self.assertEqual(result.returncode, CANNOT_JUDGE, result.stdout)
            self.assertEqual(self.acceptance("again")["verdict"], "undecided")


class BadInput(AcceptanceTest):
    def test_git_bisect_skips_what_cannot_be_told(self):
        for command in [["diagnose", "--model", MODEL, "--trace", "nowhere"], ["run", "nowhere.json"], ["run", "--oops"],
                        ["compare", "a", "b"], ["reconcile", "--model", MODEL, "a", "b"],
                        ["record", "--model", MODEL, "--case", "nowhere.json", "--engine", "cpu", "--trace", "t"]]:
            self.refused(*command)
            self.refused(*command, "--bad-input-status", "125", status=CANNOT_JUDGE)
            self.refused(*command, "--bad-input-status=77", status=77)
        self.refused("run", self.case, "--bad-input-status", "1", says="from 2 to 255", status=BAD_INPUT)
        result = self.run_case("--inject", "H05.modulo@0", "--bad-input-status", "125")
        self.assertEqual(result.returncode, DIVERGED, result.stderr)
