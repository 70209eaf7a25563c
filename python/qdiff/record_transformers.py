"""Records a qdiff trace (docs/trace-format.md) of transformers running a Qwen2 checkpoint on the CPU.

    record_transformers.py --model Qwen2.5-0.5B --trace trace --prompt-tokens 64 --decode 4
    record_transformers.py --model DIR --trace DIR --tokens ids.json --chunks 37,27 --attn sdpa --dtype float32
    record_transformers.py --model DIR --trace DIR --prompt-tokens 9,6 --decode 4 --cache static --generate

Hooks on the modules, and wrappers of the functions between them, write each tensor as it is produced, so that one
tensor is in memory besides what the model itself needs. Nothing is computed a second time: what is recorded is what the
model went on with. Needs torch and transformers 5.
"""

import argparse
import contextlib
import warnings

from qdiff import recording, trace_writer
from qdiff.recording import UsageError

OVERRIDES = {"rope_theta": float, "rms_norm_eps": float, "hidden_act": str}

# Where the half-precision paths round between named tensors; in float32 there is nothing to round. docs/recording.md
# has the experiment behind each entry (scripts/tests/recorders_test.py repeats it). The CPU's flash attention keeps
# scores in float32 and rounds exp(score - maximum) on its way into P·V.
EAGER_POINTS = ["rms_norm.normalized", "rope.table", "rope.products", "attention.scores", "attention.scaled_scores",
                "attention.probs", "mlp.silu"]
SDPA_POINTS = ["rms_norm.normalized", "rope.table", "rope.products", "attention.probs", "mlp.silu"]


def points(attention, dtype):
    if dtype == "float32":
        return {}
    return {point: dtype for point in (EAGER_POINTS if attention == "eager" else SDPA_POINTS)}


def override(config, assignments):
    """Changes the model's config, to make a wrong engine."""
    for assignment in assignments:
        key, _, text = assignment.partition("=")
        if key not in OVERRIDES:
            raise UsageError(f"--override {assignment}: the keys are {', '.join(OVERRIDES)}")
        try:
            value = OVERRIDES[key](text)
        except ValueError as error:
            raise UsageError(f"--override {assignment}: {text!r} is no number") from error
        if key == "rope_theta":
            config.rope_parameters["rope_theta"] = value
        else:
            setattr(config, key, value)


def load(arguments, dtype):
    import torch
    import transformers
    config = transformers.Qwen2Config.from_pretrained(arguments.model, local_files_only=True)
    override(config, arguments.override)
    if config.hidden_act not in transformers.activations.ACT2FN:
        raise UsageError(f"--override hidden_act={config.hidden_act}: transformers has no such activation")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        model, loaded = transformers.Qwen2ForCausalLM.from_pretrained(
            arguments.model, config=config, dtype=getattr(torch, dtype), attn_implementation=arguments.attn,
            local_files_only=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"{arguments.model}: transformers cannot load it: {error}") from error
    except Exception as error:  # safetensors raises an exception type of its own, derived from Exception alone
        if type(error).__name__ != "SafetensorError":
            raise
        raise UsageError(f"{arguments.model}: the weights cannot be read: {error}") from error
    wrong = [f"{name} ({kind.removesuffix('_keys')})" for kind in ("missing_keys", "mismatched_keys")
             for name in sorted(map(str, loaded.get(kind, ())))]
    if wrong:  # transformers fills them with random numbers
        raise UsageError(f"{arguments.model}: weights are not as the model needs them: {', '.join(wrong[:5])}")
    with torch.no_grad():
        for name in arguments.zero_bias:
            for layer in model.model.layers:
                for part in "qkv" if name == "all" else name:
                    layer.self_attn.get_submodule(f"{part}_proj").bias.zero_()
    return model.eval()


