"""Layer after layer, matrix after matrix: each is quantised for the inputs that the matrices before it, as stored,
really produce, and makes up for part of what those did. In memory: one layer's weights and one matrix's second moments;
on disk: the residual stream, once as the stored matrices make it, once as the original ones do.

o and down are followed by a norm, which gives every token the same weight whatever the size of its output: their
inputs are divided by the root mean square of the output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from ..quantize import Quantized, Scheme, dequantize, quantize
from ..source import Source
from .fold import column_factors
from .forward import LayerPass, Rotary, rms
from .gptq import Rounder
from .state import State

F32 = npt.NDArray[np.float32]
Progress = Callable[[int, int, str], None]  # done, total (weights), what
TOKEN_FLOOR = 1e-6  # of an output's root mean square, against division by zero
SMALLEST = 2.0**-14  # block scales stay normal float16 numbers when rows are divided


class Calibration:
    """Runs over `windows` (token ids, all of one length) and leaves its results in `state`."""

    def __init__(
        self,
        source: Source,
        scheme: Callable[[str], Scheme],
        windows: Sequence[Sequence[int]],
        state: State,
        progress: Progress | None = None,
    ) -> None:
        self._source, self._spec, self._scheme, self._state = source, source.spec, scheme, state
        self._windows = np.array(windows, np.int64)
        # the residual stream of the stored model, and that of the original
        self._shape = (2, *self._windows.shape, self._spec.hidden_size)
        self._rotary = Rotary(self._windows.shape[1])
        self._progress = progress
        self._sizes = {
            f"layers.{i}.{part}.weight": int(np.prod(source.shape(f"layers.{i}.{part}.weight")))
            for i in range(len(self._spec.layers))
            for part in self._parts(i)
        }
        self._done = 0

    def run(self) -> None:
        """Every matrix of every layer; goes on where an earlier run was interrupted."""
        done = self._state.layers_done()
        if done < 0:
            stream = self._state.scratch("stream", self._shape)
            self._embed(stream)
            self._state.finish_layer(done := 0, stream)
        self._done = sum(size for name, size in self._sizes.items() if int(name.split(".")[1]) < done)
        for i in range(done, len(self._spec.layers)):
            out = self._state.scratch("stream", self._shape)
            self._layer(i, self._state.stream(i, self._shape), out)
            self._state.finish_layer(i + 1, out)
        if self._progress is not None:
            self._progress(self._done, self._done, "")

    def _parts(self, i: int) -> list[str]:
        return ["q", "k", *([] if self._spec.layers[i].k_eq_v else ["v"]), "o", "gate", "up", "down"]

    def _embed(self, out: F32) -> None:
        """The table's rows as they will be stored: rows are quantised independently of each other."""
        ids, where = np.unique(self._windows, return_inverse=True)
        scheme = self._scheme("embed.weight")
        exact = np.concatenate([self._source.rows("embed.weight", int(t), int(t) + 1) for t in ids])
        stored = dequantize(quantize(exact, scheme)) if scheme.bits <= 8 else exact
        for rows, stream in zip((stored, exact), out, strict=True):
            rows = rows * np.float32(self._spec.embed_scale)
            for s, window in enumerate(where.reshape(self._windows.shape)):
                stream[s] = rows[window]

    # ---------------------------------------------------------------------------------------------------- one layer
    def _layer(self, i: int, h: F32, out: F32) -> None:
        prefix = f"layers.{i}."
        names = [n for n in self._source.names() if n.startswith(prefix)]
        w = {name.removeprefix(prefix): self._source.tensor(name) for name in names}
        layer, exact = (LayerPass(self._spec, i, weights, self._rotary) for weights in (w, dict(w)))

        rounder = Rounder.between(
            ((layer.attention_input(x), exact.attention_input(y)) for x, y in zip(*h, strict=True)),
            {p: w[f"{p}.weight"] for p in self._parts(i) if p in "qkv"},
        )
        quantized = self._round(prefix, w, [p for p in self._parts(i) if p in "qkv"], rounder, "input_norm.weight")

        rounder = Rounder.between(
            (
                _relative(self._attended(layer, x), self._attended(exact, y), w["o.weight"])
                for x, y in zip(*h, strict=True)
            ),
            {"o": w["o.weight"]},
        )
        value = None if self._spec.v_norm or layer.layer.k_eq_v else quantized["v"]
        self._round_after(prefix, w, "o", rounder, "v", value, self._spec.num_heads // layer.layer.kv_heads)

        middle = self._state.scratch("middle", self._shape)
        for one, before, after in zip((layer, exact), h, middle, strict=True):
            for s, x in enumerate(before):
                after[s] = one.after_attention(x, self._attended(one, x) @ one.w["o.weight"].T)
        rounder = Rounder.between(
            ((layer.feedforward_input(x), exact.feedforward_input(y)) for x, y in zip(*middle, strict=True)),
            {p: w[f"{p}.weight"] for p in ("gate", "up")},
        )
        quantized = self._round(prefix, w, ["gate", "up"], rounder, "pre_feedforward_norm.weight")

        rounder = Rounder.between(
            (
                _relative(self._gated(layer, x), self._gated(exact, y), w["down.weight"])
                for x, y in zip(*middle, strict=True)
            ),
            {"down": w["down.weight"]},
        )
        self._round_after(prefix, w, "down", rounder, "up", quantized["up"], 1)

        for one, before, after in zip((layer, exact), middle, out, strict=True):
            for s, x in enumerate(before):
                after[s] = one.after_feedforward(x, self._gated(one, x) @ one.w["down.weight"].T)

    @staticmethod
    def _attended(layer: LayerPass, h: F32) -> F32:
        w, x = layer.w, layer.attention_input(h)
        k = x @ w["k.weight"].T
        v = k if layer.layer.k_eq_v else x @ w["v.weight"].T
        return layer.attend(x @ w["q.weight"].T, k, v)

    @staticmethod
    def _gated(layer: LayerPass, h: F32) -> F32:
        x = layer.feedforward_input(h)
        return layer.gated(x @ layer.w["gate.weight"].T, x @ layer.w["up.weight"].T)

    # --------------------------------------------------------------------------------------------------- one matrix
    def _round(
        self, prefix: str, w: dict[str, F32], parts: Iterable[str], rounder: Rounder, norm: str
    ) -> dict[str, Quantized | None]:
        """Matrices that read what a norm made; part of their columns' sizes moves into the norm's weight."""
        schemes = {p: self._scheme(f"{prefix}{p}.weight") for p in parts}
        for p in (p for p, s in schemes.items() if s.bits <= 8):
            w[f"{p}.weight"] = rounder.target(p, w[f"{p}.weight"])
        if all(s.bits <= 8 for s in schemes.values()):
            pairs = [(w[f"{p}.weight"], s) for p, s in schemes.items()]
            t = column_factors(pairs, rounder.importance)
            rounder.rescale(t)
            fold_into_norm(w, [f"{p}.weight" for p in schemes], norm, t, self._spec.norm_offset)
            self._state.save_vector(prefix + norm, w[norm])
        return {p: self._store(prefix, w, p, schemes[p], rounder) for p in schemes}

    def _round_after(
        self,
        prefix: str,
        w: dict[str, F32],
        part: str,
        rounder: Rounder,
        maker: str,
        made: Quantized | None,
        copies: int,
    ) -> None:
        """A matrix whose input is made by the rows of another: factors are powers of two, so the other's scales take
        them without a rounding, and its integers stay. `copies`: heads that read the same rows (grouped queries)."""
        scheme = self._scheme(f"{prefix}{part}.weight")
        if scheme.bits <= 8:
            w[f"{part}.weight"] = rounder.target(part, w[f"{part}.weight"])
        if made is not None and made.scales is not None and scheme.bits <= 8:
            group = len(w[f"{maker}.weight"]) if copies == 1 else self._head_dim(prefix)
            importance = pool_heads(rounder.importance, group, copies)
            t = np.exp2(np.rint(np.log2(column_factors([(w[f"{part}.weight"], scheme)], importance))))
            t = np.minimum(t, spread_heads(headroom(made), group, copies)).astype(np.float32)
            rounder.rescale(t)
            w[f"{part}.weight"] = w[f"{part}.weight"] * t
            divide_rows(made, t.reshape(-1, copies, group)[:, 0].reshape(-1))
            w[f"{maker}.weight"] = dequantize(made)
            self._state.save(f"{prefix}{maker}.weight", made)
        self._store(prefix, w, part, scheme, rounder)

    def _head_dim(self, prefix: str) -> int:
        return self._spec.layers[int(prefix.split(".")[1])].head_dim

    def _store(self, prefix: str, w: dict[str, F32], part: str, scheme: Scheme, rounder: Rounder) -> Quantized | None:
        name = f"{prefix}{part}.weight"
        if self._progress is not None:
            self._progress(self._done, sum(self._sizes.values()), name)
        self._done += self._sizes[name]
        if scheme.bits > 8:
            return None
        quantized = rounder.quantize(w[f"{part}.weight"], scheme)
        self._state.save(name, quantized)
        w[f"{part}.weight"] = dequantize(quantized)
        return quantized


def _relative(x: F32, exact: F32, weight: F32) -> tuple[F32, F32]:
    """Inputs [L, I] of a matrix [O, I], each divided by the root mean square of its output for x."""
    size = rms(x @ weight.T, TOKEN_FLOOR)
    return x / size, exact / size


def pool_heads(values: F32, group: int, copies: int) -> F32:
    """[Hq*D] -> the mean over the query heads of one KV head, repeated for each: [Hq*D]."""
    if copies == 1:
        return values
    mean = values.reshape(-1, copies, group).mean(axis=1, keepdims=True)
    result: F32 = np.broadcast_to(mean, (mean.shape[0], copies, group)).reshape(-1)
    return result


def spread_heads(values: F32, group: int, copies: int) -> F32:
    """[Hkv*D] -> [Hq*D]."""
    return values if copies == 1 else np.repeat(values.reshape(-1, 1, group), copies, axis=1).reshape(-1)


def fold_into_norm(w: dict[str, F32], matrices: Iterable[str], norm: str, t: F32, offset: float) -> None:
    """Columns times t, the norm that makes the input divided by it. `w` changes in place."""
    for name in matrices:
        w[name] = w[name] * t
    w[norm] = ((w[norm].astype(np.float64) + offset) / t - offset).astype(np.float32)


def divide_rows(made: Quantized, t: F32) -> None:
    """Rows divided by powers of two, exactly. `made` changes in place."""
    assert made.scales is not None
    divisor = t.reshape(-1, *[1] * (made.scales.ndim - 1)).astype(made.scales.dtype)
    np.divide(made.scales, divisor, out=made.scales)


def headroom(made: Quantized) -> F32:
    """By what power of two each row's scales can be divided."""
    assert made.scales is not None
    smallest = made.scales.reshape(made.shape[0], -1).min(axis=1).astype(np.float64)
    floor = SMALLEST if made.scales.dtype == np.float16 else 1e-30
    result: F32 = np.exp2(np.maximum(np.floor(np.log2(smallest / floor)), 0)).astype(np.float32)
    return result
