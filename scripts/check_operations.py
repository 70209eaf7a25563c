#!/usr/bin/env python3
"""Checks that what is known of an operation stands in its row of the table and nowhere else.

    check_operations.py [ROOT]      prints each problem; ends with 1 if there is one

Code asks a row for its columns (harness/contract/operation_table.h). It does not rebuild them: no switch over operations, no
comparison by their order, no conversion between operations and numbers, no list with an entry for each operation in turn. Tests
may; they compute on their own what they compare with. So may an arithmetic of the reference.
"""
import re
import sys
from pathlib import Path

from check_tree import files_of

TABLE = "harness/contract/operation_table.h"
SOURCES = {".h", ".cpp", ".cu", ".cuh", ".inc"}
FREE = re.compile(r"^harness/contract/operation_table\.|^reference/arithmetic/|(^|/)tests/")


def operations_of(table):
    """The enumerators of `enum class Op`."""
    body = re.search(r"enum class Op\b[^{]*\{(.*?)\};", table, re.DOTALL)
    return re.findall(r"\bk\w+", re.sub(r"//.*", "", body[1])) if body else []


def rules_for(operations):
    op = r"(?:Op::)?(?:" + "|".join(operations) + r")\b"
    order = r"(?:<|>|<=|>=)"
    return [
        (re.compile(rf"\bcase {op}"), "a switch over operations; ask the row for its arithmetic or another column"),
        (re.compile(rf" {order} {op}|(?<![\w:]){op} {order} |\bop {order} "),
         "operations are compared by their order; ask the row for a column"),
        (re.compile(r"static_cast<Op>\("), "a number becomes an operation; walk over kOperationTable"),
        (re.compile(r"\bkNumOps>+ \w+(?: = |)\{+(?!\s*\})"),
         "a list with an entry for each operation in turn; make it a column of the table"),
    ]


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent)
    table = root / TABLE
    operations = operations_of(table.read_text(encoding="utf-8")) if table.is_file() else []
    if not operations:
        print(f"{TABLE}: no operations found, so nothing was checked")
        return 1
    rules = rules_for(operations)
    num_files = num_problems = 0
    for path in files_of(root):
        name = path.relative_to(root).as_posix()
        if path.suffix not in SOURCES or FREE.search(name) or not path.is_file():
            continue
        num_files += 1
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            for pattern, problem in rules:
                if pattern.search(line.split("//")[0]):
                    num_problems += 1
                    print(f"{name}:{number}: {problem}")
    print(f"operations: {num_files} files checked, {num_problems} problems")
    return 1 if num_problems else 0


if __name__ == "__main__":
    sys.exit(main())
