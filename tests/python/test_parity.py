"""The product against the numpy reference and, where installed, transformers: f32 bundles, any cut of the prompt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checkpoints import write_gemma3, write_gemma4
from test_graph import expected as reference_logits
from test_graph import load

import tandem_lm as tl
from tandem_converter.convert import convert

CONTEXT = 128
LENGTH = 100  # crosses the tiny models' window of 8 many times and two prefill chunks
MODELS: dict[str, Callable[[Path], Path]] = {
    "gemma4": write_gemma4,
    "gemma4-no-softcap": lambda folder: write_gemma4(folder, seed=1, softcap=None),
    "gemma4-bf16-new-config": lambda folder: write_gemma4(folder, seed=2, dtype="BF16", layout="new"),
    "gemma3": write_gemma3,
    "gemma3-old-config": lambda folder: write_gemma3(folder, seed=1, layout="old"),
}
CUTS = {
    "all at once": [LENGTH],
    "one by one": [1] * LENGTH,
    "odd pieces": [1, 7, 8, 9, 2, 33, 40],
    "chunk then rest": [64, 36],
}


@pytest.fixture(scope="module", params=[f"{graph}: {name}" for name in MODELS for graph in ("fast", "portable")])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tl.Engine]:
    graph, name = request.param.split(": ")
    folder = tmp_path_factory.mktemp(name)
    checkpoint = MODELS[name](folder / "checkpoint")
    convert(checkpoint, folder / "model.litertlm", quant="f32", context=CONTEXT)
    engine = tl.Engine(folder / "model.litertlm", kv_dtype="f32", graph=graph)
    assert engine.info.graph == graph
    return checkpoint, engine


def prompt(length: int, vocab: int, seed: int = 0) -> list[int]:
    """Random ids below the media placeholders, which stand at the end of a tiny vocabulary."""
    return np.random.default_rng(seed).integers(0, vocab - 16, length).tolist()


@pytest.mark.parametrize("cut", sorted(CUTS))
def test_logits_equal_the_reference(model: tuple[Path, tl.Engine], cut: str) -> None:
    checkpoint, engine = model
    ids = prompt(LENGTH, engine.info.vocab_size)
    expected = reference_logits(*load(checkpoint), np.array(ids))
    session = engine.session()
    at = 0
    for i, size in enumerate(CUTS[cut]):
        piece = ids[at : at + size]
        if i % 2 == 0 and cut != "one by one" and len(CUTS[cut]) > 1:
            session.prefill(piece)  # without logits: what follows shows whether the cache is right
        else:
            got = session.logits(piece)
            error = np.abs(got - expected[at : at + size]).max()
            assert error <= 1e-3 * np.abs(expected).max(), f"tokens {at}..{at + size}"
        at += size
    assert session.position == LENGTH


def test_rewind_then_another_continuation(model: tuple[Path, tl.Engine]) -> None:
    checkpoint, engine = model
    first, second = prompt(60, engine.info.vocab_size), prompt(60, engine.info.vocab_size, seed=9)
    session = engine.session()
    session.prefill(first)
    session.rewind(31)
    got = session.logits(second[31:])
    expected = reference_logits(*load(checkpoint), np.array(first[:31] + second[31:]))[31:]
    assert np.abs(got - expected).max() <= 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("graph", ["fast", "portable"])
def test_the_first_token_after_a_rewind_sees_its_whole_window(tmp_path: Path, graph: str) -> None:
    convert(write_gemma4(tmp_path / "checkpoint"), tmp_path / "model.litertlm", quant="f32", context=2048)
    engine = tl.Engine(tmp_path / "model.litertlm", kv_dtype="f32", graph=graph)
    ids = prompt(1500, engine.info.vocab_size, seed=5)
    expected = engine.session().logits(ids)
    session = engine.session()
    session.prefill(ids)
    for position in range(len(ids) - 1, 1, -1):  # on the way, a ring has lost the window before a position
        session.rewind(position)
        # Between two tokens of nearly equal logits, the probability of one tells a small error.
        row = expected[position - 1]
        order = np.array([i for i in np.argsort(row) if i not in engine.info.suppress_ids])
        pair = order[(at := int(np.argmin(np.diff(row[order])))) : at + 2].tolist()
        others = tuple(i for i in range(len(row)) if i not in pair)
        params = tl.SamplingParams(temperature=0.0, max_tokens=1, stop_ids=(), suppress_ids=others, logprobs=True)
        (token,) = session.generate(params)
        other = pair[0] if token.id == pair[1] else pair[1]
        gap = np.float64(row[token.id]) - row[other]
        error = abs(-np.log(np.expm1(-token.logprob)) - gap)
        assert error < 1e-3, f"after a rewind to {position}"


def test_greedy_generation_follows_the_reference(model: tuple[Path, tl.Engine]) -> None:
    checkpoint, engine = model
    ids = prompt(20, engine.info.vocab_size, seed=3)
    session = engine.session()
    session.prefill(ids)
    params = tl.SamplingParams(temperature=0.0, max_tokens=24, stop_ids=())
    produced = [token.id for token in session.generate(params)]
    expected = reference_logits(*load(checkpoint), np.array(ids + produced))
    expected[:, list(engine.info.suppress_ids)] = -np.inf
    for i, token in enumerate(produced):
        row = expected[len(ids) - 1 + i]
        assert row[token] >= row.max() - 1e-3 * np.abs(row[np.isfinite(row)]).max(), f"token {i}"


def test_logits_equal_transformers(model: tuple[Path, tl.Engine]) -> None:
    torch = pytest.importorskip("torch", reason="transformers parity needs torch")
    transformers = pytest.importorskip("transformers", reason="transformers parity needs transformers")
    checkpoint, engine = model
    if engine.info.family == "gemma4_unified" and not hasattr(transformers, "Gemma4UnifiedForConditionalGeneration"):
        pytest.skip("this transformers has no Gemma 4 Unified")
    loader = (
        transformers.Gemma4UnifiedForConditionalGeneration
        if engine.info.family == "gemma4_unified"
        else transformers.Gemma3ForCausalLM
    )
    oracle = loader.from_pretrained(checkpoint, dtype=torch.float32).eval()
    ids = prompt(LENGTH, engine.info.vocab_size)
    with torch.no_grad():
        expected = oracle(torch.tensor([ids])).logits[0].numpy()
    got = engine.session().logits(ids)
    assert np.abs(got - expected).max() <= 1e-3 * np.abs(expected).max()
