"""What lies in the GPU's memory, counted in the driver: weights once where LiteRT can share them, and the cache."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import vulkan
from checkpoints import TINY_TOKENS, write_gemma4

from tandem_converter.convert import convert
from tandem_lm import library

MIB = 1 << 20
WIDE = 1 << 16  # tokens: the table is most of the model, and a prompt's graph and the other one both need it
LOAD = """
import sys
import tandem_lm as tl
engine = tl.Engine(sys.argv[1], backend="gpu")
session = engine.session()
session.prefill([300] * 70)
session.logits([300])
print(">", engine.info.gpu_shares_weights, sum(engine.info.memory.values()))
sessions = [engine.session() for _ in range(int(sys.argv[3]))]
print(">", *open(sys.argv[2]).read().split())
"""


LOOK = """
import sys
import numpy as np
import tandem_lm as tl
engine = tl.Engine(sys.argv[1], backend="gpu")
session = engine.session()
session.prefill([300] * 70)
before = session.position
session.prefill([tl.Image(np.zeros((96, 96, 3), np.uint8), max_soft_tokens=140), 5])
session.logits([300])
print(">", session.position - before)
print(">", *open(sys.argv[2]).read().split())
"""
REFUSED = """
import sys
import tandem_lm as tl
try:
    engine = tl.Engine(sys.argv[1], backend="gpu")
    sessions = [engine.session() for _ in range(3)]
except tl.OutOfMemoryError as error:
    print(">", "engine" in dir(), error)
"""


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[vulkan.FaultyGpu]:
    before = dict(os.environ)
    vulkan.use_swiftshader()
    yield vulkan.FaultyGpu(tmp_path_factory.mktemp("counting"))
    os.environ.clear()
    os.environ.update(before)


def measure(
    gpu: vulkan.FaultyGpu, folder: Path, vocab: int, quant: str, context: int = 128, sessions: int = 0
) -> tuple[bool, int, int]:
    """Whether weights are shared, the bytes that were planned, and those that the device holds."""
    checkpoint = write_gemma4(folder / f"{vocab}", vocab=vocab, media=False)
    path, report = folder / f"{vocab}-{quant}-{context}.litertlm", folder / "memory"
    convert(checkpoint, path, quant=quant, context=context)
    status, lines, errors = gpu.run("none", LOAD, str(path), str(report), str(sessions), memory=report)
    assert status == 0, errors
    shares, planned = lines[0].split()
    return shares == "True", int(planned), int(lines[1].split()[0])


@pytest.mark.parametrize(("quant", "table"), [("int8", 8 * MIB), ("int4-channel", 4 * MIB)])
def test_weights_lie_on_the_device_once(
    counting: vulkan.FaultyGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quant: str, table: int
) -> None:
    """A table of 65,536 x 128, in the number of bits that it was converted to."""
    monkeypatch.delenv("TANDEM_GPU_LIBRARY", raising=False)
    if not library.gpu_library():
        pytest.skip("litert-lm-api is not installed (or another version than the tested one)")
    shares, _, base = measure(counting, tmp_path, TINY_TOKENS, quant)
    _, planned, taken = measure(counting, tmp_path, WIDE, quant)
    assert shares
    assert table <= taken - base < table * 5 // 4 + MIB
    assert planned <= taken


def test_weights_are_copied_where_they_cannot_be_shared(
    counting: vulkan.FaultyGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TANDEM_GPU_LIBRARY", "")
    shares, _, base = measure(counting, tmp_path, TINY_TOKENS, "int8")
    _, planned, taken = measure(counting, tmp_path, WIDE, "int8")
    assert not shares
    assert taken - base > 24 * MIB  # of 8
    assert planned <= taken


def test_sessions_take_the_planned_cache(counting: vulkan.FaultyGpu, tmp_path: Path) -> None:
    """Two sides of keys and values, 4 layers x 64 values x float32, for 4096 tokens: 16 MiB a session."""
    one, _, first = measure(counting, tmp_path, TINY_TOKENS, "int8", context=4096)
    two, _, more = measure(counting, tmp_path, TINY_TOKENS, "int8", context=4096, sessions=2)
    assert one == two
    assert 32 * MIB <= more - first <= 40 * MIB  # buffers are rounded up


@pytest.mark.parametrize(("mib", "opened"), [(16, False), (40, True)])
def test_what_does_not_fit_is_refused_with_numbers(
    counting: vulkan.FaultyGpu, tmp_path: Path, mib: int, opened: bool
) -> None:
    """At the start, or when one session too many is asked for: each takes 16 MiB."""
    path = tmp_path / "model.litertlm"
    convert(write_gemma4(tmp_path / "model", media=False), path, quant="int8", context=4096)
    status, lines, errors = counting.run(f"small:{mib * MIB}", REFUSED, str(path))
    assert status == 0, errors
    (told,) = lines
    assert told.startswith(str(opened))
    words = ("no room for another session", "0.02 GiB") if opened else ("on the GPU", "context of 4096", "0.02 GiB")
    assert all(word in told for word in words), told


def test_an_image_that_brings_a_graph_in_brings_no_weights(
    counting: vulkan.FaultyGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither afterwards nor while the graphs are compiled anew: the table of 8 MiB is the difference of both."""
    monkeypatch.delenv("TANDEM_GPU_LIBRARY", raising=False)
    if not library.gpu_library():
        pytest.skip("litert-lm-api is not installed (or another version than the tested one)")
    taken = []
    for vocab in (TINY_TOKENS, WIDE):
        path, report = tmp_path / f"{vocab}.litertlm", tmp_path / "memory"
        convert(write_gemma4(tmp_path / f"{vocab}", vocab=vocab), path, quant="int8", context=1024)
        status, lines, errors = counting.run("none", LOOK, str(path), str(report), memory=report)
        assert status == 0, errors
        assert int(lines[0]) > 64  # more than the graph for prompts has
        taken.append([int(number) for number in lines[1].split()])
    for before, after in zip(*taken, strict=True):  # now, and at most
        assert after - before < 10 * MIB
