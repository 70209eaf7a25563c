#!/usr/bin/env python3
"""Checks the JSON Schemas of the tree, and the cases against theirs.

    check_schemas.py [ROOT]      prints each problem; ends with 1 if there is one, 77 without Python's jsonschema

Each *.schema.json must be a valid JSON Schema, and each cases/*.json valid under cases/case.schema.json. Reports are
validated by the tests that write them.
"""
import json
import sys
from pathlib import Path

try:
    import jsonschema
except ImportError:
    print("schemas: SKIPPED, nothing was checked: Python has no jsonschema (apt: python3-jsonschema)")
    sys.exit(77)


def load(path):
    def refuse_duplicates(pairs):
        keys = [key for key, _ in pairs]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"key {', '.join(twice)} occurs twice in one object")
        return dict(pairs)

    return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=refuse_duplicates)


def errors_of(path, validator=None):
    """What is wrong with one file: it is a schema, or has to be valid under `validator`."""
    try:
        document = load(path)
        if validator is None:
            jsonschema.validators.validator_for(document).check_schema(document)
            if "$schema" not in document:
                yield "names no $schema"
        else:
            for error in validator.iter_errors(document):
                place = "/".join(str(part) for part in error.absolute_path) or "the document"
                yield f"{place}: {error.message}"
    except jsonschema.SchemaError as error:
        yield f"is no valid JSON Schema: {error.message}"
    except (ValueError, UnicodeDecodeError) as error:
        yield f"cannot be read: {error}"


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent)
    schemas = sorted(path for folder in ("cases", "harness") for path in (root / folder).rglob("*.schema.json"))
    case_schema = root / "cases" / "case.schema.json"
    cases = sorted(path for path in (root / "cases").glob("*.json") if path not in schemas)
    num_problems = 0

    def report(path, problems):
        nonlocal num_problems
        for problem in problems:
            num_problems += 1
            print(f"{path.relative_to(root)}: {problem}")

    for path in schemas:
        report(path, errors_of(path))
    if not schemas or not cases or case_schema not in schemas:
        print(f"{root}: needs schemas, cases/case.schema.json among them, and cases; nothing was checked")
        return 1
    if num_problems == 0:
        schema = load(case_schema)
        validator = jsonschema.validators.validator_for(schema)(schema)
        for path in cases:
            report(path, errors_of(path, validator))
    print(f"schemas: {len(schemas)} schemas and {len(cases)} cases checked, {num_problems} problems")
    return 1 if num_problems else 0


if __name__ == "__main__":
    sys.exit(main())
