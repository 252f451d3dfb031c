"""What nano is: its configuration, in the published architecture, and how its weights begin.

Every feature of the 12B is on: sliding and full layers, K = V in the full ones, proportional rope, layer scalars, the
soft cap, the vision embedder, the audio projection, and an assistant that reads the target's cache. Only sizes differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import (
    Gemma4UnifiedAssistantConfig,
    Gemma4UnifiedAssistantForCausalLM,
    Gemma4UnifiedConfig,
    Gemma4UnifiedForConditionalGeneration,
)

SLIDING, FULL = "sliding_attention", "full_attention"
HIDDEN = 192
LAYERS = (SLIDING, SLIDING, FULL, SLIDING, SLIDING, FULL)
WINDOW = 128
LAYER_SCALARS = (0.75, 0.8125, 0.875, 0.9375, 1.0, 1.0625)  # exact in bfloat16; training leaves them alone
PATCH = 48  # pixels per side
FRAME = 640  # samples
SAMPLE_RATE = 16000
SOFT_TOKENS = 70  # the smallest budget of an image: 384 x 384 pixels, 64 tokens
DRAFTER_HIDDEN = 96
MEDIA_IDS = {  # token -> the config's name for it
    "<|image|>": "image_token_id",
    "<|audio|>": "audio_token_id",
    "<|video|>": "video_token_id",
    "<|image>": "boi_token_id",
    "<image|>": "eoi_token_id",
    "<|audio>": "boa_token_id",
    "<audio|>": "eoa_token_index",
}


def _text_config(vocab: int, **sizes: Any) -> dict[str, Any]:
    return {
        "model_type": "gemma4_unified_text", "vocab_size": vocab, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_global_key_value_heads": 1, "head_dim": 64, "global_head_dim": 128, "sliding_window": WINDOW,
        "attention_k_eq_v": True, "max_position_embeddings": 8192, "use_bidirectional_attention": "vision",
        "rope_parameters": {
            SLIDING: {"rope_type": "default", "rope_theta": 10000.0},
            FULL: {"rope_type": "proportional", "rope_theta": 1000000.0, "partial_rotary_factor": 0.25},
        },
        **sizes,
    }  # fmt: skip


def target_config(ids: Mapping[str, int]) -> Gemma4UnifiedConfig:
    """`ids`: the tokenizer's vocabulary, token -> id."""
    text = _text_config(
        len(ids), hidden_size=HIDDEN, intermediate_size=512, num_hidden_layers=len(LAYERS),
        layer_types=list(LAYERS), final_logit_softcapping=30.0,
    )  # fmt: skip
    vision = {
        "model_type": "gemma4_unified_vision", "mm_embed_dim": 96, "output_proj_dims": 96, "mm_posemb_size": 128,
        "num_soft_tokens": SOFT_TOKENS,
    }  # fmt: skip
    return Gemma4UnifiedConfig(
        text_config=text,
        vision_config=vision,
        audio_config={"model_type": "gemma4_unified_audio", "audio_embed_dim": FRAME},
        **{name: ids[token] for token, name in MEDIA_IDS.items()},
    )


def assistant_config(vocab: int) -> Gemma4UnifiedAssistantConfig:
    text = _text_config(
        vocab, hidden_size=DRAFTER_HIDDEN, intermediate_size=2 * DRAFTER_HIDDEN, num_hidden_layers=4,
        layer_types=[SLIDING, SLIDING, SLIDING, FULL], num_kv_shared_layers=4,
    )  # fmt: skip
    return Gemma4UnifiedAssistantConfig(text_config=text, backbone_hidden_size=HIDDEN)


def new_target(config: Gemma4UnifiedConfig, seed: int) -> Any:
    """A Gemma4UnifiedForConditionalGeneration whose weights are ready for training."""
    torch.manual_seed(seed)
    model = Gemma4UnifiedForConditionalGeneration(config)
    config._attn_implementation = "eager"  # on a CPU faster than "sdpa" for lines of a few hundred tokens
    text = model.model.language_model
    with torch.no_grad():
        _settle(text)
        for layer, scalar in zip(text.layers, LAYER_SCALARS, strict=True):
            layer.layer_scalar.fill_(scalar)
        model.model.embed_vision.patch_dense.weight.copy_(_picture_basis(config.vision_config.mm_embed_dim))
        model.model.embed_vision.pos_embedding.copy_(_places(*model.model.embed_vision.pos_embedding.shape))
        model.model.embed_audio.embedding_projection.weight.copy_(_sound_basis(HIDDEN))
    return model


