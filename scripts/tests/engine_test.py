#!/usr/bin/env python3
"""The NumPy engine against transformers' goldens and against itself, and where each planted fault shows first.

    engine_test.py [-v] [name of a test]

Ends with 77, skipped, where this Python has no NumPy.
"""
import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent
ROOT = SCRIPTS.parent
sys.path.insert(0, str(SCRIPTS))
try:
    import numpy
except ImportError:
    print("the NumPy engine: SKIPPED, nothing was checked: this Python has no numpy")
    sys.exit(77)

import recording  # noqa: E402
import trace_writer  # noqa: E402
from engines import arithmetic, checkpoint, faults, forward, kernels, unlisted  # noqa: E402

ORDER = ["model.embed_tokens", *(f"model.layers.{i}.{part}" for i in range(3) for part in trace_writer.IN_LAYERS),
         "model.norm", "lm_head"]
# H·d is not D, three query heads to each of two key/value heads, and 26 columns that no tile divides.
CONFIG = {"model_type": "qwen2", "hidden_size": 26, "num_hidden_layers": 3, "num_attention_heads": 6,
          "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 40, "vocab_size": 50, "rms_norm_eps": 1e-6,
          "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}, "tie_word_embeddings": False,
          "max_position_embeddings": 4096}

# The first wrong tensor of each fault, without its layer, and the phase where it shows.
FIRST_WRONG = {
    "H01.no_batch_stride": "self_attn.k_cache", "H01.no_head_stride": "self_attn.k_cache",
    "H01.no_layer_stride": "self_attn.k_cache", "H01.head_stride_is_tokens": "self_attn.k_cache",
    "H01.pos_major": "self_attn.k_cache", "H01.batch_stride_of_one_token": "self_attn.k_cache",
    "H01.v_into_k": "self_attn.k_cache", "H01.pad_slot": "self_attn.k_cache",
    "H02.scale": "self_attn.scores", "H02.no_scale": "self_attn.scores", "H02.scale_hidden": "self_attn.scores",
    "H02.scale_twice": "self_attn.scores", "H02.scale_after": "self_attn.scores", "H02.no_max": "self_attn.probs",
    "H02.sum_fp16": "self_attn.probs", "H02.qk_fp16": "self_attn.scores", "H02.tile_max=4": "self_attn.probs",
    "H02.tail_zero": "self_attn.probs",
    "H03.k_only": "self_attn.q_rope", "H03.q_only": "self_attn.k_rope", "H03.after_cache": "self_attn.k_cache",
    "H04.wo_rows": "self_attn.o_proj", "H04.wo_cols=16": "self_attn.o_proj", "H04.residual_lost": "resid_mid",
    "H04.norm_into_residual": "resid_mid", "H04.down_in_act=16": "mlp.down_proj",
    "H05.modulo": "self_attn.scores", "H05.divide_by_kv": "self_attn.scores",
    "H05.group_off_by_one": "self_attn.scores", "H05.head_zero": "self_attn.scores",
    "H05.prefill_only": "self_attn.scores", "H05.decode_only": "self_attn.scores",
    "H06.missing_k": "self_attn.k_proj", "H06.missing_v": "self_attn.v_proj", "H06.kv_swapped": "self_attn.k_proj",
    "H06.length_hidden": "self_attn.q_proj",
    "H07.transposed_q": "self_attn.q_proj", "H07.transposed_k": "self_attn.k_proj",
    "H07.transposed_v": "self_attn.v_proj", "H07.transposed_o": "self_attn.o_proj",
    "H07.transposed_gate": "mlp.gate_proj", "H07.transposed_up": "mlp.up_proj",
    "H07.transposed_down": "mlp.down_proj", "H07.first_tile_only=16": "self_attn.q_proj",
    "H07.acc_bf16=8": "self_attn.q_proj",
    "H08.write_plus_one": "self_attn.k_cache", "H08.write_minus_one": "self_attn.k_cache",
    "H08.read_minus_one": "self_attn.scores", "H08.first_token": "self_attn.scores",
    "H08.read_minus_first": "self_attn.scores", "H08.read_plus_one": "self_attn.attn_output",
    "H08.length_counts_current": "self_attn.q_rope",
    "H09.final_norm_eps=1": "model.norm", "H10.finite_fp16=-4": "self_attn.scores",
    "X.gate_up_swapped": "mlp.act", "X.no_silu": "mlp.act", "X.wrong_token_embedding": "model.embed_tokens",
    "X.no_final_norm": "model.norm", "X.untied_lm_head": "lm_head", "X.layer_repeated": "input_layernorm",
}
# Where a family has one answer.
FAMILIES = {"H03": "self_attn.q_rope", "H06": "self_attn.q_proj", "H07": "self_attn.q_proj", "H09": "input_layernorm",
            "H10": "self_attn.scores"}
