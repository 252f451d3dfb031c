"""The model's forward pass in numpy, cut at the points where calibration looks: the input of every matrix.

One sequence at a time: the residual stream is [L, H] float32, positions 0 ... L-1. Formulas as in the graph builder
(converter/graph.py); norms raw, `norm_offset` added here.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ..family import Layer, ModelSpec, Rope

F32 = npt.NDArray[np.float32]
HIDDEN = np.float32(-1e30)
_GELU = np.float32((2.0 / np.pi) ** 0.5)


def rms(x: F32, eps: float) -> F32:
    """Root mean square over the last axis, kept as an axis of 1."""
    mean = np.einsum("...n,...n->...", x, x)[..., None] / np.float32(x.shape[-1])
    result: F32 = np.sqrt(mean + np.float32(eps))
    return result


def norm(x: F32, weight: F32, spec: ModelSpec) -> F32:
    """RMS norm over the last axis with a stored weight."""
    result: F32 = x / rms(x, spec.rms_norm_eps) * (weight + np.float32(spec.norm_offset))
    return result


def gelu(x: F32) -> F32:
    """The tanh form."""
    inner = x * x
    inner *= np.float32(0.044715)
    inner += np.float32(1)
    inner *= x
    inner *= _GELU
    np.tanh(inner, out=inner)
    inner += np.float32(1)
    inner *= x
    inner *= np.float32(0.5)
    return inner


def softmax(scores: F32) -> F32:
    """Over the last axis, in place."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


class Rotary:
    """cos and sin [L, 1, D/2] of every rope that the model uses, for positions 0 ... L-1."""

    def __init__(self, length: int) -> None:
        self._positions = np.arange(length, dtype=np.float32)[:, None]
        self._tables: dict[tuple[Rope, int], tuple[F32, F32]] = {}

    def rotate(self, x: F32, layer: Layer) -> F32:
        """x [L, heads, D]; pairs are (i, i + D/2)."""
        key, half = (layer.rope, layer.head_dim), layer.head_dim // 2
        if key not in self._tables:
            exponent = np.arange(0, layer.head_dim, 2, dtype=np.float32) / np.float32(layer.head_dim)
            frequency = (np.float32(1) / np.float32(layer.rope.theta) ** exponent).astype(np.float32)
            frequency[layer.rope.rotated :] = 0
            angle = (self._positions * (frequency / np.float32(layer.rope.factor))).astype(np.float64)
            self._tables[key] = (np.cos(angle).astype(np.float32)[:, None], np.sin(angle).astype(np.float32)[:, None])
        cos, sin = (table[: len(x)] for table in self._tables[key])
        left, right = x[..., :half], x[..., half:]
        return np.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)


def attend(q: F32, k: F32, v: F32, layer: Layer, spec: ModelSpec, q_norm: F32, k_norm: F32, rotary: Rotary) -> F32:
    """Raw projections q [L, Hq*D], k and v [L, Hkv*D] -> what the heads gathered, [L, Hq*D]. Causal, windowed where the
    layer is."""
    length, d, kv = len(q), layer.head_dim, layer.kv_heads
    qs = rotary.rotate(norm(q.reshape(length, -1, d), q_norm, spec) * np.float32(spec.attention_scale), layer)
    ks = rotary.rotate(norm(k.reshape(length, kv, d), k_norm, spec), layer)
    vs = v.reshape(length, kv, d)
    if spec.v_norm:
        vs = vs / rms(vs, spec.rms_norm_eps)
    group = qs.shape[1] // kv
    position = np.arange(length)
    ahead = position[None, :] > position[:, None]
    if layer.window:
        ahead |= position[None, :] <= position[:, None] - layer.window
    out = np.empty_like(qs)
    for head in range(qs.shape[1]):
        scores = qs[:, head] @ ks[:, head // group].T
        scores[ahead] = HIDDEN
        out[:, head] = softmax(scores) @ vs[:, head // group]
    return out.reshape(length, -1)


class LayerPass:
    """One decoder layer with its weights in memory ("q.weight" ... "scalar" without the layer's prefix).

    The steps between the matrices are methods, so that the caller decides with which weights each product is made."""

    def __init__(self, spec: ModelSpec, index: int, weights: Mapping[str, F32], rotary: Rotary) -> None:
        self.spec, self.layer, self.w, self._rotary = spec, spec.layers[index], weights, rotary

    def attention_input(self, h: F32) -> F32:
        return norm(h, self.w["input_norm.weight"], self.spec)

    def attend(self, q: F32, k: F32, v: F32) -> F32:
        return attend(q, k, v, self.layer, self.spec, self.w["q_norm.weight"], self.w["k_norm.weight"], self._rotary)

    def after_attention(self, h: F32, o: F32) -> F32:
        return h + norm(o, self.w["post_attention_norm.weight"], self.spec)

    def feedforward_input(self, h: F32) -> F32:
        return norm(h, self.w["pre_feedforward_norm.weight"], self.spec)

    @staticmethod
    def gated(gate: F32, up: F32) -> F32:
        result: F32 = gelu(gate) * up
        return result

    def after_feedforward(self, h: F32, down: F32) -> F32:
        h = h + norm(down, self.w["post_feedforward_norm.weight"], self.spec)
        return h * self.w["scalar"] if self.spec.layer_scalar else h

    def run(self, h: F32) -> F32:
        """The whole layer, [L, H] -> [L, H]."""
        w = self.w
        x = self.attention_input(h)
        k = x @ w["k.weight"].T
        v = k if self.layer.k_eq_v else x @ w["v.weight"].T
        h = self.after_attention(h, self.attend(x @ w["q.weight"].T, k, v) @ w["o.weight"].T)
        x = self.feedforward_input(h)
        return self.after_feedforward(h, self.gated(x @ w["gate.weight"].T, x @ w["up.weight"].T) @ w["down.weight"].T)


def logits(hidden: F32, table: F32, spec: ModelSpec) -> F32:
    """[L, H] after the final norm, table [V, H] -> [L, V], after the soft cap."""
    out: F32 = hidden @ table.T
    if spec.final_softcap is not None:
        cap = np.float32(spec.final_softcap)
        out = np.tanh(out / cap) * cap
    return out
