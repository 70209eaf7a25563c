#!/usr/bin/env python3
"""Every check of scripts/ can fail: each test plants one fault in a small tree and asks the check to find it.

    checks_test.py [-v] [name of a test]
"""
import json
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent
SKIPPED = 77


class PlantedTree(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.root = Path(self.folder.name).resolve()

    def write(self, path, text):
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")

    def run_check(self, name):
        command = [str(SCRIPTS / name), str(self.root)]
        if name.endswith(".py"):
            command.insert(0, sys.executable)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def assert_clean(self, check):
        status, output = self.run_check(check)
        self.assertEqual(status, 0, output)

    def assert_found(self, check, *words):
        status, output = self.run_check(check)
        self.assertEqual(status, 1, output)
        for word in words:
            self.assertIn(word, output)


class CiFiles(PlantedTree):
    def setUp(self):
        super().setUp()
        for name in [".github", ".gitlab-ci.yml", "docs/ci.md", "scripts/cluster"]:
            source, target = SCRIPTS.parent / name, self.root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
        if self.run_check("check_ci_files.py")[0] == SKIPPED:
            self.skipTest("Python has no check-jsonschema")

    def change(self, path, old, new):
        text = (self.root / path).read_text()
        self.assertIn(old, text)
        self.write(path, text.replace(old, new, 1))

    def test_right_files_pass(self):
        self.assert_clean("check_ci_files.py")

    def test_misspelt_keys(self):
        self.change(".github/actions/qdiff/action.yml", "using: composite", "using: compost")
        self.assert_found("check_ci_files.py", "action.yml", "1 problems")
        self.change(".github/workflows/ci.yml", "runs-on:", "run-on:")
        self.change(".gitlab-ci.yml", "artifacts:", "artefacts:")
        self.assert_found("check_ci_files.py", "ci.yml", "3 problems")

    def test_what_the_page_shows(self):
        self.change("docs/ci.md", "    runs-on:", "    run-on:")
        self.assert_found("check_ci_files.py", "GitHub Actions of ci.md, block 0")
        self.write("docs/ci.md", "# Nothing\n")
        self.assert_found("check_ci_files.py", "docs/ci.md shows too few files")


class Arrows(PlantedTree):
    def setUp(self):
        super().setUp()
        self.write("harness/contract/config.h", "#pragma once\n#include <string>\n")
        self.write("harness/compare/judge.h", '#include "harness/contract/config.h"\n')
        self.write("reference/operations.cpp", '#include <ATen/ATen.h>\n#include "harness/contract/config.h"\n')
        self.write("optimized/cpu/engine.cpp", '#include "harness/contract/config.h"\n')
        self.page = (SCRIPTS.parent / "docs/architecture.md").read_text(encoding="utf-8")
        self.write("docs/architecture.md", self.page)

    def test_right_includes_pass(self):
        self.assert_clean("check_arrows.py")

    def test_another_picture(self):
        self.write("docs/architecture.md", self.page.replace("pattern, explain, findings, matcher →", "pattern, explain →"))
        self.assert_found("check_arrows.py", "the picture of findings", "the picture of matcher")
        self.write("docs/architecture.md", self.page.replace("reduce → trace, ", "reduce → "))
        self.assert_found("check_arrows.py", "the picture of reduce")
        self.write("docs/architecture.md", "# Architecture\n")
        self.assert_found("check_arrows.py", "the picture of cli")

    def test_engine_includes_reference(self):
        self.write("reference/rope.h", "#pragma once\n")
        self.write("optimized/cpu/rope.cpp", '#include "harness/contract/config.h"\n#include "reference/rope.h"\n')
        self.assert_found("check_arrows.py", "optimized/cpu/rope.cpp:2", "reference/rope.h")

    def test_engine_includes_libtorch(self):
        self.write("optimized/cuda/rope.cu", "  #  include <torch/torch.h>\n")
        self.assert_found("check_arrows.py", "optimized/cuda/rope.cu:1", "torch/torch.h")

    def test_contract_includes_judge(self):
        self.write("harness/contract/step.h", '#include "harness/compare/judge.h"\n')
        self.assert_found("check_arrows.py", "harness/contract/step.h:1")

    def test_diagnosis_includes_reference(self):
        self.write("reference/faults.h", "#pragma once\n")
        self.write("harness/diagnose/run.cpp", '#include "reference/faults.h"\n')
        self.assert_found("check_arrows.py", "harness/diagnose/run.cpp:1")

    def test_test_of_engine_includes_reference(self):
        self.write("reference/faults.h", "#pragma once\n")
        self.write("optimized/tests/engine_test.cpp", '#include "reference/faults.h"\n')
        self.assert_found("check_arrows.py", "optimized/tests/engine_test.cpp:1")

    def test_include_beside_the_file(self):
        self.write("reference/faults.h", "#pragma once\n")
        self.write("reference/faults.cpp", '#include "faults.h"\n')
        self.assert_found("check_arrows.py", "reference/faults.cpp:1", "root of the tree")

    def test_new_folder(self):
        self.write("helpers/strings.h", "#include <string>\n")
        self.assert_found("check_arrows.py", "helpers/strings.h", "in no room")

    def test_empty_tree(self):
        shutil.rmtree(self.root / "harness")
        shutil.rmtree(self.root / "reference")
        shutil.rmtree(self.root / "optimized")
        self.assert_found("check_arrows.py", "nothing was checked")


class Tree(PlantedTree):
    def setUp(self):
        super().setUp()
        self.write("README.md", "# Title\n\n[more](docs/more.md#a-part) [part](#title) [web](https://example.org)\n")
        self.write("docs/more.md", "# More\n\n## A part\n\n[back](../README.md)\n")
        self.write("harness/judge.h", "#pragma once\n")

    def test_right_tree_passes(self):
        self.assert_clean("check_tree.py")

    def test_link_outside(self):
        self.write("docs/out.md", "[design](../../elsewhere.md)\n")
        self.assert_found("check_tree.py", "docs/out.md:1", "outside the tree")

    def test_link_to_nothing(self):
        self.write("docs/out.md", "\n[design](design.md)\n")
        self.assert_found("check_tree.py", "docs/out.md:2", "leads to nothing")

    def test_link_to_missing_heading(self):
        self.write("docs/out.md", "[part](more.md#no-part)\n")
        self.assert_found("check_tree.py", "docs/out.md:1", "no heading")

    def test_local_path(self):
        for path in ("/" + "home/anna/qdiff", "/" + "opt/tools/torch"):
            self.write("scripts/run.sh", f"cd {path}\n")
            self.assert_found("check_tree.py", "scripts/run.sh:1", path[:10])

    def test_symbolic_link_outside(self):
        (self.root / "cases").symlink_to("/usr")
        self.assert_found("check_tree.py", "cases:1", "outside the tree")

    def test_unfinished_work(self):
        self.write("harness/judge.h", "#pragma once\n// TO" + "DO: bounds\n")
        self.assert_found("check_tree.py", "harness/judge.h:2")

    def test_unresolved_merge(self):
        self.write("harness/a.cpp", "int a;\n" + "<" * 7 + " HEAD\nint b;\n" + "=" * 7 + "\n")
        self.assert_found("check_tree.py", "harness/a.cpp:2", "merge")

    def test_long_source(self):
        self.write("harness/judge.h", "\n" * 701)
        self.assert_found("check_tree.py", "harness/judge.h:701")

    def test_fault_as_text(self):
        for text in ("H05.modulo", "H03.theta=1e4@0", "X.no_silu", "H02."):
            self.write("harness/judge.h", f'#pragma once\n// "{text}"\nconst char* kId = "{text}";\n')
            self.assert_found("check_tree.py", "harness/judge.h:3", text)
        self.write("harness/judge.h", '#pragma once\nconst char* kHelp = "a known bug, as H05.modulo";\n')
        self.assert_clean("check_tree.py")

    def test_fault_in_a_test(self):
        self.write("harness/tests/judge_test.cpp", 'const char* kId = "X.no_silu";\n')
        self.assert_clean("check_tree.py")

    def test_order_of_faults(self):
        for condition in ("id >= FaultId::kNoMax", "FaultId::kScale < id"):
            self.write("optimized/planted.cu", f"bool planted = {condition};\n")
            self.assert_found("check_tree.py", "optimized/planted.cu:1", "order of the fault table")

    def test_empty_tree(self):
        shutil.rmtree(self.root / "docs")
        shutil.rmtree(self.root / "harness")
        (self.root / "README.md").unlink()
        self.assert_found("check_tree.py", "nothing was checked")


class Operations(PlantedTree):
    def setUp(self):
        super().setUp()
        self.write("harness/contract/operation_table.h",
                   "enum class Op : std::uint8_t {\n  kQProj,  // q\n  kNorm,\n};\nswitch (op) { case Op::kNorm: }\n")
        self.write("harness/judge.cpp", "switch (arithmetic) {\n  case Arithmetic::kNorm:\n}\n"
                   "std::array<int, kNumOps> counts{};\nif (op == Op::kNorm) x = a << kNorm;  // op < kNorm\n")
        self.write("harness/tests/forward.h", "case Op::kNorm:\n")

    def test_right_tree_passes(self):
        self.assert_clean("check_operations.py")

    def test_what_is_found(self):
        for line, problem in (("    case Op::kNorm:", "switch"), ("case kQProj:", "switch"),
                              ("if (op < Op::kNorm) {", "order"), ("if (unit.first >= kQProj) {", "order"),
                              ("while (Op::kQProj < x) {", "order"), ("return a.op <= b.op;", "order"),
                              ("const auto op = static_cast<Op>(i);", "number"),
                              ("constexpr std::array<Op, kNumOps> kFamilies = {", "each operation in turn"),
                              ("std::array<std::array<int, 3>, kNumOps> worst{{1, 2}};", "each operation in turn")):
            with self.subTest(line):
                self.write("harness/measure.cpp", f"int x;\n{line}\n")
                self.assert_found("check_operations.py", "harness/measure.cpp:2", problem)

    def test_no_table(self):
        self.write("harness/contract/operation_table.h", "#pragma once\n")
        self.assert_found("check_operations.py", "nothing was checked")


class Schemas(PlantedTree):
    def setUp(self):
        super().setUp()
        self.write("cases/case.schema.json", '{"$schema": "https://json-schema.org/draft/2020-12/schema",'
                                             ' "type": "object", "required": ["id"]}')
        self.write("cases/one.json", '{"id": "one"}')
        if self.run_check("check_schemas.py")[0] == SKIPPED:
            self.skipTest("Python has no jsonschema")

    def test_right_cases_pass(self):
        self.assert_clean("check_schemas.py")

    def test_invalid_case(self):
        self.write("cases/two.json", '{"name": "two"}')
        self.assert_found("check_schemas.py", "cases/two.json", "'id' is a required property")

    def test_broken_json(self):
        self.write("cases/two.json", '{"id": ')
        self.assert_found("check_schemas.py", "cases/two.json", "cannot be read")

    def test_duplicate_key(self):
        self.write("cases/two.json", '{"id": "two", "id": "three"}')
        self.assert_found("check_schemas.py", "cases/two.json", "occurs twice")

    def test_invalid_schema(self):
        self.write("harness/report/schema/report.schema.json",
                   '{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "objekt"}')
        self.assert_found("check_schemas.py", "report.schema.json", "no valid JSON Schema")

    def test_no_cases(self):
        (self.root / "cases/one.json").unlink()
        self.assert_found("check_schemas.py", "nothing was checked")


class Format(PlantedTree):
    def setUp(self):
        super().setUp()
        shutil.copy(SCRIPTS.parent / ".clang-format", self.root)
        self.write("harness/judge.h", "int f() { return 1; }\n")
        if self.run_check("check_format.sh")[0] == SKIPPED:
            self.skipTest("no clang-format of the right version")

    def test_formatted_source_passes(self):
        self.assert_clean("check_format.sh")

    def test_unformatted_source(self):
        self.write("optimized/cuda/rope.cu", "int   g( ) {return 2;}\n")
        self.assert_found("check_format.sh", "rope.cu")

    def test_empty_tree(self):
        (self.root / "harness/judge.h").unlink()
        self.assert_found("check_format.sh", "nothing was checked")


class Commits(PlantedTree):
    def commit(self, subject):
        git = ["git", "-C", str(self.root), "-c", "user.name=a", "-c", "user.email=a@b.example"]
        subprocess.run(["git", "init", "-q", str(self.root)], check=True)
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", subject], check=True)

    def test_right_subject_passes(self):
        self.commit("ä" * 72 + "\n\n" + "The reasons may be long. " * 20)
        self.assert_clean("check_commits.sh")

    def test_long_subject(self):
        self.commit("x" * 73)
        self.commit("A short one on top")
        self.assert_found("check_commits.sh", "73 characters")

    def test_no_history(self):
        status, output = self.run_check("check_commits.sh")
        self.assertEqual(status, SKIPPED, output)


class Tidy(PlantedTree):
    def setUp(self):
        super().setUp()
        self.write(".clang-tidy", "Checks: '-*,bugprone-use-after-move'\nHeaderFilterRegex: '.*'\n"
                                  "WarningsAsErrors: '*'\n")
        self.write("harness/a.cpp", "int a() { return 1; }\n")
        self.write("harness/b.cpp", "int b() { return 2; }\n")
        self.together = []
        if self.run_check("check_tidy.py")[0] == SKIPPED:
            self.skipTest("no clang-tidy")

    def run_check(self, name, *paths):
        """With a compile database of all sources; those of `together` are compiled as one."""
        files = [file for file in sorted(self.root.rglob("*.cpp")) if "build" not in file.parts]
        alone = [file for file in files if file.relative_to(self.root).as_posix() not in self.together]
        if self.together:
            self.write("build/unity_0_cxx.cxx", "".join(f'#include "{self.root / name}"\n' for name in self.together))
            alone.append(self.root / "build/unity_0_cxx.cxx")
        commands = [{"directory": str(self.root), "file": str(file), "command": f"ccache c++ -Wno-restrict -o x -c {file}"}
                    for file in alone]
        self.write("build/compile_commands.json", json.dumps(commands))
        done = subprocess.run([sys.executable, str(SCRIPTS / name), str(self.root / "build"), *paths], capture_output=True,
                              text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def test_right_sources_pass(self):
        status, output = self.run_check("check_tidy.py")
        self.assertEqual(status, 0, output)
        self.assertIn("2 files in 2 units checked, 0 problems", output)

    def test_use_after_move_in_a_file_read_with_another(self):
        self.write("harness/c.cpp", "#include <string>\n#include <utility>\n"
                                    "std::string c(std::string& x) { std::string y = std::move(x); return x + y; }\n")
        self.together = ["harness/a.cpp", "harness/c.cpp"]
        self.assert_found("check_tidy.py", "harness/c.cpp:3", "used after it was moved", "3 files in 2 units")

    def test_tests_are_left_out_and_paths_select(self):
        self.write("harness/tests/a_test.cpp", "int wrong() { return nothing; }\n")
        self.write("reference/c.cpp", "int wrong() { return nothing; }\n")
        status, output = self.run_check("check_tidy.py", "harness")
        self.assertEqual(status, 0, output)
        self.assertIn("2 files in 2 units checked", output)

    def test_a_source_that_does_not_compile(self):
        self.write("harness/c.cpp", "int c() { return nothing; }\n")
        self.assert_found("check_tidy.py", "harness/c.cpp:1", "nothing")

    def test_units_that_do_not_go_together_are_read_one_by_one(self):
        self.write("harness/a.cpp", "namespace { int same() { return 1; } }\nint a() { return same(); }\n")
        self.write("harness/b.cpp", "#include <string>\n#include <utility>\nnamespace { int same() { return 2; } }\n"
                                    "int b() { return same(); }\n"
                                    "std::string c(std::string& x) { std::string y = std::move(x); return x + y; }\n")
        self.assert_found("check_tidy.py", "2 units do not go together and are read one by one", "redefinition of 'same'",
                          "harness/b.cpp:5", "used after it was moved", "2 files in 2 units checked, 1 problems")

    def test_no_sources(self):
        for name in ["a.cpp", "b.cpp"]:
            (self.root / "harness" / name).unlink()
        self.assert_found("check_tidy.py", "nothing was checked")


class Shell(PlantedTree):
    def setUp(self):
        super().setUp()
        self.write("scripts/run.sh", '#!/usr/bin/env bash\necho "$1"\n')
        if self.run_check("check_shell.sh")[0] == SKIPPED:
            self.skipTest("no shellcheck")

    def test_right_script_passes(self):
        self.assert_clean("check_shell.sh")

    def test_unquoted_variable(self):
        self.write("scripts/test.sh", "#!/usr/bin/env bash\nrm -rf $1/build\n")
        self.assert_found("check_shell.sh", "SC2086")


if __name__ == "__main__":
    unittest.main()
