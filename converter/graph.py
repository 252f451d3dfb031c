"""Builds the portable graphs of a ModelSpec: signatures prefill_<N>, decode and, for a drafter, verify, of builtin ops.

One builder serves every family; what differs is in the spec. Layouts: the residual stream is [T, H]; K cache
[1, Hkv, context, D], V cache transposed [1, Hkv, D, context], both f32 and updated in place (the host binds one buffer
as input and output). Query heads of one KV head are stacked as rows of one matrix product: K and V are not copied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .family import Layer, ModelSpec, Rope
from .quantize import Scheme
from .tflite import BOOL, F16, F32, I4, I8, I32, Array, Model, Subgraph, Tensor, Weight

# The mask's slope per position: a visible distance keeps the mask's value, a forbidden one gets at most -2^100. A power
# of two keeps products with positions exact; times 2^18 positions it is still far inside f32.
_SLOPE = np.float32(2.0**100)

# 2 pi in pieces of 8 bits (the last takes the rest): a turn count of up to 16 bits times a piece is exact in f32.
_TURN = (201.0 / 32.0, 254.0 / 2.0**17, 2.0 * np.pi - 201.0 / 32.0 - 254.0 / 2.0**17)

_MINIMUM: tuple[str, dict[str, int]] = ("MaximumMinimumOptions", {})
_STORED = {4: I4, 8: I8, 16: F16, 32: F32}  # bits of a weight -> type of its tensor

_NORMS = ("input_norm", "post_attention_norm", "pre_feedforward_norm", "post_feedforward_norm", "q_norm", "k_norm")


@dataclass(frozen=True)
class PlannedWeight:
    """A matrix that lies outside the flatbuffer."""

    weight: Weight
    scheme: Scheme

    @property
    def name(self) -> str:
        return self.weight.name


@dataclass(frozen=True)
class Graph:
    """The model, and the weights its external buffers wait for, in file order."""

    model: Model
    weights: list[PlannedWeight]


def small_names(spec: ModelSpec) -> list[str]:
    """Canonical names of the vectors that are stored inside the flatbuffer."""
    names = ["norm.weight"]
    for i in range(len(spec.layers)):
        names += [f"layers.{i}.{norm}.weight" for norm in _NORMS]
        if spec.layer_scalar:
            names.append(f"layers.{i}.scalar")
    return names


def matrix_shapes(spec: ModelSpec) -> dict[str, tuple[int, int]]:
    """Canonical name -> [out, in] of every matrix, in file order."""
    h, inter = spec.hidden_size, spec.intermediate_size
    shapes = {"embed.weight": (spec.vocab_size, h)}
    for i, layer in enumerate(spec.layers):
        q, kv = spec.num_heads * layer.head_dim, layer.kv_heads * layer.head_dim
        shapes[f"layers.{i}.q.weight"] = (q, h)
        shapes[f"layers.{i}.k.weight"] = (kv, h)
        if not layer.k_eq_v:
            shapes[f"layers.{i}.v.weight"] = (kv, h)
        shapes[f"layers.{i}.o.weight"] = (h, q)
        shapes[f"layers.{i}.gate.weight"] = (inter, h)
        shapes[f"layers.{i}.up.weight"] = (inter, h)
        shapes[f"layers.{i}.down.weight"] = (h, inter)
    return shapes


def build(
    spec: ModelSpec,
    scheme: Callable[[str], Scheme],
    small: Mapping[str, Array],
    context: int,
    prefill_sizes: tuple[int, ...],
    verify_rows: int = 0,
    embedded_sizes: tuple[int, ...] = (),
) -> Graph:
    """Authors all signatures. `small` holds the vectors of `small_names`, as stored in the checkpoint. `verify_rows`:
    how many tokens `verify` takes, 0 = there is none. `embedded_sizes`: of prefills that take embeddings (media)."""
    model = Model(f"{spec.family} by tandem")
    weights = [plan_weight(model, name, shape, scheme(name)) for name, shape in matrix_shapes(spec).items()]
    by_name = {w.name: w.weight for w in weights}
    for size in prefill_sizes:
        SignatureBuilder(model.subgraph(f"prefill_{size}"), spec, by_name, small, context, size).author(logits=False)
    SignatureBuilder(model.subgraph("decode"), spec, by_name, small, context, 1).author(logits=True)
    for size in embedded_sizes:
        embedded = SignatureBuilder(model.subgraph(f"embedded_prefill_{size}"), spec, by_name, small, context, size)
        embedded.author(logits=False, embedded=True)
    if verify_rows:
        verify = SignatureBuilder(model.subgraph("verify"), spec, by_name, small, context, verify_rows)
        verify.author(logits=True, embedded=True, past_end=True)
    return Graph(model, weights)


def plan_weight(model: Model, name: str, shape: tuple[int, int], scheme: Scheme) -> PlannedWeight:
    rows, cols = shape
    size, dtype = rows * cols * scheme.bits // 8, _STORED[scheme.bits]
    weight = Weight(name, shape, dtype, model.external(size), block=scheme.block)
    if scheme.block:
        weight.scale_buffer = model.external(rows * (cols // scheme.block) * 2)
    return PlannedWeight(weight, scheme)


def norm_factor(weight: Array, spec: ModelSpec, scale: float = 1.0) -> Array:
    """What a norm multiplies with: its weight in the family's form, times `scale`."""
    return ((weight.astype(np.float64) + spec.norm_offset) * scale).astype(np.float32)


