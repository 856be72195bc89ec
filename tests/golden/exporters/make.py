"""Write the corpus of exporter outputs: tiny transformer blocks as real exporters spell them.

Each module is built by its library's own code with seeded random weights, exported, and run by
PyTorch on seeded inputs of two shapes; ONNX Runtime must agree with PyTorch before a case is
written. Models that no library of ours exports (TensorFlow's spelling) are written node by node,
and ONNX Runtime's outputs are the truth.

    NAME.EXPORTER.onnx          the model; names of nodes are kept, of values between them not
    NAME.EXPORTER.safetensors   per run i: `i.in.NAME` inputs and `i.out.NAME` outputs

EXPORTER is `ts17` (TorchScript, opset 17), `dy18`, `dy20`, `dy23` (torch.export, that opset),
`ort` (ts17 as ONNX Runtime's optimiser at level "extended" saves it), `ortt` (as its transformer
tools fuse it) or `hand`.

usage: python make.py [NAME…]       all of them, or those whose name starts with NAME
"""

import io
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

warnings.filterwarnings("ignore")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnxruntime as ort  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402
from torch import nn  # noqa: E402

# The fused path of nn.TransformerEncoder is one opaque operator that no exporter knows.
torch.backends.mha.set_fastpath_enabled(False)

SEED = 20260301
HIDDEN, HEADS, INNER, LAYERS, VOCAB = 16, 2, 32, 2, 40
# PyTorch and ONNX Runtime sum in f32 in orders of their own; beyond this the export is wrong.
EXPORT_LIMIT = 5e-5
HERE = Path(__file__).parent


@dataclass
class Case:
    """A module, two sets of inputs by name, dynamic axes per input, output names."""

    module: nn.Module
    runs: list[dict[str, np.ndarray]]
    axes: dict[str, dict[int, str]]
    outputs: list[str] = field(default_factory=lambda: ["y"])
    # Tracing writes the extents of nn.MultiheadAttention as numbers.
    traced_static: bool = False


def rng(i: int) -> np.random.Generator:
    return np.random.default_rng(SEED + i)


def normal(i: int, *shape: int) -> np.ndarray:
    return rng(i).standard_normal(shape, np.float32)


SHAPES = [(2, 7), (3, 5)]
TOKENS = {0: "batch", 1: "seq"}


def other_values(v: np.ndarray) -> np.ndarray:
    """Other values of the same shape: floats of another sign, masks as they are."""
    return v if v.dtype == bool else -v[::-1].copy()


def lengths(i: int) -> np.ndarray:
    """Tokens that are not padding, per sequence of run `i`; never 0, once all."""
    batch, seq = SHAPES[i]
    return np.array([seq, *rng(i).integers(1, seq, batch - 1)])


def keep(i: int) -> np.ndarray:
    """i64 [batch, seq]: 1 where there is a token, padding on the right."""
    return (np.arange(SHAPES[i][1]) < lengths(i)[:, None]).astype(np.int64)


def ids(i: int) -> np.ndarray:
    return np.where(keep(i) == 1, rng(i).integers(3, VOCAB, SHAPES[i]), 1)


def settle(module: nn.Module) -> nn.Module:
    """Weights that are neither 0 nor 1 anywhere, from the seed."""
    torch.manual_seed(SEED)
    for name, p in module.named_parameters():
        with torch.no_grad():
            if p.dim() > 1:
                p.normal_(0, 0.3)
            else:
                p.uniform_(-0.3, 0.3)
                if "norm" in name.lower() or "ln" in name.lower():
                    p.add_(1.0 if name.endswith("weight") else 0.0)
    return module.eval()


class Call(nn.Module):
    """Calls `f(module, *inputs)`, so that a model's options stay out of the exported signature."""

    def __init__(self, module: nn.Module, f: Callable):
        super().__init__()
        self.inner = module
        self.f = f

    def forward(self, *args):
        return self.f(self.inner, *args)


def named(f: Callable, n: int) -> Callable:
    """Exporters read the signature: `n` plain parameters."""
    return f


# --- PyTorch's own modules ---------------------------------------------------------------------


def encoder(norm_first: bool, batch_first: bool, activation: str) -> Case:
    layer = nn.TransformerEncoderLayer(
        HIDDEN, HEADS, INNER, 0.1, activation, batch_first=batch_first, norm_first=norm_first
    )
    module = settle(nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False))

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = module

        def forward(self, x, padding):
            return self.encoder(x, src_key_padding_mask=padding)

    def x(i: int) -> np.ndarray:
        v = normal(i, *SHAPES[i], HIDDEN)
        return v if batch_first else np.ascontiguousarray(v.transpose(1, 0, 2))

    runs = [{"x": x(i), "padding": keep(i) == 0} for i in range(2)]
    axes = TOKENS if batch_first else {0: "seq", 1: "batch"}
    return Case(Encoder().eval(), runs, {"x": axes, "padding": TOKENS}, traced_static=True)


