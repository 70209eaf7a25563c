#!/usr/bin/env python3
"""Records a qdiff trace (docs/trace-format.md) of llama.cpp running a GGUF file of Qwen2 or Llama on the CPU.

    record_llamacpp.py --model SmolLM2-135M-Instruct.Q4_1.gguf --trace trace --prompt "The capital of France is" --decode 4
    record_llamacpp.py --model qwen2.5-0.5b-q8_0.gguf --trace trace --prompt-tokens 64 --chunks 37,27 --decode 4

llama.cpp calls back after each node of its graph (`cb_eval`), and what the node computed goes to disk. A node is known by
the weight that enters it, or by its name in llama.cpp (src/llama-graph.cpp). Flash attention is off, so that attention's
probabilities can be seen. Needs NumPy and llama-cpp-python.
"""

import argparse
import contextlib
import ctypes
import os
import re
import sys

import recording
import trace_writer
from recording import UsageError

# In ggml's CPU backend a matrix product takes its second operand in the type that goes with the first one's: float16
# for the cache's keys and values, blocks of 8-bit numbers for quantised weights. docs/recording.md has the sources.
POINTS = {"activations.quantized": "ggml", "kv_cache": "float16", "attention.query": "float16",
          "attention.probs": "float16"}

# By the weight of a matrix product: the tensor that it gives, and the one that it takes where no other node shows that.
PRODUCTS = {"attn_q": ("self_attn.q_proj.matmul", None), "attn_k": ("self_attn.k_proj.matmul", None),
            "attn_v": ("self_attn.v_proj.matmul", None), "attn_output": ("self_attn.o_proj", "self_attn.attn_output"),
            "ffn_gate": ("mlp.gate_proj", None), "ffn_up": ("mlp.up_proj", None),
            "ffn_down": ("mlp.down_proj", "mlp.act")}
NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
BIASES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj"}
# By operation and name of the node.
NAMED = {("ROPE", "Qcur"): "self_attn.q_rope", ("ROPE", "Kcur"): "self_attn.k_rope",
         ("SOFT_MAX", "kq_soft_max"): "self_attn.probs", ("ADD", "ffn_inp"): "resid_mid", ("ADD", "l_out"): "output"}

OVERRIDES = {"rope_freq_base": float, "rope_freq_scale": float, "rms_eps": float, "head_count": int,
             "head_count_kv": int}
MAX_DIMS, MAX_OP_PARAMS, MAX_SRC, MAX_NAME = 4, 64, 10, 64  # ggml/include/ggml.h
F32, F16 = 0, 1


class Tensor(ctypes.Structure):
    """struct ggml_tensor of ggml/include/ggml.h."""


