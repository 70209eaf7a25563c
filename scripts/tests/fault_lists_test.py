#!/usr/bin/env python3
"""What repeats the fault table (harness/contract/fault_table.inc) says the same: docs/faults.md, which has to name every
bug with its values, and the NumPy engine's list of what it plants."""
import ast
import re
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ID = r"(?:H\d\d|X)\.[a-z]\w*"


def numbers(text):
    return [float(number) for number in text.split(",")]


def table():
    """{name: values} of the fault table, in its order."""
    text = (ROOT / "harness/contract/fault_table.inc").read_text(encoding="utf-8")
    rows = {}
    for row in re.split(r"^QDIFF_FAULT\(", text, flags=re.MULTILINE)[1:]:
        values = re.search(r"\.values = \{([^}]*)\}", row)
        rows[re.match(r'k\w+, "([^"]+)"', row)[1]] = numbers(values[1]) if values else []
    return rows


def page():
    """{name: values} of docs/faults.md. "`H07.transposed_q`, `_k`" are two."""
    text = (ROOT / "docs/faults.md").read_text(encoding="utf-8")
    for family, endings in re.findall(rf"`({ID})`((?:, `_\w+`)+)", text):
        stem = family.rsplit("_", 1)[0]
        text += "".join(f" `{stem}{ending}`" for ending in re.findall(r"`(_\w+)`", endings))
    rows = {}
    for name, values in re.findall(rf"`({ID})`(?: \[([^\]]*)\])?", text):
        rows[name] = rows.get(name) or (numbers(values) if values else [])
    return rows


def engine():
    """{name: values} of the NumPy engine, read without NumPy."""
    tree = ast.parse((ROOT / "scripts/engines/faults.py").read_text(encoding="utf-8"))
    assigned = {node.targets[0].id: node.value for node in tree.body
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)}
    tiles = ast.literal_eval(assigned["TILES"])
    return {key.value: [float(value) for value in (tiles if isinstance(values, ast.Name) else ast.literal_eval(values))]
            for key, values in zip(assigned["FAULTS"].keys, assigned["FAULTS"].values)}


class FaultLists(unittest.TestCase):
    def test_table_is_read(self):
        rows = table()
        self.assertGreater(len(rows), 100)
        self.assertEqual(rows["H05.group_off_by_one"], [1.0, -1.0])
        self.assertEqual(rows["H05.modulo"], [])

    def test_page(self):
        self.assertEqual(page(), table())

    def test_numpy_engine(self):
        rows = table()
        self.assertEqual({name: rows.get(name) for name in engine()}, engine())


if __name__ == "__main__":
    unittest.main()
