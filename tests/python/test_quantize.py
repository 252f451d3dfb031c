"""Quantisation: what is stored means what it should, with the least error, whatever the weights look like."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from checkpoints import bf16_round

from tandem_converter import quantize as quantize_module
from tandem_converter.errors import ConversionError
from tandem_converter.quantize import SCHEMES, Scheme, dequantize, quantize, quantize_rows, unpack
from tandem_converter.recipe import NAMED, Recipe
from tandem_converter.report import Report

INTEGER = [name for name in SCHEMES if name != "f32"]


def normal(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32)


def relative(w: np.ndarray, scheme: Scheme) -> float:
    return float(np.linalg.norm(dequantize(quantize(w, scheme)) - w) / np.linalg.norm(w))


def largest_weight_error(w: np.ndarray, scheme: Scheme) -> float:
    """The error of the plain rule: scale = largest weight / largest integer."""
    groups = w.reshape(-1, scheme.block or w.shape[1])
    top = 7 if scheme.bits == 4 else 127
    scale = np.abs(groups).max(1, keepdims=True) / top
    return float(np.linalg.norm(np.rint(groups / scale) * scale - groups) / np.linalg.norm(groups))


@pytest.mark.parametrize("name", SCHEMES)
def test_layout(name: str) -> None:
    scheme = Scheme.parse(name)
    q = quantize(normal(6, 256), scheme)
    assert scheme.name == name and q.shape == (6, 256)
    if scheme.bits == 32:
        assert q.data.dtype == np.float32 and q.scales is None and q.nbytes == 6 * 256 * 4
        return
    assert q.data.dtype == (np.uint8 if scheme.bits == 4 else np.int8)
    assert q.data.shape == (6, 128 if scheme.bits == 4 else 256)
    assert q.scales is not None and q.scales.dtype == (np.float16 if scheme.block else np.float32)
    assert q.scales.shape == ((6, 256 // scheme.block) if scheme.block else (6,))
    low, high = (-8, 7) if scheme.bits == 4 else (-127, 127)
    assert unpack(q).min() >= low and unpack(q).max() <= high


def test_nibbles() -> None:
    """Low nibble first, two's complement: integers that fit come back exactly."""
    w = np.array([[-8, 7, -1, 0, 3, -4, 1, -8]], np.float32)
    q = quantize(w, Scheme(4))
    np.testing.assert_array_equal(q.data, np.array([[0x78, 0x0F, 0xC3, 0x81]], np.uint8))
    np.testing.assert_array_equal(dequantize(q), w)
    assert q.error["rel_rms"] == 0 and q.scales is not None and q.scales[0] == 1


@pytest.mark.parametrize("name", INTEGER)
def test_better_than_the_largest_weight(name: str) -> None:
    scheme = Scheme.parse(name)
    for w in (normal(32, 1024), normal(32, 1024) ** 3, np.random.default_rng(1).laplace(size=(32, 1024)).astype("f4")):
        assert relative(w, scheme) <= largest_weight_error(w, scheme)
    if name == "int4-channel":
        assert relative(normal(64, 2048), scheme) < 0.12  # the best possible for a normal law and 16 levels is 0.1074


def weighted_error(groups: np.ndarray, found: np.ndarray) -> np.ndarray:
    """What the 4-bit search minimises, for each group."""
    result: np.ndarray = (np.abs(groups) * (found - groups) ** 2).sum(1)
    return result


@pytest.mark.parametrize("name", ["int4-channel", "int4-block32"])
def test_close_to_exhaustive_search(name: str) -> None:
    scheme = Scheme.parse(name)
    w = np.concatenate([normal(8, 512), normal(8, 512) ** 3])
    groups = w.reshape(-1, scheme.block or 512).astype(np.float64)
    scales = np.abs(groups).max(1, keepdims=True) / 7 * np.linspace(0.05, 1.15, 1200)[None, :]
    best = np.full(len(groups), np.inf)
    for s in scales.T:
        q = np.clip(np.rint(groups / s[:, None]), -8, 7)
        best = np.minimum(best, weighted_error(groups, q * s[:, None]))
    found = weighted_error(groups, dequantize(quantize(w, scheme)).reshape(groups.shape))
    assert found.sum() < 1.03 * best.sum()


