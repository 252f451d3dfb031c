"""The cache's types and the kernels' instruction sets: every pair computes what float32 does, within its bound."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tandem_lm as tl

ISAS = ["baseline", "avx2", "avx512", "avx512bf16", "avx512amx"]
BOUNDS = {"f32": 1e-5, "f16": 2e-3, "int8": 2e-2}  # largest error of a logit, relative to the largest logit
LENGTH = 60  # a prefill of some chunks, far beyond the tiny models' window of 8


def engine_on(bundle: Path, isa: str, monkeypatch: pytest.MonkeyPatch, kv_dtype: str) -> tl.Engine:
    monkeypatch.setenv("TANDEM_ISA", isa)
    try:
        return tl.Engine(bundle, kv_dtype=kv_dtype, num_threads=1, graph="fast")
    except tl.TandemError as error:
        if "TANDEM_ISA" not in str(error):
            raise
        pytest.skip(f"this machine has no {isa}")


def logits(engine: tl.Engine) -> np.ndarray:
    ids = np.random.default_rng(3).integers(0, engine.info.vocab_size - 16, LENGTH + 4).tolist()
    session = engine.session()
    session.prefill(ids[:LENGTH])
    return np.concatenate([session.logits(ids[LENGTH : LENGTH + 1]), session.logits(ids[LENGTH + 1 :])])


@pytest.fixture(scope="module")
def exact(bundle: Callable[[str, str], Path]) -> dict[str, np.ndarray]:
    return {kind: logits(tl.Engine(bundle(kind, "f32"), kv_dtype="f32")) for kind in ("gemma3", "gemma4")}


@pytest.mark.parametrize("kv_dtype", BOUNDS)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["gemma3", "gemma4"])
def test_logits_stay_within_the_bound_of_the_type(
    bundle: Callable[[str, str], Path],
    exact: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    isa: str,
    kv_dtype: str,
) -> None:
    engine = engine_on(bundle(kind, "f32"), isa, monkeypatch, kv_dtype)
    assert engine.info.kv_dtype == kv_dtype
    error = np.abs(logits(engine) - exact[kind]).max() / np.abs(exact[kind]).max()
    assert error <= BOUNDS[kv_dtype]
    assert kv_dtype == "f32" or error > 0  # the option has an effect


@pytest.mark.parametrize("kv_dtype", BOUNDS)
def test_threads_do_not_change_a_logit(bundle: Callable[[str, str], Path], kv_dtype: str) -> None:
    path = bundle("gemma4", "f32")
    one, two = (logits(tl.Engine(path, kv_dtype=kv_dtype, num_threads=threads)) for threads in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_unknown_isa_is_a_clear_error(bundle: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_ISA", "abacus")
    with pytest.raises(tl.InvalidRequestError, match="abacus"):
        tl.Engine(bundle("gemma4", "f32"), graph="fast")
