"""Calibrated quantisation: the maths is the model's, folds change nothing, error feedback pays, the bytes repeat."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import read_manifest
from checkpoints import write_gguf
from test_graph import expected as reference_logits
from test_graph import load

import tandem_lm as tl
from tandem_converter.calibrate import fold, sequential
from tandem_converter.calibrate.forward import LayerPass, Rotary, logits, norm
from tandem_converter.calibrate.gptq import DAMPING, MAKE_UP, PANEL, Rounder, upper_factor
from tandem_converter.calibrate.qat import quantize_q4_0
from tandem_converter.calibrate.run import state_folder
from tandem_converter.calibrate.sensitivity import CANDIDATES, MOST_TIME, TIMES, allocate, choose_in_time
from tandem_converter.calibrate.state import State
from tandem_converter.calibrate.text import LEAST, Request, default_text, spread, windows
from tandem_converter.convert import convert
from tandem_converter.errors import ConversionError
from tandem_converter.quantize import Scheme, dequantize, quantize
from tandem_converter.source import open_source
from tandem_lm.cli import main
from tandem_lm.compare import compare, log_softmax

INTEGER = ("int4-channel", "int4-block32", "int4-block64", "int4-block128", "int8")
FAMILIES = ("gemma3", "gemma4")
TOKENS = 1024
F32 = np.float32


def encode(digest: bytes, text: str) -> list[int]:
    from tandem_lm import _native

    return _native.Tokenizer.from_digest(digest).encode(text)


def request(tokens: int = TOKENS, text: str | None = None) -> Request:
    return Request(encode, text, tokens)


def random_inputs(tokens: int, size: int, seed: int = 0) -> np.ndarray:
    """Correlated columns of very different sizes, as a model's activations are."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((tokens, size // 4)) @ rng.standard_normal((size // 4, size)) / (size // 4) ** 0.5
    return ((shared + 0.5 * rng.standard_normal((tokens, size))) * np.exp(rng.standard_normal(size))).astype(F32)


def random_weights(rows: int, cols: int, seed: int = 1) -> np.ndarray:
    return (np.random.default_rng(seed).standard_t(5, (rows, cols)) * cols**-0.5).astype(F32)


def output_error(x: np.ndarray, w: np.ndarray, found: np.ndarray) -> float:
    return float(np.linalg.norm(x @ (found - w).T) / np.linalg.norm(x @ w.T))


# ------------------------------------------------------------------------------------------------------- the forward
@pytest.mark.parametrize("family", FAMILIES)
def test_forward_equals_the_reference(checkpoint: Callable[[str], Path], family: str) -> None:
    source = open_source(checkpoint(family))
    spec = source.spec
    ids = np.random.default_rng(0).integers(0, spec.vocab_size - 16, 40)
    table = source.tensor("embed.weight")
    h = table[ids] * F32(spec.embed_scale)
    for i in range(len(spec.layers)):
        prefix = f"layers.{i}."
        weights = {n.removeprefix(prefix): source.tensor(n) for n in source.names() if n.startswith(prefix)}
        h = LayerPass(spec, i, weights, Rotary(len(ids))).run(h)
    got = logits(norm(h, source.tensor("norm.weight"), spec), table, spec)
    expected = reference_logits(*load(checkpoint(family)), ids)
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()


# ------------------------------------------------------------------------------------------------------ the rounding
@pytest.mark.parametrize("name", INTEGER)
def test_less_output_error_than_rounding_by_weight(name: str) -> None:
    x, w, scheme = random_inputs(2000, 128), random_weights(64, 128), Scheme.parse(name)
    fresh = random_inputs(2000, 128)[::-1] * F32(0.9)  # same law, other tokens of it
    rounder = Rounder.of([x[:300], x[300:1000]])
    q = rounder.quantize(w, scheme)
    plain = output_error(fresh, w, dequantize(quantize(w, scheme)))
    assert output_error(fresh, w, dequantize(q)) < 0.75 * plain
    assert q.error["output"] == pytest.approx(output_error(x[:1000], w, dequantize(q)), rel=0.15)