Tensor._fields_ = [("type", ctypes.c_int), ("buffer", ctypes.c_void_p), ("ne", ctypes.c_int64 * MAX_DIMS),
                   ("nb", ctypes.c_size_t * MAX_DIMS), ("op", ctypes.c_int),
                   ("op_params", ctypes.c_int32 * (MAX_OP_PARAMS // 4)), ("flags", ctypes.c_int32),
                   ("src", ctypes.POINTER(Tensor) * MAX_SRC), ("view_src", ctypes.POINTER(Tensor)),
                   ("view_offs", ctypes.c_size_t), ("data", ctypes.c_void_p), ("name", ctypes.c_char * MAX_NAME)]


def values(tensor):
    """A view of what the tensor holds, with ggml's first dimension last."""
    import numpy as np
    kinds = {F32: np.float32, F16: np.float16}
    if tensor.type not in kinds:
        raise UsageError(f"{tensor.name.decode()}: ggml type {tensor.type} where F32 or F16 was expected; this llama.cpp "
                         "is not the one that this recorder knows")
    shape, strides = list(tensor.ne)[::-1], list(tensor.nb)[::-1]
    size = np.dtype(kinds[tensor.type]).itemsize + sum((n - 1) * s for n, s in zip(shape, strides))
    memory = (ctypes.c_char * size).from_address(tensor.data)
    return np.ndarray(shape, kinds[tensor.type], memory, strides=strides)


class Llama:
    """A model and a context of llama.cpp's own interface."""

    def __init__(self, path, overrides, threads):
        try:
            from llama_cpp import llama_cpp
        except ImportError as error:
            raise UsageError(f"this Python has no {error.name}; docs/recording.md says what to install") from error
        self._api = llama_cpp
        self._base = ctypes.CDLL(os.path.join(os.path.dirname(llama_cpp.__file__), "lib", _library("ggml-base")))
        self._base.ggml_op_name.restype = ctypes.c_char_p
        if self._base.ggml_tensor_overhead() < ctypes.sizeof(Tensor):
            raise UsageError("ggml's tensors are smaller than this recorder's; it knows ggml 0.25")
        self._overrides, self._threads = overrides, threads
        self._quiet = llama_cpp.llama_log_callback(self._log)
        self._messages = []
        llama_cpp.llama_log_set(self._quiet, None)
        llama_cpp.llama_backend_init()
        self._model = self._load(path)
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.architecture = self._meta("general.architecture")
        if self.architecture not in ("qwen2", "llama"):
            raise UsageError(f"{path}: general.architecture is {self.architecture!r}, but must be 'qwen2' or 'llama'")

    def _log(self, level, text, data):
        if level >= 4:  # GGML_LOG_LEVEL_ERROR
            self._messages.append(text.decode(errors="replace").strip())

    def _load(self, path):
        parameters = self._api.llama_model_default_params()
        parameters.n_gpu_layers = 0
        keys = {"rms_eps": "attention.layer_norm_rms_epsilon", "head_count": "attention.head_count",
                "head_count_kv": "attention.head_count_kv"}
        chosen = [(keys[key], value) for key, value in self._overrides.items() if key in keys]
        pairs = [(f"{architecture}.{key}", value) for architecture in ("qwen2", "llama") for key, value in chosen]
        if pairs:
            array = (self._api.llama_model_kv_override * (len(pairs) + 1))()
            for entry, (key, value) in zip(array, pairs):
                entry.key = key.encode()
                if isinstance(value, float):
                    entry.tag, entry.value.val_f64 = self._api.LLAMA_KV_OVERRIDE_TYPE_FLOAT, value
                else:
                    entry.tag, entry.value.val_i64 = self._api.LLAMA_KV_OVERRIDE_TYPE_INT, value
            parameters.kv_overrides = array
        if not os.path.isfile(path):
            raise UsageError(f"{path}: no such file; --model needs a GGUF file")
        model = self._api.llama_model_load_from_file(os.fsencode(path), parameters)
        if not model:
            raise UsageError(f"{path}: llama.cpp cannot load it: {'; '.join(self._messages[-2:]) or 'no reason given'}")
        return model

    def _meta(self, key):
        text = ctypes.create_string_buffer(256)
        length = self._api.llama_model_meta_val_str(self._model, key.encode(), text, len(text))
        return text.value.decode() if length >= 0 else None

    def config(self):
        """What the file says of shapes, in the keys of a config.json. llama.cpp gives other numbers with six digits."""
        api, model = self._api, self._model
        heads = api.llama_model_n_head(model)
        return {"model_type": self.architecture, "hidden_size": api.llama_model_n_embd(model),
                "num_hidden_layers": api.llama_model_n_layer(model), "num_attention_heads": heads,
                "num_key_value_heads": api.llama_model_n_head_kv(model),
                "head_dim": int(self._meta(f"{self.architecture}.attention.key_length")
                                or api.llama_model_n_embd(model) // heads),
                "intermediate_size": int(self._meta(f"{self.architecture}.feed_forward_length")),
                "vocab_size": api.llama_vocab_n_tokens(self._vocab),
                "max_position_embeddings": api.llama_model_n_ctx_train(model)}

    def has_vocabulary(self):
        return self._api.llama_vocab_type(self._vocab) != self._api.LLAMA_VOCAB_TYPE_NONE

    def tokens(self, text):
        if not self.has_vocabulary():
            raise UsageError("--prompt: the file has no vocabulary; give --tokens or --prompt-tokens")
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise UsageError("--prompt: the text is not UTF-8") from error
        ids = (self._api.llama_token * (len(data) + 8))()
        count = self._api.llama_tokenize(self._vocab, data, len(data), ids, len(ids), True, True)
        if count <= 0:
            raise UsageError("--prompt: the file's vocabulary makes no tokens of it")
        return list(ids[:count])

    def text(self, tokens):
        """What they say, or the numbers themselves where the file has no vocabulary."""
        if not self.has_vocabulary():
            return str(tokens)
        piece = ctypes.create_string_buffer(256)
        parts = []
        for token in tokens:
            length = self._api.llama_token_to_piece(self._vocab, token, piece, len(piece), 0, True)
            parts.append(piece.raw[:max(length, 0)])
        return repr(b"".join(parts).decode(errors="replace"))

    def start(self, num_tokens, chunk, after_node):
        """Makes the context; `after_node(operation, tensor)` is called for each node of the graph, in order."""
        parameters = self._api.llama_context_default_params()
        parameters.n_ctx, parameters.n_batch, parameters.n_ubatch, parameters.n_seq_max = num_tokens, chunk, chunk, 1
        parameters.flash_attn_type = 0  # LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.offload_kqv = parameters.op_offload = False
        parameters.rope_freq_base = self._overrides.get("rope_freq_base", 0.0)
        parameters.rope_freq_scale = self._overrides.get("rope_freq_scale", 0.0)
        parameters.n_threads = parameters.n_threads_batch = self._threads
        self._failure = None

        def evaluated(address, ask, data):
            if ask:
                return True
            try:
                tensor = ctypes.cast(address, ctypes.POINTER(Tensor)).contents
                after_node(self._base.ggml_op_name(tensor.op).decode(), tensor)
            except BaseException as error:  # ctypes would print it and go on
                self._failure = error
                return False
            return True

        self._evaluated = self._api.ggml_backend_sched_eval_callback(evaluated)
        parameters.cb_eval = self._evaluated
        self._context = self._api.llama_init_from_model(self._model, parameters)
        if not self._context:
            raise UsageError(f"llama.cpp makes no context: {'; '.join(self._messages[-2:]) or 'no reason given'}")

    def decode(self, tokens, past):
        """One step of one sequence; gives the token of the largest last logit."""
        batch = self._api.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for index, token in enumerate(tokens):
            batch.token[index], batch.pos[index] = token, past + index
            batch.n_seq_id[index], batch.seq_id[index][0], batch.logits[index] = 1, 0, 1
        status = self._api.llama_decode(self._context, batch)
        self._api.llama_batch_free(batch)
        if self._failure is not None:
            raise self._failure
        if status != 0:
            raise UsageError(f"llama_decode ended with {status}: {'; '.join(self._messages[-2:])}")
        logits = self._api.llama_get_logits_ith(self._context, len(tokens) - 1)
        count = self._api.llama_vocab_n_tokens(self._vocab)
        return max(range(count), key=logits.__getitem__)


def _library(name):
    return {"win32": f"{name}.dll", "darwin": f"lib{name}.dylib"}.get(sys.platform, f"lib{name}.so")


class Recorder:
    """Knows the nodes of a graph and hands their values to `put(name, array)`."""

    def __init__(self, architecture, config, put):
        self._put, self._config = put, config
        self._pairs_interleaved = architecture == "llama"
        self.past = self.num_tokens = 0

    def node(self, operation, tensor):
        first, second = ([source.contents if source else None for source in tensor.src[:2]])
        name = tensor.name.decode()
        weight = first.name.decode() if operation in ("MUL_MAT", "GET_ROWS") else second.name.decode() if second else ""
        layer, part = self._place(weight)
        if operation == "GET_ROWS" and weight == "token_embd.weight":
            self._add("model.embed_tokens", self._rows(tensor))
        elif operation == "MUL_MAT" and weight in ("output.weight", "token_embd.weight"):
            self._add("lm_head", self._rows(tensor))
        elif operation == "MUL_MAT" and part in PRODUCTS:
            given, taken = PRODUCTS[part]
            if taken:
                self._add_of_layer(layer, taken, self._rows(second))
            self._add_of_layer(layer, given, self._rows(tensor))
            if part in BIASES and self._pairs_interleaved:  # llama has no bias: the product goes on as it is
                self._add_of_layer(layer, BIASES[part], self._rows(tensor))
        elif operation == "ADD" and part in BIASES:
            self._add_of_layer(layer, BIASES[part], self._rows(tensor))
        elif operation == "MUL" and part in NORMS:
            self._add_of_layer(layer, NORMS[part], self._rows(tensor))
        elif operation == "MUL" and weight == "output_norm.weight":
            self._add("model.norm", self._rows(tensor))
        else:
            self._named(operation, name, first, tensor)

    @staticmethod
    def _place(weight):
        match = re.fullmatch(r"blk\.([0-9]+)\.([a-z_]+)\.(?:weight|bias)", weight)
        return (int(match[1]), match[2]) if match else (None, None)

    def _named(self, operation, name, first, tensor):
        match = re.fullmatch(r"([A-Za-z_]+)-([0-9]+)", name)
        if not match:
            return
        layer, part = int(match[2]), match[1]
        if operation == "MUL_MAT" and part in ("kq", "kqv"):
            # The cache as attention reads it: keys [1, K, slots, d], values [1, K, d, slots].
            slots = values(first)[0][:, :self.past + self.num_tokens] if part == "kq" else \
                values(first)[0][:, :, :self.past + self.num_tokens].swapaxes(1, 2)
            self._add_of_layer(layer, f"self_attn.{'k' if part == 'kq' else 'v'}_cache", slots.swapaxes(0, 1)[None])
            return
        given = NAMED.get((operation, part))
        if given == "self_attn.probs":
            self._add_of_layer(layer, given, values(tensor)[:, :, :, :self.past + self.num_tokens])
        elif given in ("self_attn.q_rope", "self_attn.k_rope"):
            self._add_of_layer(layer, given, values(tensor)[0][None])
        elif given:
            self._add_of_layer(layer, given, self._rows(tensor))

    @staticmethod
    def _rows(tensor):
        return values(tensor)[0]

    def _add_of_layer(self, layer, part, array):
        kind = part.split(".")[1][:1] if part.startswith("self_attn.") else ""
        turned = kind in ("q", "k") and self._pairs_interleaved
        self._add(f"model.layers.{layer}.{part}", self._pairs_apart(array) if turned else array)

    def _pairs_apart(self, array):
        """GGUF files of the architecture llama hold the two elements that RoPE turns together side by side
        (LlamaModel.permute in convert_hf_to_gguf.py); in a checkpoint they are half a head apart."""
        head_dim = self._config["head_dim"]
        heads = array.reshape(*array.shape[:2], -1, head_dim // 2, 2)
        return heads.swapaxes(-1, -2).reshape(array.shape)

    def _add(self, name, array):
        import numpy as np
        self._put(name, np.ascontiguousarray(array))


def overrides_of(assignments):
    chosen = {}
    for assignment in assignments:
        key, _, text = assignment.partition("=")
        if key not in OVERRIDES:
            raise UsageError(f"--override {assignment}: the keys are {', '.join(OVERRIDES)}")
        try:
            chosen[key] = OVERRIDES[key](text)
        except ValueError as error:
            raise UsageError(f"--override {assignment}: {text!r} is no number") from error
        # What llama.cpp takes for "as in the file", or ends the whole process for.
        if not (0 < chosen[key] < 2 ** 31 or key == "rms_eps" and chosen[key] == 0):
            raise UsageError(f"--override {assignment}: must be above 0 and below 2^31")
    return chosen


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    recording.add_arguments(parser, model="a GGUF file", texts=True)
    parser.add_argument("--threads", type=int, default=1, metavar="N",
                        help="(default: 1; between two nodes all threads wait for this one)")
    wrong = parser.add_argument_group("to make a wrong engine on purpose")
    wrong.add_argument("--override", action="append", default=[], metavar="KEY=VALUE",
                       help=f"another value than the file's: {', '.join(OVERRIDES)}")
    arguments = parser.parse_args()
    overrides = overrides_of(arguments.override)
    if arguments.threads < 1:
        raise UsageError(f"--threads is {arguments.threads}, but must be 1 or more")
    trace_writer.refuse_other_folder(arguments.trace)
    with contextlib.ExitStack() as stack:
        llama = Llama(arguments.model, overrides, arguments.threads)
        config = llama.config()
        plan = recording.Plan(arguments, config, [llama.tokens(arguments.prompt)] if arguments.prompt is not None else None)
        if len(plan.prompt) != 1:
            raise UsageError("llama.cpp packs the rows of a batch one behind the other; record one row at a time")
        selected = recording.Filter(arguments.tensors, config["num_hidden_layers"])
        import llama_cpp
        engine = {"name": "llama.cpp", "version": f"llama-cpp-python {llama_cpp.__version__}", "device": "cpu"}
        writer = stack.enter_context(trace_writer.TraceWriter(
            arguments.trace, engine, trace_writer.compute("float32", points=POINTS), config))
        recorder = Recorder(llama.architecture, config,
                            lambda name, array: writer.tensor(name, array) if selected(name) else None)
        llama.start(len(plan.prompt[0]) + plan.num_decode, max(plan.chunks), recorder.node)
        written = []

        def step(tokens, positions, past):
            recorder.past, recorder.num_tokens = past, len(tokens[0])
            written.append(llama.decode(tokens[0], past))
            return written[-1:]

        plan.run(writer, step)
        wrote = llama.text(written[len(plan.chunks) - 1:])
    print(f"{arguments.trace}: {plan.num_decode + len(plan.chunks)} steps; behind the prompt llama.cpp wrote {wrote}")


if __name__ == "__main__":
    recording.run_main(main)
