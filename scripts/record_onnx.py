#!/usr/bin/env python3
"""Records a qdiff trace (docs/trace-format.md) of a Qwen2 model in ONNX, run by ONNX Runtime or OpenVINO on the CPU.

    record_onnx.py --model Qwen2.5-0.5B --onnx exported/model.onnx --trace trace --prompt-tokens 64 --decode 4
    record_onnx.py --model DIR --onnx exported/model.onnx --runtime openvino --trace trace --prompt-tokens 64

`exported` is what optimum (`optimum-cli export onnx`) or onnxruntime-genai's model builder made of the checkpoint.
The graph's nodes are known by their scopes, as `/model/layers.3/mlp/up_proj/`, and become outputs of the graph. A runtime
fuses no operations across an output, so record with --tensors what you want to see as it runs alone.
Needs onnx, and onnxruntime or openvino.
"""

import re

import recording
import trace_writer
from recording import UsageError

PROJECTIONS = {"qkv_proj", "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"}
LAYER = re.compile(r"/model/layers\.(\d+)/(?:(self_attn|attn|mlp)/)?(\w+)/?")
SKIP_NORM = "SkipSimplifiedLayerNormalization"


class Graph:
    """Which values of an exported graph are the contract's tensors."""

    def __init__(self, model, num_layers):
        self.graph, self.num_layers = model.graph, num_layers
        self.of_tensor = {}  # tensor of the contract: (value of the graph, layout of heads)
        self.fused_heads = set()  # layers whose q, k and v are one value
        self.attends_fused = any(node.op_type == "GroupQueryAttention" for node in self.graph.node)
        for node in self.graph.node:
            self._take(node)
        self.of_tensor["lm_head"] = ("logits", None)
        for index in range(num_layers):
            for part in "kv":
                name = {"k": "key", "v": "value"}[part]
                self.of_tensor[f"model.layers.{index}.self_attn.{part}_cache"] = (f"present.{index}.{name}", "B K S d")
        if "model.layers.0.self_attn.q_proj" not in self.of_tensor and 0 not in self.fused_heads:
            raise UsageError("the graph has no node under /model/layers.0/self_attn/q_proj or attn/qkv_proj; export it "
                             "with optimum or with onnxruntime-genai's model builder")

    def _put(self, tensor, value, layout=None):
        self.of_tensor[tensor] = (value, layout)

    def _take(self, node):
        name, output = node.name, node.output[0]
        if name.startswith("/model/embed_tokens/Gather"):
            self._put("model.embed_tokens", output)
        if name.startswith("/model/norm/Mul"):  # the last of them holds
            self._put("model.norm", output)
        match = LAYER.match(name)
        if not match:
            return
        index, room, part = int(match[1]), match[2], match[3]
        prefix = f"model.layers.{index}."
        if node.op_type == SKIP_NORM:
            self._skip_norm(node, index, part)
        elif part == "input_layernorm" and node.op_type in ("Mul", "SimplifiedLayerNormalization"):
            self._put(prefix + part, output)
        elif part == "post_attention_layernorm" and node.op_type == "Mul":
            self._put(prefix + part, output)
        elif room == "mlp" and part == "Mul":
            self._put(prefix + "mlp.act", output)
        elif room == "mlp" and node.op_type == "MatMul":
            self._put(f"{prefix}mlp.{part}", output)
        elif room and part == "qkv_proj" and node.op_type in ("MatMul", "Add"):
            self.fused_heads.add(index)
            for tensor in "qkv":
                self._put(f"{prefix}self_attn.{tensor}_proj" + (".matmul" if node.op_type == "MatMul" else ""), output)
        elif room and part in PROJECTIONS and node.op_type in ("MatMul", "Add"):
            self._put(f"{prefix}self_attn.{part}" + (".matmul" if node.op_type == "MatMul" else ""), output)
        elif room and part == "o_proj" and node.op_type == "MatMul":
            self._put(prefix + "self_attn.attn_output", node.input[0])
            self._put(prefix + "self_attn.o_proj", output)
        elif room == "self_attn" and part in ("Add", "Add_1"):  # of the halves of a rotation
            self._put(prefix + f"self_attn.{'q' if part == 'Add' else 'k'}_rope", output,
                      f"B {'H' if part == 'Add' else 'K'} T d")
        elif room == "self_attn" and node.op_type == "Softmax":
            self._put(prefix + "self_attn.scores", node.input[0])
            self._put(prefix + "self_attn.probs", output)
        elif not room and part in ("Add", "Add_1"):
            self._put(prefix + ("resid_mid" if part == "Add" else "output"), output)

    def _skip_norm(self, node, index, part):
        """A norm that adds the residual as well, and hands on the sum as its fourth output."""
        while len(node.output) < 4:
            node.output.append("")
        if not node.output[3]:
            node.output[3] = node.output[0] + ".sum"
        final = index == self.num_layers
        self._put("model.norm" if final else f"model.layers.{index}.{part}", node.output[0])
        self._put(f"model.layers.{index - 1}.output" if part != "post_attention_layernorm"
                  else f"model.layers.{index}.resid_mid", node.output[3])

    def add_outputs(self, names):
        import onnx
        there = {value.name for value in self.graph.output}
        for name in dict.fromkeys(names):
            if name not in there:
                self.graph.output.append(onnx.ValueInfoProto(name=name))