@pytest.mark.parametrize("name", INTEGER)
def test_layout_is_that_of_the_plain_quantiser(name: str) -> None:
    w, scheme = random_weights(12, 128), Scheme.parse(name)
    q, plain = Rounder.of([random_inputs(500, 128)]).quantize(w, scheme), quantize(w, scheme)
    assert q.scales is not None and plain.scales is not None
    assert (q.data.dtype, q.data.shape) == (plain.data.dtype, plain.data.shape)
    assert (q.scales.dtype, q.scales.shape) == (plain.scales.dtype, plain.scales.shape)
    assert (q.scales > 0).all()
    wide = q.scales.astype(F32).view(np.uint32)
    assert scheme.block == 0 or not (wide & 0xFFFF).any()  # XNNPACK's bfloat16 holds block scales
    relative = np.linalg.norm(dequantize(q) - w) / np.linalg.norm(w)
    assert q.error["rel_rms"] == pytest.approx(relative, rel=1e-3)


def test_descent_never_raises_the_error() -> None:
    x, w = random_inputs(1000, 128), random_weights(64, 128)
    rounder = Rounder.of([x])
    errors = [rounder.quantize(w, Scheme(4), sweeps).error["output"] for sweeps in range(4)]
    assert errors[1] < errors[0]
    assert all(b <= a * (1 + 1e-5) for a, b in pairwise(errors))


def test_inputs_that_never_occur() -> None:
    """Dead columns and a matrix without any input: finite, and no worse than plain rounding there."""
    x, w = random_inputs(300, 64), random_weights(8, 64)
    x[:, 10:20] = 0
    for inputs in (x, np.zeros_like(x)):
        q = Rounder.of([inputs]).quantize(w, Scheme(4, 32))
        assert np.isfinite(dequantize(q)).all() and q.error["rel_rms"] < 0.5


def test_solve_is_the_inverse() -> None:
    """In blocks, one of them smaller than the others."""
    x, z = random_inputs(900, 200), random_weights(30, 200)
    rounder = Rounder.of([x])
    assert np.allclose(rounder._solve(z.copy()) @ rounder.h, z, rtol=1e-3, atol=1e-3 * np.abs(z).max())


def test_a_target_makes_up_for_part_of_the_drift() -> None:
    rng = np.random.default_rng(3)
    exact, w = random_inputs(2000, 128), random_weights(64, 128)
    x = exact @ (np.eye(128) + 0.1 * rng.standard_normal((128, 128)) / 128**0.5).astype(F32)
    rounder = Rounder.between([(x[:700], exact[:700]), (x[700:], exact[700:])], {"w": w})

    def error(weights: np.ndarray) -> float:
        return float(np.linalg.norm(x @ weights.T - exact @ w.T))

    assert error(rounder.target("w", w)) == pytest.approx((1 - MAKE_UP) * error(w), rel=0.1)
    assert np.array_equal(Rounder.of([x]).target("w", w), w)
    assert np.allclose(Rounder.between([(x, x)], {"w": w}).target("w", w), w, atol=1e-6)