class Recorder:
    """Hands each tensor of a forward pass to `put(name, tensor)`."""

    def __init__(self, model, put):
        self._model, self._put = model, put
        self._layer = None
        self._hooks = []
        self.slots = None  # up to this step's; a static cache has more
        self._after(model.model.embed_tokens, "model.embed_tokens")
        self._after(model.model.norm, "model.norm")
        self._after(model.lm_head, "lm_head")
        for index, layer in enumerate(model.model.layers):
            prefix = f"model.layers.{index}."
            self._hooks.append(layer.register_forward_pre_hook(
                lambda module, arguments, index=index: setattr(self, "_layer", index)))
            for part in ("input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                         "self_attn.o_proj", "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj",
                         "mlp.down_proj"):
                self._after(layer.get_submodule(part), prefix + part)
            self._before(layer.self_attn.o_proj, prefix + "self_attn.attn_output")
            self._before(layer.post_attention_layernorm, prefix + "resid_mid")
            self._before(layer.mlp.down_proj, prefix + "mlp.act")
            self._after(layer, prefix + "output")

    def _after(self, module, name):
        def hook(module, arguments, output):
            self._put(name, output[0] if isinstance(output, tuple) else output)
        self._hooks.append(module.register_forward_hook(hook))

    def _before(self, module, name):
        self._hooks.append(module.register_forward_pre_hook(lambda module, arguments: self._put(name, arguments[0])))

    def remove(self):
        """Leaves the model as it was."""
        for hook in self._hooks:
            hook.remove()

    def _attention(self, name, tensor):
        self._put(f"model.layers.{self._layer}.self_attn.{name}", tensor)

    @contextlib.contextmanager
    def wrapped(self):
        """Within it the functions between the modules are recorded, too."""
        from torch import nn
        from transformers import AttentionInterface
        from transformers.models.qwen2 import modeling_qwen2
        rotate, eager = modeling_qwen2.apply_rotary_pos_emb, modeling_qwen2.eager_attention_forward
        sdpa, softmax = AttentionInterface._global_mapping["sdpa"], nn.functional.softmax

        def recorded_rotate(*arguments, **keywords):
            q, k = rotate(*arguments, **keywords)
            self._attention("q_rope", q.transpose(1, 2))
            self._attention("k_rope", k.transpose(1, 2))
            return q, k

        def recorded_cache(key, value):  # what the cache object handed out: all slots up to this step's
            self._attention("k_cache", key[:, :, :self.slots].transpose(1, 2))
            self._attention("v_cache", value[:, :, :self.slots].transpose(1, 2))

        def recorded_softmax(scores, *arguments, **keywords):
            self._attention("scores", scores[..., :self.slots])
            return softmax(scores, *arguments, **keywords)

        def recorded_eager(module, query, key, value, *arguments, **keywords):
            recorded_cache(key, value)
            nn.functional.softmax = recorded_softmax
            try:
                output, probs = eager(module, query, key, value, *arguments, **keywords)
            finally:
                nn.functional.softmax = softmax
            self._attention("probs", probs[..., :self.slots])
            return output, probs

        def recorded_sdpa(module, query, key, value, *arguments, **keywords):
            recorded_cache(key, value)
            return sdpa(module, query, key, value, *arguments, **keywords)

        modeling_qwen2.apply_rotary_pos_emb, modeling_qwen2.eager_attention_forward = recorded_rotate, recorded_eager
        AttentionInterface._global_mapping["sdpa"] = recorded_sdpa
        try:
            yield
        finally:
            modeling_qwen2.apply_rotary_pos_emb, modeling_qwen2.eager_attention_forward = rotate, eager
            AttentionInterface._global_mapping["sdpa"] = sdpa


def generate(model, plan, writer, recorder, cache, padding):
    """The steps as transformers' own generate() takes them, greedily; a hook sees what it hands to the model."""
    import torch
    tokens = torch.tensor(plan.prompt)

    def begin(module, arguments, keywords):
        ids, past = keywords["input_ids"], cache.get_seq_length()
        recorder.slots = int(past) + ids.shape[1]
        positions = keywords.get("position_ids")
        writer.begin_step("decode" if past else "prefill", ids.tolist(), int(past),
                          None if positions is None else positions.expand(len(ids), -1).tolist(), plan.left_padding)
    hook = model.register_forward_pre_hook(begin, with_kwargs=True)
    model.generation_config.eos_token_id = None
    try:
        with torch.no_grad():
            model.generate(tokens, attention_mask=(torch.arange(tokens.shape[1])[None] >= padding[:, None]).long(),
                           past_key_values=cache, max_new_tokens=plan.num_decode + 1, do_sample=False,
                           disable_compile=True)
    finally:
        hook.remove()


