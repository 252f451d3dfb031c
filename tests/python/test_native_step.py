"""Steps without a graph: the same numbers as the graphs, for any number of rows; the graphs where they cannot run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tandem_lm as tl
from tandem_converter.convert import convert


def logits(bundle: Path, cuts: list[int], **options: str) -> tuple[np.ndarray, bool]:
    """Of the tokens behind the first ten, in steps of these sizes."""
    engine = tl.Engine(bundle, kv_dtype="f32", **options)
    ids = np.random.default_rng(3).integers(0, engine.info.vocab_size - 16, 10 + sum(cuts)).tolist()
    session = engine.session()
    session.prefill(ids[:10])
    parts = []
    for cut in cuts:
        at = session.position
        parts.append(session.logits(ids[at : at + cut]))
    return np.concatenate(parts), engine.info.native_steps


@pytest.mark.parametrize("quant", ["int8", "int4-channel", "int4-block32", "int4-block128"])
@pytest.mark.parametrize("kind", ["gemma3", "gemma4"])
def test_steps_equal_the_graphs(
    bundle: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch, kind: str, quant: str
) -> None:
    check_steps(bundle(kind, quant), monkeypatch)


@pytest.mark.parametrize("narrow", ["int4-channel", "int4-block64"])
@pytest.mark.parametrize("wide", ["q|o", "k|v|down", "gate", "up"])
def test_matrices_of_a_layer_may_differ_in_bits(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wide: str, narrow: str
) -> None:
    recipe, path = tmp_path / "mixed.json", tmp_path / "mixed.litertlm"
    recipe.write_text(
        json.dumps({"embed.weight": "int8", rf"layers\.\d+\.({wide})\.weight": "int8", "default": narrow})
    )
    convert(checkpoint("gemma4"), path, quant=str(recipe), context=128)
    check_steps(path, monkeypatch)


def check_steps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, native = logits(path, [1] * 20)
    if not native:
        pytest.skip("no native steps: another CPU, or shapes that they do not take")
    for cuts in ([20], [4, 5, 2, 9], [16, 4]):
        np.testing.assert_array_equal(logits(path, cuts)[0], one)
    monkeypatch.setenv("TANDEM_ISA", "avx2")  # without VNNI
    graph, native = logits(path, [1] * 20)
    assert not native
    # The last bit of a sum can move an 8-bit activation by one, which the tokens after it see; else they agree.
    error = np.abs(one - graph).max(axis=1) / np.abs(graph).max()
    assert error.min() < 1e-5 and np.median(error) < 1e-2 and error.max() < 0.1


@pytest.mark.parametrize("quant", ["int8", "int4-channel", "int4-block32"])
def test_prompts_equal_the_graphs(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quant: str
) -> None:
    bundle = tmp_path / "model.litertlm"
    convert(checkpoint("gemma4"), bundle, quant=quant, context=1024)

    def behind(prompt: int, pieces: int) -> tuple[np.ndarray, bool]:
        """Logits of 20 tokens behind a prompt, which is read in equal pieces."""
        engine = tl.Engine(bundle, kv_dtype="f32")
        ids = np.random.default_rng(4).integers(0, engine.info.vocab_size - 16, prompt + 20).tolist()
        session = engine.session()
        for at in range(0, prompt, prompt // pieces):
            session.prefill(ids[at : at + prompt // pieces])
        return session.logits(ids[prompt:]), engine.info.native_steps

    whole, native = behind(700, 1)  # more than one chunk
    if not native:
        pytest.skip("no native steps: another CPU, or shapes that they do not take")
    steps, _ = behind(700, 70)
    monkeypatch.setenv("TANDEM_ISA", "avx2")  # without VNNI
    graph, native = behind(700, 1)
    assert not native
    # The last bit of a sum can move an 8-bit activation by one, in 700 tokens often: graphs of two instruction sets
    # are 4e-3 apart.
    for other in (steps, graph):
        error = np.abs(whole - other).max(axis=1) / np.abs(other).max()
        assert np.median(error) < 1e-2 and error.max() < 2e-2


def test_other_weights_run_in_graphs(bundle: Callable[[str, str], Path]) -> None:
    assert not logits(bundle("gemma4", "f32"), [3])[1]
    assert not logits(bundle("gemma4", "int8"), [3], graph="portable")[1]
