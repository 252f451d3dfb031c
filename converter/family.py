"""What a model is, as data: the typed description that sources produce and the graph builder consumes.

A family (Gemma 4 Unified, Gemma 3 text) differs from another only by the values in here. Reading a config.json or GGUF
metadata into it is `read_config`. Formulas: the model's published config and transformers' modelling code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import ConversionError
from .fields import Fields, rounded_sqrt


@dataclass(frozen=True)
class Rope:
    """Rotary embedding of one layer: pairs (i, i + head_dim/2), frequency theta^(-2i/head_dim) / factor for
    i < rotated, 0 (no rotation) beyond. `rotated` = head_dim // 2 unless the rope is "proportional"."""

    theta: float
    factor: float
    rotated: int


@dataclass(frozen=True)
class Layer:
    """One decoder layer. `window` = 0 means full attention; else a query sees `window` keys, itself included.
    `k_eq_v`: there is no v_proj; V is taken from the raw K projection (before k_norm and rope)."""

    head_dim: int
    kv_heads: int
    window: int
    rope: Rope
    k_eq_v: bool


@dataclass(frozen=True)
class ModelSpec:
    """A decoder-only text model. Weights are looked up under canonical names (see converter/source.py):
    embed.weight [V,H], norm.weight [H], layers.N.{q,k,v,o,gate,up,down}.weight, layers.N.{q_norm,k_norm}.weight [D],
    layers.N.{input,post_attention,pre_feedforward,post_feedforward}_norm.weight [H], layers.N.scalar [1]."""

    family: str  # "gemma4_unified" | "gemma3_text"
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    layers: tuple[Layer, ...]
    rms_norm_eps: float
    norm_offset: float  # 1.0 for Gemma 3 (x * (1 + w)), 0.0 for Gemma 4 (x * w)
    attention_scale: float  # query_pre_attn_scalar ** -0.5 for Gemma 3, 1.0 for Gemma 4
    v_norm: bool  # Gemma 4 normalises V (no weight)
    layer_scalar: bool  # Gemma 4 multiplies the residual stream by a stored scalar after every layer
    final_softcap: float | None
    embed_scale: float  # sqrt(hidden_size) rounded as the checkpoint's dtype rounds it
    max_context: int  # what the model was made for (max_position_embeddings)
    bos_id: int
    eos_ids: tuple[int, ...]
    pad_id: int
    suppress_ids: tuple[int, ...] = ()
    sampler: dict[str, float] = field(default_factory=dict)  # temperature, top_k, top_p of generation_config
    media: dict[str, int] = field(default_factory=dict)  # image_token_id, audio_token_id, boi_token_id, ... (Gemma 4)


# ---------------------------------------------------------------------------------------------------- reading a config
SUPPORTED = "gemma4_unified (Gemma 4 12B Unified) and gemma3_text (Gemma 3 270M and 1B)"
UNSUPPORTED = {  # model_type -> why, in the words of someone who tried it
    "gemma4": "the vision-tower models (E2B, E4B, 26B-A4B, 31B) have parts that are not supported",
    "gemma4_text": "E2B, E4B, 26B-A4B and 31B have parts that are not supported",
    "gemma4_assistant": "this is the drafter of an unsupported model",
    "gemma4_unified_assistant": "this is a drafter and no model of its own; give the folder of its target model",
    "gemma3": "Gemma 3 with a vision tower is not supported",
}
SLIDING, FULL = "sliding_attention", "full_attention"
SIGNIFICAND_BITS = {"float32": 24, "float16": 11, "bfloat16": 8}
MAX_LAYERS, MAX_WIDTH, MAX_VOCAB, MAX_HEADS = 1024, 1 << 18, 1 << 22, 1024