# Tensors between the nodes of a graph that ONNX Runtime computes in float32 without a rounding.
UNROUNDED = [name for name in trace_writer.IN_LAYERS if not name.endswith("_cache")]


class OnnxRuntime:
    def __init__(self, model, dtype):
        import onnxruntime
        self.engine = {"name": "onnxruntime", "version": onnxruntime.__version__, "device": "cpu"}
        del model.graph.value_info[:]  # the model builder writes shapes of keys there that decode does not have
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def __call__(self, feeds, names):
        return dict(zip(names, self._session.run(names, feeds)))

    @staticmethod
    def compute(dtype, stored):
        """On the CPU it computes float16 graphs in float32, and goes from one operation to the next without rounding."""
        points = {} if stored == "float32" else {name: "float32" for name in UNROUNDED}
        return trace_writer.compute(stored, points=points)


class OpenVino:
    def __init__(self, model, dtype):
        import openvino
        self.engine = {"name": "openvino", "version": openvino.__version__.split("-")[0], "device": "cpu"}
        core = openvino.Core()
        read = core.read_model(model.SerializeToString())
        precision = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}[dtype]
        self._compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": precision})
        self._names = {name: port for port in self._compiled.outputs for name in port.get_names()}

    def __call__(self, feeds, names):
        found = self._compiled(feeds)
        return {name: found[self._names[name]] for name in names}

    @staticmethod
    def compute(dtype, stored):
        return trace_writer.compute(dtype)


RUNTIMES = {"onnxruntime": OnnxRuntime, "openvino": OpenVino}


def heads_last(values):
    return values.transpose(0, 2, 1, 3)


def load(arguments, config):
    import numpy
    import onnx
    runtime = RUNTIMES[arguments.runtime]
    try:
        model = onnx.load(arguments.onnx)
    except Exception as error:  # protobuf raises an exception of its own
        raise UsageError(f"{arguments.onnx}: no ONNX model: {error}") from error
    if any(initializer.data_type == onnx.TensorProto.UINT8 for initializer in model.graph.initializer):
        raise UsageError(f"{arguments.onnx}: its weights are quantised; export it in float32 or float16")
    graph = Graph(model, config["num_hidden_layers"])
    wanted = recording.Filter(arguments.tensors, config["num_hidden_layers"])
    chosen = {name: place for name, place in graph.of_tensor.items() if wanted(name)}
    names = list(dict.fromkeys([value for value, _ in chosen.values()] +
                               [value.name for value in model.graph.output]))
    inputs = {value.name: value for value in model.graph.input}
    graph.add_outputs(names)
    engine = runtime(model, arguments.dtype)
    sizes = trace_writer.dimensions_of(config)
    heads, kv_heads, width = sizes["H"], sizes["K"], sizes["d"]
    columns = {"q": (0, heads * width), "k": (heads * width, (heads + kv_heads) * width),
               "v": ((heads + kv_heads) * width, (heads + 2 * kv_heads) * width)}
    types = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.FLOAT16: "float16"}
    cached = types.get(inputs["past_key_values.0.key"].type.tensor_type.elem_type)
    if not cached:
        raise UsageError(f"{arguments.onnx}: its cache is neither float32 nor float16")

    def run(plan, writer, put):
        if graph.attends_fused and any(plan.left_padding):
            raise UsageError("GroupQueryAttention knows no pads at the left: give rows of one length")
        batch = len(plan.prompt)
        past = {name: numpy.zeros((batch, kv_heads, 0, width), cached) for name in inputs
                if name.startswith("past_key_values.")}

        def step(tokens, positions, past_length):
            slots = numpy.arange(past_length + len(tokens[0]))
            feeds = {"input_ids": numpy.array(tokens, "int64"), "position_ids": numpy.array(positions, "int64"),
                     "attention_mask": (slots[None] >= numpy.array(plan.left_padding)[:, None]).astype("int64")} | past
            found = engine({name: value for name, value in feeds.items() if name in inputs}, names)
            for name in past:
                past[name] = found[name.replace("past_key_values", "present")]
            for name, (value, layout) in chosen.items():
                values = found[value]
                part, layer = name.split(".")[-1], name.split(".")[2:3]
                if part.endswith("_proj") or part == "matmul":
                    letter = re.search(r"\.([qkv])_proj", name)
                    if letter and int(layer[0]) in graph.fused_heads:
                        values = values[..., slice(*columns[letter[1]])]
                put(name, numpy.ascontiguousarray(heads_last(values) if layout else values))
            return found["logits"][:, -1].argmax(-1).tolist()
        plan.run(writer, step)
    return engine.engine, engine.compute(arguments.dtype, cached), run


def options(parser):
    parser.add_argument("--onnx", required=True, metavar="FILE", help="the exported graph")
    parser.add_argument("--runtime", choices=RUNTIMES, default="onnxruntime", help="(default: onnxruntime)")


if __name__ == "__main__":
    recording.run_main(lambda: recording.record(__doc__, load, pads=True, add=options))
