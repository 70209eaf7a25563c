"""`qdiff selftest --quick`: it meets its goals, and says in selftest.json what it prints."""
import json
import re

from driver import DIVERGED, MATCH, SOURCE, CommandLineTest

SCHEMA = SOURCE / "harness/report/schema/selftest.schema.json"


class Selftest(CommandLineTest):
    def test_a_file_of_others_is_kept_and_refused_before_the_start(self):
        (self.folder / "scores").mkdir()
        (self.folder / "scores/selftest.json").write_text("mine")
        self.refused("selftest", "--quick", "--out", "scores", says="not written by qdiff")
        (self.folder / "file").write_text("mine")
        self.refused("selftest", "--quick", "--out", "file", says="--out")

    def test_some_faults_alone(self):
        self.refused("selftest", "--quick", "--only", "H99", says="--only H99: no fault has an id that begins so")
        result = self.qdiff("selftest", "--quick", "--only", "H05.m", "--out", "some", timeout=580)
        self.assertEqual((result.returncode, result.stderr), (MATCH, b""), result.stdout)
        document = json.loads((self.folder / "some/selftest.json").read_text())
        self.check_schema(document)
        self.assertEqual({trial["fault"].split("@")[0] for trial in document["trials"]}, {"H05.modulo"})
        self.assertEqual((document["honest"], document["smallest_doses"]), ([], []))
        # What no input shows has no goal to meet.
        result = self.qdiff("selftest", "--quick", "--only", "H06.bf16", "--out", "some")
        self.assertEqual(result.returncode, DIVERGED, result.stdout)

    def test_quick(self):
        result = self.qdiff("selftest", "--quick", "--out", "scores", timeout=580)
        table = result.stdout.decode()
        self.assertEqual((result.returncode, result.stderr), (MATCH, b""), table)
        print(table)
        document = json.loads((self.folder / "scores/selftest.json").read_text())
        self.check_schema(document)
        self.assertTrue(document["passed"] and document["quick"])
        self.assertTrue(all(goal["met"] for goal in document["goals"]), document["goals"])
        for goal in document["goals"]:
            self.assertRegex(table, rf"met +{re.escape(goal['what'])} +{goal['reached']['hits']}/{goal['reached']['of']} ")
        for engine in document["engines"]:
            self.check_engine(document, engine)
        self.assertEqual(sum(runs["runs"] for runs in document["honest"]), 60)
        logits = {(dose["parameter"], dose["dtype"]): dose["found"] for dose in document["smallest_doses"]
                  if dose["tensor"] == "lm_head"}
        wanted = {"one logit": 10, "one row": 0.1, "one step": 0.05}  # in deviations, and relative
        self.assertEqual(set(logits), {(kind, dtype) for kind in wanted for dtype in ["bfloat16", "float16", "float32"]})
        for (kind, dtype), found in logits.items():
            self.assertTrue(found is not None and 0 < found <= wanted[kind], (kind, dtype, found))
        self.assertEqual([len(document[kind]["trials"]) for kind in ["novel", "pairs", "spoiled"]], [12, 4, 20])

    def test_faults_that_no_table_lists(self):
        """The counts, from the trials; and each is the same again from its seed."""
        run = ["selftest", "--only", "novel", "--novel", "4", "--pairs", "1", "--spoiled", "4", "--seed", "100"]
        self.qdiff(*run, "--out", "a", timeout=580)
        document = json.loads((self.folder / "a/selftest.json").read_text())
        self.check_schema(document)
        self.assertEqual((document["engines"], document["trials"]), ([], []))
        for kind, mistakes in [("novel", 1), ("pairs", 2)]:
            score, trials = document[kind]["score"], document[kind]["trials"]
            of_all = [of for trial in trials for of in trial["mistakes"]]
            self.assertEqual({len(trial["mistakes"]) for trial in trials}, {mistakes})
            self.assertEqual(score["found"]["hits"], sum(all(of["found"] for of in trial["mistakes"]) for trial in trials))
            named = [of for of in of_all if of["explained_as"] and of["same_effect"]]
            self.assertEqual(score["named"], {"hits": len(named), "of": len(of_all)})
            self.assertEqual(score["same_mechanism"]["hits"], sum(of["same_mechanism"] for of in named))
            for trial in trials:
                self.assertEqual(trial["miss"] is None, all(
                    of["exact"] and of["explained_as"] and of["same_effect"] and not of["hypothesis_refuted"]
                    for of in trial["mistakes"]), trial)
        trial = document["novel"]["trials"][3]
        self.assertEqual(trial["seed"], 103)
        self.qdiff("selftest", "--only", "novel", "--novel", "1", "--pairs", "0", "--spoiled", "0", "--seed", "103", "--out", "b")
        again = json.loads((self.folder / "b/selftest.json").read_text())
        self.assertEqual(again["novel"]["trials"], [trial])

    def check_engine(self, document, engine):
        """The counts of one engine, from its trials."""
        trials = [trial for trial in document["trials"] if trial["planted_in"] == engine["planted_in"]]
        seen = [trial for trial in trials if trial["detectable"]]
        score = engine["score"]
        self.assertEqual(score["planted"], len(trials))
        self.assertEqual(score["found"], {"hits": sum(trial["verdict"] == "diverged" for trial in seen), "of": len(seen)})
        inside = [trial for trial in seen if not trial["fault"].startswith("X.")]
        named = [trial for trial in inside if self.is_named(trial)]
        self.assertEqual(score["top1_variant"], {"hits": len(named), "of": len(inside)})
        self.assertEqual(score["abstained"]["of"], len(seen) - len(inside))
        self.assertEqual(sum(sum(row.values()) for row in engine["confusion"].values()), len(seen))
        for trial in trials:
            if trial["detectable"]:
                self.assertTrue(trial["cases"] and trial["deviations"] != 0, trial)
            else:
                self.assertEqual((trial["cases"], trial["verdict"], trial["miss"]), ([], None, None), trial)
        if engine["planted_in"] == "cpu":  # each fault once
            ids = [re.match(r"[\w.]+", trial["fault"])[0] for trial in trials]
            self.assertEqual(len(ids), len(set(ids)))
            self.assertEqual({fault.split(".")[0] for fault in ids}, {f"H{number:02}" for number in range(1, 11)} | {"X"})

    def is_named(self, trial):
        fault, found = re.match(r"[\w.]+", trial["fault"])[0], trial["first_finding"] or {}
        return found.get("variant") == fault or (trial["tied"] and fault in found["alternatives"])

    def check_schema(self, document):
        try:
            import jsonschema
        except ImportError:
            print("not checked against the schema: Python has no module jsonschema")
            return
        schema = json.loads(SCHEMA.read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        validator = jsonschema.Draft202012Validator(schema)
        for error in validator.iter_errors(document):
            self.fail(f"{error.json_path}: {error.message[:200]}")
        for field in schema["required"]:
            self.assertFalse(validator.is_valid({key: value for key, value in document.items() if key != field}), field)

    def test_bad_usage(self):
        self.refused("selftest", "--fast", says="unknown option '--fast'")
        self.refused("selftest", "--threads", "0", says="--threads")
        self.refused("selftest", "H05-gqa", says="unexpected argument")
        (self.folder / "file").write_text("mine")
        self.refused("selftest", "--quick", "--out", "file/below", says="not a folder")
