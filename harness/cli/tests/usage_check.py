"""Help, exit statuses and errors of the command line."""
import json
import os
import pathlib
import pty
import re
import resource
import shutil
import struct
import subprocess

import driver
from driver import BAD_INPUT, CANNOT_JUDGE, DIVERGED, MATCH, MODEL, CommandLineTest, drop_tensor, tensor_names, write_case

COMMANDS = ["run", "record", "diagnose", "inspect", "list", "compare", "reconcile", "reduce", "fuzz", "bisect", "selftest"]


class Help(CommandLineTest):
    def test_help_lists_what_there_is_and_nothing_else(self):
        result = self.qdiff("--help")
        text = result.stdout.decode()
        self.assertEqual((result.returncode, result.stderr), (MATCH, b""))
        for command in COMMANDS:
            self.assertRegex(text, rf"(?m)^  {command} ")
        for status in ["0 ", "1 ", "2 ", "125 "]:
            self.assertIn(f"\n  {status}", text)

    def test_each_command_has_examples_and_exit_statuses(self):
        shown = {command: self.qdiff(command, "--help") for command in COMMANDS}
        for result in shown.values():
            self.assertEqual(result.returncode, MATCH)
            self.assertIn(b"Example", result.stdout)
            self.assertIn(b"Exit status", result.stdout)
        text = shown["run"].stdout.decode()
        self.assertEqual(self.qdiff("run", "-h").stdout.decode(), text)
        for option in ["--model", "--backend", "--reference", "--out", "--dtype", "--layers", "--steps", "--mode", "--inject",
                       "--print-gemms", "--max-memory", "--quiet", "--color", "--threads"]:
            self.assertIn(option + " ", text)

    def test_version(self):
        result = self.qdiff("--version")
        self.assertEqual(result.returncode, MATCH)
        self.assertRegex(result.stdout.decode(), r"\Aqdiff \d+\.\d+\.\d+\n\Z")

    def test_threads_wait_without_spinning_unless_the_caller_says_otherwise(self):
        for chosen, expected in [(None, "PASSIVE"), ("active", "ACTIVE")]:
            environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
            environment |= {"OMP_DISPLAY_ENV": "true"} | ({"OMP_WAIT_POLICY": chosen} if chosen else {})
            result = subprocess.run([driver.QDIFF, "--version"], env=environment, capture_output=True, check=True)
            self.assertIn(f"OMP_WAIT_POLICY = '{expected}'", result.stderr.decode())

    def test_a_command_that_this_version_lacks(self):
        self.refused("serve", says="unknown command 'serve'")
        self.refused("serve", "--help", says="unknown command 'serve'")


