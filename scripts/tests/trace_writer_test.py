#!/usr/bin/env python3
"""python/qdiff/trace_writer.py, read back by the layout of safetensors. With the standard library alone; NumPy where it is.

    trace_writer_test.py [-v] [name of a test]
"""
import array
import json
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(SCRIPTS))
from trace_writer import TraceError, TraceWriter, compute, shape_of  # noqa: E402

CONFIG = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 3,
          "intermediate_size": 6, "vocab_size": 10}
ENGINE = {"name": "test"}


def read_step(path):
    """{name: (dtype, shape, bytes)}; asserts what a strict reader asks for."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + length])
    body, end, tensors = data[8 + length:], 0, {}
    assert length % 8 == 0 and data[8:9] == b"{"
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, stop = entry["data_offsets"]
        assert begin == end and begin % (4 if entry["dtype"] == "F32" else 2) == 0, name
        tensors[name], end = (entry["dtype"], entry["shape"], body[begin:stop]), stop
    assert end == len(body)
    return tensors


class Writing(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.trace = self.folder / "deep" / "trace"

    def writer(self, path=None, points=None):
        return TraceWriter(path or self.trace, ENGINE, compute("bfloat16", points=points), CONFIG)

    def entries(self):
        return sorted(path.name for path in self.trace.parent.iterdir())

    def test_comes_back(self):
        with self.writer(points={"attention.probs": "bfloat16"}) as trace:
            trace.begin_step("prefill", [[0, 2], [3, 4]], positions=[[0, 0], [0, 1]], left_padding=[1, 0])
            trace.tensor("model.layers.1.self_attn.k_proj", bytes(range(48)), "bfloat16", (2, 2, 6))
            trace.tensor("model.norm", [[[1.5] * 8] * 2, [[-2.0] * 8] * 2], "float32")
            trace.begin_step("decode", [[5], [6]])
            self.assertEqual(trace.phase, "decode")
            trace.tensor("lm_head", [[[0.5] * 10]] * 2, "float16")
            self.assertEqual([name for name in self.entries() if not name.startswith(".")], [])
        self.assertEqual(self.entries(), ["trace"])
        self.assertEqual(sorted(path.name for path in self.trace.iterdir()),
                         ["manifest.json", "step-0000.safetensors", "step-0001.safetensors"])
        manifest = json.loads((self.trace / "manifest.json").read_text())
        self.assertEqual((manifest["format"], manifest["version"]), ("qdiff-trace", 1))
        self.assertEqual(manifest["engine"], ENGINE)
        self.assertEqual(manifest["compute"], {"weights": "bfloat16", "activations": "bfloat16",
                                               "accumulate": "float32", "points": {"attention.probs": "bfloat16"}})
        self.assertEqual(manifest["model"], {"architecture": "qwen2", "config": CONFIG})
        self.assertEqual(manifest["steps"], [
            {"index": 0, "phase": "prefill", "file": "step-0000.safetensors", "tokens": [[0, 2], [3, 4]],
             "past_length": 0, "positions": [[0, 0], [0, 1]], "left_padding": [1, 0]},
            {"index": 1, "phase": "decode", "file": "step-0001.safetensors", "tokens": [[5], [6]], "past_length": 2}])
        first, second = (read_step(self.trace / step["file"]) for step in manifest["steps"])
        self.assertEqual(first["model.layers.1.self_attn.k_proj"], ("BF16", [2, 2, 6], bytes(range(48))))
        self.assertEqual(first["model.norm"], ("F32", [2, 2, 8], struct.pack("<32f", *[1.5] * 16, *[-2.0] * 16)))
        self.assertEqual(second, {"lm_head": ("F16", [2, 1, 10], struct.pack("<20e", *[0.5] * 20))})

    def test_says_whether_the_caller_chose_the_positions(self):
        with TraceWriter(self.trace, ENGINE, compute("bfloat16"), CONFIG, positions_requested=True) as trace:
            trace.begin_step("prefill", [[3, 4]], positions=[[7, 8]])
        manifest = json.loads((self.trace / "manifest.json").read_text())
        self.assertEqual(manifest["positions_are"], "requested")
        with self.writer() as trace:
            trace.begin_step("prefill", [[3, 4]])
        self.assertNotIn("positions_are", json.loads((self.trace / "manifest.json").read_text()))

    def test_bfloat16_of_floats(self):
        unit = 2.0 ** -8
        values = [1 + unit, 1 + 3 * unit, 1 + 1.01 * unit, -0.0, float("inf"), float("nan"), 3.4e38, 2.0 ** -133]
        with self.writer() as trace:
            trace.begin_step("decode", [[1]])
            trace.tensor("model.norm", values, "bfloat16", (1, 1, 8))
        halves = array.array("H", read_step(self.trace / "step-0000.safetensors")["model.norm"][2])
        self.assertEqual(halves.tolist(), [0x3F80, 0x3F82, 0x3F81, 0x8000, 0x7F80, 0x7FC0, 0x7F80, 1])

    def test_numpy(self):
        try:
            import numpy
        except ImportError:
            self.skipTest("this Python has no numpy")
        with self.writer() as trace:
            trace.begin_step("decode", [numpy.array([1])])
            strided = numpy.arange(24, dtype=numpy.float16).reshape(1, 8, 3)[:, :, 1][:, None, :]
            trace.tensor("model.norm", strided)
            trace.tensor("model.layers.0.output", strided.astype(">f2"))
            trace.tensor("model.embed_tokens", numpy.full((1, 1, 8), 0x3F80, dtype=numpy.uint16), "bfloat16")
            with self.assertRaisesRegex(TraceError, "float64"):
                trace.tensor("lm_head", numpy.zeros((1, 1, 10)))
            with self.assertRaisesRegex(TraceError, "holds float16, but is said to hold float32"):
                trace.tensor("lm_head", numpy.zeros((1, 1, 10), dtype=numpy.float16), "float32")
        step = read_step(self.trace / "step-0000.safetensors")
        self.assertEqual(step["model.norm"][2], struct.pack("<8e", *range(1, 24, 3)))
        self.assertEqual(step["model.layers.0.output"], step["model.norm"])  # whatever the order of the bytes
        self.assertEqual(step["model.embed_tokens"], ("BF16", [1, 1, 8], b"\x80\x3f" * 8))

    def test_cache_capacity(self):
        with TraceWriter(self.trace, ENGINE, compute("bfloat16"), CONFIG, cache_capacity=96) as trace:
            trace.begin_step("decode", [[1]])
        self.assertEqual(json.loads((self.trace / "manifest.json").read_text())["cache_capacity"], 96)

    def test_arrays_of_any_library(self):
        """What speaks DLPack alone, whole or strided, and what NumPy's protocol makes an array of."""
        try:
            import numpy
        except ImportError:
            self.skipTest("this Python has no numpy")

        class SpeaksDLPack:
            def __init__(self, values):
                self.values = values

            def __dlpack__(self, **keywords):
                return self.values.__dlpack__(**keywords)

            def __dlpack_device__(self):
                return self.values.__dlpack_device__()

        class Elsewhere(SpeaksDLPack):
            def __dlpack_device__(self):
                return 2, 0

        class MakesAnArray:
            def __array__(self, dtype=None, copy=None):
                return numpy.arange(10, dtype=numpy.float32).reshape(1, 1, 10)

        whole = numpy.arange(48, dtype=numpy.float32).reshape(1, 2, 8, 3)
        with self.writer() as trace:
            trace.begin_step("prefill", [[1, 2]])
            trace.tensor("model.norm", SpeaksDLPack(numpy.ascontiguousarray(whole[..., 1])))
            trace.tensor("model.embed_tokens", SpeaksDLPack(whole[..., 1]))  # steps of three elements
            trace.tensor("model.layers.0.output", SpeaksDLPack(whole[0, :, :, :2].transpose(2, 0, 1)[1:]))
            trace.tensor("model.layers.0.self_attn.k_rope", SpeaksDLPack(whole.reshape(1, 2, 2, 12)[..., 3:6]))
            with self.assertRaisesRegex(TraceError, "DLPack's type 2 of 64 bits"):
                trace.tensor("lm_head", SpeaksDLPack(numpy.zeros((1, 1, 10))))
            with self.assertRaisesRegex(TraceError, "holds float32, but is said to hold bfloat16"):
                trace.tensor("lm_head", SpeaksDLPack(numpy.zeros((1, 1, 10), numpy.float32)), "bfloat16")
            with self.assertRaisesRegex(TraceError, "copy it to the host"):
                trace.tensor("lm_head", Elsewhere(numpy.zeros((1, 1, 10), numpy.float32)))
            trace.tensor("lm_head", MakesAnArray())
        step = read_step(self.trace / "step-0000.safetensors")
        for name in ("model.norm", "model.embed_tokens", "model.layers.0.output"):
            self.assertEqual(step[name], ("F32", [1, 2, 8], whole[..., 1].tobytes()), name)
        self.assertEqual(step["model.layers.0.self_attn.k_rope"][2], whole.reshape(1, 2, 2, 12)[..., 3:6].tobytes())
        self.assertEqual(step["lm_head"], ("F32", [1, 1, 10], struct.pack("<10f", *range(10))))

    def test_bfloat16_by_dlpack(self):
        """jax and mlx hold bfloat16, of which NumPy's own DLPack knows nothing."""
        arrays = []
        try:
            import jax.numpy
            arrays.append(jax.numpy.arange(8, dtype=jax.numpy.bfloat16).reshape(1, 1, 8))
        except ImportError:
            pass
        try:
            import mlx.core
            arrays.append(mlx.core.arange(8, dtype=mlx.core.bfloat16).reshape(1, 1, 8))
        except ImportError:
            pass
        if not arrays:
            self.skipTest("this Python has neither jax nor mlx")
        for values in arrays:
            with self.writer() as trace:
                trace.begin_step("decode", [[1]])
                trace.tensor("model.norm", values)
            step = read_step(self.trace / "step-0000.safetensors")
            self.assertEqual(step["model.norm"][:2], ("BF16", [1, 1, 8]))
            self.assertEqual([bits << 16 for bits in array.array("H", step["model.norm"][2])],
                             list(struct.unpack("<8I", struct.pack("<8f", *range(8)))))

    def test_refuses_what_is_no_trace(self):
        with self.writer() as trace:
            with self.assertRaisesRegex(TraceError, "no step has begun"):
                trace.tensor("model.norm", bytes(16), "bfloat16", (1, 1, 8))
            for phase, tokens, says in (("warm-up", [[1]], "warm-up"), ("decode", [[1], [2, 3]], "equally long"),
                                        ("decode", [], "must be"), ("decode", [[]], "must be")):
                with self.assertRaisesRegex(TraceError, says):
                    trace.begin_step(phase, tokens)
            trace.begin_step("prefill", [[1, 2]])
            for name, shape, says in (("model.layers.0.mlp.gateproj", (1, 2, 6), "mean model.layers.0.mlp.gate_proj"),
                                      ("model.layers.0.model.norm", (1, 2, 8), "is no tensor"),
                                      ("model.layers.01.output", (1, 2, 8), "is no tensor"),
                                      ("model.norm", (1, 3, 8), r"\[1, 3, 8\]"), ("model.norm", (2, 8), r"\[2, 8\]"),
                                      ("model.norm", (1, 1, 8), r"\[1, 1, 8\]"),
                                      ("model.layers.0.self_attn.k_cache", (1, 2, 4, 3), "B, S, K, d")):
                with self.assertRaisesRegex(TraceError, says, msg=name):
                    size = 2
                    for dimension in shape:
                        size *= dimension
                    trace.tensor(name, bytes(size), "bfloat16", shape)
            with self.assertRaisesRegex(TraceError, "int8"):
                trace.tensor("model.norm", bytes(16), "int8", (1, 2, 8))
            with self.assertRaisesRegex(TraceError, "has 31 bytes"):
                trace.tensor("model.norm", bytes(31), "bfloat16", (1, 2, 8))
            with self.assertRaisesRegex(TraceError, "which dtype"):
                trace.tensor("model.norm", [[[0.0] * 8] * 2])
            with self.assertRaisesRegex(TraceError, "differ in length"):
                trace.tensor("model.norm", [[[0.0] * 8, [0.0] * 7]], "float32")
            with self.assertRaisesRegex(TraceError, "differ in length"):  # as many numbers as it ought to have
                trace.tensor("model.norm", [[[0.0] * 8, [0.0] * 7], [0.0]], "float32")
            for number in (1e39, "1"):
                with self.assertRaisesRegex(TraceError, "float32 can hold"):
                    trace.tensor("model.norm", [[[number] * 8] * 2], "float32")
            trace.tensor("lm_head", bytes(20), "bfloat16", (1, 1, 10))
            with self.assertRaisesRegex(TraceError, "twice"):
                trace.tensor("lm_head", bytes(20), "bfloat16", (1, 1, 10))
            with self.assertRaisesRegex(TraceError, "past_length is 3, but the steps before have 2"):
                trace.begin_step("decode", [[1]], past_length=3)
        self.assertEqual(list(read_step(self.trace / "step-0000.safetensors")), ["lm_head"])
        with self.assertRaisesRegex(TraceError, "at least one step"):
            with self.writer(self.folder / "empty"):
                pass
        self.assertFalse((self.folder / "empty").exists())
        self.assertEqual(shape_of("model.layers.27.self_attn.scores"), "B H T S")

    def test_committed_once(self):
        with self.writer() as trace:
            trace.begin_step("decode", [[1]])
            trace.commit()
            with self.assertRaisesRegex(TraceError, "committed already"):
                trace.commit()
        self.assertTrue((self.trace / "manifest.json").exists())
        self.assertEqual(self.entries(), ["trace"])

    def test_replaces_a_trace_whole_and_nothing_else(self):
        for num_steps in (3, 1):
            with self.writer() as trace:
                for step in range(num_steps):
                    trace.begin_step("decode", [[step]])
        self.assertEqual(sorted(path.name for path in self.trace.iterdir()), ["manifest.json", "step-0000.safetensors"])
        with self.assertRaises(ZeroDivisionError):
            with self.writer() as trace:
                trace.begin_step("prefill", [[1, 2]])
                trace.tensor("lm_head", [[[1 / 0] * 10]], "float32")
        self.assertEqual(json.loads((self.trace / "manifest.json").read_text())["steps"][0]["tokens"], [[0]])
        self.assertEqual(self.entries(), ["trace"])
        (self.trace / "chapter.txt").write_text("years of work")
        with self.assertRaisesRegex(TraceError, "is no trace"):
            self.writer()
        (self.folder / "link").symlink_to(self.trace)
        for path in (self.folder / "link", self.trace / "chapter.txt"):
            with self.assertRaisesRegex(TraceError, "is no folder"):
                self.writer(path)
        self.assertEqual(self.entries(), ["trace"])

    def test_the_example_runs(self):
        config = SCRIPTS.parent / "harness/model/tests/data/tied-float16/config.json"
        done = subprocess.run([sys.executable, str(SCRIPTS / "examples/record_trace.py"), str(config),
                               str(self.folder / "example")], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        cache = read_step(self.folder / "example/step-0001.safetensors")["model.layers.0.self_attn.k_cache"]
        self.assertEqual(cache, ("BF16", [1, 4, 2, 8], (b"\x00\x3f" * 16 + b"\x80\x3e" * 16) * 2))


if __name__ == "__main__":
    unittest.main()