def test_better_than_q4_0() -> None:
    gguf = pytest.importorskip("gguf")
    kind = gguf.GGMLQuantizationType.Q4_0
    for w in (normal(64, 640), normal(64, 640) ** 3):
        theirs = gguf.quants.dequantize(gguf.quants.quantize(w, kind), kind)
        ours = dequantize(quantize(w, Scheme(4, 32)))
        assert weighted_error(w, ours).sum() < weighted_error(w, theirs).sum()


@pytest.mark.parametrize("name", SCHEMES)
def test_reported_error_is_the_error(name: str) -> None:
    w = normal(16, 640, 3) * np.logspace(-3, 2, 16, dtype=np.float32)[:, None]
    q = quantize(w, Scheme.parse(name))
    difference = dequantize(q) - w
    assert q.error["rel_rms"] == pytest.approx(np.linalg.norm(difference) / np.linalg.norm(w), rel=1e-3, abs=1e-9)
    assert q.error["max_abs"] == pytest.approx(np.abs(difference).max(), rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("name", INTEGER)
def test_strange_weights(name: str) -> None:
    """Zeros, one outlier, constants, tiny and huge rows: positive finite scales and a small error per row."""
    scheme = Scheme.parse(name)
    w = normal(8, 256)
    w[0] = 0
    w[1] = 0
    w[1, 200] = -3
    w[2] = 0.25
    w[3] *= 1e-6 if scheme.block else 1e-20
    w[4] *= 1e5 if scheme.block else 1e20
    w[5] = 1e-40
    with np.errstate(all="raise", under="ignore"):
        q = quantize(w, scheme)
    assert q.scales is not None and np.isfinite(q.scales).all() and (q.scales > 0).all()
    got = dequantize(q)
    np.testing.assert_array_equal(got[0], 0)
    np.testing.assert_allclose(got[2], 0.25, rtol=1 / 64 if scheme.block else 0.005)
    assert got[1, 200] == pytest.approx(-3, rel=0.005) and np.count_nonzero(got[1]) == 1
    worst = 0.15 if scheme.bits == 4 else 0.02
    for row in (3, 4):
        assert np.linalg.norm((got[row] - w[row]).astype("f8")) < worst * np.linalg.norm(w[row].astype("f8"))
    assert np.isfinite(list(q.error.values())).all()


@pytest.mark.parametrize("block", [32, 64, 128])
def test_block_scales_fit_both_half_formats(block: int) -> None:
    """XNNPACK keeps block scales as bfloat16: the stored float16 must survive that."""
    scales = quantize(normal(16, 256) * 0.02, Scheme(4, block)).scales
    assert scales is not None
    np.testing.assert_array_equal(bf16_round(scales.astype(np.float32)), scales.astype(np.float32))


def test_block_scales_fit_eight_bits() -> None:
    """Tandem's packing keeps 5 bits behind the point, and 8 octaves below a row's largest scale."""
    w = normal(16, 256) * 0.02
    w[3, :32] *= 3000  # one block far above the rest of its row
    w[4, 64:96] *= 1e-6
    scales = quantize(w, Scheme(4, 32)).scales
    assert scales is not None
    fraction, exponent = np.frexp(scales.astype(np.float64))
    np.testing.assert_array_equal(fraction * 64 % 1, 0)
    assert (exponent.max(axis=1) - exponent.min(axis=1)).max() == 7


@pytest.mark.parametrize("name", SCHEMES)
def test_pieces_and_threads_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    w, scheme = normal(301, 384), Scheme.parse(name)
    whole = quantize(w, scheme)
    monkeypatch.setattr(quantize_module, "TASK", 20_000)
    for threads in (1, 2, 5):
        again = quantize_rows(lambda a, b: w[a:b], (301, 384), scheme, threads)
        np.testing.assert_array_equal(whole.data, again.data)
        if whole.scales is not None and again.scales is not None:
            np.testing.assert_array_equal(whole.scales, again.scales)
        assert again.error["rel_rms"] == pytest.approx(whole.error["rel_rms"], rel=1e-6)


def test_errors_of_the_reader_come_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(first: int, last: int) -> np.ndarray:
        if first > 100:
            raise ConversionError("tensor 'x' contains nan")
        return normal(last - first, 64)

    monkeypatch.setattr(quantize_module, "TASK", 640)
    with pytest.raises(ConversionError, match="contains nan"):
        quantize_rows(read, (300, 64), Scheme(4), 2)


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ConversionError, match="128 do not divide a row of 96"):
        quantize(normal(2, 96), Scheme(4, 128))
    with pytest.raises(ConversionError, match="even"):
        quantize(normal(2, 7), Scheme(4))
    with pytest.raises(ConversionError, match="matrices"):
        quantize(np.zeros(4, np.float32), Scheme(8))
    with pytest.raises(ConversionError, match="float16"):
        quantize(normal(2, 64) * np.float32(1e9), Scheme(4, 32))


