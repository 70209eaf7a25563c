"""Checks reports that report_samples writes: JSON against the schemas, JUnit as XML, and the schemas for strictness.

Usage: check_reports.py REPORT_SAMPLES SCHEMA_FOLDER
"""
import copy
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

try:
    import jsonschema
except ImportError:
    print("skipped: Python has no module jsonschema")
    sys.exit(77)

# A value of no field's type: wherever it replaces another, the document must become invalid.
MISFIT = {"not": "a value of any field"}


def places(document, path=()):
    """Every member of every object, as a path."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield path + (key,)
            yield from places(value, path + (key,))
    elif isinstance(document, list):
        for index, value in enumerate(document):
            yield from places(value, path + (index,))


def changed(document, path, change):
    result = copy.deepcopy(document)
    parent = result
    for part in path[:-1]:
        parent = parent[part]
    change(parent, path[-1])
    return result


def strictness_failures(validator, document, name):
    def remove(parent, key):
        del parent[key]

    def mistype(parent, key):
        parent[key] = MISFIT

    def add(parent, key):
        parent[key + "_unknown"] = 1

    def is_worth_trying(path):
        # So are names of variants.
        if {"shown_by", "points", "inferred_points", "undeclared"} & set(path[:-1]):  # names of rounding points are data, not fields
            return False
        # Hypotheses are alike; the third has a finding, the ninth blind variants.
        return path[0] != "hypotheses" or len(path) < 2 or path[1] in (2, 8)

    paths = [path for path in places(document) if is_worth_trying(path)]
    for path in paths:
        for change in (remove, mistype, add):
            if change is mistype and path[-1] in ("parameters", "scope", "undeclared"):
                continue  # objects with names of their own, as the misfit is one
            if validator.is_valid(changed(document, path, change)):
                yield f"{name}: valid though {change.__name__} was done at {'/'.join(map(str, path))}"


# What junit-10.xsd of Jenkins' xUnit plugin allows: of each element its attributes, with "!" those that must be there,
# and its children. (jenkinsci/xunit-plugin, src/main/resources/org/jenkinsci/plugins/xunit/types/model/xsd)
TIME = re.compile(r"(([0-9]{0,3},)*[0-9]{3}|[0-9]{0,3})*(\.[0-9]*)?")
OUTCOME = (("type", "message"), ())
JENKINS = {
    "testsuites": (("name", "time", "tests", "failures", "errors"), ("testsuite",)),
    "testsuite": (("name!", "tests!", "failures!", "errors!", "group", "time", "skipped", "timestamp", "hostname", "id",
                   "package", "file", "log", "url"), ("testsuite", "properties", "testcase", "system-out", "system-err")),
    "testcase": (("name!", "time", "classname", "group"),
                 ("skipped", "error", "failure", "rerunFailure", "rerunError", "flakyFailure", "flakyError", "system-out",
                  "system-err")),
    "failure": OUTCOME, "error": OUTCOME, "skipped": OUTCOME,
}


def jenkins_refuses(element):
    if element.tag not in JENKINS:
        yield f"<{element.tag}> is no element that this check knows"
        return
    attributes, children = JENKINS[element.tag]
    allowed = {attribute.rstrip("!") for attribute in attributes}
    for name in element.keys():
        if name not in allowed:
            yield f"<{element.tag}> has the attribute {name}"
    for attribute in attributes:
        if attribute.endswith("!") and element.get(attribute[:-1]) is None:
            yield f"<{element.tag}> lacks the attribute {attribute[:-1]}"
    if element.tag.startswith("testsuite") and not TIME.fullmatch(element.get("time", "")):
        yield f"<{element.tag}> has the time {element.get('time')}"
    for child in element:
        if child.tag not in children:
            yield f"<{element.tag}> holds <{child.tag}>"
        yield from jenkins_refuses(child)


def check_junit(path, report):
    root = xml.etree.ElementTree.parse(path).getroot()
    yield from (f"{path}: {problem}" for problem in jenkins_refuses(root))
    suite = root.find("testsuite")
    cases = suite.findall("testcase")
    for attribute, element in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        if int(suite.get(attribute)) != len(root.findall(f".//{element}")):
            yield f"{path}: {attribute} is not the number of its elements"
    acceptance = report["acceptance"]
    causes = [case for case in cases if case.get("classname") == "qdiff.causes"]
    waivers = len(acceptance["waivers"]) if acceptance else 0
    if int(root.get("tests")) != len(cases) or len(cases) != 1 + len(causes) + waivers + 11 * len(report["cases"]):
        yield f"{path}: {len(cases)} test cases for {len(report['cases'])} cases, each with ten hypotheses"
    if len({(case.get("classname"), case.get("name")) for case in causes}) != len(causes):
        yield f"{path}: two tests of one cause"
    if bool(causes) != bool(report["findings"]):
        yield f"{path}: {len(causes)} causes of {len(report['findings'])} findings"
    failing = [case for case in cases if case.find("failure") is not None]
    if any(case.get("classname") not in ("qdiff.causes", "qdiff.waivers") for case in failing):
        yield f"{path}: what is no cause fails"
    # A hypothesis that the run confirmed passes in no case of such a finding, and one that it could not judge in none.
    for hypothesis in report["hypotheses"]:
        tests = {case.get("name"): case for case in cases if case.get("classname") == hypothesis["id"]}
        wrong_in = {finding["case"] for finding in report["findings"]
                    if finding["explanation"]["verdict"] and finding["explanation"]["hypothesis"] == hypothesis["id"]
                    and not (report["precision_allowed"] and finding["kind"] == "precision")}
        blind = hypothesis["verdict"] in ("undetectable", "not_exercised")
        for name, test in tests.items():
            if (blind or name in wrong_in) and test.find("skipped") is None:
                yield f"{path}: {hypothesis['id']} is {hypothesis['verdict']}, but passes in {name}"
    green = not root.findall(".//failure") and not root.findall(".//error")
    right = acceptance["verdict"] == "accepted" if acceptance else report["verdict"] == "match"
    if green != right:
        yield f"{path}: green is {green}, but the run's outcome says {right}"


def check(folder, validators):
    for run in sorted(folder.iterdir()):
        report = json.loads((run / "report.json").read_text())
        for error in validators["report"].iter_errors(report):
            yield f"{run.name}/report.json: {error.json_path}: {error.message[:200]}"
        files = sorted(path.name for path in (run / "hypotheses").iterdir())
        if files != [f"H{number:02}.json" for number in range(1, 11)]:
            yield f"{run.name}: hypotheses are {files}"
        for path, inside in zip(sorted((run / "hypotheses").iterdir()), report["hypotheses"]):
            hypothesis = json.loads(path.read_text())
            for error in validators["hypothesis"].iter_errors(hypothesis):
                yield f"{run.name}/{path.name}: {error.json_path}: {error.message[:200]}"
            if hypothesis != inside:
                yield f"{run.name}/{path.name}: differs from its entry in report.json"
        lines = [json.loads(line) for line in (run / "tensors.jsonl").read_text().splitlines()]
        for line in lines:
            for error in validators["tensor"].iter_errors(line):
                yield f"{run.name}/tensors.jsonl: {error.json_path}: {error.message[:200]}"
        if run.name == "diverged":
            yield from strictness_failures(validators["tensor"], lines[0], "tensor")
        yield from check_junit(run / "junit.xml", report)
        # One small report of each shape is enough to try every field of the schemas.
        if run.name in ("ties", "inconclusive", "rounding", "refused"):
            yield from strictness_failures(validators["report"], report, run.name)
    first = next(h for h in report_of(folder, "ties")["hypotheses"] if h["first_divergence"])
    yield from strictness_failures(validators["hypothesis"], first, "hypothesis")
    yield from contradictions(validators["report"], folder)


def report_of(folder, name):
    return json.loads((folder / name / "report.json").read_text())


def contradictions(validator, folder):
    """Reports whose fields are well typed but say things that cannot be true together."""
    match, diverged = report_of(folder, "match"), report_of(folder, "diverged")
    for name, document, fields in (
        ("a match with findings", match, {"findings": diverged["findings"]}),
        ("a match that compared nothing", match, {"coverage": {**match["coverage"], "tensors_compared": 0}}),
        ("a divergence without findings", diverged, {"findings": []}),
        ("a divergence without a first one", diverged, {"first_divergence": None}),
        ("nine hypotheses", match, {"hypotheses": match["hypotheses"][1:]}),
        ("NaN spelt otherwise", match, {"seconds": "nan"}),
    ):
        if validator.is_valid({**document, **fields}):
            yield f"the schema accepts {name}"


def check_comparisons(folder, validator):
    for run in sorted(folder.iterdir()):
        document = json.loads((run / "compare.json").read_text())
        for error in validator.iter_errors(document):
            yield f"{run.name}/compare.json: {error.json_path}: {error.message[:200]}"
        if run.name == "of_all_sorts":
            yield from strictness_failures(validator, document, run.name)
        if run.name == "far_apart" and validator.is_valid({**document, "verdict": "match"}):
            yield "the schema accepts a match with differences"


def check_reconciliations(folder, validator):
    for run in sorted(folder.iterdir()):
        document = json.loads((run / "reconcile.json").read_text())
        for error in validator.iter_errors(document):
            yield f"{run.name}/reconcile.json: {error.json_path}: {error.message[:200]}"
        if run.name == "parted":
            yield from strictness_failures(validator, document, run.name)
        if validator.is_valid({**document, "verdict": "match", "tokens": []}):
            yield "the schema accepts a match without tokens"


def main():
    program, schemas = sys.argv[1:]
    validators = {}
    for kind in ("report", "hypothesis", "tensor", "compare", "reconcile"):
        schema = json.loads((pathlib.Path(schemas) / f"{kind}.schema.json").read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        validators[kind] = jsonschema.Draft202012Validator(schema)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([program, folder], check=True)
        failures = list(check(pathlib.Path(folder) / "runs", validators))
        failures += check_comparisons(pathlib.Path(folder) / "comparisons", validators["compare"])
        failures += check_reconciliations(pathlib.Path(folder) / "reconciliations", validators["reconcile"])
    for failure in failures:
        print(failure)
    print(f"{len(failures)} failures")
    sys.exit(1 if failures else 0)


main()
