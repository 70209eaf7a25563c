"""`qdiff diagnose` on bugs that are in no catalogue: each is found where it is, and none is taken for a bug that it is
not. scripts/make_trace_data.py records them; scripts/engines/unlisted.py holds their patches, unlisted_faults.json says
what each is and what a report should say of it."""
import json

from driver import DIVERGED, SOURCE, CommandLineTest

RECORDED = SOURCE / "harness/trace/tests/data"
FAULTS = json.loads((SOURCE / "scripts/engines/unlisted_faults.json").read_text())["faults"]



class Unlisted(CommandLineTest):
    def test_each_is_recorded(self):
        self.assertEqual(sorted(path.name for path in (RECORDED / "unlisted").iterdir()),
                         sorted(fault["name"] for fault in FAULTS))
        self.assertGreaterEqual(len(FAULTS), 10)

    def test_each_is_located_described_and_not_misnamed(self):
        for fault in FAULTS:
            with self.subTest(fault["name"]):
                result = self.qdiff("diagnose", "--model", RECORDED / "model", "--trace",
                                    RECORDED / "unlisted" / fault["name"])
                self.assertEqual((result.returncode, result.stderr), (DIVERGED, b""), result.stdout.decode())
                report = json.loads((self.folder / "qdiff-report/report.json").read_text())
                self.assertEqual(report["verdict"], "diverged")
                self.check_place(fault, report)
                self.assertEqual(self.missing_words(fault, report), "", result.stdout.decode())
                self.assertEqual(self.false_causes(fault, report), "", result.stdout.decode())
                self.check_solved(fault, report)
                first, why = report["first_divergence"], report["explanation"]
                print(f"{fault['name']}: {first['tensor']} in {first['phase']}, {why['pattern']}; "
                      f"{why['hypothesis'] or 'unexplained'}")

    def test_a_span_alone_confirms_no_searched_value(self):
        """Layer 1 has recorded no inner tensor, and a scale of the scores looks like the normalised queries and keys."""
        result = self.qdiff("diagnose", "--model", RECORDED / "model", "--trace",
                            RECORDED / "unlisted" / "query_key_norm", "--layers", "1")
        self.assertEqual(result.returncode, DIVERGED)
        report = json.loads((self.folder / "qdiff-report/report.json").read_text())
        why = report["explanation"]
        self.assertEqual((why["variant"], why["verdict"]), ("H02.scale", "consistent"))
        self.assertIn("searched for over a span", why["evidence"])
        self.assertNotIn("confirmed", [row["verdict"] for row in report["hypotheses"]])

    def check_place(self, fault, report):
        """The first finding is the bug's own operation, in layer 0 and in the first step of its phase; and that
        operation is wrong in no other phase than the bug's."""
        outside = fault["first_wrong"] == "lm_head"
        tensor = fault["first_wrong"] if outside else "model.layers.0." + fault["first_wrong"]
        first = report["first_divergence"]
        self.assertEqual((first["tensor"], first["layer"], first["kind"]), (tensor, None if outside else 0, "logic"))
        self.assertEqual((first["phase"], first["step"]),
                         (fault["phases"][0], {"prefill": 0, "decode": 1}[fault["phases"][0]]))
        phases = {finding["phase"] for finding in report["findings"] if finding["tensor"] == tensor}
        self.assertEqual(phases, set(fault["phases"]))

    def missing_words(self, fault, report):
        why = report["explanation"]
        pattern = f"{why['pattern']}, {why['phase']}"
        if any(word in pattern for word in fault["words"]):
            return ""
        return f"the pattern is {pattern!r}, which has none of {fault['words']}"

    def check_solved(self, fault, report):
        """Where a mechanism solves for the bug, it explains the first finding."""
        why = report["explanation"]
        if "solved" not in fault:
            self.assertIsNone(why["mechanism"])
            return
        self.assertEqual((why["mechanism"], why["verdict"]), (fault["solved"]["mechanism"], "confirmed"))
        self.assertIn(fault["solved"]["says"], why["sentence"])

    def false_causes(self, fault, report):
        """What stands as an explanation of any finding and is not true of the bug."""
        mechanism = fault.get("solved", {}).get("mechanism")
        false = set()
        for finding in report["findings"]:
            why = finding["explanation"]
            if why["verdict"] and not (why["variant"] is None and why["mechanism"] == mechanism):
                false.add(f"{finding['tensor']} has {why['variant'] or why['mechanism'] or why['hypothesis']} ({why['verdict']})")
        return ", ".join(sorted(false))


if __name__ == "__main__":
    raise SystemExit("run by driver.py")
