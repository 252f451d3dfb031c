"""Gemma 4 Unified's eyes and ears: image patches and sound frames become rows in the space of token embeddings.

Two models of standard operators, with one signature per number of rows; every row is computed by itself:
  tf_lite_vision_encoder    vision_<N>  images f32 [1,N,P], positions_xy int32 [1,N,2] (-1: padding)
                                        -> features f32 [1,N,H], mask bool [1,N] (false: padding)
  tf_lite_audio_encoder_hw  audio_<N>   src_inputs f32 [1,N,F] -> features f32 [1,N,H]
P = values of a patch (row, column, channel), F = samples of a frame. Formulas: transformers' gemma4_unified.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from .errors import ConversionError
from .family import ModelSpec
from .graph import Graph, PlannedWeight, SignatureBuilder, plan_weight
from .quantize import Scheme
from .source import Source
from .tflite import BOOL, F16, I32, Array, Model, Tensor, Weight

VISION, AUDIO = "tf_lite_vision_encoder", "tf_lite_audio_encoder_hw"
SOFT_TOKENS = (70, 140, 280, 560, 1120)  # budgets of one image that the model was trained with
AUDIO_ROWS = (25, 250, 750)  # 1, 10 and 30 seconds
SAMPLE_RATE = 16000  # Hz
_LAYER_NORM_EPS = 1e-5
_RMS_EPS = 1e-6  # family.read_config refuses another
# Matrices are stored as float16. On random weights of the real shapes the embeddings stay within 3e-4 of float32,
# relative to the largest (bfloat16 checkpoints lose nothing); int8 is off by 1e-2, and the promise is 1e-3.
_MATRIX = Scheme(16)
# The positions are looked up and not multiplied; LiteRT looks up float32 straight from the file.
_TABLE = Scheme(32)
_ZERO_ROWS = 2  # before the positions: what x = -1 and y = -1 find


class MediaRows:
    """The media tensors of a checkpoint as matrices."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._table: Array | None = None

    def rows(self, name: str, start: int, stop: int) -> Array:
        if name != "media.pos_embedding":
            values = self._source.rows(name, start, stop)
            if np.abs(values).max(initial=0.0) > np.finfo(np.float16).max:
                raise ConversionError(f"tensor {name!r} has values beyond the range of float16; is it damaged?")
            return values
        if self._table is None:
            table = self._source.tensor(name)  # [positions, 2 (x, y), E]
            flat = table.reshape(-1, table.shape[-1])
            self._table = np.concatenate([np.zeros((_ZERO_ROWS, flat.shape[1]), np.float32), flat])
        return self._table[start:stop]


def has_vision(spec: ModelSpec) -> bool:
    return "vision_embed_dim" in spec.media


def has_audio(spec: ModelSpec) -> bool:
    return "audio_embed_dim" in spec.media