def read_config(
    config: Mapping[str, Any], generation: Mapping[str, Any], dtype: str, where: str = "config.json"
) -> ModelSpec:
    """Hugging Face config.json and generation_config.json (may be empty) -> ModelSpec.

    `dtype`: "float32", "float16" or "bfloat16", as the weights are stored; the embedding scale is rounded to it."""
    top = Fields(config, where)
    kind = top.text("model_type")
    if "quantization_config" in top:
        raise ConversionError(f"{where}: the checkpoint is quantised already; convert the original or a GGUF file")
    if kind == "gemma3_text":
        text = top
    elif kind in ("gemma4_unified", "gemma4_unified_text"):
        inner = top.table("text_config")
        text = top if kind == "gemma4_unified_text" or inner is None else inner
    else:
        reason = UNSUPPORTED.get(kind, "this family is not supported")
        raise ConversionError(f"{where}: model_type {kind!r}: {reason}. Supported: {SUPPORTED}")
    gemma4 = kind != "gemma3_text"
    _refuse(top, text, gemma4)
    vocab = text.integer("vocab_size", low=1, high=MAX_VOCAB)
    hidden = text.integer("hidden_size", low=1, high=MAX_WIDTH)
    heads = text.integer("num_attention_heads", low=1, high=MAX_HEADS)
    layers = _gemma4_layers(text) if gemma4 else _gemma3_layers(text)
    for i, layer in enumerate(layers):
        if heads % layer.kv_heads or layer.head_dim % 2:
            raise ConversionError(
                f"{where}: layer {i}: {heads} heads over {layer.kv_heads} key-value heads of size {layer.head_dim}; "
                "the first must be a multiple of the second and the size even"
            )
    gen = Fields(generation, "generation_config.json")

    def tokens(name: str, default: int | None) -> tuple[int, ...]:
        for fields in (gen, top, text):
            found = fields.integers(name, vocab - 1)
            if found:
                return found
        return () if default is None else (default,)

    return ModelSpec(
        family="gemma4_unified" if gemma4 else "gemma3_text",
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=text.integer("intermediate_size", low=1, high=MAX_WIDTH),
        num_heads=heads,
        layers=layers,
        rms_norm_eps=text.number("rms_norm_eps", 1e-6, low=1e-12, high=1.0),
        norm_offset=0.0 if gemma4 else 1.0,
        attention_scale=1.0 if gemma4 else text.number("query_pre_attn_scalar", 256, low=1e-3) ** -0.5,
        v_norm=gemma4,
        layer_scalar=gemma4,
        final_softcap=text.number("final_logit_softcapping", low=1e-3) if "final_logit_softcapping" in text else None,
        embed_scale=rounded_sqrt(hidden, SIGNIFICAND_BITS[dtype]),
        max_context=text.integer("max_position_embeddings", 131072 if gemma4 else 32768, low=1),
        bos_id=tokens("bos_token_id", 2)[0],
        eos_ids=tokens("eos_token_id", 1),
        pad_id=tokens("pad_token_id", 0)[0],
        suppress_ids=tokens("suppress_tokens", None),
        sampler=_sampler(gen),
        media=_media(top, vocab) if kind == "gemma4_unified" else {},
    )


def _refuse(top: Fields, text: Fields, gemma4: bool) -> None:
    """Parts of the wider Gemma family that change the computation and that the graphs do not have."""
    where = text.where
    reasons = [
        (text.integer("num_kv_shared_layers", 0) > 0, "layers that share keys and values (num_kv_shared_layers)"),
        (text.integer("hidden_size_per_layer_input", 0) > 0, "per-layer embeddings (hidden_size_per_layer_input)"),
        (text.flag("enable_moe_block"), "mixture of experts (enable_moe_block)"),
        (text.flag("use_double_wide_mlp"), "double-wide feed-forward layers (use_double_wide_mlp)"),
        (text.flag("attention_bias"), "biases in the attention (attention_bias)"),
        (not text.flag("tie_word_embeddings", True) or not top.flag("tie_word_embeddings", True), "an untied LM head"),
        ("attn_logit_softcapping" in text, "soft-capped attention scores (attn_logit_softcapping)"),
        (text.values.get("use_bidirectional_attention") not in (None, False, "vision" if gemma4 else None),
         "bidirectional attention (an embedding model)"),
    ]  # fmt: skip
    for present, what in reasons:
        if present:
            raise ConversionError(f"{where}: {what}: not supported. Supported: {SUPPORTED}")
    activation = text.text("hidden_activation", "gelu_pytorch_tanh")
    if activation != "gelu_pytorch_tanh":
        raise ConversionError(f"{where}: hidden_activation {activation!r}: only gelu_pytorch_tanh is supported")


