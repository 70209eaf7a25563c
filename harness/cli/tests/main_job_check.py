"""`qdiff run` from arguments to reports."""
import json
import os
import pathlib
import re

import driver
from driver import BAD_INPUT, CANNOT_JUDGE, DIVERGED, MATCH, CommandLineTest, write_case

SCHEMAS = driver.SOURCE / "harness/report/schema"


def without_times(folder):
    """The reports' bytes, the fields that hold times taken out."""
    reports = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            text = path.read_text()
            reports[str(path.relative_to(folder))] = re.sub(r'("seconds": ?|time=")[0-9.e+-]+', r"\1", text)
    return reports


class MainJob(CommandLineTest):
    def report(self, folder="qdiff-report"):
        return json.loads((self.folder / folder / "report.json").read_text())

    def test_a_clean_engine_matches_and_the_report_is_the_same_again(self):
        for out in ["a", "b"]:
            result = self.qdiff("run", self.case, "--out", out)
            self.assertEqual((result.returncode, result.stderr), (MATCH, b""))
            self.assertNotIn(b"\x1b", result.stdout)
            self.assertNotIn(b"\r", result.stdout)
        first, second = without_times(self.folder / "a"), without_times(self.folder / "b")
        self.assertEqual(sorted(first), sorted(["report.json", "report.html", "tensors.jsonl", "junit.xml"] +
                                               [f"hypotheses/H{n:02}.json" for n in range(1, 11)]))
        for name in first:  # the command names the folder, which differs
            self.assertEqual(first[name].replace("--out a", "--out b"), second[name], name)
        report = self.report("a")
        self.assertEqual(report["verdict"], "match")
        self.assertIsNone(report["first_divergence"])
        self.assertIsNone(report["explanation"])
        self.assertGreater(report["coverage"]["tensors_compared"], 100)

    def test_a_planted_head_map_is_found_named_and_repeated(self):
        result = self.qdiff("run", self.case, "--inject", "H05.modulo")
        self.assertEqual((result.returncode, result.stderr), (DIVERGED, b""))
        report = self.report()
        self.assertEqual(report["verdict"], "diverged")
        divergence = report["first_divergence"]
        self.assertEqual((divergence["layer"], divergence["step"]), (0, 0))
        self.assertEqual(divergence["tensor"], "model.layers.0.self_attn.attn_output")
        self.assertEqual(divergence["kind"], "logic")
        self.assertEqual(report["explanation"]["hypothesis"], "H05")
        self.assertEqual(report["explanation"]["variant"], "H05.modulo")
        self.assertEqual(report["explanation"]["verdict"], "confirmed")
        verdicts = {h["id"]: h["verdict"] for h in report["hypotheses"]}
        self.assertEqual([h for h, verdict in verdicts.items() if verdict == "confirmed"], ["H05"])
        own = json.loads((self.folder / "qdiff-report/hypotheses/H05.json").read_text())
        self.assertEqual((own["id"], own["verdict"], own["variant"]), ("H05", "confirmed", "H05.modulo"))

        words = divergence["command"].split()
        self.assertEqual(words[:2], ["qdiff", "run"])
        again = self.qdiff(*words[1:], "--out", "again")
        self.assertEqual(again.returncode, DIVERGED, again.stderr)
        self.assertEqual(self.report("again")["first_divergence"]["tensor"], divergence["tensor"])
        self.assertEqual(self.report("again")["first_divergence"]["actual"], divergence["actual"])

    def test_one_layer_one_dtype_one_mode(self):
        result = self.qdiff("run", self.case, "--layers", "1", "--steps", "1", "--dtype", "float32", "--mode",
                            "lockstep", "--inject", "H05.head_zero@1", "--out", "deep/er", "--quiet")
        self.assertEqual((result.returncode, result.stdout, result.stderr), (DIVERGED, b"", b""))
        for finding in self.report("deep/er")["findings"]:
            self.assertEqual((finding["layer"], finding["step"]), (1, 1))

    def test_a_fault_that_never_runs_is_no_match(self):
        result = self.qdiff("run", self.case, "--model", "synthetic:toy-mha", "--inject", "H05.modulo")
        self.assertEqual(result.returncode, CANNOT_JUDGE, result.stderr)
        self.assertEqual(self.report()["verdict"], "inconclusive")

    def test_a_checkpoint_of_transformers(self):
        model = self.copy_checkpoint()
        self.assertEqual(self.qdiff("run", self.case, "--model", model).returncode, MATCH)
        result = self.qdiff("run", self.case, "--model", model, "--inject", "H05.head_zero")
        self.assertEqual(result.returncode, DIVERGED, result.stderr)

    def test_cases_with_models_of_their_own_share_a_report(self):
        write_case(self.folder / "other.json", id="other", model="synthetic:toy-d128,layers=1", seed=2,
                   steps=[{"phase": "prefill", "tokens": 3}])
        result = self.qdiff("run", self.case, "other.json")
        self.assertEqual(result.returncode, MATCH, result.stderr)
        self.assertEqual([c["id"] for c in self.report()["cases"]], ["tiny", "other"])
        result = self.qdiff("run", self.case, "other.json", "--steps", "1")
        self.assertEqual(result.returncode, MATCH, result.stderr)
        self.assertEqual(result.stderr, b"qdiff: --steps leaves out: other\n")
        self.assertEqual([c["id"] for c in self.report()["cases"]], ["tiny"])

    def test_a_fault_of_a_layer_that_some_models_lack(self):
        """Models without the layer run without the fault, which is said; a layer that none has is refused at once."""
        write_case(self.folder / "other.json", id="other", model="synthetic:toy-d128,layers=1", seed=2,
                   steps=[{"phase": "prefill", "tokens": 3}])
        for cases in [(self.case, "other.json"), ("other.json", self.case)]:
            result = self.qdiff("run", *cases, "--inject", "H05.modulo@1", "--mode", "lockstep")
            self.assertEqual(result.returncode, DIVERGED, result.stderr)
            self.assertEqual(result.stderr, b"qdiff: fault H05.modulo: there is no layer 1; the model's layers are 0 to 0; "
                                            b"so these run without it: other\n")
            report = self.report()
            self.assertEqual(report["injected"]["fault"], "H05.modulo@1")
            self.assertEqual({finding["case"] for finding in report["findings"]}, {"tiny"})
            self.assertEqual(len(report["cases"]), 2)
        self.refused("run", self.case, "other.json", "--inject", "H05.modulo@2", says="layers are 0 to 1")

    def test_the_verdict_is_printed_though_the_reports_cannot_be_written(self):
        result = self.qdiff("run", self.case, "--out", "out", "--mode", "lockstep", preexec_fn=driver.small_files_alone)
        self.assertEqual(result.returncode, BAD_INPUT)
        self.assertTrue(result.stdout.startswith(b"MATCH"), result.stdout)
        self.assertIn(b"cannot be written", result.stderr)

    def test_files_of_others_are_found_before_the_work(self):
        (self.folder / "out").mkdir()
        (self.folder / "out/report.json").write_text("mine")
        self.refused("run", self.case, "--out", "out", says="not written by qdiff")
        self.assertEqual((self.folder / "out/report.json").read_text(), "mine")

    def test_padding_does_not_show_a_finite_score(self):
        """Pad slots hold whatever memory held, and weigh 0 behind a score of -65504."""
        padded = write_case(self.folder / "padded.json", batch=2, left_padding=[2, 0])
        for mode in ["free", "lockstep"]:
            result = self.qdiff("run", padded, "--mode", mode)
            self.assertEqual(result.returncode, MATCH, result.stderr)
            masking = json.loads((self.folder / "qdiff-report/hypotheses/H10.json").read_text())
            self.assertNotIn("H10.finite_fp16", masking["shown_by"])
            self.assertIn("H10.pad_visible", masking["shown_by"])

    def test_reports_are_valid(self):
        try:
            import jsonschema
        except ImportError:
            self.skipTest("Python has no module jsonschema")
        schemas = {name: json.loads((SCHEMAS / f"{name}.schema.json").read_text()) for name in ["report", "hypothesis"]}
        for name, arguments in [("clean", []), ("planted", ["--inject", "H05.modulo"])]:
            self.qdiff("run", self.case, "--out", name, *arguments)
            jsonschema.validate(self.report(name), schemas["report"])
            for path in (self.folder / name / "hypotheses").iterdir():
                jsonschema.validate(json.loads(path.read_text()), schemas["hypothesis"])

    def test_github_actions_are_told(self):
        summary = self.folder / "summary.md"
        summary.write_text("before\n")
        environment = {**os.environ, "GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}
        run = ["run", self.case, "--layers", "0", "--mode", "lockstep"]
        clean = self.qdiff(*run, env=environment)
        self.assertEqual(clean.returncode, MATCH, clean.stderr)
        self.assertNotIn(b"\n::", clean.stdout)
        page = summary.read_text()
        self.assertTrue(page.startswith("before\n### qdiff: match\n"), page)
        planted = self.qdiff(*run, "--inject", "H05.modulo", env=environment)
        self.assertEqual(planted.returncode, DIVERGED, planted.stderr)
        commands = [line for line in planted.stdout.decode().splitlines() if line.lstrip().startswith("::")]
        self.assertEqual(len(commands), 1, commands)
        self.assertTrue(commands[0].startswith("::error title=qdiff%3A H05.modulo::model.layers.0.self_attn."), commands)
        self.assertIn("%0Arepeat: qdiff run ", commands[0])
        added = summary.read_text()[len(page):]
        self.assertTrue(added.startswith("### qdiff: diverged\n"), added)
        self.assertIn("| H05 GQA head mapping | confirmed&#58; H05.modulo |", added)
        for options, missing in [({"GITHUB_ACTIONS": "false"}, True), ({"GITHUB_STEP_SUMMARY": ""}, False)]:
            before = summary.read_text()
            result = self.qdiff(*run, "--inject", "H05.modulo", env={**environment, **options})
            self.assertEqual((result.returncode, result.stderr), (DIVERGED, b""))
            self.assertEqual(b"\n::error" not in result.stdout, missing)
            self.assertEqual(summary.read_text(), before)
        quiet = self.qdiff(*run, "--quiet", env={**environment, "GITHUB_STEP_SUMMARY": "no/such/folder"})
        self.assertEqual((quiet.returncode, quiet.stdout), (MATCH, b""))
        self.assertIn(b"qdiff: warning: GITHUB_STEP_SUMMARY 'no/such/folder' cannot be written", quiet.stderr)

    def test_gemms_are_printed_first(self):
        result = self.qdiff("run", self.case, "--layers", "0", "--mode", "lockstep", "--print-gemms", "--quiet")
        self.assertEqual((result.returncode, result.stderr), (MATCH, b""))
        text = result.stdout.decode()
        self.assertTrue(text.startswith("GEMMs of the cpu engine on " + driver.MODEL), text)
        for name, n, k, bias in [("self_attn.q_proj", 384, 192, "384"), ("self_attn.k_proj", 192, 192, "192"),
                                 ("self_attn.o_proj", 192, 384, "none"), ("lm_head", 1000, 192, "none")]:
            self.assertRegex(text, rf"(?m)^. {re.escape(name)} +\d+ +{n} +{k} .* {bias}$")
        # The engine widens 328 activations into rows of whole vectors.
        self.assertRegex(text, r"(?m)^! mlp.down_proj .* x rows are 336 apart and 328 long$")
        self.assertIn("eps 1e-06, theta 1000000", text)
        shown = self.qdiff("run", self.case, "--layers", "0", "--mode", "lockstep", "--print-gemms").stdout.decode()
        self.assertTrue(shown.startswith(text + "MATCH"), shown)
        result = self.qdiff("record", "--model", driver.MODEL, "--case", self.case, "--engine", "reference", "--trace",
                            "t", "--print-gemms")
        self.assertEqual(result.returncode, MATCH, result.stderr)
        self.assertIn(b"does not tell its GEMMs", result.stdout)

    def test_color_is_a_choice(self):
        always = self.qdiff("run", self.case, "--color", "always", "--layers", "0", "--mode", "lockstep")
        self.assertIn(b"\x1b[", always.stdout)
        never = self.qdiff("run", self.case, "--color", "never", "--layers", "0", "--mode", "lockstep")
        self.assertNotIn(b"\x1b", never.stdout)

    def test_it_starts_from_any_folder(self):
        os.symlink(driver.QDIFF, self.folder / "linked")
        (self.folder / "else").mkdir()
        environment = {"PATH": "/usr/bin:/bin"}
        result = self.qdiff("run", "../tiny.json", "--layers", "0", "--mode", "lockstep", cwd=self.folder / "else",
                            env=environment)
        self.assertEqual(result.returncode, MATCH, result.stderr)
        self.assertTrue(pathlib.Path(self.folder / "else/qdiff-report/report.json").exists())