def embedded_sizes(spec: ModelSpec, prefill_sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Of the portable prefills that take embeddings: few, for runtimes compile them all; one row fits everywhere."""
    return (1, *prefill_sizes[-2:]) if has_vision(spec) or has_audio(spec) else ()


def block_rows(spec: ModelSpec) -> int:
    """Soft tokens of the largest image, which see each other; 0 without images."""
    return SOFT_TOKENS[-1] if has_vision(spec) else 0


def build(source: Source) -> dict[str, Graph]:
    """Model type -> model, for what the checkpoint has."""
    spec = dataclasses.replace(source.spec, rms_norm_eps=_RMS_EPS)
    models = {}
    if has_vision(spec):
        models[VISION] = _vision(source, spec)
    if has_audio(spec):
        models[AUDIO] = _audio(spec)
    return models


def manifest(spec: ModelSpec) -> dict[str, Any]:
    """What a host must know to prepare and place media; empty for a text model."""
    media = spec.media
    out: dict[str, Any] = {}
    if has_vision(spec):
        out["image"] = {
            "patch": media["patch_size"] * media["pooling_kernel_size"],
            "positions": media["vision_positions"],
            "soft_tokens": list(SOFT_TOKENS),
            "default_soft_tokens": media["vision_soft_tokens"],
            "token": media["image_token_id"],
            "video_token": media["video_token_id"],
            "begin": media["boi_token_id"],
            "end": media["eoi_token_id"],
        }
    if has_audio(spec):
        out["audio"] = {
            "frame": media["audio_embed_dim"],
            "sample_rate": SAMPLE_RATE,
            "token": media["audio_token_id"],
            "begin": media["boa_token_id"],
            "end": media["eoa_token_id"],
        }
    return out


def _vision(source: Source, spec: ModelSpec) -> Graph:
    patch = 3 * (spec.media["patch_size"] * spec.media["pooling_kernel_size"]) ** 2
    width = spec.media["vision_embed_dim"]
    model = Model(f"{spec.family} vision by tandem")
    weights = [
        plan_weight(model, "media.patch_dense.weight", (width, patch), _MATRIX),
        plan_weight(model, "media.pos_embedding", (2 * spec.media["vision_positions"] + _ZERO_ROWS, width), _TABLE),
        plan_weight(model, "media.vision_projection.weight", (spec.hidden_size, width), _MATRIX),
    ]
    names = [f"media.{part}.{kind}" for part in ("patch_ln1", "patch_ln2", "pos_norm") for kind in ("weight", "bias")]
    small = {name: source.tensor(name) for name in (*names, "media.patch_dense.bias")}
    for rows in SOFT_TOKENS:
        _MediaSignature(model.subgraph(f"vision_{rows}"), spec, _by_name(weights), small, 0, rows).author_vision(patch)
    return Graph(model, weights)


def _audio(spec: ModelSpec) -> Graph:
    frame = spec.media["audio_embed_dim"]
    model = Model(f"{spec.family} audio by tandem")
    weights = [plan_weight(model, "media.audio_projection.weight", (spec.hidden_size, frame), _MATRIX)]
    for rows in AUDIO_ROWS:
        _MediaSignature(model.subgraph(f"audio_{rows}"), spec, _by_name(weights), {}, 0, rows).author_audio(frame)
    return Graph(model, weights)


def _by_name(weights: list[PlannedWeight]) -> dict[str, Weight]:
    return {planned.name: planned.weight for planned in weights}


class _MediaSignature(SignatureBuilder):
    """Authors one signature."""

    def author_vision(self, patch: int) -> None:
        g, n = self._g, self._t
        images = g.input("images", (1, n, patch))
        positions = g.input("positions_xy", (1, n, 2), I32)
        x = self._layer_norm(self._reshape(images, (n, patch)), "media.patch_ln1")
        x = self._layer_norm(self._dense(x, "media.patch_dense", bias=True), "media.patch_ln2")
        x = self._add(x, self._position(positions), x.shape)
        x = self._rms(self._layer_norm(x, "media.pos_norm"))
        x = self._dense(x, "media.vision_projection")
        g.output("features", self._reshape(x, (1, *x.shape)))
        first = g.op("SLICE", [positions, self._i32(0, 0, 0), self._i32(1, n, 1)], (1, n, 1), ("SliceOptions", {}),
                     dtype=I32)  # fmt: skip
        real = g.op("GREATER_EQUAL", [self._reshape(first, (1, n), I32), self._i32(0)], (1, n),
                    ("GreaterEqualOptions", {}), dtype=BOOL)  # fmt: skip
        g.output("mask", real)

    def author_audio(self, frame: int) -> None:
        frames = self._reshape(self._g.input("src_inputs", (1, self._t, frame)), (self._t, frame))
        x = self._dense(self._rms(frames), "media.audio_projection")
        self._g.output("features", self._reshape(x, (1, *x.shape)))

    def _position(self, positions: Tensor) -> Tensor:
        """[1,N,2] -> [N,E]: what the table has for x plus what it has for y."""
        g, n = self._g, self._t
        shape = (1, n, 2)
        index = g.op("MUL", [positions, self._i32(2)], shape, ("MulOptions", {}), dtype=I32)
        ends = g.constant(np.array([[[_ZERO_ROWS, _ZERO_ROWS + 1]]], np.int32))
        index = g.op("ADD", [index, ends], shape, ("AddOptions", {}), dtype=I32)
        table = g.weight(self._weights["media.pos_embedding"])
        width = table.shape[1]
        rows = g.op("EMBEDDING_LOOKUP", [self._reshape(index, (2 * n,), I32), table], (2 * n, width), version=4)
        rows = self._reshape(rows, (n, 2 * width))
        halves = [
            g.op("SLICE", [rows, self._i32(0, at), self._i32(n, width)], (n, width), ("SliceOptions", {}))
            for at in (0, width)
        ]
        return self._add(halves[0], halves[1], (n, width))

    def _layer_norm(self, x: Tensor, name: str) -> Tensor:
        g, column, axis = self._g, (x.shape[0], 1), self._i32(1)
        keep = ("ReducerOptions", {"keepDims": True})
        centred = self._sub(x, g.op("MEAN", [x, axis], column, keep), x.shape)
        variance = g.op("MEAN", [self._mul(centred, centred, x.shape), axis], column, keep)
        inverse = g.op("RSQRT", [self._add(variance, self._f32(_LAYER_NORM_EPS), column)], column)
        scaled = self._mul(self._mul(centred, inverse, x.shape), self._vector(f"{name}.weight"), x.shape)
        return self._add(scaled, self._vector(f"{name}.bias"), x.shape)

    def _dense(self, x: Tensor, name: str, bias: bool = False) -> Tensor:
        weight = self._g.weight(self._weights[f"{name}.weight"])
        if weight.dtype == F16:  # folded into the multiplication, which is in float32
            weight = self._g.op("DEQUANTIZE", [weight], weight.shape, ("DequantizeOptions", {}), version=3)
        inputs = [x, weight, self._vector(f"{name}.bias") if bias else None]
        options = ("FullyConnectedOptions", {"keepNumDims": True})
        return self._g.op("FULLY_CONNECTED", inputs, (x.shape[0], weight.shape[0]), options, label=name)

    def _vector(self, name: str) -> Tensor:
        return self._g.constant(self._small[name].astype(np.float32))
