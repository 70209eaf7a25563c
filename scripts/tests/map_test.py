#!/usr/bin/env python3
"""Name maps of record_torch.py that are refused, each with what is wrong and where; needs no torch.

    map_test.py [-v] [name of a test]
"""
import json
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import record_torch  # noqa: E402
from recording import UsageError  # noqa: E402


class Maps(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "map.json"

    def read(self, **names):
        self.path.write_text(json.dumps({"compute": {}, **names}))
        return record_torch.read_map(self.path)

    def test_right_maps(self):
        self.read(modules={"ln1": {"output": "model.norm"}})
        self.read(modules={"layers.{i}.ln1": {"output": "model.layers.{i}.input_layernorm"}})
        self.read(layers="layers.{i}", functions={"ops:rope": {"output": ["model.layers.{i}.self_attn.q_rope"]}})

    def test_refused_maps(self):
        layer_tensor = "model.layers.{i}.self_attn.q_rope"
        for names, says in (({"modules": []}, '"modules" must be an object'), ({"functions": "f"}, '"functions" must be'),
                            ({"modules": {"ln1": "model.norm"}}, "ln1: 'model.norm' must be an object"),
                            ({"modules": {"ln1": {"output": {"tensor": 3}}}}, "ln1: 3 is no tensor's name"),
                            ({"modules": {"ln1": {"output": 3}}}, "ln1: 3 must be a tensor's name"),
                            ({"modules": {"ln1": {"output": {"tensor": "model.norm", "layout": 3}}}}, '"layout" is 3'),
                            ({"modules": {"ln1": {"output": {"tensor": "model.norm", "columns": [4]}}}},
                             '"columns" is [4]'),
                            ({"modules": {"ln1": {"output": {"tensor": "model.norm", "slots": "S"}}}}, '"slots" is'),
                            ({"modules": {"ln1": {"output": {"tensor": "model.norm", "call": -1}}}}, '"call" is -1'),
                            ({"cache_capacity": 0}, '"cache_capacity" is 0'),
                            ({"layers": 3}, '"layers" must be'), ({"engine": []}, '"engine" must be'),
                            ({"package": 3}, '"package" must be'),
                            ({"functions": {"ops:rope": {"output": layer_tensor}}}, "ops:rope: '" + layer_tensor),
                            ({"modules": {"rope": {"output": layer_tensor}}}, "which layer runs")):
            with self.assertRaises(UsageError) as caught:
                self.read(**names)
            self.assertIn(says, str(caught.exception))
            self.assertIn("map.json", str(caught.exception))

    def test_another_type_than_the_map_s(self):
        declared = {"weights": "bfloat16", "activations": "bfloat16", "accumulate": "float32",
                    "points": {"mlp.silu": "bfloat16"}}
        self.assertEqual(record_torch.compute_of(declared, None), declared)
        half = record_torch.compute_of(declared, "float16")
        self.assertEqual((half["weights"], half["accumulate"], half["points"]),
                         ("float16", "float32", {"mlp.silu": "float16"}))
        self.assertEqual(record_torch.compute_of(declared, "float32")["points"], {})

    def test_a_function_outside_the_layers(self):
        recorder = record_torch.Recorder.__new__(record_torch.Recorder)
        recorder._layer, recorder._selected = None, lambda name: True  # pylint: disable=protected-access
        recorder._calls = {}  # pylint: disable=protected-access
        with self.assertRaises(UsageError) as caught:
            recorder._take("model.layers.{i}.self_attn.q_rope", None, None, {})  # pylint: disable=protected-access
        self.assertIn("before any of the layers", str(caught.exception))


if __name__ == "__main__":
    unittest.main()
