"""What a model is, as data: the typed description that sources produce and the graph builder consumes.

A family (Gemma 4 Unified, Gemma 3 text) differs from another only by the values in here. Reading a config.json or GGUF
metadata into it is `read_config`. Formulas: the model's published config and transformers' modelling code.
"""

from __future__ import annotations

from dataclasses import dataclass, field


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
