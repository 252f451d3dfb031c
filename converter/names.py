"""Canonical tensor names: which ones a model has, with which shapes, and how a checkpoint's names become them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from .errors import ConversionError
from .family import ModelSpec

Shape = tuple[int, ...]

LAYER_PARTS = {  # Hugging Face name inside a layer -> canonical
    "self_attn.q_proj.weight": "q.weight",
    "self_attn.k_proj.weight": "k.weight",
    "self_attn.v_proj.weight": "v.weight",
    "self_attn.o_proj.weight": "o.weight",
    "self_attn.q_norm.weight": "q_norm.weight",
    "self_attn.k_norm.weight": "k_norm.weight",
    "mlp.gate_proj.weight": "gate.weight",
    "mlp.up_proj.weight": "up.weight",
    "mlp.down_proj.weight": "down.weight",
    "input_layernorm.weight": "input_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "pre_feedforward_layernorm.weight": "pre_feedforward_norm.weight",
    "post_feedforward_layernorm.weight": "post_feedforward_norm.weight",
    "layer_scalar": "scalar",
}
GGUF_PARTS = {
    "attn_q.weight": "q.weight",
    "attn_k.weight": "k.weight",
    "attn_v.weight": "v.weight",
    "attn_output.weight": "o.weight",
    "attn_q_norm.weight": "q_norm.weight",
    "attn_k_norm.weight": "k_norm.weight",
    "ffn_gate.weight": "gate.weight",
    "ffn_up.weight": "up.weight",
    "ffn_down.weight": "down.weight",
    "attn_norm.weight": "input_norm.weight",
    "post_attention_norm.weight": "post_attention_norm.weight",
    "ffn_norm.weight": "pre_feedforward_norm.weight",
    "post_ffw_norm.weight": "post_feedforward_norm.weight",
}
MEDIA = {
    **{
        f"vision_embedder.{part}.{kind}": f"media.{part}.{kind}"
        for part in ("patch_ln1", "patch_dense", "patch_ln2", "pos_norm")
        for kind in ("weight", "bias")
    },
    "vision_embedder.pos_embedding": "media.pos_embedding",
    "embed_vision.embedding_projection.weight": "media.vision_projection.weight",
    "embed_audio.embedding_projection.weight": "media.audio_projection.weight",
}
IGNORED = re.compile(r"lm_head\.weight|.*\.rotary_emb\.[a-z_]*inv_freq")  # the head is tied; frequencies are computed


def from_hugging_face(name: str) -> str | None:
    """The canonical name, None for a tensor that carries nothing, ConversionError for one that nobody expects."""
    if IGNORED.fullmatch(name):
        return None
    short = name.removeprefix("model.")
    if short in MEDIA:
        return MEDIA[short]
    short = short.removeprefix("language_model.")
    if short == "embed_tokens.weight":
        return "embed.weight"
    if short == "norm.weight":
        return short
    return _layer(name, re.fullmatch(r"layers\.(\d{1,4})\.(.+)", short), LAYER_PARTS)


def from_gguf(name: str) -> str:
    if name == "token_embd.weight":
        return "embed.weight"
    if name == "output_norm.weight":
        return "norm.weight"
    return _layer(name, re.fullmatch(r"blk\.(\d{1,4})\.(.+)", name), GGUF_PARTS)


def _layer(name: str, match: re.Match[str] | None, parts: Mapping[str, str]) -> str:
    if match is None or match[2] not in parts:
        raise ConversionError(
            f"unexpected tensor {name!r}: it belongs to none of the supported families (gemma4_unified, gemma3_text); "
            "merge adapters and undo quantisation before converting"
        )
    return f"layers.{int(match[1])}.{parts[match[2]]}"


def canonical(pairs: Iterable[tuple[str, str | None]]) -> dict[str, str]:
    """(checkpoint name, canonical name) pairs -> canonical name: checkpoint name."""
    out: dict[str, str] = {}
    for name, key in pairs:
        if key is None:
            continue
        if key in out:
            raise ConversionError(f"duplicate tensor: {out[key]!r} and {name!r} are the same weight ({key})")
        out[key] = name
    return out


def expected_shapes(spec: ModelSpec) -> dict[str, Shape]:
    """Every tensor that a model of this spec has."""
    h, inter = spec.hidden_size, spec.intermediate_size
    out: dict[str, Shape] = {"embed.weight": (spec.vocab_size, h)}
    for i, layer in enumerate(spec.layers):
        n, q, kv = f"layers.{i}.", spec.num_heads * layer.head_dim, layer.kv_heads * layer.head_dim
        out[n + "q.weight"] = (q, h)
        out[n + "k.weight"] = (kv, h)
        if not layer.k_eq_v:
            out[n + "v.weight"] = (kv, h)
        out[n + "o.weight"] = (h, q)
        out[n + "gate.weight"] = out[n + "up.weight"] = (inter, h)
        out[n + "down.weight"] = (h, inter)
        out[n + "q_norm.weight"] = out[n + "k_norm.weight"] = (layer.head_dim,)
        for norm in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            out[n + norm + "_norm.weight"] = (h,)
        if spec.layer_scalar:
            out[n + "scalar"] = (1,)
    out["norm.weight"] = (h,)
    media = spec.media
    if "vision_embed_dim" in media:
        e, patch = media["vision_embed_dim"], (media["patch_size"] * media["pooling_kernel_size"]) ** 2 * 3
        out["media.patch_ln1.weight"] = out["media.patch_ln1.bias"] = (patch,)
        out["media.patch_dense.weight"], out["media.patch_dense.bias"] = (e, patch), (e,)
        out["media.patch_ln2.weight"] = out["media.patch_ln2.bias"] = (e,)
        out["media.pos_embedding"] = (media["vision_positions"], 2, e)
        out["media.pos_norm.weight"] = out["media.pos_norm.bias"] = (e,)
        out["media.vision_projection.weight"] = (h, e)
    if "audio_embed_dim" in media:
        out["media.audio_projection.weight"] = (h, media["audio_embed_dim"])
    return out


def check_shapes(
    expected: Mapping[str, Shape], found: Mapping[str, Shape], stored: Mapping[str, str], where: str
) -> None:
    """`found`: canonical name -> shape, `stored`: canonical name -> the checkpoint's own name (for messages)."""
    missing = [name for name in expected if name not in found]
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise ConversionError(f"{where}: {len(missing)} tensors are missing: {shown}; download the checkpoint again")
    for name, shape in found.items():
        if name not in expected:
            raise ConversionError(
                f"{where}: tensor {stored[name]!r} does not fit the config, which describes no {name}; "
                "do config and weights belong together?"
            )
        if shape != expected[name]:
            raise ConversionError(
                f"{where}: tensor {stored[name]!r} has the shape {list(shape)}, the config asks for "
                f"{list(expected[name])}; do config and weights belong together?"
            )