def _layer_types(text: Fields, pattern: int) -> list[str]:
    count = text.integer("num_hidden_layers", low=1, high=MAX_LAYERS)
    types = text.values.get("layer_types")
    if types is None:
        return [FULL if i % pattern == pattern - 1 else SLIDING for i in range(count)]
    if not isinstance(types, list) or len(types) != count or any(t not in (SLIDING, FULL) for t in types):
        raise text.bad("layer_types", f"{count} entries, each {SLIDING!r} or {FULL!r}")
    return list(types)


def _window(text: Fields, types: list[str]) -> int:
    return text.integer("sliding_window", low=1) if SLIDING in types else 0


def _rope(params: Fields, head_dim: int) -> Rope:
    kind = params.text("rope_type", params.text("type", "default"))
    theta = params.number("rope_theta", low=1.0)
    factor = params.number("factor", 1.0, low=1e-3)
    partial = params.number("partial_rotary_factor", 1.0, low=0.0, high=1.0)
    if kind == "default" and partial == 1.0:
        return Rope(theta, 1.0, head_dim // 2)
    if kind == "linear" and partial == 1.0:
        return Rope(theta, factor, head_dim // 2)
    if kind == "proportional":
        return Rope(theta, factor, int(partial * head_dim // 2))
    raise ConversionError(
        f"{params.where}: rope_type {kind!r} with partial_rotary_factor {partial:g}: supported are default and linear "
        "(all dimensions) and proportional"
    )


def _gemma4_layers(text: Fields) -> tuple[Layer, ...]:
    types = _layer_types(text, 6)
    types[-1] = FULL  # forced by the model code whatever the file says
    window = _window(text, types)
    head_dim = text.integer("head_dim", 256, low=2, high=MAX_WIDTH)
    kv_heads = text.integer("num_key_value_heads", low=1, high=MAX_HEADS)
    k_eq_v = text.flag("attention_k_eq_v")
    ropes = text.table("rope_parameters") or Fields(
        {
            SLIDING: {"rope_theta": 1e4},
            FULL: {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
        },
        text.where,
    )
    overrides = _per_layer_config(text, types, kv_heads, k_eq_v)
    layers = []
    for i, kind in enumerate(types):
        own = overrides[i]
        dim = own.integer("head_dim", head_dim, low=2, high=MAX_WIDTH)
        params = ropes.table(kind)
        if params is None:
            raise ropes.bad(kind, "an object with rope_theta")
        layers.append(
            Layer(
                head_dim=dim,
                kv_heads=own.integer("num_key_value_heads", kv_heads, low=1, high=MAX_HEADS),
                window=own.integer("sliding_window", window, low=1) if kind == SLIDING else 0,
                rope=_rope(params, dim),
                k_eq_v=k_eq_v and kind == FULL,
            )
        )
    return tuple(layers)


def _per_layer_config(text: Fields, types: list[str], kv_heads: int, k_eq_v: bool) -> list[Fields]:
    """What each layer has of its own. transformers >= 5.15 stores per_layer_config (only values that differ, keys may
    be zero padded); older files have global_head_dim and num_global_key_value_heads for the full layers."""
    stored = text.table("per_layer_config")
    if stored is None:
        full = {
            "head_dim": text.integer("global_head_dim", 512, low=2, high=MAX_WIDTH),
            "num_key_value_heads": kv_heads,
        }
        if k_eq_v:
            full["num_key_value_heads"] = text.integer("num_global_key_value_heads", kv_heads, low=1, high=MAX_HEADS)
        return [Fields(full if kind == FULL else {}, text.where) for kind in types]
    out = [Fields({}, text.where) for _ in types]
    seen = set()
    for key in stored.values:
        index = int(key) if key.isascii() and key.isdigit() and len(key) <= 6 else -1
        own = stored.table(key)
        if own is None or index in seen or not 0 <= index < len(types):
            raise ConversionError(f"{stored.where}: key {key[:40]!r} is no layer of this model, or is there twice")
        unknown = set(own.values) - {"head_dim", "num_key_value_heads", "sliding_window"}
        if unknown:
            raise ConversionError(f"{own.where}: {sorted(unknown)[0]} differs between layers: not supported")
        seen.add(index)
        out[index] = own
    return out


def _gemma3_layers(text: Fields) -> tuple[Layer, ...]:
    pattern = text.integer("sliding_window_pattern", text.integer("_sliding_window_pattern", 6, low=1), low=1)
    types = _layer_types(text, pattern)
    window = _window(text, types)
    head_dim = text.integer("head_dim", 256, low=2, high=MAX_WIDTH)
    kv_heads = text.integer("num_key_value_heads", low=1, high=MAX_HEADS)
    ropes = text.table("rope_parameters")
    if ropes is None:  # files of transformers 4
        scaling = text.table("rope_scaling")
        full = {**(scaling.values if scaling else {}), "rope_theta": text.number("rope_theta", 1e6, low=1.0)}
        sliding = {"rope_theta": text.number("rope_local_base_freq", 1e4, low=1.0)}
        ropes = Fields({FULL: full, SLIDING: sliding}, text.where)
    layers = []
    for kind in types:
        params = ropes.table(kind)
        if params is None:
            raise ropes.bad(kind, "an object with rope_theta")
        layers.append(Layer(head_dim, kv_heads, window if kind == SLIDING else 0, _rope(params, head_dim), False))
    return tuple(layers)


def _sampler(generation: Fields) -> dict[str, float]:
    """The published sampling defaults; empty when the model asks for greedy decoding."""
    if not generation.flag("do_sample"):
        return {}
    names = ("temperature", "top_k", "top_p", "min_p")
    return {name: generation.number(name, high=1e6) for name in names if name in generation}


def _media(top: Fields, vocab: int) -> dict[str, int]:
    """Token ids and sizes of the encoder-free vision and audio parts that the checkpoint has."""

    def token(name: str, default: int) -> int:
        return top.integer(name, default, high=vocab - 1)

    out: dict[str, int] = {}
    vision, audio = top.table("vision_config"), top.table("audio_config")
    if vision is not None:
        if vision.number("rms_norm_eps", 1e-6) != 1e-6:
            raise vision.bad("rms_norm_eps", "1e-6")
        out.update(
            image_token_id=token("image_token_id", 258880),
            video_token_id=token("video_token_id", 258884),
            boi_token_id=token("boi_token_id", 255999),
            eoi_token_id=token("eoi_token_id", 258882),
            patch_size=vision.integer("patch_size", 16, low=1, high=256),
            pooling_kernel_size=vision.integer("pooling_kernel_size", 3, low=1, high=64),
            vision_embed_dim=vision.integer("mm_embed_dim", 3840, low=1, high=MAX_WIDTH),
            vision_positions=vision.integer("mm_posemb_size", 1120, low=1, high=MAX_WIDTH),
            vision_soft_tokens=vision.integer("num_soft_tokens", 280, low=1, high=1 << 16),
        )
    if audio is not None:
        if audio.number("rms_norm_eps", 1e-6) != 1e-6:
            raise audio.bad("rms_norm_eps", "1e-6")
        out.update(
            audio_token_id=token("audio_token_id", 258881),
            boa_token_id=token("boa_token_id", 256000),
            eoa_token_id=token("eoa_token_id", token("eoa_token_index", 258883)),
            audio_embed_dim=audio.integer("audio_embed_dim", 640, low=1, high=MAX_WIDTH),
        )
    return out