def make_cache(model, static, plan):
    from transformers import DynamicCache, StaticCache
    if not static:
        return DynamicCache(config=model.config)
    return StaticCache(config=model.config, max_cache_len=capacity_of(plan))


def capacity_of(plan):
    """Slots of a static cache: some that this recording leaves free, as a server's has them."""
    return len(plan.prompt[0]) + plan.num_decode + 8


def record(model, plan, writer, selected, arguments):
    import torch
    recorder = Recorder(model, lambda name, tensor: writer.tensor(name, tensor) if selected(name) else None)
    cache = make_cache(model, arguments.cache == "static", plan)
    padding = torch.tensor(plan.left_padding)

    def step(tokens, positions, past):
        slots = torch.arange(past + len(tokens[0]))
        recorder.slots = len(slots)
        with torch.no_grad():
            output = model(input_ids=torch.tensor(tokens), position_ids=torch.tensor(positions),
                           attention_mask=(slots[None, :] >= padding[:, None]).long(),
                           past_key_values=cache, use_cache=True, logits_to_keep=1 if arguments.last_logits else 0)
        return output.logits[:, -1].float().argmax(-1).tolist()

    with recorder.wrapped():
        if arguments.generate:
            generate(model, plan, writer, recorder, cache, padding)
        else:
            plan.run(writer, step)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    recording.add_arguments(parser)
    parser.add_argument("--dtype", choices=trace_writer.DTYPES, help="default: the checkpoint's")
    parser.add_argument("--attn", choices=["eager", "sdpa"], default="eager", help="(default: eager)")
    parser.add_argument("--cache", choices=["dynamic", "static"], default="dynamic", help="(default: dynamic)")
    parser.add_argument("--generate", action="store_true",
                        help="the steps that transformers' generate() takes, greedily; it prefills in one step")
    parser.add_argument("--last-logits", action="store_true", help="logits of the last token of a step alone")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="default: PyTorch's own choice")
    wrong = parser.add_argument_group("to make a wrong engine on purpose")
    wrong.add_argument("--override", action="append", default=[], metavar="KEY=VALUE",
                       help=f"another value in the model's config: {', '.join(OVERRIDES)}")
    wrong.add_argument("--zero-bias", action="append", default=[], choices=["q", "k", "v", "all"],
                       help="leave a projection's bias out")
    arguments = parser.parse_args()
    config = recording.read_config(arguments.model)
    plan = recording.Plan(arguments, config)
    if arguments.generate and (arguments.chunks or arguments.decode_tokens):
        raise UsageError("--generate takes the steps of generate() itself: no --chunks and no --decode-tokens")
    selected = recording.Filter(arguments.tensors, config["num_hidden_layers"])
    trace_writer.refuse_other_folder(arguments.trace)
    dtype = arguments.dtype or config.get("dtype") or config.get("torch_dtype") or "float32"
    if dtype not in trace_writer.DTYPES:
        raise UsageError(f"{arguments.model}: dtype is {dtype!r}; choose one with --dtype")
    try:
        import torch
        import transformers
    except ImportError as error:
        raise UsageError(f"this Python has no {error.name}; docs/recording.md says what to install") from error
    if int(transformers.__version__.split(".")[0]) < 5:
        raise UsageError(f"transformers is {transformers.__version__}, but this recorder knows version 5")
    warnings.filterwarnings("ignore", category=FutureWarning)
    if arguments.threads > 0:
        torch.set_num_threads(arguments.threads)
    model = load(arguments, dtype)
    engine = {"name": f"transformers-{arguments.attn}", "version": transformers.__version__, "device": "cpu"}
    # What config.json says stands in the manifest, as with an engine that misreads it.
    with trace_writer.TraceWriter(arguments.trace, engine,
                                  trace_writer.compute(dtype, points=points(arguments.attn, dtype)), config,
                                  capacity_of(plan) if arguments.cache == "static" else None) as writer:
        record(model, plan, writer, selected, arguments)
    print(f"{arguments.trace}: {plan.num_decode + len(plan.chunks)} steps")