class BadUsage(CommandLineTest):
    def test_wrong_words(self):
        self.refused(says="no command")
        self.refused("rnu", says='did you mean "run"?')
        self.refused("run", "--modle", "x", says='did you mean "--model"?')
        self.refused("run", "--layers", "-1", says="--layers")
        self.refused("run", "--inject", "H05.modulo", "--inject", "H06.missing_k", says="--inject is given 2 times; give it once")
        self.refused("run", "--inject", "H03.theta=nan", says="--inject")
        self.refused("run", "--model", says="--model")
        self.refused("record", "--model", MODEL, says="--case")
        self.refused("inspect", says="PATH")
        self.refused("merge", "nowhere", says="nowhere: there is no such folder")
        self.refused("merge", self.case, says="there is no plan.json in it")
        self.refused("compare", self.case, self.case, says="is a file; a trace is a folder, with manifest.json")
        self.refused("run", "\x1b[31m\n--oops")
        self.refused("run", b"\xff\xfe.json")

    def test_values_that_the_model_or_the_engine_refuses(self):
        self.refused("run", self.case, "--layers", "2", says=["--layers", "0 to 1"])
        self.refused("run", self.case, "--layers", "0-2000000000", says="--layers")
        self.refused("run", self.case, "--inject", "H05.module", says='did you mean "H05.modulo"?')
        self.refused("run", self.case, "--inject", "H05.modulo@7", says="7")
        self.refused("run", self.case, "--inject", "H05.modulo=3", says="H05.modulo")
        self.refused("run", self.case, self.case, says="two cases have the id tiny")
        self.refused("run", self.case, "--model", "synthetic:qwen2.5-1.7b", says="qwen2.5-1.5b")

    def test_mistyped_names_are_suggested(self):
        record = ["record", "--model", MODEL, "--case", self.case, "--trace", "t", "--engine"]
        for arguments, meant in [
                (["run", "H05-gpa"], "H05-gqa"), (["run", "cases/H05-gqa.jsn"], "H05-gqa"),
                (["inspect", "end-to-ned"], "end-to-end"), (["run", "--dtype", "bf16"], "bfloat16"),
                (["run", "--dtype", "half"], "float16"), (["run", "--inject", "H5.modulo"], "H05.modulo"),
                (["run", "--inject", "modulo"], "H05.modulo"), (["run", "--inject", "H03.theat=1e4"], "H03.theta"),
                (["run", "--mode", "lock-step"], "lockstep"), ([*record, "referenc"], "reference"),
                (["run", "--model", "synthetic:qwen2.5-05b"], "qwen2.5-0.5b"), (["dignose"], "diagnose"),
                (["run", "--bad-input-stats", "125"], "--bad-input-status"),
                (["--vesion"], "--version"), (["RUN"], "run"), (["comple"], "completion")]:
            self.refused(*arguments, says=f'did you mean "{meant}"?')

    def test_names_and_shapes_in_a_trace(self):
        self.qdiff("record", "--model", MODEL, "--case", self.case, "--engine", "cpu", "--trace", "t")
        manifest = self.folder / "t/manifest.json"
        good = manifest.read_text()
        document = json.loads(good)
        document["compute"]["activations"] = "bf16"
        manifest.write_text(json.dumps(document))
        self.refused("inspect", "t", says=['"activations" is "bf16"', 'did you mean "bfloat16"?'])
        manifest.write_text(good)
        step = self.folder / "t/step-0000.safetensors"
        raw = step.read_bytes()
        size, = struct.unpack("<Q", raw[:8])
        for change, words in [(lambda shape: [shape[0], shape[2], shape[1]], "so it is written transposed"),
                              (lambda shape: shape[1:], "view it in that shape")]:
            header = json.loads(raw[8:8 + size])
            entry = header["model.layers.0.mlp.act"]
            entry["shape"] = change(entry["shape"])
            text = json.dumps(header).encode()
            step.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size:])
            self.refused("diagnose", "--model", MODEL, "--trace", "t", says=["model.layers.0.mlp.act", words])

    def test_empty_values(self):
        for option, rule in [("--layers", "as 0-3 or 0,2"), ("--steps", "as 0-3 or 0,2"), ("--inject", "Hnn.name"),
                             ("--dtype", "bfloat16"), ("--mode", "lockstep"), ("--out", "path"), ("--model", "path")]:
            self.refused("run", self.case, option, "", says=[option, rule])
            self.refused("run", self.case, option + "=", says=option + " is empty")
        self.refused("selftest", "--only", "", says=["--only is empty", "H03"])

    def test_a_fault_outside_the_judged_layers(self):
        self.refused("run", self.case, "--inject", "H05.modulo@1", "--layers", "0",
                     says=["--inject 'H05.modulo@1'", "layer 1", "--layers '0'"])
        self.refused("run", self.case, "--inject", "H05.modulo@7", "--layers", "0-1", says="7")
        # This fault writes into the cache of layer 0, wherever it sits.
        result = self.qdiff("run", self.case, "--inject", "H01.no_layer_stride@1", "--layers", "0")
        self.assertNotEqual(result.returncode, BAD_INPUT, result.stderr)

    def test_a_step_that_no_case_has(self):
        self.refused("run", self.case, "--steps", "2", says="there is no step 2; there are steps 0 to 1")
        self.refused("run", self.case, "--steps", "0,99", says="there is no step 99")
        self.refused("record", "--model", MODEL, "--case", self.case, "--engine", "cpu", "--trace", "t", "--steps", "2",
                     says="there is no step 2")

    def test_values_that_a_fault_cannot_have(self):
        for engine in ["cpu", "reference"]:
            for fault in ["H02.tile_max=0", "H07.acc_bf16=-5", "H04.wo_cols=-1", "H03.half_slice=0", "H05.modulo=1"]:
                self.refused("record", "--model", MODEL, "--case", self.case, "--engine", engine, "--trace", "t",
                             "--inject", fault, says="fault " + fault.split("=")[0])

    def test_what_cannot_be_judged_here(self):
        self.refused("run", self.case, "--backend", "cuda", status=CANNOT_JUDGE, says="CUDA")
        self.refused("run", self.case, "--reference", "gpu", status=CANNOT_JUDGE,
                     says="the reference cannot compute on a GPU here: no CUDA")
        self.refused("record", "--model", MODEL, "--case", self.case, "--engine", "cuda", "--trace", "t",
                     status=CANNOT_JUDGE, says="CUDA")

    def test_memory_is_refused_before_it_is_taken(self):
        self.refused("run", self.case, "--max-memory", "1M", says=["--max-memory allows 1.0 MiB"])
        self.refused("record", "--model", MODEL, "--case", self.case, "--engine", "cpu", "--trace", "t",
                     "--max-memory", "1M", says="--max-memory")
        wide = write_case(self.folder / "wide.json", batch=1024, left_padding=[0] * 1024, capacity=4096,
                          steps=[{"phase": "prefill", "tokens": 4096}])
        self.refused("run", wide, "--model", "synthetic:qwen2.5-72b", "--max-memory", "8G", says="--max-memory")
        self.assertFalse((self.folder / "t").exists())


    def test_long_work_says_what_it_takes_before_it_begins(self):
        """Of weights that no machine holds, none is made before that."""
        for command in [["run", self.case], ["record", "--case", self.case, "--engine", "cpu", "--trace", "t"]]:
            with subprocess.Popen([driver.QDIFF, *map(str, command), "--model", "synthetic:qwen2.5-72b", "--max-memory", "64G"],
                                  cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.PIPE, text=True) as process:
                try:
                    line = process.stderr.readline()
                finally:
                    process.kill()
            self.assertRegex(line, r"\Aqdiff: this takes about [\d.]+ (min|h)[^\n]*, and [\d.]+ GiB of memory; --layers and ")


