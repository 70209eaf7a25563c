"""Checks the case schema: itself, every case of the suite, and the table of documents that the loader is tested on.

Usage: schema_agreement.py CASES_FOLDER DOCUMENTS_JSON
"""
import copy
import json
import pathlib
import sys

try:
    import jsonschema
except ImportError:
    print("skipped: Python has no module jsonschema")
    sys.exit(77)


def parts_of(pointer):
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


def parent_and_key(document, pointer):
    *parents, last = parts_of(pointer)
    for part in parents:
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document, int(last) if isinstance(document, list) else last


def build(base, row):
    document = copy.deepcopy(base)
    for pointer, value in row.get("set", {}).items():
        if pointer == "":
            return value
        parent, key = parent_and_key(document, pointer)
        parent[key] = value
    for pointer in row.get("remove", []):
        parent, key = parent_and_key(document, pointer)
        del parent[key]
    return document


def main():
    folder, table_path = map(pathlib.Path, sys.argv[1:])
    schema = json.loads((folder / "case.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    failures = []
    cases = [path for path in sorted(folder.glob("*.json")) if path.name != "case.schema.json"]
    for path in cases:
        failures += [f"{path.name}: {error.message}" for error in validator.iter_errors(json.loads(path.read_text()))]
    table = json.loads(table_path.read_text())
    for row in table["documents"]:
        valid = validator.is_valid(build(table["base"], row))
        if valid != row["schema"]:
            failures.append(f"document \"{row['name']}\": the schema says {valid}, the table {row['schema']}")
    for failure in failures:
        print(failure)
    print(f"{len(cases)} cases and {len(table['documents'])} documents checked, {len(failures)} failures")
    sys.exit(1 if failures or not cases else 0)


main()