def multihead(mask: str) -> Case:
    inner = settle(nn.MultiheadAttention(HIDDEN, HEADS, batch_first=True))

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = inner

        def forward(self, q, k):
            return self.attention(q, k, k, need_weights=False)[0]

    class Masked(Plain):
        def forward(self, x, mask):
            return self.attention(x, x, x, attn_mask=mask, need_weights=False)[0]

    class Weights(Plain):
        def forward(self, x, mask):
            return self.attention(x, x, x, key_padding_mask=mask)[0]

    class Causal(Plain):
        def forward(self, x):
            n = x.shape[1]
            mask = torch.triu(torch.full((n, n), float("-inf")), diagonal=1)
            return self.attention(x, x, x, attn_mask=mask, need_weights=False)[0]

    x = [normal(i, *SHAPES[i], HIDDEN) for i in range(2)]
    tri = [np.tri(SHAPES[i][1], dtype=bool) for i in range(2)]
    square = {0: "seq", 1: "seq"}
    if mask == "none":
        other = [normal(9, 2, 4, HIDDEN), normal(9, 3, 9, HIDDEN)]
        runs = [{"q": x[i], "k": other[i]} for i in range(2)]
        return Case(Plain().eval(), runs, {"q": TOKENS, "k": {0: "batch", 1: "keys"}}, traced_static=True)
    if mask == "bool":
        runs = [{"x": x[i], "mask": ~tri[i]} for i in range(2)]
        return Case(Masked().eval(), runs, {"x": TOKENS, "mask": square}, traced_static=True)
    if mask == "float":
        runs = [{"x": x[i], "mask": normal(5, *tri[i].shape)} for i in range(2)]
        return Case(Masked().eval(), runs, {"x": TOKENS, "mask": square}, traced_static=True)
    if mask == "causal":
        return Case(Causal().eval(), [{"x": x[i]} for i in range(2)], {"x": TOKENS}, traced_static=True)
    runs = [{"x": x[i], "mask": keep(i) == 0} for i in range(2)]
    return Case(Weights().eval(), runs, {"x": TOKENS, "mask": TOKENS}, traced_static=True)


def sdpa(kind: str) -> Case:
    """One block: projections, scaled_dot_product_attention, output projection."""
    kv_heads = 2 if kind == "gqa" else 4
    dim = 4

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.q = nn.Linear(HIDDEN, 4 * dim)
            self.k = nn.Linear(HIDDEN, kv_heads * dim)
            self.v = nn.Linear(HIDDEN, kv_heads * dim)
            self.o = nn.Linear(4 * dim, HIDDEN)

        def heads(self, x):
            q = self.q(x).view(x.shape[0], -1, 4, dim).transpose(1, 2)
            k = self.k(x).view(x.shape[0], -1, kv_heads, dim).transpose(1, 2)
            v = self.v(x).view(x.shape[0], -1, kv_heads, dim).transpose(1, 2)
            return q, k, v

        def out(self, y):
            return self.o(y.transpose(1, 2).reshape(y.shape[0], -1, 4 * dim))

    class Plain(Block):
        def forward(self, x):
            return self.out(F.scaled_dot_product_attention(*self.heads(x)))

    class Causal(Block):
        def forward(self, x):
            return self.out(F.scaled_dot_product_attention(*self.heads(x), is_causal=True))

    class Gqa(Block):
        def forward(self, x):
            q, k, v = self.heads(x)
            k = k.repeat_interleave(2, dim=1)
            v = v.repeat_interleave(2, dim=1)
            return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True))

    class Masked(Block):
        def forward(self, x, mask):
            return self.out(F.scaled_dot_product_attention(*self.heads(x), attn_mask=mask))

    module = {"plain": Plain, "causal": Causal, "gqa": Gqa, "bool": Masked, "float": Masked}[kind]
    runs = [{"x": normal(i, *SHAPES[i], HIDDEN)} for i in range(2)]
    axes = {"x": TOKENS}
    if kind in ("bool", "float"):
        for i, run in enumerate(runs):
            run["mask"] = keep(i)[:, None, None, :] == 1
            if kind == "float":
                b, s = SHAPES[i]
                run["mask"] = normal(5, b, 1, s, s)
        axes["mask"] = {0: "batch", 3: "seq"} if kind == "bool" else {0: "batch", 2: "seq", 3: "seq"}
    return Case(settle(module()), runs, axes)


PAST = [3, 4]


def cached(kind: str) -> Case:
    """A block whose keys and values are put after those of an earlier run, which it gives back."""
    dim = 4

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.q = nn.Linear(HIDDEN, 4 * dim)
            self.k = nn.Linear(HIDDEN, 2 * dim)
            self.v = nn.Linear(HIDDEN, 2 * dim)
            self.o = nn.Linear(4 * dim, HIDDEN)

        def forward(self, x, past_k, past_v):
            b, s, _ = x.shape
            q = self.q(x).view(b, s, 4, dim).transpose(1, 2)
            k = torch.cat([past_k, self.k(x).view(b, s, 2, dim).transpose(1, 2)], 2)
            v = torch.cat([past_v, self.v(x).view(b, s, 2, dim).transpose(1, 2)], 2)
            past = past_k.shape[2]
            at = torch.arange(s)[:, None] + past
            mask = torch.arange(past + s)[None, :] <= at
            wide_k, wide_v = k.repeat_interleave(2, dim=1), v.repeat_interleave(2, dim=1)
            if kind == "sdpa":
                y = F.scaled_dot_product_attention(q, wide_k, wide_v, attn_mask=mask)
            else:
                scores = q @ wide_k.transpose(2, 3) / dim**0.5
                y = scores.masked_fill(~mask, torch.finfo(torch.float32).min).softmax(-1) @ wide_v
            return self.o(y.transpose(1, 2).reshape(b, s, 4 * dim)), k, v

    runs = []
    for i, (b, s) in enumerate(SHAPES):
        past = {n: normal(20 + 2 * i + j, b, 2, PAST[i], dim) for j, n in enumerate(["past_k", "past_v"])}
        runs.append({"x": normal(i, b, s, HIDDEN), **past})
    axes = {"x": TOKENS, **{n: {0: "batch", 2: "past"} for n in ("past_k", "past_v")}}
    return Case(settle(Block()), runs, axes, outputs=["y", "present_k", "present_v"])