class BadInput(CommandLineTest):
    def test_cases(self):
        self.refused("run", "nowhere.json", says="nowhere.json")
        for changes in [{"batch": 0, "left_padding": []}, {"steps": []}, {"capacity": 1}, {"vershion": 1}]:
            broken = write_case(self.folder / "broken.json", **changes)
            self.refused("run", broken, says="broken.json")
            self.refused("inspect", broken, says="broken.json")
        beyond = write_case(self.folder / "beyond.json", steps=[{"phase": "prefill", "tokens": [[1, 2, 1000]]}])
        self.refused("run", beyond, says=["1000"])  # the vocabulary ends at 999
        (self.folder / "text.json").write_text("[" * 1000000)
        self.refused("run", "text.json", says="text.json")
        (self.folder / "empty.json").write_text("")
        self.refused("run", "empty.json", says="empty.json")
        self.refused("run", self.folder, says=str(self.folder))
        os.mkfifo(self.folder / "fifo.json")
        self.refused("run", "fifo.json", says="not a regular file")

    def test_a_model_that_a_case_names(self):
        for model, words in [("synthetic:toy-d6x", 'did you mean "toy-d64"?'), ("synthetic:toy-d64,seed=x", "seed")]:
            broken = write_case(self.folder / "broken.json", model=model)
            for command in ["run", "inspect"]:
                self.refused(command, broken, says=["broken.json: \"model\" is \"" + model + "\"", words])
            self.assertEqual(self.qdiff("run", broken, "--model", MODEL, "--layers", "0").returncode, MATCH)

    def test_links_that_lead_in_a_circle(self):
        (self.folder / "loop").symlink_to("pool")
        (self.folder / "pool").symlink_to("loop")
        (self.folder / "dangling").symlink_to("nowhere")
        (self.folder / "model").mkdir()
        (self.folder / "model/config.json").symlink_to("config.json")
        circle = "Too many levels of symbolic links"
        for arguments in [("run", "loop"), ("inspect", "loop"), ("inspect", "loop/x"), ("compare", "loop", "loop"),
                          ("run", self.case, "--model", "loop"), ("run", self.case, "--model", "model"),
                          ("inspect", "model"), ("run", self.case, "--out", "loop"),
                          ("run", self.case, "--out", "loop/x")]:
            self.refused(*arguments, says=circle)
        self.refused("run", self.case, "--out", "dangling", says="dangling is not a folder")
        self.refused("record", "--model", MODEL, "--case", self.case, "--engine", "cpu", "--trace", "loop",
                     says="loop: is a symbolic link")
        self.assertEqual(self.qdiff("inspect", "H05-gqa").returncode, MATCH)

    def test_unreadable_file(self):
        self.case.chmod(0)
        if os.access(self.case, os.R_OK):
            self.skipTest("this user may read everything")
        self.refused("run", self.case, says="tiny.json")

    def test_models(self):
        self.refused("run", self.case, "--model", "nowhere", says="nowhere")
        self.refused("inspect", "nowhere", says="nowhere")
        (self.folder / "void").mkdir()
        self.refused("inspect", "void", says=["manifest.json", "config.json"])
        self.refused("run", self.case, "--model", "void", says="void")
        self.refused("inspect", "model.gguf", says="model.gguf")
        (self.folder / "loose.safetensors").write_bytes(b"\0" * 8)
        self.refused("inspect", "loose.safetensors", says="folder")
        self.refused("inspect", "void/config.json", says="folder")
        (self.folder / "engine.cpp").write_text("// {\nint main() {}\n")
        self.refused("inspect", "engine.cpp", says=["engine.cpp: nothing that can be described", "manifest.json", "qdiff-case"])
        self.case.rename(self.folder / "case-of-no-ending")
        self.assertEqual(self.qdiff("inspect", "case-of-no-ending").returncode, MATCH)

    def test_weight_missing_from_the_model(self):
        model = self.copy_checkpoint()
        self.assertEqual(self.qdiff("inspect", model).returncode, MATCH)
        drop_tensor(model / "model.safetensors", "model.layers.1.self_attn.k_proj.bias")
        for arguments in [("run", self.case, "--model", model), ("inspect", model),
                          ("record", "--model", model, "--case", self.case, "--engine", "cpu", "--trace", "t")]:
            self.refused(*arguments, says="model.layers.1.self_attn.k_proj.bias")

    def test_cut_weights(self):
        model = self.copy_checkpoint()
        weights = model / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
        self.refused("run", self.case, "--model", model, says="model.safetensors")

    def test_places_that_cannot_be_written(self):
        (self.folder / "file").write_text("mine")
        self.refused("run", self.case, "--out", "file", says="--out")
        self.refused("run", self.case, "--out", "file/inside", says="--out")
        record = ["record", "--model", MODEL, "--case", self.case, "--engine", "cpu", "--trace"]
        self.qdiff(*record, "good")
        diagnose = ["diagnose", "--model", MODEL, "--trace", "good"]
        reconcile = ["reconcile", "--model", MODEL, "good", "good"]
        reduce = ["reduce", self.case, "--inject", "H05.modulo"]
        for command in [["run", self.case], ["run", self.case, "--resume"], diagnose, reconcile, reduce, ["fuzz", "--runs", "1"],
                        ["compare", "good", "good"], ["selftest", "--quick"], ["reduce", *diagnose[1:]],
                        ["bisect", "--good", "a", "--bad", "b", "--record", "true", "--model", MODEL], ["merge", "shard"]]:
            self.refused(*command, "--out", "/proc/qdiff-report", says="--out '/proc/qdiff-report': /proc cannot be written")
        # What others wrote is found before any work, too, and stays.
        for command, name in [(["run", self.case], "report.json"), (["run", self.case], "hypotheses/H03.json"),
                              (diagnose, "junit.xml"), (reconcile, "reconcile.json"), (reconcile, "A/report.html"),
                              (["compare", "good", "good"], "compare.json"), (reduce, "tiny-reduced.json"),
                              (["reduce", *diagnose[1:]], "good-reduced.json"), (["selftest", "--quick"], "selftest.json")]:
            path = self.folder / "theirs" / name
            path.parent.mkdir(parents=True)
            path.write_text("mine")
            self.refused(*command, "--out", "theirs", says=[str(pathlib.Path("theirs") / name), "not written by qdiff"])
            self.assertEqual([p.read_text() for p in (self.folder / "theirs").rglob("*") if p.is_file()], ["mine"])
            shutil.rmtree(self.folder / "theirs")
        self.refused(*record, "file", says="file")
        (self.folder / "mine").mkdir()
        (self.folder / "mine" / "thesis.txt").write_text("years")
        self.refused(*record, "mine", says="thesis.txt")
        self.assertEqual([path.name for path in (self.folder / "mine").iterdir()], ["thesis.txt"])
        self.assertEqual((self.folder / "file").read_text(), "mine")

    def test_address_space_that_ends_gives_an_error_and_no_signal(self):
        """The estimate cannot know of a limit on the address space: the allocation itself fails."""
        def limit():
            resource.setrlimit(resource.RLIMIT_AS, (3 << 29, 3 << 29))
        wide = write_case(self.folder / "wide.json", batch=64, left_padding=[0] * 64, capacity=512,
                          steps=[{"phase": "prefill", "tokens": 512}])
        result = self.qdiff("record", "--model", "synthetic:toy-14x2", "--case", wide, "--engine", "cpu", "--trace",
                            "t", "--threads", "1", preexec_fn=limit)
        self.assertEqual(result.returncode, BAD_INPUT, result.stderr)
        self.assertRegex(result.stderr.decode(), r"\A(qdiff: this takes about [^\n]*\n)?qdiff: out of memory[^\n]*\n\Z")
        self.assertEqual([path.name for path in self.folder.iterdir() if "trace" in path.name], [])


    def test_files_beyond_the_limit_of_their_size_give_an_error_and_no_signal(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        result = self.qdiff("record", "--model", MODEL, "--case", self.case, "--engine", "cpu", "--trace", "t",
                            preexec_fn=limit)
        self.assertEqual(result.returncode, BAD_INPUT, result.stderr)
        self.assertRegex(result.stderr.decode(), r"\Aqdiff: [^\n]*cannot be written: File too large[^\n]*\n\Z")
        self.assertEqual([path.name for path in self.folder.iterdir() if path.name.startswith((".qdiff", "t"))], ["tiny.json"])


class Streams(CommandLineTest):
    def test_closed_and_full_output(self):
        with open("/dev/full", "wb") as full:
            self.assertEqual(self.qdiff("--help", capture_output=False, stdout=full,
                                        stderr=subprocess.DEVNULL).returncode, BAD_INPUT)
        reader, writer = os.pipe()
        os.close(reader)
        try:
            result = self.qdiff("inspect", MODEL, capture_output=False, stdout=writer, stderr=subprocess.PIPE)
        finally:
            os.close(writer)
        self.assertEqual((result.returncode, result.stderr), (MATCH, b""))

    def test_missing_streams(self):
        """No file that is opened later takes the place of a stream."""
        record = ["record", "--model", MODEL, "--case", self.case, "--engine", "cpu", "--trace"]
        self.assertEqual(self.qdiff(*record, "usual").returncode, MATCH)
        result = self.qdiff(*record, "closed", capture_output=False,
                            preexec_fn=lambda: [os.close(stream) for stream in (0, 1, 2)])
        self.assertEqual(result.returncode, BAD_INPUT)  # what it had to say is lost
        for path in (self.folder / "usual").iterdir():
            self.assertEqual(path.read_bytes(), (self.folder / "closed" / path.name).read_bytes())

    def test_progress_redraws_a_terminal_s_line_and_is_a_line_now_and_then_in_a_pipe(self):
        def on_terminal(*arguments):
            main, other = pty.openpty()
            process = subprocess.Popen([driver.QDIFF, *map(str, arguments)], cwd=self.folder, stdout=subprocess.PIPE,
                                       stdin=subprocess.DEVNULL, stderr=other)
            os.close(other)
            shown = b""
            try:
                while chunk := os.read(main, 65536):
                    shown += chunk
            except OSError:
                pass  # the other side is closed
            os.close(main)
            process.stdout.close()
            return process.wait(), shown
        command = ["record", "--model", MODEL, "--case", self.case, "--engine", "cpu", "--trace", "t"]
        status, shown = on_terminal(*command)
        self.assertEqual(status, MATCH)
        self.assertIn(b"\r", shown)
        self.assertIn(b"recording tiny", shown)
        self.assertNotIn(b"\n", shown)
        self.assertEqual(on_terminal(*command, "--quiet"), (MATCH, b""))
        self.assertEqual(self.qdiff(*command).stderr, b"")
        always = {**os.environ, "QDIFF_PROGRESS_SECONDS": "0"}
        lines = self.qdiff(*command, env=always).stderr.decode().splitlines()
        self.assertTrue(lines)
        for line in lines:
            self.assertRegex(line, r"\Aqdiff: (\[=* *\] +\d+%  \d+ of \d+  )?[^\r\x1b]+, [\d.]+ s(, about .* left of this)?\Z")
        self.assertEqual(self.qdiff(*command, "--quiet", env=always).stderr, b"")
        # The bar of a run is that of all its models, and only grows.
        run = ["run", "H09-tiny-norm", "H05-gqa", "--steps", "0", "--mode", "lockstep"]
        lines = self.qdiff(*run, env=always).stderr.decode().splitlines()
        for line in lines:
            self.assertRegex(line, r"\Aqdiff: \[=* *\] +\d+%  model \d of 2, [^\r\x1b]+, [\d.]+ s(, about .* left( of this)?)?\Z")
        shares = [int(re.search(r"(\d+)%", line).group(1)) for line in lines]
        self.assertEqual(shares, sorted(shares))
        self.assertGreater(shares[-1], 70)
        self.assertEqual(self.qdiff(*command, env={**always, "QDIFF_PROGRESS_SECONDS": "soon"}).stderr, b"")


class Record(CommandLineTest):
    def record(self, trace, *more, engine="cpu"):
        return self.qdiff("record", "--model", MODEL, "--case", self.case, "--engine", engine, "--trace", trace, *more)

    def test_a_trace_is_written_inspected_and_replaced(self):
        for engine in ["cpu", "reference"]:
            result = self.record("t", engine=engine)
            self.assertEqual((result.returncode, result.stderr), (MATCH, b""))
            self.assertIn(b"wrote t", result.stdout)
            self.assertEqual(sorted(path.name for path in (self.folder / "t").iterdir()),
                             ["manifest.json", "step-0000.safetensors", "step-0001.safetensors"])
            manifest = json.loads((self.folder / "t/manifest.json").read_text())
            self.assertEqual(manifest["engine"]["name"], engine)
            self.assertEqual(manifest["compute"]["activations"], "bfloat16")
            result = self.qdiff("inspect", "t")
            self.assertEqual(result.returncode, MATCH)
            self.assertIn(b"prefill", result.stdout)

    def tensors(self, trace):
        """By step: the names of its tensors."""
        return [tensor_names(path) for path in sorted((self.folder / trace).glob("*.safetensors"))]

    def test_layers_and_steps(self):
        """What is written is part of the whole recording, and can be judged."""
        self.record("whole")
        whole = self.tensors("whole")
        for mode in ["free", "lockstep"]:
            self.assertEqual(self.record("layer", "--layers", "1", "--mode", mode).returncode, MATCH)
            self.assertEqual(self.tensors("layer"),
                             [[name for name in names if name.startswith("model.layers.1.")] for names in whole])
            self.assertEqual(self.record("step", "--steps", "1", "--mode", mode).returncode, MATCH)
            self.assertEqual(self.tensors("step"), [[], whole[1]])
            self.assertEqual(self.record("first", "--steps", "0", "--layers", "0", "--mode", mode).returncode, MATCH)
            self.assertEqual(self.tensors("first"),
                             [[name for name in whole[0] if name.startswith("model.layers.0.")]])
        self.record("step", "--steps", "1")
        for trace in ["layer", "step", "first"]:
            self.assertEqual(self.qdiff("inspect", trace).returncode, MATCH)
        result = self.qdiff("diagnose", "--model", MODEL, "--trace", "step")
        self.assertEqual(result.returncode, MATCH, result.stderr)
        result = self.qdiff("compare", "step", "whole")
        self.assertEqual(result.returncode, MATCH, result.stdout)
        for option, value in [("--layers", "2"), ("--layers", "0,7"), ("--steps", "0-2")]:
            self.refused("record", "--model", MODEL, "--case", self.case, "--engine", "cpu", "--trace", "t", option,
                         value, says=f"{option} '{value}': there is no")
        self.refused("record", "--model", MODEL, "--case", self.case, "--engine", "cpu", "--trace", "t", "--layers", "0",
                     "--inject", "H05.modulo@1", says="layer 1 is not among")

    def test_lockstep(self):
        """Each layer's input is the reference's, so what the layer before did wrong does not reach it."""
        self.record("clean", "--mode", "lockstep")
        self.record("planted", "--mode", "lockstep", "--inject", "H05.modulo@0")
        result = self.qdiff("compare", "planted", "clean", "--out", "out")
        self.assertEqual(result.returncode, DIVERGED, result.stderr)
        names = [tensor["tensor"] for tensor in json.loads((self.folder / "out/compare.json").read_text())["tensors"]
                 if not tensor["bits_equal"]]
        self.assertTrue(names)
        self.assertTrue(all(name.startswith("model.layers.0.") for name in names), names)
        self.record("free", "--inject", "H05.modulo@0")
        self.record("clean")
        result = self.qdiff("compare", "free", "clean", "--out", "out")
        self.assertIn(b"model.layers.1.", result.stdout)

    def test_the_same_recording_twice_is_the_same_bytes(self):
        files = []
        for trace in ["a", "b"]:
            self.record(trace, "--dtype", "float32")
            files.append({path.name: path.read_bytes() for path in (self.folder / trace).iterdir()})
        self.assertEqual(files[0], files[1])

    def test_a_planted_fault_shows_or_the_trace_is_not_written(self):
        self.record("clean")
        self.assertEqual(self.record("planted", "--inject", "H05.modulo").returncode, MATCH)
        self.assertNotEqual((self.folder / "clean/step-0000.safetensors").read_bytes(),
                            (self.folder / "planted/step-0000.safetensors").read_bytes())
        result = self.qdiff("record", "--model", "synthetic:toy-mha", "--case", self.case, "--engine", "cpu", "--trace",
                            "never", "--inject", "H05.modulo")  # one query head for each key head: nothing to mistake
        self.assertEqual(result.returncode, CANNOT_JUDGE, result.stderr)
        self.assertFalse((self.folder / "never").exists())

    def test_broken_traces_are_refused(self):
        self.record("t")
        manifest = self.folder / "t/manifest.json"
        good = json.loads(manifest.read_text())
        step = self.folder / "t/step-0001.safetensors"
        for change in [lambda m: m.pop("compute"), lambda m: m.update(version=2),
                       lambda m: m["steps"][0]["tokens"][0].__setitem__(0, 1000),
                       lambda m: m["steps"][0].update(file="../step-0000.safetensors"),
                       lambda m: m["steps"][1].update(past_length=4),
                       lambda m: m["model"]["config"].update(hidden_size=193),
                       lambda m: m["model"]["config"].update(num_hidden_layers=1)]:
            document = json.loads(json.dumps(good))
            change(document)
            manifest.write_text(json.dumps(document))
            self.refused("inspect", "t")
        manifest.write_text(json.dumps(good))
        self.assertEqual(self.qdiff("inspect", "t").returncode, MATCH)
        step.write_bytes(step.read_bytes()[:-1])
        self.refused("inspect", "t", says="step-0001.safetensors")
        step.unlink()
        self.refused("inspect", "t", says="step-0001.safetensors")


class Inspect(CommandLineTest):
    def test_models_and_cases(self):
        for path, words in [(MODEL, b"1000"), (self.case, b"prefill"), ("H05-gqa", b"H05"),
                            (self.copy_checkpoint(), b"float16"), (self.copy_checkpoint("sharded-bfloat16"), b"bfloat16")]:
            result = self.qdiff("inspect", path)
            self.assertEqual((result.returncode, result.stderr), (MATCH, b""), path)
            self.assertIn(words, result.stdout)

    def test_it_writes_nothing(self):
        before = sorted(path.name for path in self.folder.iterdir())
        self.qdiff("inspect", MODEL)
        self.qdiff("inspect", self.case)
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), before)

    def test_names_from_files_do_not_reach_the_terminal_raw(self):
        write_case(self.folder / "loud.json", title="\u202eloud \u009b2J")
        result = self.qdiff("inspect", "loud.json")
        for bytes_ in ["\u202e".encode(), "\u009b".encode(), b"\x1b"]:
            self.assertNotIn(bytes_, result.stdout + result.stderr)