# ----------------------------------------------------------------------------------------------------------- recipes
@pytest.mark.parametrize("name", NAMED)
def test_named_recipes(name: str) -> None:
    recipe = Recipe.load(name)
    assert recipe.scheme("layers.3.down.weight").name == name
    assert recipe.scheme("embed.weight").name == ("int8" if "block" in name else name)
    for kept in ("norm.weight", "layers.3.q_norm.weight", "layers.3.scalar", "media.patch_dense.weight"):
        assert recipe.scheme(kept).name == "f32"


def test_recipe_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(
        json.dumps({r"layers\.0\..*": "f32", r"layers\.\d+\.down\.weight": "int4-block32", "default": "int4-channel"})
    )
    recipe = Recipe.load(path)
    assert recipe.scheme("layers.0.down.weight").name == "f32"  # the first match wins
    assert recipe.scheme("layers.10.down.weight").name == "int4-block32"
    assert recipe.scheme("layers.10.up.weight").name == recipe.scheme("embed.weight").name == "int4-channel"
    path.write_text("{}")
    assert Recipe.load(str(path)).scheme("layers.10.up.weight").name == "int8"


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ('{"embed.*": "int4-block32"}', "lookup table"),
        ('{"default": "int4-block128"}', "lookup table"),
        ('{"(": "int8"}', "regular expression"),
        ('{"a": "int3"}', "int3"),
        ('{"a": 8}', "string"),
        ("[]", "object"),
        ("{", "JSON"),
    ],
)
def test_bad_recipe_files(tmp_path: Path, content: str, word: str) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(ConversionError, match=word):
        Recipe.load(tmp_path / "r.json")


def test_unknown_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="int4-channel"):
        Recipe.load("int5")
    with pytest.raises(ConversionError, match="cannot read"):
        Recipe.load(tmp_path / "absent.json")


def test_report() -> None:
    report = Report("int4-channel")
    report.add("layers.0.q.weight", quantize(normal(4, 64), Scheme(4)))
    report.add("embed.weight", quantize(normal(8, 64), Scheme(8)))
    report.add_float("norm.weight", (64,))
    value = json.loads(report.to_json())
    assert value["summary"]["worst"] == "layers.0.q.weight" and value["summary"]["weights"] == 4 * 64 + 8 * 64 + 64
    first = value["tensors"][0]
    assert first["scheme"] == "int4-channel" and first["bytes"] == 4 * 32 + 16 and 0 < first["rel_rms"] < 0.2
    assert report.to_json() == report.to_json()
