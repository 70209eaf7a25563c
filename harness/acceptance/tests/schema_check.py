"""Holds the schema of waivers against the table of documents on which the loader is tested.

Usage: schema_check.py WAIVERS_SCHEMA DOCUMENTS_JSON
"""
import json
import pathlib
import sys

try:
    import jsonschema
except ImportError:
    print("skipped: Python has no module jsonschema")
    sys.exit(77)


def main():
    schema, table = (json.loads(pathlib.Path(path).read_text()) for path in sys.argv[1:])
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    failures = 0
    for row in table["documents"]:
        document = row.get("document", {"format": "qdiff-waivers", "version": 1, "waivers": [row.get("waiver")]})
        valid = validator.is_valid(document)
        if valid != row["schema"]:
            failures += 1
            print(f"{row['name']}: the schema says {valid}, the table {row['schema']}")
    print(f"{len(table['documents'])} documents checked, {failures} failures")
    sys.exit(1 if failures or not table["documents"] else 0)


main()
