"""Steps without a graph: the same numbers as the graphs, for any number of rows; the graphs where they cannot run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tandem_lm as tl
from tandem_converter import weight_table
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


@pytest.fixture
def graphs_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """convert(), but the weight table has another name: graphs run, with the same attention as native steps."""

    def make(source: Path, **options: Any) -> Path:
        path = tmp_path / "graphs.litertlm"
        with monkeypatch.context() as patch:
            patch.setattr(weight_table, "MODEL_TYPE", "nobody_reads")
            convert(source, path, **options)
        return path

    return make


@pytest.mark.parametrize("quant", ["int8", "int4-channel", "int4-block32", "int4-block128"])
@pytest.mark.parametrize("kind", ["gemma3", "gemma4"])
def test_steps_equal_the_graphs(
    bundle: Callable[[str, str], Path],
    checkpoint: Callable[[str], Path],
    graphs_only: Callable[..., Path],
    kind: str,
    quant: str,
) -> None:
    check_steps(bundle(kind, quant), graphs_only(checkpoint(kind), quant=quant, context=128))


@pytest.mark.parametrize("narrow", ["int4-channel", "int4-block64"])
@pytest.mark.parametrize("wide", ["q|o", "k|v|down", "gate", "up"])
def test_matrices_of_a_layer_may_differ_in_bits(
    checkpoint: Callable[[str], Path], graphs_only: Callable[..., Path], tmp_path: Path, wide: str, narrow: str
) -> None:
    recipe, path = tmp_path / "mixed.json", tmp_path / "mixed.litertlm"
    recipe.write_text(
        json.dumps({"embed.weight": "int8", rf"layers\.\d+\.({wide})\.weight": "int8", "default": narrow})
    )
    convert(checkpoint("gemma4"), path, quant=str(recipe), context=128)
    check_steps(path, graphs_only(checkpoint("gemma4"), quant=str(recipe), context=128))


def check_steps(path: Path, graphs: Path) -> None:
    one, native = logits(path, [1] * 20)
    if not native:
        pytest.skip("no native steps: another CPU, or shapes that they do not take")
    for cuts in ([20], [4, 5, 2, 9], [16, 4]):
        np.testing.assert_array_equal(logits(path, cuts)[0], one)
    graph, native = logits(graphs, [1] * 20)
    assert not native
    # The last bit of a sum can move an 8-bit activation by one; most tokens agree far better.
    error = np.abs(one - graph).max(axis=1) / np.abs(graph).max()
    assert np.median(error) < 5e-3 and error.max() < 0.1


@pytest.mark.parametrize("quant", ["int8", "int4-channel", "int4-block32"])
def test_prompts_equal_the_graphs(
    checkpoint: Callable[[str], Path], graphs_only: Callable[..., Path], tmp_path: Path, quant: str
) -> None:
    path = tmp_path / "model.litertlm"
    convert(checkpoint("gemma4"), path, quant=quant, context=1024)

    def behind(prompt: int, pieces: int, bundle: Path = path) -> tuple[np.ndarray, bool]:
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
    graph, native = behind(700, 1, graphs_only(checkpoint("gemma4"), quant=quant, context=1024))
    assert not native
    # The last bit of a sum can move an 8-bit activation by one, in 700 tokens often: graphs of two instruction sets
    # are 4e-3 apart.
    for other in (steps, graph):
        error = np.abs(whole - other).max(axis=1) / np.abs(other).max()
        assert np.median(error) < 1e-2 and error.max() < 2e-2


def test_other_weights_run_in_graphs(bundle: Callable[[str, str], Path]) -> None:
    assert not logits(bundle("gemma4", "f32"), [3])[1]
    assert not logits(bundle("gemma4", "int8"), [3], graph="portable")[1]
