"""GPUs that fail: an error or an announced fallback, and a process that lives on. Each case is a process of its own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import vulkan

RUN = """
import sys
import tandem_lm as tl
try:
    engine = tl.Engine(sys.argv[1], backend=sys.argv[2], fallback=sys.argv[3], prefix_cache=1 << 24)
    print("> opened", engine.info.backend)
    session = engine.session()
    session.prefill(list(range(300, 340)))
    # So hot that the tokens differ from each other.
    for token in session.generate(tl.SamplingParams(temperature=10.0, seed=3, max_tokens=12, stop_ids=())):
        print(">", token.id)
    hits = engine.prefix_stats().hits if engine.prefix_stats() else 0
    session = engine.session()
    session.prefill(list(range(300, 340)))
    next(session.generate(tl.SamplingParams(max_tokens=1)))
    print("> hits", engine.prefix_stats().hits - hits if engine.prefix_stats() else "none")
    print("> ended", engine.info.backend, engine.info.backend_reason)
except tl.TandemError as error:
    print(">", type(error).__name__, error)
print("> alive")
"""
FAULTS = {
    "no-driver": "no driver that works",
    "crash": "crashed",
    "no-device": "no device|there is no GPU",
    "no-create": "no GPU that LiteRT can use",
    "memory:0": "lost or is out of memory",
    "memory:20000000": "lost or is out of memory",
    "lost:0": "device was lost",
    "lost:25": "device was lost",
    "lost:30": "device was lost",
    "lost:35": "device was lost",
}
DEFAULT = ("no-driver", "crash", "memory:20000000", "lost:30")


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[vulkan.FaultyGpu]:
    before = dict(os.environ)
    vulkan.use_swiftshader()
    yield vulkan.FaultyGpu(tmp_path_factory.mktemp("faulty"))
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def expected(faulty: vulkan.FaultyGpu, tiny_gemma4: Path) -> list[str]:
    """The text without a fault."""
    status, lines, errors = faulty.run("none", RUN, str(tiny_gemma4), "gpu", "none")
    assert status == 0, errors
    assert lines[0] == "opened gpu"
    assert lines[-2].startswith("ended gpu")
    assert lines[-3] == "hits 1"
    assert len(set(lines[1:-3])) > 6
    return lines[1:-3]


@pytest.mark.parametrize("fallback", ["none", "cpu"])
@pytest.mark.parametrize("fault", [f if f in DEFAULT else pytest.param(f, marks=pytest.mark.slow) for f in FAULTS])
def test_a_fault_is_an_error_or_a_fallback(
    faulty: vulkan.FaultyGpu, tiny_gemma4: Path, expected: list[str], fault: str, fallback: str
) -> None:
    status, lines, errors = faulty.run(fault, RUN, str(tiny_gemma4), "gpu", fallback)
    assert status == 0, errors
    assert lines[-1] == "alive"
    if fallback == "none":
        assert lines[-2].startswith("BackendError ")
        assert any(word in lines[-2] for word in FAULTS[fault].split("|")), lines[-2]
    else:
        ended = lines[-2]
        assert ended.startswith("ended cpu the CPU instead of the GPU: "), ended
        assert any(word in ended for word in FAULTS[fault].split("|")), ended
        assert lines[1:-3] == expected  # the text goes on as if nothing had been


def test_auto_takes_hardware_that_agrees_with_the_cpu(
    faulty: vulkan.FaultyGpu, tiny_gemma4: Path, expected: list[str], tmp_path: Path
) -> None:
    for _ in range(2):  # the second time, the verdict is remembered
        status, lines, errors = faulty.run("discrete", RUN, str(tiny_gemma4), "auto", "none", cache=tmp_path)
        assert status == 0, errors
        assert lines[0] == "opened gpu", lines
        assert lines[1:-3] == expected
        assert "agrees with the CPU" in lines[-2]
        assert len(list(tmp_path.glob("*.verdict"))) == 1


@pytest.mark.parametrize("fault", ["none", pytest.param("wrong", marks=pytest.mark.slow)])
def test_auto_leaves_soft_and_wrong_gpus_alone(
    faulty: vulkan.FaultyGpu, tiny_gemma4: Path, expected: list[str], tmp_path: Path, fault: str
) -> None:
    status, lines, errors = faulty.run(fault, RUN, str(tiny_gemma4), "auto", "none", cache=tmp_path)
    assert status == 0, errors
    assert lines[0] == "opened cpu", lines
    assert lines[1:-3] == expected
    words = ("in hardware",) if fault == "none" else ("results cannot be right", "other logits than the CPU")
    assert any(word in lines[-2] for word in words), lines[-2]


def test_damaged_programs_are_made_again(
    faulty: vulkan.FaultyGpu, tiny_gemma4: Path, expected: list[str], tmp_path: Path
) -> None:
    for damage in ("flip", "cut", "none"):
        status, lines, errors = faulty.run("none", RUN, str(tiny_gemma4), "gpu", "none", cache=tmp_path)
        assert status == 0, errors
        assert lines[1:-3] == expected
        programs = sorted(tmp_path.glob("*.programs"))
        assert len(programs) == 1  # of decode and embedded_prefill_64
        for file in programs:
            stamp = file.with_name(file.name + ".sha256").read_text().strip()
            assert hashlib.sha256(file.read_bytes()).hexdigest() == stamp, damage
        assert not list(tmp_path.glob(".programs-*"))  # folders of processes
        data = bytearray(programs[0].read_bytes())
        data[len(data) // 2 :: 1000] = bytes(len(data[len(data) // 2 :: 1000]))
        programs[0].write_bytes(data if damage == "flip" else data[: len(data) // 2])
