"""A GGUF file as a source of weights: llama.cpp's names, 1 + w norms and metadata become what the rest expects."""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ConversionError
from .family import FULL, MAX_LAYERS, SLIDING, SUPPORTED, read_config
from .fields import Fields
from .gguf import GgufFile
from .names import canonical, check_shapes, expected_shapes, from_gguf
from .tensors import TensorSource

PATTERN = 6  # llama.cpp's default for gemma3: every sixth layer is a full one
LAYERS_OF_27B = 62  # its attention scale comes from hidden size / heads, as in llama.cpp
TURN_END = "<end_of_turn>"


class GgufSource(TensorSource):
    """See `converter/source.py` for the interface. Supported architecture: gemma3 (text)."""

    def __init__(self, path: Path) -> None:
        self.file = GgufFile(path)
        where = f"metadata of {path.name}"
        meta = Fields(self.file.fields, where)
        arch = meta.text("general.architecture")
        if arch != "gemma3":
            raise ConversionError(
                f"{path.name}: GGUF architecture {arch[:40]!r} is not supported (gemma3 is); as Hugging Face folders "
                f"these are: {SUPPORTED}"
            )
        self._stored = canonical((name, from_gguf(name)) for name in self.file.entries)
        self._shapes = {key: self.file.entries[name].shape for key, name in self._stored.items()}
        embed = self._shapes.get("embed.weight", (0, 0))
        # Published Gemma weights are bfloat16, and so is the embedding scale they were trained with, however the GGUF
        # is quantised; only a float32 file says otherwise.
        exact = "embed.weight" in self._stored and self.file.kind_name(self._stored["embed.weight"]) == "f32"
        config, generation = gemma3_config(meta, embed[0]), gemma3_generation(meta)
        self.spec = read_config(config, generation, "float32" if exact else "bfloat16", where)
        check_shapes(expected_shapes(self.spec), self._shapes, self._stored, path.name)
        matrices = [name for key, name in self._stored.items() if len(self._shapes[key]) == 2]
        self.dtype = Counter(self.file.kind_name(name) for name in matrices).most_common(1)[0][0]
        head = self.file.file.read(0, self.file.header_bytes)
        self.fingerprint = hashlib.sha256(f"{self.file.file.size}\n".encode() + head).hexdigest()

    def names(self) -> list[str]:
        return list(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def _read(self, name: str, first: int, count: int) -> np.ndarray:
        values = self.file.read(self._stored[name], first, count)
        if name.endswith("norm.weight"):
            values = values - np.float32(self.spec.norm_offset)
        return values

    def _label(self, name: str) -> str:
        return self._stored[name]

    @cached_property
    def tokenizer_json(self) -> bytes:
        from .tokenizer import gguf_tokenizer_json

        return gguf_tokenizer_json({k: v for k, v in self.file.fields.items() if k.startswith("tokenizer.ggml.")})

    @cached_property
    def chat_template(self) -> str | None:
        value = self.file.fields.get("tokenizer.chat_template")
        return value if isinstance(value, str) else None


def gemma3_config(meta: Fields, vocab: int) -> dict[str, Any]:
    """The metadata in the words of a Hugging Face config, so that one reader checks both."""

    def whole(name: str, default: int | None = None) -> int:
        return meta.integer(f"gemma3.{name}", default)

    layers = meta.integer("gemma3.block_count", low=1, high=MAX_LAYERS)
    hidden, heads = whole("embedding_length"), meta.integer("gemma3.attention.head_count", low=1)
    head_dim = whole("attention.key_length", 256)
    if whole("attention.value_length", head_dim) != head_dim:
        raise meta.bad("gemma3.attention.value_length", f"{head_dim}, as the keys have")
    full: dict[str, Any] = {"rope_theta": meta.number("gemma3.rope.freq_base", 1e6)}
    scaling = meta.text("gemma3.rope.scaling.type", "none")
    if scaling != "none":
        full.update(rope_type=scaling, factor=meta.number("gemma3.rope.scaling.factor", 1.0))
    pattern = meta.integer("gemma3.attention.sliding_window_pattern", PATTERN, low=1, high=MAX_LAYERS)
    scalar = hidden / heads if layers == LAYERS_OF_27B else head_dim
    if "gemma3.attention.scale" in meta:
        scalar = meta.number("gemma3.attention.scale", low=1e-6) ** -2
    eps = meta.number("gemma3.attention.layer_norm_rms_epsilon", 1e-6)  # 1e-6 comes back as its float32 neighbour
    return {
        "model_type": "gemma3_text",
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": whole("feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": whole("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "layer_types": [FULL if i % pattern == pattern - 1 else SLIDING for i in range(layers)],
        "sliding_window": whole("attention.sliding_window"),
        "query_pre_attn_scalar": scalar,
        "rms_norm_eps": float(f"{eps:.6g}"),
        "final_logit_softcapping": meta.values.get("gemma3.final_logit_softcapping"),
        "max_position_embeddings": whole("context_length", 32768),
        "rope_parameters": {FULL: full, SLIDING: {"rope_theta": meta.number("gemma3.rope.freq_base_swa", 1e4)}},
    }


def gemma3_generation(meta: Fields) -> dict[str, Any]:
    """Stop tokens as llama.cpp takes them: eos, eot, and the end of a turn by its text."""
    prefix = "tokenizer.ggml."
    stops = [meta.integer(prefix + "eos_token_id", 1)]
    if prefix + "eot_token_id" in meta:
        stops.append(meta.integer(prefix + "eot_token_id"))
    tokens = meta.values.get(prefix + "tokens")
    if isinstance(tokens, list) and TURN_END in tokens:
        stops.append(tokens.index(TURN_END))
    out: dict[str, Any] = {
        "bos_token_id": meta.integer(prefix + "bos_token_id", 2),
        "pad_token_id": meta.integer(prefix + "padding_token_id", 0),
        "eos_token_id": sorted(set(stops)),
    }
    names = {"temperature": "temp", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}
    sampler = {ours: meta.values.get(f"general.sampling.{theirs}") for ours, theirs in names.items()}
    return {**out, **sampler, "do_sample": any(v is not None for v in sampler.values())}