@pytest.mark.parametrize("size", [4, 12, PANEL, 2 * PANEL + 4])
def test_the_factor_is_numpys(size: int) -> None:
    x = random_inputs(2 * size + 5, size)
    h = x.T @ x + np.eye(size, dtype=np.float32)
    c = upper_factor(h)
    expected = np.linalg.cholesky(h[::-1, ::-1].astype(np.float64))[::-1, ::-1].T
    assert c.dtype == np.float32 and not np.triu(c, 1).any()
    np.testing.assert_allclose(c, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_rescaled_rounder_is_that_of_rescaled_inputs() -> None:
    x, w = random_inputs(1000, 64), random_weights(8, 64)
    t = np.exp2(np.random.default_rng(3).integers(-2, 3, 64)).astype(F32)
    rounder = Rounder.of([x])
    rounder.rescale(t)
    total, damping = np.square(x @ w.T).sum(), DAMPING * np.square(x).sum(axis=0).mean()
    for name in INTEGER[:2]:
        q = rounder.quantize(w * t, Scheme.parse(name))
        off = dequantize(q) / t - w
        cost = np.square(x @ off.T).sum() + (np.square(off) * damping).sum()
        assert q.error["output"] == pytest.approx((cost / total) ** 0.5, rel=0.02)


# --------------------------------------------------------------------------------------------------------- the folds
@pytest.mark.parametrize("family", FAMILIES)
def test_folds_are_exact(checkpoint: Callable[[str], Path], family: str) -> None:
    """A layer with any factors folded is the same function, in float32."""
    source = open_source(checkpoint(family))
    spec, rng = source.spec, np.random.default_rng(5)
    h = rng.standard_normal((24, spec.hidden_size)).astype(F32)
    for i, layer in enumerate(spec.layers):
        prefix = f"layers.{i}."
        w = {n.removeprefix(prefix): source.tensor(n) for n in source.names() if n.startswith(prefix)}
        expected = LayerPass(spec, i, dict(w), Rotary(24)).run(h)

        def factors(size: int) -> np.ndarray:
            return np.exp2(rng.integers(-3, 4, size)).astype(F32)

        inputs = ["q.weight", "k.weight"] + ([] if layer.k_eq_v else ["v.weight"])
        sequential.fold_into_norm(
            w, inputs, "input_norm.weight", factors(spec.hidden_size) * F32(1.1), spec.norm_offset
        )
        names = ["gate.weight", "up.weight"]
        sequential.fold_into_norm(w, names, "pre_feedforward_norm.weight", factors(spec.hidden_size), spec.norm_offset)
        t = factors(spec.intermediate_size)
        w["up.weight"], w["down.weight"] = w["up.weight"] / t[:, None], w["down.weight"] * t
        if not spec.v_norm:
            t = factors(layer.kv_heads * layer.head_dim)
            copies = spec.num_heads // layer.kv_heads
            w["v.weight"] = w["v.weight"] / t[:, None]
            w["o.weight"] = w["o.weight"] * sequential.spread_heads(t, layer.head_dim, copies)
        got = LayerPass(spec, i, w, Rotary(24)).run(h)
        assert np.abs(got - expected).max() <= 2e-5 * np.abs(expected).max(), f"layer {i}"


@pytest.mark.parametrize("name", INTEGER)
def test_divided_rows_are_exact(name: str) -> None:
    q = quantize(random_weights(32, 128), Scheme.parse(name))
    before = dequantize(q).copy()
    t = np.minimum(np.exp2(np.arange(32) % 8 - 3), sequential.headroom(q)).astype(F32)
    sequential.divide_rows(q, t)
    np.testing.assert_array_equal(dequantize(q) * t[:, None], before)


@pytest.mark.parametrize("family", FAMILIES)
def test_any_factors_leave_the_product_the_same_model(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    rng = np.random.default_rng(1)
    monkeypatch.setattr(
        sequential, "column_factors", lambda _, importance: np.exp2(rng.uniform(-0.5, 0.5, len(importance))).astype(F32)
    )
    convert(checkpoint(family), tmp_path / "m.litertlm", quant="int8", context=64, calibrate=request())
    ids = np.random.default_rng(0).integers(0, 400, 40)
    expected = reference_logits(*load(checkpoint(family)), ids)
    with tl.Engine(tmp_path / "m.litertlm") as engine:
        got = engine.session().logits(ids.tolist())
    assert np.linalg.norm(got - expected) < 0.15 * np.linalg.norm(expected)


def test_factors_lessen_the_rounding_error() -> None:
    w, importance = random_weights(64, 128), np.square(np.exp(1.5 * np.random.default_rng(0).standard_normal(128)))
    t = fold.column_factors([(w, Scheme(4))], importance.astype(F32))
    before = fold.rounding_cost(w, Scheme(4), importance.astype(F32))
    assert fold.rounding_cost(w * t, Scheme(4), (importance / t**2).astype(F32)) < 0.9 * before
    np.testing.assert_array_equal(fold.column_factors([(w, Scheme(4))], np.ones(128, F32)), 1)


# ------------------------------------------------------------------------------------------------------ the whole run
@pytest.mark.parametrize("family", FAMILIES)
def test_closer_to_the_float_model(
    checkpoint: Callable[[str], Path], bundle: Callable[[str, str], Path], tmp_path: Path, family: str
) -> None:
    """Tokens that the calibration did not see; both bundles with the same table."""
    convert(checkpoint(family), tmp_path / "c.litertlm", quant="int4-block128", context=128, calibrate=request(4096))
    ids = np.array([2, *encode_for(checkpoint(family), "the river and the moon, a story that nobody had told " * 8)])
    ids = ids[:100]
    expected = reference_logits(*load(checkpoint(family)), ids)
    errors = []
    for path in (tmp_path / "c.litertlm", bundle(family, "int4-block128")):
        with tl.Engine(path) as engine:
            errors.append(float(np.linalg.norm(engine.session().logits(ids.tolist()) - expected)))
    assert errors[0] < 0.8 * errors[1]
    assert not state_folder(tmp_path / "c.litertlm").exists()


def encode_for(folder: Path, text: str) -> list[int]:
    from tandem_converter import tokenizer

    source = open_source(folder)
    return encode(tokenizer.digest(source.tokenizer_json, bos_id=2, eos_id=1, pad_id=0), text)


def test_same_bytes_also_after_an_interrupt(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder, first, second = checkpoint("gemma4"), tmp_path / "a.litertlm", tmp_path / "b.litertlm"
    convert(folder, first, quant="int4-channel", context=64, calibrate=request())
    layers: list[str] = []

    def interrupted(done: int, total: int, name: str) -> None:  # noqa: ARG001
        layers.append(name)
        if name.startswith("layers.2.gate"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(folder, second, quant="int4-channel", context=64, calibrate=Request(encode, None, TOKENS, interrupted))
    assert state_folder(second).is_dir() and not second.exists()
    resumed: list[str] = []
    again = Request(encode, None, TOKENS, lambda done, total, name: resumed.append(name))  # noqa: ARG005
    convert(folder, second, quant="int4-channel", context=64, calibrate=again)
    assert layers[0].startswith("layers.0.") and resumed[0].startswith("layers.2.")
    assert first.read_bytes() == second.read_bytes()


def test_other_options_begin_anew(tmp_path: Path) -> None:
    q = quantize(random_weights(4, 32), Scheme(4))
    State(tmp_path / "s", "one").save("layers.0.q.weight", q)
    kept = State(tmp_path / "s", "one").load("layers.0.q.weight")
    assert kept is not None and kept.scheme == q.scheme and kept.shape == q.shape and kept.error == q.error
    np.testing.assert_array_equal(dequantize(kept), dequantize(q))
    assert State(tmp_path / "s", "two").load("layers.0.q.weight") is None


def test_weights_kept_as_float_stay_what_they_are(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    recipe = tmp_path / "some.json"
    recipe.write_text('{"layers.0.(q|up|down).weight": "f32", "embed.weight": "f32", "default": "int8"}')
    convert(checkpoint("gemma3"), tmp_path / "m.litertlm", quant=str(recipe), context=64, calibrate=request())
    ids = np.random.default_rng(0).integers(0, 400, 40)
    expected = reference_logits(*load(checkpoint("gemma3")), ids)
    with tl.Engine(tmp_path / "m.litertlm") as engine:
        got = engine.session().logits(ids.tolist())
    assert np.linalg.norm(got - expected) < 0.05 * np.linalg.norm(expected)


# --------------------------------------------------------------------------------------------------- mixed recipes
def test_budget_goes_where_it_saves_most() -> None:
    costs = {
        "a": [(4.0, 10.0, "int4-channel"), (4.5, 2.0, "int4-block32"), (8.0, 1.0, "int8")],
        "b": [(4.0, 1.0, "int4-channel"), (4.5, 0.9, "int4-block32"), (8.0, 0.1, "int8")],
        "c": [(4.0, 1.0, "int4-channel"), (4.5, 1.5, "int4-block32"), (8.0, 0.9, "int8")],
    }
    sizes = {"a": 100, "b": 100, "c": 100}
    assert allocate(costs, sizes, 4.2) == {"a": "int4-block32", "b": "int4-channel", "c": "int4-channel"}
    assert allocate(costs, sizes, 8.0) == {"a": "int8", "b": "int8", "c": "int8"}
    for bits in (4.1, 4.3, 5.0, 5.6, 6.9):
        chosen = allocate(costs, sizes, bits)
        used = {name: next(b for b, _, scheme in costs[name] if scheme == chosen[name]) for name in costs}
        assert sum(used.values()) <= bits * 3 + 1e-9


def test_slow_schemes_are_taken_where_they_save_most() -> None:
    def options(saved: float) -> list[tuple[float, float, str]]:
        return [(4.0, 10.0, "int4-channel"), (4.5, 10.0 - saved, "int4-block32"), (8.0, 9.9 - saved, "int8")]

    costs = {str(i): options(1.0 + i) for i in range(8)}
    sizes = dict.fromkeys(costs, 100)
    assert set(allocate(costs, sizes, 4.5).values()) == {"int4-block32"}  # as slow as can be
    chosen = choose_in_time(costs, sizes, 4.5)
    slow = [name for name, scheme in chosen.items() if scheme == "int4-block32"]
    assert slow == [str(i) for i in range(8 - len(slow), 8)] and len(slow) >= 2
    assert sum(TIMES[scheme] for scheme in chosen.values()) <= 8 * MOST_TIME
    quick = {name: [option for option in of if option[2] != "int4-block32"] for name, of in costs.items()}
    assert choose_in_time(quick, sizes, 5.0) == allocate(quick, sizes, 5.0)
    assert choose_in_time(costs, sizes, 4.0) == dict.fromkeys(costs, "int4-channel")


def test_auto_keeps_its_budget_and_repeats(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    chosen = []
    for name in ("a", "b"):
        report = convert(
            checkpoint("gemma4"), tmp_path / name, quant="auto", bits=5.5, context=64, calibrate=request(),
            report=tmp_path / f"{name}.json",
        )  # fmt: skip
        chosen.append({line["name"]: line["scheme"] for line in report.tensors})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    linear = {scheme for name, scheme in chosen[0].items() if name.startswith("layers.")}
    assert len(linear) > 1 and linear <= {scheme.name for scheme in CANDIDATES} and chosen[0]["embed.weight"] == "int8"
    summary = report.summary()
    assert summary["recipe"] == "auto-5.5" and 4.5 < summary["bits_per_linear_weight"] <= 5.5


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"quant": "auto"}, "calibrate"),
        ({"quant": "int8", "bits": 4.5}, "auto"),
        ({"quant": "auto", "bits": 3.0, "calibrate": request()}, "4.1"),
        ({"quant": "int8", "qat": "q4_0"}, "int4-block32"),
        ({"quant": "int4-block32", "qat": "q4_k"}, "q4_0"),
    ],
)
def test_options_that_do_not_fit(
    checkpoint: Callable[[str], Path], tmp_path: Path, options: dict[str, Any], word: str
) -> None:
    with pytest.raises(ConversionError, match=word):
        convert(checkpoint("gemma3"), tmp_path / "m.litertlm", context=64, **options)
    assert not (tmp_path / "m.litertlm").exists()


# ----------------------------------------------------------------------------------------------- trained for Q4_0
def test_q4_0_grid_is_kept() -> None:
    """Weights on the grid come back bit for bit, but for an 8 where the scale would have to be negative."""
    rng = np.random.default_rng(0)
    integers = rng.integers(-7, 8, (16, 4, 32))
    integers[:, :, 5] = -8
    d = (rng.uniform(0.001, 0.1, (16, 4)) * rng.choice([-1, 1], (16, 4))).astype(np.float16).astype(F32)
    w = (integers * d[..., None]).astype(F32).reshape(16, 128)
    q = quantize_q4_0(w)
    got = dequantize(q).reshape(16, 4, 32)
    positive = d > 0
    np.testing.assert_array_equal(got[positive], w.reshape(16, 4, 32)[positive])
    rest = np.arange(32) != 5
    np.testing.assert_array_equal(got[~positive][:, rest], w.reshape(16, 4, 32)[~positive][:, rest])
    assert q.error["off_grid"] == (~positive).sum()
    assert q.scales is not None
    np.testing.assert_array_equal(q.scales, np.abs(d).astype(np.float16))


def test_q4_0_rounds_as_llama_cpp_does() -> None:
    gguf = pytest.importorskip("gguf")
    kind = gguf.GGMLQuantizationType.Q4_0
    w = np.concatenate([random_weights(32, 128), np.zeros((1, 128), F32)])
    theirs = gguf.quants.dequantize(gguf.quants.quantize(w, kind), kind)
    q = quantize_q4_0(w)
    differ = dequantize(q) != theirs
    assert differ.sum() == q.error["off_grid"] > 0


def test_q4_0_checkpoint_through_the_product(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    del gguf
    path = write_gguf(tmp_path / "m.gguf", quantisation="Q4_0")
    report = convert(path, tmp_path / "m.litertlm", quant="int4-block32", context=64, qat="q4_0")
    source = open_source(path)
    for line in report.tensors:
        if line["name"].startswith("layers."):
            w = source.tensor(line["name"])
            got = dequantize(quantize_q4_0(w))
            assert line["off_grid"] == np.count_nonzero(got != w) < 0.03 * w.size


# ---------------------------------------------------------------------------------------------------------- the text
def test_windows_are_spread_over_the_text() -> None:
    assert list(spread(100, 10, 20)) == list(range(0, 100, 10))
    assert list(spread(1000, 10, 4)) == [120, 370, 620, 870]
    fake = Request(lambda _, text: list(range(len(text))), "x" * 10_000, 2048)
    found = windows(fake, b"", 7)
    assert len(found) == 4 and {len(w) for w in found} == {512} and {w[0] for w in found} == {7}
    assert [len(w) for w in windows(Request(fake.encode, "x" * 50, 2048), b"", 7)] == [51]


@pytest.mark.parametrize(("text", "tokens"), [("", 512), ("x" * (LEAST - 1), 512), ("x" * 900, LEAST - 1)])
def test_too_little_text(text: str, tokens: int) -> None:
    with pytest.raises(ConversionError, match="at least"):
        windows(Request(lambda _, text: [1] * len(text), text, tokens), b"", 7)


def test_the_default_text_is_small_and_not_what_quality_is_measured_on() -> None:
    text = default_text()
    assert len(text.encode()) <= 500_000
    held_out = (Path(__file__).parent.parent / "data" / "english.txt").read_text(encoding="utf-8")
    assert not any(line in text for line in held_out.splitlines() if len(line) > 60)


# ------------------------------------------------------------------------------------------------------- comparison
def test_compare(bundle: Callable[[str, str], Path]) -> None:
    text = "the river and the moon, a story that nobody had told " * 20
    with tl.Engine(bundle("gemma4", "f32")) as a, tl.Engine(bundle("gemma4", "int8")) as b:
        same, other = compare(a, a, text, 64), compare(a, b, text, 64)
        assert same.kl == 0 and same.same_top == 1 and same.perplexity_a == same.perplexity_b
        assert other.tokens == same.tokens == 31 * other.windows
        ids = [a.info.bos_id, *a.tokenizer.encode(text)]
        divergence, agree = [], []
        for at in range(0, len(ids) - 63, 64):
            window = [ids[0], *ids[at + 1 : at + 64]]
            p, q = (log_softmax(e.session().logits(window)[32:63]) for e in (a, b))
            divergence.append((np.exp(p) * (p - q)).sum(axis=1))
            agree.append(p.argmax(axis=1) == q.argmax(axis=1))
        assert other.kl == pytest.approx(np.mean(divergence), rel=0.05) and other.kl > 0
        assert other.same_top == pytest.approx(np.mean(agree), abs=0.03)
        with pytest.raises(tl.InvalidRequestError, match="too few"):
            compare(a, b, "")
    with (
        tl.Engine(bundle("gemma4", "f32")) as a,
        tl.Engine(bundle("gemma3", "f32")) as c,
        pytest.raises(tl.InvalidRequestError, match="one model"),
    ):
        compare(a, c, text)


# ------------------------------------------------------------------------------------------------------ command line
def test_command_line(checkpoint: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, out = tmp_path / "mine.txt", tmp_path / "m.litertlm"
    text.write_text("the quick brown fox jumps over the lazy dog " * 60)
    base = ["convert", str(checkpoint("gemma3")), str(out), "--context", "64"]
    assert main([*base, "--quant", "int4-block32", "--calibrate", str(text), "--calib-tokens", "512"]) == 0
    facts = read_manifest(out)["calibration"]
    assert facts["text_sha256"] == hashlib.sha256(text.read_bytes()).hexdigest() and facts["tokens"] == 512
    assert main([*base, "--quant", "auto", "--bits", "5", "--calib-tokens", "512"]) == 0  # auto calibrates by itself
    assert read_manifest(out)["quantization"] == "auto-5"
    assert main(["compare", str(out), str(out), str(text), "-c", "32"]) == 0
    assert "100.00 %" in capsys.readouterr().out
    assert main([*base, "--calib-tokens", "512"]) == 1
    assert "--calibrate" in capsys.readouterr().err