# Values that these short inputs show; the catalogue's own need longer or larger ones.
VALUES = {"H02.tile_max": "4", "H04.wo_cols": "16", "H04.down_in_act": "16", "H07.first_tile_only": "16",
          "H07.acc_bf16": "8", "H09.eps": "0.1", "H09.final_norm_eps": "1", "H10.finite_fp16": "-4", "H10.window": "8"}
DECODE_ONLY = ["H03.decode_pos_zero", "H03.decode_pos_plus_one", "H05.decode_only", "H06.decode_missing",
               *(fault for fault in faults.FAULTS if fault.startswith("H08."))]


def random_weights():
    """Of a size that keeps activations near 1, with a first row of embeddings tiny enough for the norms' eps."""
    generator = numpy.random.default_rng(7)
    c, weights = CONFIG, {}

    def matrix(name, rows, columns):
        weights[name] = generator.standard_normal((rows, columns)).astype(numpy.float32) / numpy.float32(columns ** 0.5)

    matrix("model.embed_tokens.weight", c["vocab_size"], c["hidden_size"])
    weights["model.embed_tokens.weight"] *= numpy.float32(20)
    matrix("lm_head.weight", c["vocab_size"], c["hidden_size"])
    width, kv_width = 8 * c["num_attention_heads"], 8 * c["num_key_value_heads"]
    for layer in range(c["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for part, out in (("q", width), ("k", kv_width), ("v", kv_width)):
            matrix(f"{prefix}self_attn.{part}_proj.weight", out, c["hidden_size"])
            weights[f"{prefix}self_attn.{part}_proj.bias"] = 2 * generator.standard_normal(out).astype(numpy.float32)
        matrix(prefix + "self_attn.o_proj.weight", c["hidden_size"], width)
        matrix(prefix + "mlp.gate_proj.weight", c["intermediate_size"], c["hidden_size"])
        matrix(prefix + "mlp.up_proj.weight", c["intermediate_size"], c["hidden_size"])
        matrix(prefix + "mlp.down_proj.weight", c["hidden_size"], c["intermediate_size"])
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{prefix}{norm}.weight"] = 1 + generator.random(c["hidden_size"], dtype=numpy.float32)
    weights["model.norm.weight"] = 1 + generator.random(c["hidden_size"], dtype=numpy.float32)
    return weights


WEIGHTS = random_weights()


def run(engine, lengths, num_decode, pads, config=None, tokens=None):
    """Each step's tensors by name; tokens are given, so that runs compare."""
    config = config or CONFIG
    total = sum(lengths) + num_decode
    if tokens is None:
        tokens = numpy.random.default_rng(3).integers(0, config["vocab_size"], (len(pads), total))
    engine.allocate(len(pads), total + 2)
    steps, past = [], 0
    for length, phase in [(n, "prefill") for n in lengths] + [(1, "decode")] * num_decode:
        slots = numpy.arange(past, past + length)[None, :]
        step = forward.Step(phase, tokens[:, past:past + length], numpy.maximum(0, slots - numpy.array(pads)[:, None]),
                            past, numpy.array(pads))
        found = {}
        engine.put = lambda name, values, dtype=None, found=found: found.setdefault(name, values.copy())
        engine.run(step)
        steps.append((step, found))
        past += length
    return steps


def real(name, values, step, b):
    """Row b without pad queries and pad slots; hidden scores are all the same."""
    pad = int(step.pads[b])
    first = max(0, pad - step.past)
    if name.endswith("_cache"):
        return values[b, pad:]
    if name.endswith(("scores", "probs")):
        return numpy.maximum(values[b, :, first:], numpy.float32(-1e30))
    return values[b, first:]


def first_difference(actual, expected):
    """(name, step) of the first tensor that differs by more than float32 rounding, or None."""
    for (step, right), (_, found) in zip(expected, actual):
        for name in ORDER:
            if name not in right or name not in found:
                continue
            for b in range(step.batch):
                a, e = real(name, found[name], step, b), real(name, right[name], step, b)
                size = numpy.abs(numpy.where(e > -1e29, e, 0)).max() if e.size else 0
                if a.size and not (numpy.abs(a - e) <= 2e-5 * max(size, 1e-6)).all():
                    return name, step
    return None


def engine(inject=None, **options):
    options = {"dtype": "float32", "record_scores": True} | options
    config = checkpoint.Config(CONFIG)
    return faults.Faulty(config, WEIGHTS, inject, **options) if inject else forward.Engine(config, WEIGHTS, **options)


class RightEngine(unittest.TestCase):
    def test_agrees_with_transformers(self):
        folder = ROOT / "reference/tests/data"
        goldens = checkpoint.read_weights_file(folder / "goldens.safetensors")
        cases = json.loads((folder / "goldens.json").read_text())["cases"]
        raw = json.loads((folder / "golden-model/config.json").read_text())
        weights = checkpoint.read_weights(folder / "golden-model")
        compared = 0
        for case, about in cases.items():
            golden_engine = forward.Engine(checkpoint.Config(raw), weights, dtype="float32", record_scores=True)
            tokens = numpy.concatenate([numpy.array(step["tokens"]) for step in about["steps"]], 1)
            lengths = [len(step["tokens"][0]) for step in about["steps"]]
            for index, (step, found) in enumerate(run(golden_engine, lengths, 0, about["left_padding"], raw, tokens)):
                for name, values in found.items():
                    for b in range(step.batch):
                        actual = real(name, values, step, b)
                        expected = real(name, goldens[f"{case}/{index}/{name}"], step, b)
                        error = numpy.abs(actual - expected).max(initial=0)
                        self.assertLessEqual(error, 1e-5 * max(1, numpy.abs(
                            numpy.where(expected > -1e29, expected, 0)).max(initial=0)), f"{case}/{index}/{name}")
                        compared += 1
        self.assertGreater(compared, 300)

    def test_orders_and_softmaxes_agree(self):
        expected = run(engine(), [50], 2, [0, 7])
        for options in ({"order": "pairwise"}, {"order": "reversed"}, {"softmax": "online"}):
            self.assertIsNone(first_difference(run(engine(**options), [50], 2, [0, 7]), expected), options)
        different = [any((found[name] != right[name]).any() for name in right if name in found)
                     for (_, found), (_, right) in zip(run(engine(order="pairwise"), [50], 2, [0, 7]), expected)]
        self.assertTrue(all(different), "another order of sums that gives the same bits is no other order")

    def test_chunks_and_batches_change_nothing(self):
        whole = run(engine(), [13], 2, [0])
        chunks = run(engine(), [6, 4, 3], 2, [0])
        self.assertTrue(numpy.allclose(whole[0][1]["lm_head"][:, -1], chunks[2][1]["lm_head"][:, -1], atol=1e-4))
        self.assertTrue(numpy.allclose(whole[-1][1]["lm_head"], chunks[-1][1]["lm_head"], atol=1e-4))
        tokens = numpy.arange(1, 16)[None, :]
        padded = numpy.concatenate([numpy.zeros((1, 4), dtype=int), tokens[:, :11]], 1)
        alone = run(engine(), [9], 2, [0], tokens=tokens[:, :11])
        batch = run(engine(), [13], 2, [0, 4], tokens=numpy.concatenate([tokens, padded]))
        self.assertTrue(numpy.allclose(alone[0][1]["lm_head"][0], batch[0][1]["lm_head"][1, 4:], atol=1e-4))
        self.assertTrue(numpy.allclose(alone[-1][1]["lm_head"][0], batch[-1][1]["lm_head"][1], atol=1e-4))

    def test_storage_is_rounded(self):
        for dtype, unit in (("bfloat16", 2.0 ** -8), ("float16", 2.0 ** -11)):
            for _, found in run(engine(dtype=dtype), [5], 1, [0]):
                for name, values in found.items():
                    if not name.endswith(("scores", "probs")):
                        numpy.testing.assert_array_equal(values, arithmetic.ROUNDING[dtype](values), name)
            ties = numpy.array([1 + unit, 1 + 3 * unit, -1 - unit, 1 + unit * 1.01], dtype=numpy.float32)
            numpy.testing.assert_array_equal(arithmetic.ROUNDING[dtype](ties), [1, 1 + 4 * unit, -1, 1 + 2 * unit])


class Faults(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.expected = run(engine(), [9, 7], 3, [0, 2, 4])

    def test_each_shows_first_where_the_catalogue_says(self):
        for fault in faults.FAULTS:
            with self.subTest(fault):
                inject = fault + ("=" + VALUES[fault] if fault in VALUES else "")
                pads, lengths = [0, 2, 4], [9, 7]
                expected = self.expected
                if fault == "H02.sum_fp16":  # needs many slots of equal weight
                    continue
                if fault in ("H04.wo_rows", "H02.no_max", "H06.fp16", "H03.table_bf16", "H02.qk_fp16", "H09.fp16_sum"):
                    continue  # below, on inputs that show them
                found = first_difference(run(engine(inject), lengths, 3, pads), expected)
                self.assertIsNotNone(found, "nothing differs")
                name, step = found
                part = name.split(".", 3)[-1] if name.startswith("model.layers") else name
                self.assertEqual(part, FIRST_WRONG.get(inject, FIRST_WRONG.get(fault, FAMILIES.get(fault[:3]))))
                if fault in DECODE_ONLY:
                    self.assertEqual(step.phase, "decode")
                if fault in ("H03.chunk_local_pos", "H10.chunk_only", "H10.top_left"):
                    self.assertGreater(step.past, 0)

    def test_faults_of_numbers(self):
        scores = numpy.array([[[[0.0, 89.5, 3.0]]]], dtype=numpy.float32)
        step = forward.Step("decode", numpy.array([[1]]), numpy.array([[2]]), 2, numpy.array([0]))
        with numpy.errstate(all="ignore"):
            self.assertFalse(numpy.isfinite(engine("H02.no_max").probs(scores, 0, step)).all())
        flat = numpy.zeros((1, 1, 1, 4096), dtype=numpy.float32)
        numpy.testing.assert_array_equal(engine("H02.sum_fp16").probs(flat, 0, step), flat + 1 / 2048)
        q = numpy.full((1, 1, 1, 8), 100, dtype=numpy.float32)
        self.assertTrue(numpy.isinf(engine("H02.qk_fp16").scores(q, q * 2, 0, step)).all())
        self.assertTrue(numpy.isfinite(engine().scores(q, q * 2, 0, step)).all())
        wide = numpy.full((1, 1, 26), 60, dtype=numpy.float32)
        weight = numpy.ones(26, dtype=numpy.float32)
        self.assertTrue((engine("H09.fp16_sum").wrong_norm(wide, weight, 0) == 0).all())
        far = forward.Step("decode", numpy.array([[1]]), numpy.array([[1000]]), 1000, numpy.array([0]))
        ones = numpy.ones((1, 1, 2, 8), dtype=numpy.float32)
        error = numpy.abs(engine("H03.table_bf16").rotate(ones, "q", 0, far) - engine().rotate(ones, "q", 0, far)).max()
        self.assertTrue(1e-4 < error < 1e-2, error)
        products = [numpy.zeros((1, 1, size), dtype=numpy.float32) for size in (48, 16, 16)]
        halves = engine("H06.fp16").add_biases(products, 0, step)[0]
        numpy.testing.assert_array_equal(halves, arithmetic.to_float16(halves))
        self.assertTrue((halves != engine().add_biases(products, 0, step)[0]).any())

    def test_rows_in_place(self):
        """D = 3 of H·d = 2: token 0's output lies over the first element of token 1's input."""
        weight = numpy.array([[1, 0], [0, 1], [1, 1]], dtype=numpy.float32)
        x = numpy.array([[[1, 2], [10, 20]]], dtype=numpy.float32)
        numpy.testing.assert_array_equal(engine("H04.wo_rows").in_rows(x, weight), [[[1, 2, 3], [3, 20, 23]]])

    def test_values_and_layers(self):
        self.assertEqual(faults.parse("H03.theta=1e4@2"), ("H03.theta", 10000.0, 2))
        self.assertEqual(faults.parse("H02.scale"), ("H02.scale", 1.01, None))
        for text in ("H03.thetas", "H05.modulo=2", "H03.theta=x", "H03.theta@", "", "H03"):
            with self.assertRaises(recording.UsageError, msg=text):
                faults.parse(text)
        with self.assertRaises(recording.UsageError):
            engine("H05.modulo@3")
        name, _ = first_difference(run(engine("H05.modulo@1"), [9, 7], 3, [0, 2, 4]), self.expected)
        self.assertEqual(name, "model.layers.1.self_attn.scores")

    def test_memory_faults_read_the_poison(self):
        zero = run(engine("H08.read_plus_one"), [9, 7], 3, [0, 2, 4])[-1][1]
        other = run(engine("H08.read_plus_one=5"), [9, 7], 3, [0, 2, 4])[-1][1]
        self.assertTrue((zero["lm_head"] != other["lm_head"]).any())
        values = run(engine("H01.v_into_k"), [4], 0, [0])[0][1]
        self.assertTrue((values["model.layers.0.self_attn.v_cache"] == forward.FILL).all())


class Unlisted(unittest.TestCase):
    def test_each_shows_first_where_the_list_says(self):
        about = json.loads((SCRIPTS / "engines/unlisted_faults.json").read_text())["faults"]
        self.assertEqual([fault["name"] for fault in about], list(unlisted.BUGS))
        expected = run(engine(), [9, 7], 3, [0, 2])
        for fault in about:
            with self.subTest(fault["name"]):
                planted = engine()
                unlisted.plant(planted, fault["name"])
                found = run(planted, [9, 7], 3, [0, 2])
                name, step = first_difference(found, expected)
                part = name.split(".", 3)[-1] if name.startswith("model.layers") else name
                self.assertEqual((part, step.phase), (fault["first_wrong"], fault["phases"][0]))
                self.assertTrue(fault["words"] and all(fault["words"]))
        with self.assertRaises(recording.UsageError):
            unlisted.plant(engine(), "gremlins")


class Kernels(unittest.TestCase):
    def test_each_computes_the_same_function_in_other_bits(self):
        """Near to a plain engine, as right code of another rounding is, and not equal to it; with its own type alone."""
        for name in kernels.KERNELS:
            for dtype in kernels.TYPES[name]:
                with self.subTest(f"{name}, {dtype}"):
                    plain, other = engine(dtype=dtype), engine(dtype=dtype)
                    kernels.install(other, name)
                    right, here = (run(one, [9, 7], 3, [0, 2])[0][1] for one in (plain, other))
                    # The norm, the rotation, attention and the gate of layer 0, whichever the kernel is of.
                    apart = [numpy.abs(here[tensor] - right[tensor])[-1].max() / numpy.abs(right[tensor])[-1].max()
                             for tensor in ("model.layers.0." + part for part in (
                                 "input_layernorm", "self_attn.q_rope", "self_attn.attn_output", "mlp.act"))]
                    self.assertLess(max(apart), 4 * {"float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}[dtype])
                    if dtype == "float32" or name in kernels.POINTS:
                        self.assertGreater(max(apart), 0)
        with self.assertRaises(recording.UsageError):
            kernels.install(engine(), "gremlins")


class CommandLine(unittest.TestCase):
    def call(self, *arguments, status=0):
        command = [sys.executable, str(SCRIPTS / "independent_engine.py"), "--model",
                   str(ROOT / "reference/tests/data/golden-model"), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stderr

    def test_writes_a_trace_or_says_why_not(self):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "ids.json").write_text("[[1, 2, 3], [4]]")
            self.call("--trace", folder / "a", "--tokens", folder / "ids.json", "--chunks", "2,1", "--decode", 2,
                      "--scores", "--inject", "H05.modulo@1")
            manifest = json.loads((folder / "a/manifest.json").read_text())
            self.assertEqual([step["phase"] for step in manifest["steps"]], ["prefill", "prefill", "decode", "decode"])
            self.assertEqual(manifest["steps"][0]["tokens"], [[1, 2], [0, 0]])
            self.assertEqual(manifest["steps"][1]["positions"], [[2], [0]])
            self.assertEqual(manifest["steps"][0]["left_padding"], [0, 2])
            prompt = ("--trace", folder / "b", "--prompt-tokens")
            for arguments, says in (((*prompt, 5, "--inject", "H05.gremlin"), "H05.modulo"),
                                    ((*prompt, 5, "--inject", "H05.modulo", "--inject", "H02.no_scale"), "give it once"),
                                    ((*prompt, 5, "--unlisted", "gremlin"), "rope_on_values"),
                                    ((*prompt, 5, "--chunks", "2,2"), "add up to 4"),
                                    ((*prompt, 5, "--tensors", "gremlin"), "matches no tensor"),
                                    ((*prompt, 513), "max_position_embeddings"),
                                    ((*prompt, "5,x"), "whole numbers"),
                                    ((*prompt, 5, "--softmax", "online", "--scores"), "never holds"),
                                    ((*prompt, 5, "--capacity", 4), "need room"),
                                    ((*prompt, 5, "--capacity", 6, "--inject", "H08.read_plus_one"), "two slots")):
                self.assertIn(says, self.call(*arguments, status=2))
            self.assertEqual(sorted(entry.name for entry in folder.iterdir()), ["a", "ids.json"])


if __name__ == "__main__":
    unittest.main()