def paired_rotary(kind: str) -> Case:
    """A block whose queries and keys are rotated by neighbouring pairs."""
    dim = 8

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(HIDDEN, 3 * HIDDEN)
            self.o = nn.Linear(HIDDEN, HIDDEN)

        def rotate(self, x):
            s = x.shape[2]
            angles = torch.arange(s)[:, None] / 100 ** (torch.arange(0, dim, 2) / dim)[None, :]
            if kind == "apart":
                p, q = x[..., 0::2], x[..., 1::2]
                cos, sin = angles.cos(), angles.sin()
                return torch.stack([p * cos - q * sin, p * sin + q * cos], dim=-1).flatten(-2)
            cos = angles.cos().repeat_interleave(2, dim=-1)
            sin = angles.sin().repeat_interleave(2, dim=-1)
            turned = torch.stack([-x[..., 1::2], x[..., 0::2]], dim=-1).flatten(-2)
            return x * cos + turned * sin

        def forward(self, x):
            b, s, _ = x.shape
            q, k, v = (t.view(b, s, 2, dim).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
            y = F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v)
            return self.o(y.transpose(1, 2).reshape(b, s, HIDDEN))

    return Case(settle(Block()), [{"x": normal(i, *SHAPES[i], HIDDEN)} for i in range(2)], {"x": TOKENS})


def packed_qkv(order: str) -> Case:
    """One projection for q, k and v, taken apart in the ways that models do."""
    dim = HIDDEN // HEADS

    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(HIDDEN, 3 * HIDDEN)

        def parts(self, x):
            b, s, _ = x.shape
            y = self.qkv(x)
            if order == "b_s_3_h_d":
                return y.reshape(b, s, 3, HEADS, dim).permute(2, 0, 3, 1, 4).unbind(0)
            if order == "chunk":
                return [t.view(b, s, HEADS, dim).transpose(1, 2) for t in y.chunk(3, dim=-1)]
            # heads outermost, as GPT-NeoX keeps them
            y = y.view(b, s, HEADS, 3 * dim)
            return [t.transpose(1, 2) for t in y.chunk(3, dim=-1)]

        def forward(self, x):
            q, k, v = self.parts(x)
            scores = (q * dim**-0.5) @ k.transpose(-2, -1)
            y = scores.softmax(dim=-1) @ v
            return y.transpose(1, 2).reshape(x.shape[0], -1, HIDDEN)

    runs = [{"x": normal(i, *SHAPES[i], HIDDEN)} for i in range(2)]
    return Case(settle(Packed()), runs, {"x": TOKENS})


class Activations(nn.Module):
    """Every spelling of an activation that exporters take apart, one after the other."""

    def forward(self, x):
        half = x * 0.5 * (1.0 + torch.erf(x / 1.4142135623730951))
        front = 0.5 * x * (1.0 + torch.erf(x * 0.7071067811865475))
        back = x * (torch.erf(x / 1.4142135623730951) + 1.0) * 0.5
        power = 0.5 * x * (1.0 + torch.tanh(0.7978845608028654 * (x + 0.044715 * torch.pow(x, 3.0))))
        cube = 0.5 * x * (1.0 + torch.tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))
        fast = 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608028654 * (1.0 + 0.044715 * x * x)))
        quick = x * torch.sigmoid(1.702 * x)
        silu = F.silu(x)
        hard = F.hardswish(x)
        relu6 = x * F.relu6(x + 3.0) / 6.0
        soft = torch.log(1.0 + torch.exp(x))
        mish = F.mish(x)
        return half, front, back, power, cube, fast, quick, silu, hard, relu6, soft, mish


ACTIVATIONS = [f"{n}_y" for n in "half front back power cube fast quick silu hard clip soft mish".split()]