class SignatureBuilder:
    """Authors one signature: T tokens against a cache of `context` positions."""

    def __init__(
        self,
        graph: Subgraph,
        spec: ModelSpec,
        weights: Mapping[str, Weight],
        small: Mapping[str, Array],
        context: int,
        tokens: int,
    ) -> None:
        self._g = graph
        self._spec = spec
        self._weights = weights
        self._small = small
        self._context = context
        self._t = tokens
        self._ropes: dict[tuple[Rope, int], tuple[Tensor, Tensor]] = {}
        self._masks: dict[int, Tensor] = {}
        self._shift: tuple[Tensor, Tensor] | None = None  # see _place_keys

    def author(self, logits: bool, embedded: bool = False, past_end: bool = False) -> None:
        """`embedded`: the tokens come as scaled rows of the embedding, as LiteRT-LM hands them to `verify`. `past_end`:
        the last tokens may lie behind the cache, which does not keep them, as drafts at the end of a context do."""
        g, spec, t = self._g, self._spec, self._t
        rows = (1, t, spec.hidden_size)
        tokens = g.input("embeddings", rows) if embedded else g.input("tokens", (1, t), I32)
        self._positions = g.input("input_pos", (t,), I32)
        self._mask = g.input("mask", (1, 1, t, self._context))
        caches = [self._cache_inputs(i, layer) for i, layer in enumerate(spec.layers)]
        self._place_keys(past_end)
        self._measure_distances()
        h = self._reshape(tokens, rows[1:]) if embedded else self._embed(tokens)
        for i, layer in enumerate(spec.layers):
            h = self._layer(i, layer, h, *caches[i], last=i + 1 == len(spec.layers) and not logits)
        if logits:
            self._head(h)

    def author_lookup(self, tokens: str) -> None:
        """Only the embedding of the input `tokens`."""
        rows = self._embed(self._g.input(tokens, (1, self._t), I32))
        self._g.output("embeddings", self._reshape(rows, (1, *rows.shape)))

    def _cache_inputs(self, i: int, layer: Layer) -> tuple[Tensor, Tensor]:
        """The inputs with K and V of the model's layer `i`."""
        k_shape = (1, layer.kv_heads, self._context, layer.head_dim)
        v_shape = (1, layer.kv_heads, layer.head_dim, self._context)
        return self._g.input(f"kv_cache_k_{i}", k_shape), self._g.input(f"kv_cache_v_{i}", v_shape)

    # ------------------------------------------------------------------------------------------------ shared by layers
    def _place_keys(self, past_end: bool) -> None:
        """Where this call's K and V go. DYNAMIC_UPDATE_SLICE moves an update that would reach behind the end: with
        `past_end` the update is moved here, by `moved` rows, and takes over the rows that it covers from the cache."""
        g, t = self._g, self._t
        first = self._positions
        if t > 1:
            first = g.op("SLICE", [first, self._i32(0), self._i32(1)], (1,), ("SliceOptions", {}), dtype=I32)
        if past_end:
            rows = np.arange(t, dtype=np.int32)
            start = g.op("MINIMUM", [first, self._i32(self._context - t)], (1,), _MINIMUM, dtype=I32)
            moved = self._sub(first, start, (1,))
            is_new = g.op("GREATER_EQUAL", [g.constant(rows), moved], (t,), ("GreaterEqualOptions", {}), dtype=BOOL)
            is_new = g.op("CAST", [is_new], (t,), ("CastOptions", {"inDataType": BOOL, "outDataType": I32}), dtype=I32)
            # Of the covered rows followed by the new ones, those that the update consists of.
            jump = self._mul(is_new, self._sub(self._i32(t), moved, (1,)), (t,))
            self._shift = (self._add(start, g.constant(rows), (t,)), self._add(g.constant(rows), jump, (t,)))
            first = start
        self._k_start = self._concat([self._i32(0, 0), first, self._i32(0)], 0, (4,), I32)
        self._v_start = self._concat([self._i32(0, 0, 0), first], 0, (4,), I32)

    def _measure_distances(self) -> None:
        """Positions as numbers, of queries and of keys."""
        g, t = self._g, self._t
        floats = g.op("CAST", [self._positions], (t,), self._cast(), label="positions")
        self._pos = self._reshape(floats, (t, 1))
        # (q - k) * slope, exact: what both masks compare with. The keys' part is a constant, where RANGE would be
        # smaller: LiteRT's GPU accelerator has no RANGE, nor any operator whose inputs are all constant.
        scaled_k = g.constant((np.arange(self._context, dtype=np.float32) * _SLOPE).reshape(1, -1))
        scaled_q = self._mul(self._pos, self._f32(_SLOPE), (t, 1))
        self._distance = self._sub(scaled_q, scaled_k, (t, self._context))

    def _layer_mask(self, window: int) -> Tensor:
        """The mask of a layer kind: the input mask, cut to k <= q (full) or k > q - window (sliding). The host's mask
        is causal already; cutting per kind here lets image blocks see ahead in sliding layers only, as they should."""
        if window not in self._masks:
            shape = (self._t, self._context)
            limit = self._distance
            if window:
                limit = self._sub(self._f32(_SLOPE * np.float32(window - 1)), self._distance, shape)
            limit = self._reshape(limit, (1, 1, *shape))
            self._masks[window] = self._g.op("MINIMUM", [self._mask, limit], limit.shape, _MINIMUM)
        return self._masks[window]

    def _rope_tables(self, rope: Rope, head_dim: int) -> tuple[Tensor, Tensor]:
        """cos and signed sin [T, 1, D] of a rope: x' = x * cos + swap(x) * sin, swap exchanging the halves.

        Angles are f32 products, as in the published models. They reach 10^5 radians, where fast sine kernels lose all
        digits, so whole turns are subtracted first, piece by piece."""
        if (rope, head_dim) not in self._ropes:
            t, half = self._t, head_dim // 2
            exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
            frequency = (np.float32(1.0) / np.float32(rope.theta) ** exponent).astype(np.float32)
            frequency[rope.rotated :] = 0.0
            frequency = (frequency / np.float32(rope.factor)).astype(np.float32)
            shape = (t, half)
            angle = self._mul(self._pos, self._g.constant(frequency.reshape(1, half)), shape)
            turns = self._mul(angle, self._f32(1.0 / (2.0 * np.pi)), shape)
            turns = self._g.op("FLOOR", [self._add(turns, self._f32(0.5), shape)], shape)
            for piece in _TURN:
                angle = self._sub(angle, self._mul(turns, self._f32(piece), shape), shape)
            cos = self._g.op("COS", [angle], shape)
            sin = self._g.op("SIN", [angle], shape)
            minus = self._g.op("NEG", [sin], shape, ("NegOptions", {}))
            pair = [self._concat(parts, 1, (t, head_dim)) for parts in ([cos, cos], [minus, sin])]
            tables = tuple(self._reshape(x, (t, 1, head_dim)) for x in pair)
            self._ropes[rope, head_dim] = (tables[0], tables[1])
        return self._ropes[rope, head_dim]

    # -------------------------------------------------------------------------------------------------------- the model
    def _embed(self, tokens: Tensor) -> Tensor:
        shape = (self._t, self._spec.hidden_size)
        ids = self._reshape(tokens, (self._t,), I32)
        table = self._g.weight(self._weights["embed.weight"])
        rows = self._g.op("EMBEDDING_LOOKUP", [ids, table], shape, version=4)
        return self._mul(rows, self._f32(self._spec.embed_scale), shape)

    def _layer(self, i: int, layer: Layer, h: Tensor, k_cache: Tensor, v_cache: Tensor, last: bool) -> Tensor:
        """One decoder layer. `last`: only the cache of this layer is wanted (prefill has no logits)."""
        g = self._g
        x = self._norm(h, f"layers.{i}.input_norm")
        k, v = self._key_value(i, layer, x)
        k, v = self._shifted(k_cache, k, 2), self._shifted(v_cache, v, 3)
        k_cache = g.op("DYNAMIC_UPDATE_SLICE", [k_cache, k, self._k_start], k_cache.shape, label=f"k_{i}")
        v_cache = g.op("DYNAMIC_UPDATE_SLICE", [v_cache, v, self._v_start], v_cache.shape, label=f"v_{i}")
        g.output(f"kv_cache_k_{i}", k_cache)
        g.output(f"kv_cache_v_{i}", v_cache)
        if last:
            return h
        return self._after_attention(i, h, self._attend(i, layer, x, k_cache, v_cache))

    def _shifted(self, cache: Tensor, rows: Tensor, axis: int) -> Tensor:
        """New rows as they go into the cache, along `axis`."""
        if self._shift is None:
            return rows
        covered, chosen = self._shift
        pick = ("GatherOptions", {"axis": axis})
        old = self._g.op("GATHER", [cache, covered], rows.shape, pick)
        both = tuple(2 * d if i == axis else d for i, d in enumerate(rows.shape))
        return self._g.op("GATHER", [self._concat([old, rows], axis, both), chosen], rows.shape, pick)

    def _after_attention(self, i: int, h: Tensor, attended: Tensor) -> Tensor:
        """The rest of a layer: [T, H] before it and what its heads gathered, [T, Hq * D] -> [T, H]."""
        g, spec = self._g, self._spec
        shape = (self._t, spec.hidden_size)
        a = self._linear(attended, f"layers.{i}.o")
        h = self._add(h, self._norm(a, f"layers.{i}.post_attention_norm"), shape)
        x = self._norm(h, f"layers.{i}.pre_feedforward_norm")
        gate = self._linear(x, f"layers.{i}.gate")
        gate = g.op("GELU", [gate], gate.shape, ("GeluOptions", {"approximate": True}))
        m = self._mul(gate, self._linear(x, f"layers.{i}.up"), gate.shape)
        m = self._linear(m, f"layers.{i}.down")
        h = self._add(h, self._norm(m, f"layers.{i}.post_feedforward_norm"), shape)
        if spec.layer_scalar:
            h = self._mul(h, g.constant(self._small[f"layers.{i}.scalar"].reshape(1)), shape)
        return h

    def _key_value(self, i: int, layer: Layer, x: Tensor) -> tuple[Tensor, Tensor]:
        """What this call adds to the cache: K [1, Hkv, T, D] after norm and rope, V [1, Hkv, D, T]."""
        t, heads, d = self._t, layer.kv_heads, layer.head_dim
        raw = self._reshape(self._linear(x, f"layers.{i}.k"), (t, heads, d))
        v = raw if layer.k_eq_v else self._reshape(self._linear(x, f"layers.{i}.v"), (t, heads, d))
        k = self._rotate(self._norm(raw, f"layers.{i}.k_norm"), layer)
        if self._spec.v_norm:
            v = self._rms(v)
        if t > 1 and heads > 1:
            k = self._transpose(k, (1, 0, 2))
        if t > 1:
            v = self._transpose(v, (1, 2, 0))
        return self._reshape(k, (1, heads, t, d)), self._reshape(v, (1, heads, d, t))

    def _attend(self, i: int, layer: Layer, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[T, H] and the whole cache -> [T, Hq * D]. Query head j reads KV head j // (Hq / Hkv)."""
        g, t, heads, d = self._g, self._t, self._spec.num_heads, layer.head_dim
        rows = (1, layer.kv_heads, heads // layer.kv_heads * t)
        q = self._reshape(self._linear(x, f"layers.{i}.q"), (t, heads, d))
        q = self._rotate(self._norm(q, f"layers.{i}.q_norm", self._spec.attention_scale), layer)
        if t > 1:
            q = self._transpose(q, (1, 0, 2))
        q = self._reshape(q, (*rows, d))
        product = ("BatchMatMulOptions", {"adjY": True})
        scores = g.op("BATCH_MATMUL", [q, k], (*rows, self._context), product)
        scores = self._reshape(scores, (1, heads, t, self._context))
        scores = self._add(scores, self._layer_mask(layer.window), scores.shape)
        scores = g.op("SOFTMAX", [scores], scores.shape, ("SoftmaxOptions", {"beta": 1.0}))
        out = g.op("BATCH_MATMUL", [self._reshape(scores, (*rows, self._context)), v], (*rows, d), product)
        if t > 1:
            out = self._transpose(self._reshape(out, (heads, t, d)), (1, 0, 2))
        return self._reshape(out, (t, heads * d))

    def _head(self, h: Tensor) -> None:
        h = self._norm(h, "norm")
        self._g.output("activations", self._reshape(h, (1, self._t, self._spec.hidden_size)))
        self._logits(h)

    def _logits(self, h: Tensor) -> None:
        """[T, H] after the final norm -> the output `logits`."""
        g, spec = self._g, self._spec
        logits = self._linear(h, "embed")
        if spec.final_softcap is not None:
            logits = self._mul(logits, self._f32(1.0 / spec.final_softcap), logits.shape)
            logits = g.op("TANH", [logits], logits.shape)
            logits = self._mul(logits, self._f32(spec.final_softcap), logits.shape)
        g.output("logits", self._reshape(logits, (1, self._t, spec.vocab_size)))

    # ----------------------------------------------------------------------------------------------------- small pieces
    def _linear(self, x: Tensor, name: str) -> Tensor:
        weight = self._weights[name + ".weight"]
        version = 12 if weight.block else 7 if weight.dtype == I4 else 5 if weight.dtype == I8 else 1
        options = ("FullyConnectedOptions", {"keepNumDims": True})
        shape = (*x.shape[:-1], weight.shape[0])
        return self._g.op(
            "FULLY_CONNECTED", [x, self._g.weight(weight), None], shape, options, version=version, label=name
        )

    def _rms(self, x: Tensor) -> Tensor:
        column = (*x.shape[:-1], 1)
        axis = self._i32(len(x.shape) - 1)
        mean = self._g.op("MEAN", [self._mul(x, x, x.shape), axis], column, ("ReducerOptions", {"keepDims": True}))
        inverse = self._g.op("RSQRT", [self._add(mean, self._f32(self._spec.rms_norm_eps), column)], column)
        return self._mul(x, inverse, x.shape)

    def _norm(self, x: Tensor, name: str, scale: float = 1.0) -> Tensor:
        return self._mul(self._rms(x), self._factor(name, scale), x.shape)

    def _factor(self, name: str, scale: float = 1.0) -> Tensor:
        return self._g.constant(norm_factor(self._small[name + ".weight"], self._spec, scale))

    def _rotate(self, x: Tensor, layer: Layer) -> Tensor:
        """Rope over the last axis of [T, heads, D]."""
        cos, sin = self._rope_tables(layer.rope, layer.head_dim)
        half = (*x.shape[:-1], layer.head_dim // 2)
        size = self._i32(*half)
        slices = []
        for begin in (half[-1], 0):
            slices.append(self._g.op("SLICE", [x, self._i32(0, 0, begin), size], half, ("SliceOptions", {})))
        swapped = self._concat(slices, 2, x.shape)
        return self._add(self._mul(x, cos, x.shape), self._mul(swapped, sin, x.shape), x.shape)

    def _reshape(self, x: Tensor, shape: tuple[int, ...], dtype: int = F32) -> Tensor:
        if x.shape == shape:
            return x
        options = ("ReshapeOptions", {"newShape": list(shape)})
        return self._g.op("RESHAPE", [x, self._i32(*shape)], shape, options, dtype=dtype)

    def _transpose(self, x: Tensor, order: tuple[int, ...]) -> Tensor:
        shape = [x.shape[axis] for axis in order]
        return self._g.op("TRANSPOSE", [x, self._i32(*order)], shape, ("TransposeOptions", {}))

    def _concat(self, parts: list[Tensor], axis: int, shape: tuple[int, ...], dtype: int = F32) -> Tensor:
        return self._g.op("CONCATENATION", parts, shape, ("ConcatenationOptions", {"axis": axis}), dtype=dtype)

    def _mul(self, a: Tensor, b: Tensor, shape: tuple[int, ...]) -> Tensor:
        return self._g.op("MUL", [a, b], shape, ("MulOptions", {}), dtype=a.dtype)

    def _add(self, a: Tensor, b: Tensor, shape: tuple[int, ...]) -> Tensor:
        return self._g.op("ADD", [a, b], shape, ("AddOptions", {}), dtype=a.dtype)

    def _sub(self, a: Tensor, b: Tensor, shape: tuple[int, ...]) -> Tensor:
        return self._g.op("SUB", [a, b], shape, ("SubOptions", {}), dtype=a.dtype)

    def _cast(self) -> tuple[str, dict[str, int]]:
        return "CastOptions", {"inDataType": I32, "outDataType": F32}

    def _i32(self, *values: int) -> Tensor:
        return self._g.constant(np.array(values, np.int32))

    def _f32(self, value: float | np.float32) -> Tensor:
        return self._g.constant(np.array([value], np.float32))