def new_assistant(config: Gemma4UnifiedAssistantConfig, target: Any, seed: int) -> Any:
    """A Gemma4UnifiedAssistantForCausalLM; its head starts as a random projection of the target's embedding."""
    torch.manual_seed(seed)
    model = Gemma4UnifiedAssistantForCausalLM(config)
    with torch.no_grad():
        _settle(model.model)
        for layer, scalar in zip(model.model.layers, (0.875, 0.9375, 1.0, 1.0625), strict=True):
            layer.layer_scalar.fill_(scalar)
        mix = torch.randn(HIDDEN, DRAFTER_HIDDEN) / math.sqrt(DRAFTER_HIDDEN)
        model.model.embed_tokens.weight.copy_(target.model.language_model.embed_tokens.weight @ mix)
    return model


def _settle(text: Any) -> None:
    """The attention of Gemma 4 has no scale of its own: norms of q and k begin with it. Branches begin small."""
    for layer in text.layers:
        attention = layer.self_attn
        attention.q_norm.weight.fill_(attention.head_dim**-0.25)
        if not attention.is_kv_shared_layer:
            attention.k_norm.weight.fill_(attention.head_dim**-0.25)
        layer.post_attention_layernorm.weight.fill_(0.4)
        layer.post_feedforward_layernorm.weight.fill_(0.4)


def _picture_basis(rows: int) -> torch.Tensor:
    """The `rows` smoothest patterns of a patch (two-dimensional cosines, as grey and as two colour differences).

    The embedder is one matrix over 6912 pixels: from noise it would have to find smoothness first, and overfits."""
    at = (np.arange(PATCH) + 0.5) / PATCH
    colours = np.array([[1, 1, 1], [1, 0, -1], [-0.5, 1, -0.5]], np.float64)
    waves = [(u * u + v * v + 8 * (c > 0), u, v, c) for u in range(12) for v in range(12) for c in range(3)]
    basis = []
    for _, u, v, c in sorted(waves)[:rows]:
        pattern = np.outer(np.cos(np.pi * v * at), np.cos(np.pi * u * at))[..., None] * colours[c]
        basis.append(pattern.reshape(-1) / np.linalg.norm(pattern))
    return torch.tensor(np.array(basis), dtype=torch.float32)


def _places(positions: int, axes: int, width: int) -> torch.Tensor:
    """[positions, axes, width]: a ramp and slow waves along each axis, in random directions: what is further right is
    so in the numbers too, and averages of places are places."""
    at = torch.arange(positions)
    waves = [((at - 3.5) / 4).clamp(-2, 2), *(torch.cos(math.pi * k * (at + 0.5) / 8) for k in (1, 2, 3))]
    return 0.3 * torch.einsum("wp,waf->paf", torch.stack(waves), torch.randn(len(waves), axes, width))


def _sound_basis(rows: int) -> torch.Tensor:
    """Short waves under a window, in pairs of a cosine and a sine, low frequencies closer together, as ears hear.

    A frame of 640 samples meets one matrix: the sum of a pair's squares is the energy of a band whatever its phase,
    which the first layer's gate can form. Two places in the frame, so that a pair is 20 ms long."""
    pairs, places = rows // 2, 2
    mel = np.linspace(2595 * np.log10(1 + 120 / 700), 2595 * np.log10(1 + 5200 / 700), pairs // places)
    hertz = 700 * (10 ** (mel / 2595) - 1)
    samples = np.arange(FRAME)
    basis = []
    for place in range(places):
        centre = FRAME * (place + 0.5) / places
        window = np.where(np.abs(samples - centre) < 160, np.cos(np.pi * (samples - centre) / 320) ** 2, 0.0)
        for f in hertz:
            turn = 2 * np.pi * f * (samples - centre) / SAMPLE_RATE
            for wave in (np.cos(turn), np.sin(turn)):
                basis.append(window * wave)
    unit = np.array(basis) / np.linalg.norm(basis, axis=1, keepdims=True)
    return torch.tensor(unit / math.sqrt(2), dtype=torch.float32)
