"""The trained nano model of the package on the GPU, with its drafter, pictures, films and sound, against the CPU in
float32 with the very same weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import vulkan
from rewritten import write_dequantised

import tandem_lm as tl
from tandem_lm import nano_demo

pytest.importorskip("PIL", reason="Pillow is not installed: no pictures to ask about")

from tandem_converter.nano import examine, product

TOLERANCE = 1e-2  # of the largest logit; measured: 1.1e-4
TOKENS = 64
Engines = tuple[tl.Engine, tl.Engine]
pytestmark = pytest.mark.skipif(not nano_demo.nano_is_packaged(), reason="this build has no nano model")


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """CPU in float32, and GPU with the drafter."""
    before = dict(os.environ)
    vulkan.use_swiftshader()
    exact = tmp_path_factory.mktemp("nano") / "f32.litertlm"
    write_dequantised(nano_demo.packaged_bundle(), exact)
    with (
        tl.Engine(exact, graph="portable") as cpu,
        tl.Engine(nano_demo.packaged_bundle(), backend="gpu", drafter="on") as on_gpu,
    ):
        yield cpu, on_gpu
    os.environ.clear()
    os.environ.update(before)


def prompts(kind: str, engine: tl.Engine, count: int) -> list[list[Any]]:
    return [product.parts(engine, item) for item in examine.held_out(kind, count, None)]


def sound_prompts(engine: tl.Engine, count: int) -> list[list[Any]]:
    """Pieces of the recording of the package, which needs nobody who speaks."""
    samples, rate = nano_demo.read_clip(nano_demo.DATA / nano_demo.CLIP)
    before, behind = (engine.tokenizer.encode(text) for text in ("What do you hear? ", " It says"))
    lengths = [len(samples) * (i + 1) // count for i in range(count)]
    return [[*before, tl.Audio(samples[:length], rate), *behind] for length in lengths]


def text(engine: tl.Engine, parts: list[Any], drafter: str) -> list[int]:
    with engine.session() as session:
        session.prefill(parts)
        params = tl.SamplingParams(temperature=0.0, max_tokens=TOKENS, stop_ids=(), drafter=drafter)
        return [token.id for token in session.generate(params)]


def logits(engine: tl.Engine, parts: list[Any], ids: list[int]) -> np.ndarray:
    """After each of `ids`, which follow the prompt."""
    with engine.session() as session:
        session.prefill(parts)
        return session.logits(ids)


@pytest.mark.parametrize("kind", ["arithmetic", "shape_colour", "sound"])
def test_logits(engines: Engines, kind: str) -> None:
    cpu, on_gpu = engines
    parts = sound_prompts(cpu, 1)[0] if kind == "sound" else prompts(kind, cpu, 1)[0]
    ids = cpu.tokenizer.encode("a red circle and 12")
    expected, got = logits(cpu, parts, ids), logits(on_gpu, parts, ids)
    assert np.abs(got - expected).max() < TOLERANCE * np.abs(expected).max()


def test_a_large_image_brings_a_graph_in(engines: Engines) -> None:
    """Between two pieces of text: what the device held before is still there."""
    cpu, on_gpu = engines
    image = tl.Image(np.random.default_rng(1).integers(0, 255, (480, 480, 3), dtype=np.uint8), max_soft_tokens=280)
    ids = cpu.tokenizer.encode("Once upon a time there was a little dog. What do you see?")
    parts: list[Any] = [*ids, image, *ids]
    expected, got = logits(cpu, parts, ids), logits(on_gpu, parts, ids)
    assert len(cpu.embed_image(image)) > 64  # rows of the graph for prompts
    assert np.abs(got - expected).max() < TOLERANCE * np.abs(expected).max()


def test_drafts_are_accepted_and_change_nothing(engines: Engines) -> None:
    _, on_gpu = engines
    parts = prompts("tool", on_gpu, 1)[0]
    before = on_gpu.stats().accepted
    assert text(on_gpu, parts, "on") == text(on_gpu, parts, "off")
    assert on_gpu.stats().accepted - before > TOKENS // 4


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_greedy_text_of_forty_prompts(engines: Engines) -> None:
    """At least 95 % are the same; where one differs, the two tokens had nearly equal logits."""
    cpu, on_gpu = engines
    kinds = {"story": 10, "tool": 8, "arithmetic": 6, "shape_colour": 6, "movement": 3, "scene": 3}
    asked = [parts for kind, count in kinds.items() for parts in prompts(kind, cpu, count)] + sound_prompts(cpu, 4)
    assert len(asked) == 40
    same = 0
    for number, parts in enumerate(asked):
        expected, got = text(cpu, parts, "off"), text(on_gpu, parts, "on" if number % 2 == 0 else "off")
        same += expected == got
        if expected != got:
            at = next(i for i, (a, b) in enumerate(zip(expected, got, strict=True)) if a != b)
            row = logits(cpu, [*parts, *expected[: at - 1]], [expected[at - 1]])[-1] if at else None
            assert row is not None
            assert abs(row[expected[at]] - row[got[at]]) < 1e-2
    assert same >= 38
