"""Which scheme each matrix gets under a budget of bits: `--quant auto`.

Measured on a few windows of the calibration text with the float model: what plain rounding of one matrix to int4 alone
does to its layer's output (the mean of |change|² / |output|² over tokens), and by how much each scheme would lessen the
error that calibrated rounding leaves in that matrix's own output. The product predicts a scheme's cost. From the
cheapest scheme everywhere, the upgrades that save most per bit are taken until the budget is spent. Where that makes
prompts slower than MOST_TIME allows, slow schemes are charged for their time, as little as brings it down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ..errors import ConversionError
from ..quantize import Scheme, dequantize, quantize
from ..source import Source
from .fold import SAMPLE, rounding_cost
from .forward import LayerPass, Rotary
from .gptq import Rounder

F32 = npt.NDArray[np.float32]
CANDIDATES = tuple(
    Scheme.parse(name) for name in ("int4-channel", "int4-block128", "int4-block64", "int4-block32", "int8")
)
WINDOWS = 8  # of the calibration text
LEAST_BITS, MOST_BITS = 4.1, 8.0
# Of a product of many rows, against int4-channel: AVX-512 VNNI (`bench_kernels products 1`).
TIMES = {"int4-channel": 1.0, "int4-block128": 1.08, "int4-block64": 1.14, "int4-block32": 1.22, "int8": 1.0}
MOST_TIME = 1.13  # of all matrices together; products are three quarters of a prompt's time in a small model
HALVINGS = 40  # of the interval in which the charge for time is sought
Costs = dict[str, list[tuple[float, float, str]]]  # name -> of each scheme that fits: bits, predicted cost, name


def choose(
    source: Source,
    windows: Sequence[Sequence[int]],
    bits: float,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, str]:
    """Matrix -> scheme's name, at most `bits` per weight of all matrices in layers, scales included."""
    if not LEAST_BITS <= bits <= MOST_BITS:
        raise ConversionError(f"{bits:g} bits per weight; auto takes {LEAST_BITS:g} to {MOST_BITS:g}")
    step = max(1, len(windows) // WINDOWS)
    costs = measure(source, np.array(windows[::step][:WINDOWS]), progress)
    sizes = {name: int(np.prod(source.shape(name))) for name in costs}
    return choose_in_time(costs, sizes, bits)


def choose_in_time(costs: Costs, sizes: Mapping[str, int], bits: float) -> dict[str, str]:
    """allocate() with the smallest charge for time that keeps within MOST_TIME."""

    def at(charge: float) -> tuple[dict[str, str], float]:
        charged = {
            name: _useful((b, cost + charge * TIMES[scheme] * sizes[name], scheme) for b, cost, scheme in options)
            for name, options in costs.items()
        }
        chosen = allocate(charged, sizes, bits)
        return chosen, sum(TIMES[s] * sizes[n] for n, s in chosen.items()) / sum(sizes.values())

    chosen, time = at(0.0)
    if time <= MOST_TIME:
        return chosen
    # Beyond the largest charge every scheme is chosen by its time alone.
    low, high = 0.0, max(cost / sizes[n] for n, options in costs.items() for _, cost, _ in options) / 0.01
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if at(middle)[1] > MOST_TIME:
            low = middle
        else:
            high = middle
    return at(high)[0]


def measure(source: Source, windows: npt.NDArray[np.int64], progress: Callable[[int, int, str], None] | None) -> Costs:
    """Predicted cost of each candidate for each matrix of the layers."""
    spec, rotary = source.spec, Rotary(windows.shape[1])
    ids, where = np.unique(windows, return_inverse=True)
    rows = np.concatenate([source.rows("embed.weight", int(t), int(t) + 1) for t in ids])
    stream = list(rows[where.reshape(windows.shape)] * np.float32(spec.embed_scale))
    out: Costs = {}
    for i in range(len(spec.layers)):
        if progress is not None:
            progress(i, len(spec.layers), f"sensitivity of layer {i}")
        prefix = f"layers.{i}."
        w = {n.removeprefix(prefix): source.tensor(n) for n in source.names() if n.startswith(prefix)}
        layer = LayerPass(spec, i, w, rotary)
        after = [layer.run(h) for h in stream]
        for part, rounder in _rounders(layer, stream):
            name, original = f"{part}.weight", w[f"{part}.weight"]
            w[name] = dequantize(quantize(original, Scheme(4)))
            drift = np.mean([_distance(layer.run(h), good) for h, good in zip(stream, after, strict=True)])
            plain = rounder.cost(w[name] - original)
            w[name] = original
            part_rows = original[:: max(1, len(original) // SAMPLE)]
            scale = float(drift) / max(plain, 1e-30) * len(original) / len(part_rows)
            out[prefix + name] = _useful(
                (bits_of(s, original.shape), scale * rounding_cost(part_rows, s, rounder.importance), s.name)
                for s in CANDIDATES
                if not s.block or original.shape[1] % s.block == 0
            )
        stream = after
    return out


def _useful(options: Iterable[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Without those that cost more than one of no more bits, in the order of bits."""
    kept: list[tuple[float, float, str]] = []
    for option in sorted(options):
        if not kept or (option[1] < kept[-1][1] and option[0] > kept[-1][0]):
            kept.append(option)
    return kept


def allocate(costs: Costs, sizes: Mapping[str, int], bits: float) -> dict[str, str]:
    """The greedy choice. Upgrades that save nothing, or less per bit than a larger one, are passed over."""
    chosen = dict.fromkeys(costs, 0)
    steps = []
    for name, options in costs.items():
        at = 0
        while at + 1 < len(options):
            gains = [
                ((options[at][1] - options[to][1]) / ((options[to][0] - options[at][0]) * sizes[name]), to)
                for to in range(at + 1, len(options))
            ]
            gain, to = max(gains, key=lambda g: (g[0], -g[1]))
            if gain <= 0:
                break
            steps.append((gain, name, at, to))
            at = to
    left = bits * sum(sizes.values()) - sum(options[0][0] * sizes[name] for name, options in costs.items())
    for _, name, before, to in sorted(steps, key=lambda s: (-s[0], s[1], s[2])):
        price = (costs[name][to][0] - costs[name][before][0]) * sizes[name]
        if chosen[name] == before and price <= left:
            chosen[name], left = to, left - price
    return {name: costs[name][index][2] for name, index in chosen.items()}


def bits_of(scheme: Scheme, shape: tuple[int, ...]) -> float:
    """Bits per weight of a matrix [O, I], scales included."""
    return scheme.bits + (16 / scheme.block if scheme.block else 32 / shape[1])


def _rounders(layer: LayerPass, stream: Sequence[F32]) -> Iterator[tuple[str, Rounder]]:
    """Each matrix of a layer with the second moments of its input, in float."""
    w = layer.w
    inputs: dict[str, list[F32]] = {"q": [], "o": [], "gate": [], "down": []}
    for h in stream:
        x = layer.attention_input(h)
        k = x @ w["k.weight"].T
        attended = layer.attend(x @ w["q.weight"].T, k, k if layer.layer.k_eq_v else x @ w["v.weight"].T)
        h = layer.after_attention(h, attended @ w["o.weight"].T)
        y = layer.feedforward_input(h)
        gated = layer.gated(y @ w["gate.weight"].T, y @ w["up.weight"].T)
        for part, value in zip(inputs, (x, attended, y, gated), strict=True):
            inputs[part].append(value)
    shared = {"q": ["q", "k"] if layer.layer.k_eq_v else ["q", "k", "v"], "gate": ["gate", "up"]}
    for first, values in inputs.items():
        rounder = Rounder.of(values)
        for part in shared.get(first, [first]):
            yield part, rounder


def _distance(changed: F32, good: F32) -> float:
    """The mean over tokens of |changed - good|² / |good|²."""
    wrong = np.square(changed - good).sum(axis=1)
    return float((wrong / np.maximum(np.square(good).sum(axis=1), np.float32(1e-30))).mean())