class Norms(nn.Module):
    """Layer and RMS norms by hand, as models write them."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(HIDDEN))
        self.norm_bias = nn.Parameter(torch.zeros(HIDDEN))

    def forward(self, x):
        mean = x.mean(-1, keepdim=True)
        square = (x - mean).pow(2).mean(-1, keepdim=True)
        pow_div = self.weight * ((x - mean) / torch.sqrt(square + 1e-12)) + self.norm_bias
        d = x - mean
        mul_rsqrt = d * torch.rsqrt((d * d).mean(-1, keepdim=True) + 1e-5) * self.weight + self.norm_bias
        plain = d / torch.sqrt((d * d).mean(-1, keepdim=True) + 1e-5)
        f32 = x.to(torch.float32)
        llama = self.weight * (f32 * torch.rsqrt(f32.pow(2).mean(-1, keepdim=True) + 1e-6))
        div = x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6) * self.weight
        power = x * torch.pow(x.pow(2).mean(-1, keepdim=True) + 1e-6, -0.5) * self.weight
        layer = F.layer_norm(x, (HIDDEN,), self.weight, self.norm_bias, 1e-7)
        e = torch.exp(x - x.amax(-1, keepdim=True))
        softmax = e / e.sum(-1, keepdim=True)
        return pow_div, mul_rsqrt, plain, llama, div, power, layer, softmax


NORMS = [f"{n}_y" for n in "pow_div mul_rsqrt plain llama div power layer softmax".split()]


def pointwise(module: nn.Module, outputs: list[str]) -> Case:
    runs = [{"x": normal(i, *SHAPES[i], HIDDEN) * 2} for i in range(2)]
    return Case(settle(module), runs, {"x": TOKENS}, outputs)


# --- transformers ------------------------------------------------------------------------------


def masked_model(name: str, attention: str) -> Case:
    import transformers as tf

    common = dict(vocab_size=VOCAB, attn_implementation=attention)
    wide = dict(
        hidden_size=HIDDEN, num_attention_heads=HEADS, intermediate_size=INNER, num_hidden_layers=LAYERS
    )
    if name in ("bert", "roberta", "mpnet"):
        config = {"bert": tf.BertConfig, "roberta": tf.RobertaConfig, "mpnet": tf.MPNetConfig}[name]
        model = {"bert": tf.BertModel, "roberta": tf.RobertaModel, "mpnet": tf.MPNetModel}[name]
        config = config(**common, **wide, max_position_embeddings=24)
        if name == "mpnet":
            inner = model(config, add_pooling_layer=False)
        else:
            inner = model(config, add_pooling_layer=False)
    elif name == "distilbert":
        config = tf.DistilBertConfig(
            **common, dim=HIDDEN, n_heads=HEADS, hidden_dim=INNER, n_layers=LAYERS, max_position_embeddings=24
        )
        inner = tf.DistilBertModel(config)
    elif name == "gpt2":
        config = tf.GPT2Config(
            **common, n_embd=HIDDEN, n_head=HEADS, n_inner=INNER, n_layer=LAYERS, n_positions=24
        )
        inner = tf.GPT2Model(config)
    elif name == "llama":
        config = tf.LlamaConfig(**common, **wide, num_key_value_heads=1, max_position_embeddings=24)
        inner = tf.LlamaModel(config)
    elif name == "qwen2":
        config = tf.Qwen2Config(**common, **wide, num_key_value_heads=1, max_position_embeddings=24)
        inner = tf.Qwen2Model(config)
    elif name == "t5":
        config = tf.T5Config(
            vocab_size=VOCAB, d_model=HIDDEN, d_kv=HIDDEN // HEADS, d_ff=INNER, num_layers=LAYERS,
            num_heads=HEADS, is_encoder_decoder=False, use_cache=False,
            feed_forward_proj="gated-gelu",
        )
        inner = tf.T5EncoderModel(config)
    else:
        raise ValueError(name)
    decoder = name in ("gpt2", "llama", "qwen2")

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = inner

        def forward(self, input_ids, attention_mask):
            more = {"use_cache": False} if decoder else {}
            out = self.model(input_ids=input_ids, attention_mask=attention_mask, **more)
            return out.last_hidden_state

    runs = [{"input_ids": ids(i), "attention_mask": keep(i)} for i in range(2)]
    axes = {"input_ids": TOKENS, "attention_mask": TOKENS}
    return Case(settle(Model()), runs, axes)


def vit(attention: str) -> Case:
    import transformers as tf

    config = tf.ViTConfig(
        hidden_size=HIDDEN, num_attention_heads=HEADS, intermediate_size=INNER,
        num_hidden_layers=LAYERS, image_size=16, patch_size=8, attn_implementation=attention,
    )

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = tf.ViTModel(config, add_pooling_layer=False)

        def forward(self, pixel_values):
            return self.model(pixel_values).last_hidden_state

    runs = [{"pixel_values": normal(i, b, 3, 16, 16)} for i, b in enumerate((2, 3))]
    return Case(settle(Model()), runs, {"pixel_values": {0: "batch"}})


def llama_cached() -> Case:
    """A decoder of transformers with a cache of keys and values, as generation runs it."""
    import transformers as tf

    config = tf.LlamaConfig(
        vocab_size=VOCAB, hidden_size=HIDDEN, num_attention_heads=HEADS, intermediate_size=INNER,
        num_hidden_layers=LAYERS, num_key_value_heads=1, max_position_embeddings=24,
        attn_implementation="sdpa",
    )
    dim = HIDDEN // HEADS
    names = [f"past.{i}.{n}" for i in range(LAYERS) for n in ("k", "v")]

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = tf.LlamaModel(config)

        def forward(self, input_ids, attention_mask, a, b, c, d):
            cache = tf.DynamicCache([(a, b), (c, d)])
            out = self.model(
                input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True
            )
            layers = out.past_key_values.layers
            return out.last_hidden_state, *(t for x in layers for t in (x.keys, x.values))

    runs = []
    for i, (b, s) in enumerate(SHAPES):
        mask = np.concatenate([np.ones((b, PAST[i]), np.int64), keep(i)], 1)
        past = {n: normal(40 + 8 * i + j, b, 1, PAST[i], dim) for j, n in enumerate(names)}
        runs.append({"input_ids": ids(i), "attention_mask": mask, **past})
    axes = {"input_ids": TOKENS, "attention_mask": {0: "batch", 1: "total"}}
    axes |= {n: {0: "batch", 2: "past"} for n in names}
    outputs = ["y", *(f"present.{n[5:]}" for n in names)]
    return Case(settle(Model()), runs, axes, outputs=outputs)


def whisper(attention: str) -> Case:
    import transformers as tf
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = tf.WhisperConfig(
        vocab_size=VOCAB, num_mel_bins=8, d_model=HIDDEN, encoder_layers=LAYERS,
        encoder_attention_heads=HEADS, encoder_ffn_dim=INNER, max_source_positions=10,
        attn_implementation=attention, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1,
    )

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = WhisperEncoder(config)

        def forward(self, features):
            return self.model(features).last_hidden_state

    runs = [{"features": normal(i, b, 8, 20)} for i, b in enumerate((2, 3))]
    return Case(settle(Model()), runs, {"features": {0: "batch"}})


CASES: dict[str, tuple[Callable[[], Case], list[str]]] = {
    "encoder": (lambda: encoder(False, True, "relu"), ["ts17", "dy18", "dy23"]),
    "encoder_seq_first": (lambda: encoder(True, False, "gelu"), ["ts17", "dy18"]),
    "mha": (lambda: multihead("none"), ["ts17", "dy18"]),
    "mha_bool": (lambda: multihead("bool"), ["ts17", "dy18"]),
    "mha_float": (lambda: multihead("float"), ["ts17"]),
    "mha_padding": (lambda: multihead("padding"), ["ts17", "dy18"]),
    "mha_causal": (lambda: multihead("causal"), ["ts17", "dy18"]),
    "sdpa_plain": (lambda: sdpa("plain"), ["ts17", "dy18", "dy23"]),
    "sdpa_causal": (lambda: sdpa("causal"), ["ts17", "dy18", "dy23"]),
    "sdpa_bool": (lambda: sdpa("bool"), ["ts17", "dy18", "dy23"]),
    "sdpa_float": (lambda: sdpa("float"), ["ts17", "dy18"]),
    "sdpa_gqa": (lambda: sdpa("gqa"), ["ts17", "dy18"]),
    "cached_sdpa": (lambda: cached("sdpa"), ["ts17", "dy18"]),
    "cached_eager": (lambda: cached("eager"), ["ts17"]),
    "rotary_pairs": (lambda: paired_rotary("turned"), ["dy18"]),
    "rotary_apart": (lambda: paired_rotary("apart"), ["ts17", "dy18"]),
    "qkv_packed": (lambda: packed_qkv("b_s_3_h_d"), ["ts17", "dy18"]),
    "qkv_chunk": (lambda: packed_qkv("chunk"), ["ts17", "dy18"]),
    "qkv_by_head": (lambda: packed_qkv("by_head"), ["ts17"]),
    "activations": (lambda: pointwise(Activations(), ACTIVATIONS), ["ts17", "dy18"]),
    "norms": (lambda: pointwise(Norms(), NORMS), ["ts17", "dy18"]),
    "bert_eager": (lambda: masked_model("bert", "eager"), ["ts17", "ort", "ortt"]),
    "bert_sdpa": (lambda: masked_model("bert", "sdpa"), ["ts17", "dy20"]),
    "distilbert_sdpa": (lambda: masked_model("distilbert", "sdpa"), ["dy18"]),
    "roberta_sdpa": (lambda: masked_model("roberta", "sdpa"), ["dy18"]),
    "mpnet_eager": (lambda: masked_model("mpnet", "eager"), ["ts17", "dy18"]),
    "gpt2_eager": (lambda: masked_model("gpt2", "eager"), ["ts17"]),
    "gpt2_sdpa": (lambda: masked_model("gpt2", "sdpa"), ["ts17", "dy18"]),
    "llama_sdpa": (lambda: masked_model("llama", "sdpa"), ["ts17", "dy18"]),
    "llama_cached": (llama_cached, ["ts17"]),
    "qwen2_sdpa": (lambda: masked_model("qwen2", "sdpa"), ["dy18"]),
    "t5_encoder": (lambda: masked_model("t5", "eager"), ["ts17", "dy18"]),
    "vit_sdpa": (lambda: vit("sdpa"), ["dy18"]),
    "whisper_eager": (lambda: whisper("eager"), ["ts17"]),
}


# --- TensorFlow's spelling ---------------------------------------------------------------------


def tensorflow_bert() -> onnx.ModelProto:
    """BERT as tf2onnx writes the original TensorFlow code: rows of tokens between the reshapes,
    layer norms as `batchnorm` arithmetic, a mask of −10,000, tanh GELU with Pow."""
    g = np.random.default_rng(SEED)
    nodes, weights = [], []
    dim = HIDDEN // HEADS

    def const(name: str, value: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(value, name))
        return name

    def f32(name: str, value: float) -> str:
        return const(name, np.array(value, np.float32))

    def node(op: str, inputs: list[str], name: str, **attrs) -> str:
        nodes.append(helper.make_node(op, inputs, [f"{name}:0"], name=name, **attrs))
        return f"{name}:0"

    def dense(x: str, name: str, a: int, b: int) -> str:
        w = const(f"{name}/kernel", g.normal(0, 0.3, (a, b)).astype(np.float32))
        bias = const(f"{name}/bias", g.uniform(-0.3, 0.3, b).astype(np.float32))
        return node("Add", [node("MatMul", [x, w], f"{name}/MatMul"), bias], f"{name}/BiasAdd")

    def norm(x: str, name: str) -> str:
        gamma = const(f"{name}/gamma", g.uniform(0.7, 1.3, HIDDEN).astype(np.float32))
        beta = const(f"{name}/beta", g.uniform(-0.3, 0.3, HIDDEN).astype(np.float32))
        eps = f32(f"{name}/eps", 1e-12)
        mean = node("ReduceMean", [x], f"{name}/moments/mean", axes=[-1], keepdims=1)
        diff = node("Sub", [x, mean], f"{name}/moments/SquaredDifference__1")
        square = node("Mul", [diff, diff], f"{name}/moments/SquaredDifference")
        var = node("ReduceMean", [square], f"{name}/moments/variance", axes=[-1], keepdims=1)
        shifted = node("Add", [var, eps], f"{name}/batchnorm/add")
        root = node("Sqrt", [shifted], f"{name}/batchnorm/Rsqrt__1")
        inv = node("Reciprocal", [root], f"{name}/batchnorm/Rsqrt")
        scale = node("Mul", [inv, gamma], f"{name}/batchnorm/mul")
        scaled = node("Mul", [x, scale], f"{name}/batchnorm/mul_1")
        moved = node("Mul", [mean, scale], f"{name}/batchnorm/mul_2")
        shift = node("Sub", [beta, moved], f"{name}/batchnorm/sub")
        return node("Add", [scaled, shift], f"{name}/batchnorm/add_1")

    def gelu(x: str, name: str) -> str:
        cube = node("Pow", [x, f32(f"{name}/Pow/y", 3.0)], f"{name}/Pow")
        cube = node("Mul", [f32(f"{name}/mul/x", 0.044715), cube], f"{name}/mul")
        inner = node("Add", [x, cube], f"{name}/add")
        inner = node("Mul", [f32(f"{name}/mul_1/x", 0.7978845608028654), inner], f"{name}/mul_1")
        tanh = node("Tanh", [inner], f"{name}/Tanh")
        one = node("Add", [f32(f"{name}/add_1/x", 1.0), tanh], f"{name}/add_1")
        cdf = node("Mul", [f32(f"{name}/mul_2/x", 0.5), one], f"{name}/mul_2")
        return node("Mul", [x, cdf], f"{name}/mul_3")

    words = const("word_embeddings", g.normal(0, 0.5, (VOCAB, HIDDEN)).astype(np.float32))
    x = node("Gather", ["input_ids", ], "skip") if False else node("Gather", [words, "input_ids"], "embeddings/Gather")
    x = norm(x, "embeddings/LayerNorm")
    shape = node("Cast", [node("Shape", ["input_ids"], "shape")], "shape_i32", to=TensorProto.INT32)

    def dim_of(axis: int) -> str:
        part = node("Slice", [shape, const(f"b{axis}", np.array([axis], np.int64)),
                              const(f"e{axis}", np.array([axis + 1], np.int64)),
                              const(f"x{axis}", np.array([0], np.int64))], f"slice{axis}")
        return node("Squeeze", [part, const(f"s{axis}", np.array([0], np.int64))], f"dim{axis}")

    batch, seq = dim_of(0), dim_of(1)
    axis0 = const("axis0", np.array([0], np.int64))

    def pack(parts: list[str | int], name: str) -> str:
        items = []
        for i, p in enumerate(parts):
            if isinstance(p, int):
                items.append(const(f"{name}/{i}", np.array([p], np.int32)))
            else:
                items.append(node("Unsqueeze", [p, axis0], f"{name}/u{i}"))
        both = node("Concat", items, f"{name}/pack", axis=0)
        return node("Cast", [both], f"{name}/cast", to=TensorProto.INT64)

    mask = node("Cast", ["input_mask"], "mask/Cast", to=TensorProto.FLOAT)
    mask = node("Reshape", [mask, pack([batch, 1, seq], "mask/shape")], "mask/Reshape")
    ones = node("Expand", [f32("one", 1.0), pack([batch, seq, 1], "ones/shape")], "ones")
    mask = node("Mul", [ones, mask], "mask/mul")
    mask = node("Unsqueeze", [mask, const("axis1", np.array([1], np.int64))], "mask/ExpandDims")
    mask = node("Sub", [f32("sub/x", 1.0), mask], "mask/sub")
    mask = node("Mul", [mask, f32("mul/y", -10000.0)], "mask/mul_1")
    rows = const("rows", np.array([-1, HIDDEN], np.int64))
    x = node("Reshape", [x, rows], "encoder/Reshape")
    for i in range(LAYERS):
        at = f"encoder/layer_{i}"
        heads = pack([batch, seq, HEADS, dim], f"{at}/heads")

        def head(name: str, perm: list[int]) -> str:
            y = dense(x, f"{at}/attention/self/{name}", HIDDEN, HIDDEN)
            y = node("Reshape", [y, heads], f"{at}/attention/self/{name}/Reshape")
            return node("Transpose", [y], f"{at}/attention/self/{name}/transpose", perm=perm)

        q, k = head("query", [0, 2, 1, 3]), head("key", [0, 2, 3, 1])
        scores = node("MatMul", [q, k], f"{at}/attention/self/MatMul")
        scores = node("Mul", [scores, f32(f"{at}/scale", dim**-0.5)], f"{at}/attention/self/Mul")
        scores = node("Add", [scores, mask], f"{at}/attention/self/add")
        p = node("Softmax", [scores], f"{at}/attention/self/Softmax", axis=-1)
        v = head("value", [0, 2, 1, 3])
        y = node("MatMul", [p, v], f"{at}/attention/self/MatMul_1")
        y = node("Transpose", [y], f"{at}/attention/self/transpose_3", perm=[0, 2, 1, 3])
        y = node("Reshape", [y, rows], f"{at}/attention/self/Reshape_3")
        y = dense(y, f"{at}/attention/output/dense", HIDDEN, HIDDEN)
        x = norm(node("Add", [y, x], f"{at}/attention/output/add"), f"{at}/attention/output/LayerNorm")
        y = gelu(dense(x, f"{at}/intermediate/dense", HIDDEN, INNER), f"{at}/intermediate/Gelu")
        y = dense(y, f"{at}/output/dense", INNER, HIDDEN)
        x = norm(node("Add", [y, x], f"{at}/output/add"), f"{at}/output/LayerNorm")
    out = pack([batch, seq, HIDDEN], "out/shape")
    nodes.append(helper.make_node("Reshape", [x, out], ["y"], name="out/Reshape"))
    tokens = lambda name: helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "seq"])  # noqa: E731
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "seq", HIDDEN])
    graph = helper.make_graph(nodes, "tf_bert", [tokens("input_ids"), tokens("input_mask")], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def contrib(kind: str) -> onnx.ModelProto:
    """One fused attention of ONNX Runtime's own domain."""
    g = np.random.default_rng(SEED)
    weight = lambda name, *shape: numpy_helper.from_array(  # noqa: E731
        g.normal(0, 0.3, shape).astype(np.float32), name
    )
    info = helper.make_tensor_value_info
    tokens = info("x", TensorProto.FLOAT, ["batch", "seq", HIDDEN])
    y = info("y", TensorProto.FLOAT, ["batch", "seq", HIDDEN])
    if kind == "multi_head":
        weights = [weight("bias", 3 * HIDDEN)]
        inputs = [tokens, info("mask", TensorProto.INT32, ["batch", "seq"])]
        node = helper.make_node(
            "MultiHeadAttention", ["x", "x", "x", "bias", "mask"], ["y"], name="attention",
            domain="com.microsoft", num_heads=HEADS, scale=0.25,
        )
    else:
        weights = [weight("w", HIDDEN, 3 * HIDDEN), weight("bias", 3 * HIDDEN)]
        shape = ["batch"] if kind == "lengths" else ["batch", "seq"]
        inputs = [tokens, info("mask", TensorProto.INT32, shape)]
        node = helper.make_node(
            "Attention", ["x", "w", "bias", "mask"], ["y"], name="attention", domain="com.microsoft",
            num_heads=HEADS, unidirectional=int(kind == "causal"),
        )
    graph = helper.make_graph([node], kind, inputs, [y], weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def contrib_runs(kind: str) -> list[dict[str, np.ndarray]]:
    mask = lambda i: lengths(i) if kind == "lengths" else keep(i)  # noqa: E731
    return [
        {"x": normal(i, *SHAPES[i], HIDDEN), "mask": mask(i).astype(np.int32)} for i in range(2)
    ]


def cached_op(kind: str) -> onnx.ModelProto:
    """One attention operator with a cache: of opset 23, or of ONNX Runtime's own domain."""
    info, dim = helper.make_tensor_value_info, 16
    f32, i32 = TensorProto.FLOAT, TensorProto.INT32
    kv = 2 if kind in ("gqa", "gqa_rotary", "onnx23") else 4
    cache = lambda n, length: info(n, f32, ["batch", kv, length, dim])  # noqa: E731
    inputs = [
        info("q", f32, ["batch", "seq", 4 * dim]),
        info("k", f32, ["batch", "seq", kv * dim]),
        info("v", f32, ["batch", "seq", kv * dim]),
        cache("past_k", "past"),
        cache("past_v", "past"),
    ]
    outputs = [info("y", f32, ["batch", "seq", 4 * dim]), cache("present_k", None), cache("present_v", None)]
    names = ["y", "present_k", "present_v"]
    weights, domain = [], "com.microsoft"
    if kind == "onnx23":
        node = helper.make_node(
            "Attention", ["q", "k", "v", "", "past_k", "past_v"], names, name="attention",
            q_num_heads=4, kv_num_heads=kv, is_causal=1,
        )
        domain = None
    elif kind == "multi_head":
        node = helper.make_node(
            "MultiHeadAttention", ["q", "k", "v", "", "", "", "past_k", "past_v"], names,
            name="attention", domain=domain, num_heads=4,
        )
    else:
        inputs += [info("lens", i32, ["batch"]), info("total", i32, [])]
        feeds, attrs = ["q", "k", "v", "past_k", "past_v", "lens", "total"], {}
        if kind == "gqa_rotary":
            angles = np.outer(np.arange(32), 100.0 ** (-np.arange(dim // 2) / dim * 2))
            for n, f in (("cos", np.cos), ("sin", np.sin)):
                weights.append(numpy_helper.from_array(f(angles).astype(np.float32), n))
            feeds, attrs = [*feeds, "cos", "sin"], {"do_rotary": 1, "rotary_interleaved": 1}
        node = helper.make_node(
            "GroupQueryAttention", feeds, names, name="attention", domain=domain, num_heads=4,
            kv_num_heads=kv, local_window_size=4 if kind == "gqa_rotary" else -1, **attrs,
        )
    opsets = [helper.make_opsetid("", 23)]
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
    graph = helper.make_graph([node], kind, inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def cached_op_runs(kind: str) -> list[dict[str, np.ndarray]]:
    runs, kv = [], 2 if kind in ("gqa", "gqa_rotary", "onnx23") else 4
    for i, (b, s) in enumerate(SHAPES):
        # ONNX Runtime takes one new token where there is a cache, or many where there is none.
        past, s = (PAST[i], 1) if i == 0 or not kind.startswith("gqa") else (0, s)
        run = {n: normal(60 + 5 * i + j, b, s, w * 16) for j, (n, w) in enumerate([("q", 4), ("k", kv), ("v", kv)])}
        run |= {n: normal(63 + 5 * i + j, b, kv, past, 16) for j, n in enumerate(["past_k", "past_v"])}
        run["lens"] = np.full(b, past + s - 1, np.int32)
        run["total"] = np.array(past + s, np.int32)
        runs.append(run)
    return runs


HAND = {
    **{
        f"cache_{kind}": (lambda kind=kind: cached_op(kind), cached_op_runs(kind))
        for kind in ("onnx23", "multi_head", "gqa", "gqa_rotary")
    },
    **{
        f"contrib_{kind}": (lambda kind=kind: contrib(kind), contrib_runs(kind))
        for kind in ("raw", "lengths", "causal", "multi_head")
    },
    "tensorflow_bert": (
        tensorflow_bert,
        [{"input_ids": ids(i), "input_mask": keep(i)} for i in range(2)],
    ),
}


# --- exporting ---------------------------------------------------------------------------------


def export(case: Case, how: str) -> onnx.ModelProto:
    args = tuple(torch.from_numpy(v) for v in case.runs[0].values())
    names = list(case.runs[0])
    if how.startswith("dy"):
        dims = {n: torch.export.Dim(n) for axes in case.axes.values() for n in axes.values()}
        shapes = tuple({a: dims[n] for a, n in case.axes[k].items()} for k in names)
        args = tuple(torch.from_numpy(v) for v in case.runs[0].values())
        program = torch.onnx.export(
            case.module, args, dynamo=True, opset_version=int(how[2:]), input_names=names,
            output_names=case.outputs, dynamic_shapes=shapes, verbose=False,
        )
        model = program.model_proto
    else:
        buffer = io.BytesIO()
        torch.onnx.export(
            case.module, args, buffer, dynamo=False, opset_version=17, input_names=names,
            output_names=case.outputs, dynamic_axes={} if case.traced_static else case.axes,
        )
        model = onnx.load_from_string(buffer.getvalue())
    return model


def fused(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model as ONNX Runtime's transformer tools fuse it."""
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    options = FusionOptions("bert")
    options.enable_embed_layer_norm = False
    return optimizer.optimize_model(
        model, model_type="bert", num_heads=HEADS, hidden_size=HIDDEN,
        optimization_options=options, opt_level=0,
    ).model


def shorten(graph: onnx.GraphProto) -> None:
    """Values between nodes get short names; inputs, outputs, weights and nodes keep theirs."""
    keep = {v.name for v in [*graph.input, *graph.output, *graph.initializer]}
    names: dict[str, str] = {"": ""}
    for node in graph.node:
        for side in (node.input, node.output):
            for i, name in enumerate(side):
                if name not in keep:
                    side[i] = names.setdefault(name, f"v{len(names)}")


def slim(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without stack traces and other prose."""
    shorten(model.graph)
    model.ClearField("metadata_props")
    model.ClearField("doc_string")
    for graph in [model.graph, *model.functions]:
        graph.ClearField("metadata_props")
        graph.ClearField("doc_string")
        for node in graph.node:
            node.ClearField("metadata_props")
            node.ClearField("doc_string")
    model.graph.ClearField("value_info")
    for info in [*model.graph.input, *model.graph.output]:
        info.ClearField("metadata_props")
        info.ClearField("doc_string")
    for t in model.graph.initializer:
        t.ClearField("metadata_props")
        t.ClearField("doc_string")
    return model


def session(model: bytes, optimised: str | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = optimised
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def store(name: str, model: onnx.ModelProto, runs: list[dict], truth: list[list[np.ndarray]] | None) -> None:
    data = model.SerializeToString()
    outputs = [o.name for o in model.graph.output]
    inputs = {i.name for i in model.graph.input}
    # ONNX Runtime refuses masks that broadcast in the Attention of opset 23.
    run = None if name.endswith("dy23") else session(data)
    tensors = {}
    for i, values in enumerate(runs):
        values = {k: v for k, v in values.items() if k in inputs}
        got = run.run(None, values) if run else truth[i]
        want = truth[i] if truth else got
        for o, w, g in zip(outputs, want, got, strict=True):
            limit = EXPORT_LIMIT * max(1.0, np.abs(w).max())
            assert np.abs(w - g).max() <= limit, f"{name}: {o} differs by {np.abs(w - g).max()}"
            tensors[f"{i}.out.{o}"] = np.ascontiguousarray(w)
        tensors |= {f"{i}.in.{k}": np.array(v, order="C") for k, v in values.items()}
    (HERE / f"{name}.onnx").write_bytes(data)
    save_file(tensors, HERE / f"{name}.safetensors")
    print(f"{name}: {len(data)} bytes, {len(model.graph.node)} nodes", flush=True)


def main(prefixes: list[str]) -> None:
    wanted = lambda name: not prefixes or any(name.startswith(p) for p in prefixes)  # noqa: E731
    failed = []
    for name, (make, exporters) in CASES.items():
        for how in exporters:
            if not wanted(f"{name}.{how}"):
                continue
            try:
                case = make()
                if how in ("ts17", "ort", "ortt") and case.traced_static:
                    case.runs[1] = {k: other_values(v) for k, v in case.runs[0].items()}
                with torch.no_grad():
                    truth = []
                    for values in case.runs:
                        out = case.module(*(torch.from_numpy(v) for v in values.values()))
                        truth.append([t.numpy() for t in (out if isinstance(out, tuple) else (out,))])
                    if how == "ort":
                        path = str(HERE / "optimised.tmp")
                        session(export(case, "ts17").SerializeToString(), path)
                        model = onnx.load(path)
                        os.remove(path)
                    elif how == "ortt":
                        model = fused(export(case, "ts17"))
                    else:
                        model = export(case, how)
                store(f"{name}.{how}", slim(model), case.runs, truth)
            except Exception as e:  # noqa: BLE001
                failed.append(f"{name}.{how}: {type(e).__name__}: {str(e)[:300]}")
                print("FAILED", failed[-1], flush=True)
    for name, (make, runs) in HAND.items():
        if wanted(f"{name}.hand"):
            store(f"{name}.hand", slim(make()), runs, None)
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main(sys.argv[1:])
