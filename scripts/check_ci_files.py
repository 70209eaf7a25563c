#!/usr/bin/env python3
"""Checks the files of GitHub Actions and GitLab CI, and those that docs/ci.md shows, against their schemas.

    check_ci_files.py [ROOT]      prints what is wrong; ends with 1 if anything is, 77 without PyPI's check-jsonschema

check-jsonschema brings the schemas along, so that nothing is downloaded.
"""
import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# Of docs/ci.md, by the heading under which a block stands.
SHOWN = {"GitHub Actions": "vendor.github-workflows", "GitLab": "vendor.gitlab-ci"}

KINDS = [
    ("vendor.github-actions", ".github/actions/*/action.yml"),
    ("vendor.github-workflows", ".github/workflows/*.yml"),
    ("vendor.gitlab-ci", ".gitlab-ci.yml"),
    ("vendor.github-workflows", "scripts/cluster/github.yml"),
    ("vendor.gitlab-ci", "scripts/cluster/gitlab.yml"),
]


def shown_files(page, folder):
    """The page's YAML blocks as files, each with its schema."""
    for heading, text in re.findall(r"(?ms)^## ([^\n]+)\n(.*?)(?=^## |\Z)", page.read_text()):
        for number, block in enumerate(re.findall(r"(?ms)^```yaml\n(.*?)^```$", text)):
            file = Path(folder) / f"{heading} of {page.name}, block {number}.yml"
            file.write_text(block)
            yield SHOWN[heading], file


def complaints_of(schema, file):
    done = subprocess.run([sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(file)],
                          capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent)
    if importlib.util.find_spec("check_jsonschema") is None:
        print("CI files: SKIPPED, nothing was checked: Python has no check-jsonschema (PyPI)")
        return 77
    num_files = num_wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        files = list(shown_files(root / "docs/ci.md", folder))
        missing = [] if len(files) >= len(SHOWN) else ["docs/ci.md shows too few files"]
        for schema, pattern in KINDS:
            found = sorted(root.glob(pattern))
            files += [(schema, file) for file in found]
            if not found:
                missing.append(f"no file fits {pattern}, so nothing of that kind was checked")
        for problem in missing + [complaints_of(schema, file) for schema, file in files]:
            num_wrong += 1 if problem else 0
            print(problem, end="\n" if problem else "")
        num_files = len(files)
    print(f"CI files: {num_files} checked, {num_wrong} problems")
    return 1 if num_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
