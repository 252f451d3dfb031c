"""Images and sound through the C ABI: the same tokens and embeddings as from Python, and an error for every misuse."""

from __future__ import annotations

import ctypes as c
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import capi
import numpy as np
import pytest
from capi import BAD_HANDLE, BUSY, INVALID, OK, SMALL, audio_of, engine, image_of, lib, made, pixels, python, samples

import tandem_lm as tl

pytestmark = pytest.mark.timeout(1200)  # the first one builds the library
AFTER = [21, 22, 23]


@pytest.fixture
def session(lib: c.CDLL, engine: Any) -> Iterator[Any]:
    handle = capi.new_session(engine, [2])
    yield handle
    capi.check(lib.tandem_session_close(handle))


def logits(session: Any, ids: list[int], vocab: int) -> np.ndarray:
    out = np.zeros((len(ids), vocab), np.float32)
    pointer = out.ctypes.data_as(c.POINTER(c.c_float))
    capi.check(capi.library().tandem_session_logits(session, capi.ids_of(ids), len(ids), pointer, out.size))
    return out


def test_prompts_equal_the_python_api(lib: c.CDLL, python: tl.Engine, session: Any) -> None:
    array, wave, rows = pixels(), samples(0.3, 44100, 2), c.c_int64()
    capi.check(lib.tandem_session_prefill_image(session, c.byref(image_of(array)), c.byref(rows)))
    assert rows.value == len(python.embed_image(array, 70)) and capi.position(session) == rows.value + 3
    capi.check(lib.tandem_session_prefill_audio(session, c.byref(audio_of(wave, 44100)), c.byref(rows)))
    assert rows.value == 8
    with python.session() as other:
        for part in (2, tl.Image(array, max_soft_tokens=70), tl.Audio(wave, 44100)):
            other.prefill([part])
        assert capi.position(session) == other.position
        expected = other.logits(AFTER)
    np.testing.assert_array_equal(logits(session, AFTER, python.info.vocab_size), expected)
    tokens, _ = capi.generate(session, max_tokens=4, stop_ids=capi.ids_of([]))
    assert len(tokens) == 4


def test_frames_of_a_video(lib: c.CDLL, python: tl.Engine, session: Any) -> None:
    array = pixels(5)
    capi.check(
        lib.tandem_session_prefill_image(session, c.byref(image_of(array, max_soft_tokens=0, video_frame=1)), None)
    )
    media, soft = python.info.media["image"], python._soft_image(array, video=True)
    with python.session() as other:
        other.prefill([2])
        other.prefill([media["begin"], soft, media["end"]])
        np.testing.assert_array_equal(logits(session, AFTER, python.info.vocab_size), other.logits(AFTER))


def test_rows_that_are_apart(lib: c.CDLL, engine: Any, python: tl.Engine) -> None:
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, :24] = pixels(1)
    expected = python.embed_image(pixels(1), 70)
    out, rows = np.zeros_like(expected), c.c_int64()
    image = image_of(wide, width=24, row_stride=120)
    pointer = out.ctypes.data_as(c.POINTER(c.c_float))
    capi.check(lib.tandem_embed_image(engine, c.byref(image), pointer, out.size, c.byref(rows)))
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (8000, 1), (48000, 8), (192000, 3)])
def test_embeddings_of_sound(lib: c.CDLL, engine: Any, python: tl.Engine, rate: int, channels: int) -> None:
    wave = samples(0.2, rate, channels)
    expected = python.embed_audio(tl.Audio(wave, rate))
    out, rows, audio = np.zeros_like(expected), c.c_int64(), audio_of(wave, rate)
    pointer = out.ctypes.data_as(c.POINTER(c.c_float))
    capi.check(lib.tandem_embed_audio(engine, c.byref(audio), None, 0, c.byref(rows)))
    assert rows.value == len(expected)
    assert lib.tandem_embed_audio(engine, c.byref(audio), pointer, out.size - 1, None) == SMALL and not out.any()
    capi.check(lib.tandem_embed_audio(engine, c.byref(audio), pointer, out.size, None))
    np.testing.assert_array_equal(out, expected)


def test_the_engine_remembers(lib: c.CDLL, engine: Any) -> None:
    def counted() -> tuple[int, int]:
        stats = made(capi.Stats)
        capi.check(lib.tandem_engine_get_stats(engine, c.byref(stats)))
        return stats.media_embedded, stats.media_reused

    before, array = counted(), pixels(77)
    for _ in range(2):
        session = capi.new_session(engine, [2])
        capi.check(lib.tandem_session_prefill_image(session, c.byref(image_of(array)), None))
        capi.check(lib.tandem_session_close(session))
    assert np.subtract(counted(), before).tolist() == [1, 1]


def test_a_rewind_never_cuts_an_image(lib: c.CDLL, session: Any) -> None:
    capi.check(lib.tandem_session_prefill_image(session, c.byref(image_of(pixels())), None))
    end = capi.position(session)
    assert lib.tandem_session_rewind(session, 10) == INVALID and "inside an image" in capi.error()
    assert capi.position(session) == end
    capi.check(lib.tandem_session_rewind(session, 1))


@pytest.mark.parametrize(
    "values",
    [
        {"size": 0},
        {"rgb": None},
        {"width": 0},
        {"height": -1},
        {"width": 2**62},
        {"width": 60000, "height": 60000},
        {"row_stride": 71},
        {"row_stride": -72},
        {"row_stride": 2**62},
        {"max_soft_tokens": 71},
        {"max_soft_tokens": -1},
    ],
)
def test_bad_images(lib: c.CDLL, engine: Any, session: Any, values: dict[str, Any]) -> None:
    image, rows = image_of(pixels(), **values), c.c_int64()
    assert lib.tandem_session_prefill_image(session, c.byref(image), None) == INVALID and capi.error()
    assert lib.tandem_embed_image(engine, c.byref(image), None, 0, c.byref(rows)) == INVALID
    assert capi.position(session) == 1


@pytest.mark.parametrize(
    "values",
    [
        {"size": 0},
        {"samples": None},
        {"frames": 0},
        {"frames": -1},
        {"frames": 2**62},
        {"channels": 0},
        {"channels": 9},
        {"sample_rate": 7999},
        {"sample_rate": 2**31 - 1},
    ],
)
def test_bad_sound(lib: c.CDLL, engine: Any, session: Any, values: dict[str, Any]) -> None:
    audio, rows = audio_of(samples(0.1, 16000, 1), 16000, **values), c.c_int64()
    assert lib.tandem_session_prefill_audio(session, c.byref(audio), None) == INVALID and capi.error()
    assert lib.tandem_embed_audio(engine, c.byref(audio), None, 0, c.byref(rows)) == INVALID
    assert capi.position(session) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_samples_that_are_not_finite(lib: c.CDLL, session: Any, bad: float) -> None:
    wave = samples(0.1, 44100, 2)
    wave[1000, 1] = bad
    assert lib.tandem_session_prefill_audio(session, c.byref(audio_of(wave, 44100)), None) == INVALID
    assert "sample 1000 is not a finite number" in capi.error()


def test_missing_structs_and_buffers(lib: c.CDLL, engine: Any, session: Any) -> None:
    rows = c.c_int64()
    for kind, media in (("image", image_of(pixels())), ("audio", audio_of(samples(0.1, 16000, 1), 16000))):
        assert getattr(lib, f"tandem_session_prefill_{kind}")(session, None, None) == INVALID
        embed = getattr(lib, f"tandem_embed_{kind}")
        assert embed(engine, None, None, 0, c.byref(rows)) == INVALID
        assert embed(engine, c.byref(media), None, 5, c.byref(rows)) == INVALID
        assert embed(engine, c.byref(media), None, 0, None) == INVALID
        assert embed(None, c.byref(media), None, 0, c.byref(rows)) == BAD_HANDLE


def test_more_than_the_context(lib: c.CDLL, tiny_gemma4: Path) -> None:
    engine = capi.open_engine(tiny_gemma4, max_context=60)
    session, stats = capi.new_session(engine, [2]), made(capi.Stats)
    long = samples(3, 16000, 1)
    assert lib.tandem_session_prefill_audio(session, c.byref(audio_of(long, 16000)), None) == capi.CONTEXT
    assert "75 tokens but 59 are left" in capi.error()
    capi.check(lib.tandem_engine_get_stats(engine, c.byref(stats)))
    assert stats.media_embedded == 0  # refused before it was computed
    assert lib.tandem_session_prefill_image(session, c.byref(image_of(pixels())), None) == capi.CONTEXT
    assert capi.position(session) == 1
    assert lib.tandem_session_close(session) == OK and lib.tandem_engine_close(engine) == OK


def test_cancel_while_sound_is_read(lib: c.CDLL, tiny_gemma4: Path) -> None:
    """That takes a while for other rates; the session is not cancelled by the time it is asked to append anything."""
    engine = capi.open_engine(tiny_gemma4, max_context=2000)
    session, audio = capi.new_session(engine, [2]), audio_of(samples(40, 192000, 2), 192000)
    statuses: list[int] = []
    thread = threading.Thread(
        target=lambda: statuses.append(lib.tandem_session_prefill_audio(session, c.byref(audio), None))
    )
    thread.start()
    position = c.c_int64()
    while lib.tandem_session_get_position(session, c.byref(position)) != BUSY and thread.is_alive():
        pass
    capi.check(lib.tandem_session_cancel(session))
    thread.join()
    assert statuses == [capi.CANCELLED] and capi.position(session) == 1
    capi.check(lib.tandem_session_prefill_image(session, c.byref(image_of(pixels())), None))  # the next call is not
    assert lib.tandem_session_close(session) == OK and lib.tandem_engine_close(engine) == OK


def test_a_model_without_eyes(lib: c.CDLL, engine: Any, tiny_gemma3: Path) -> None:
    def info(handle: Any) -> tuple[int, int]:
        found = made(capi.EngineInfo)
        capi.check(lib.tandem_engine_get_info(handle, c.byref(found)))
        return found.takes_images, found.takes_audio

    text = capi.open_engine(tiny_gemma3)
    session = capi.new_session(text, [2])
    assert (info(engine), info(text)) == ((1, 1), (0, 0))
    assert lib.tandem_session_prefill_image(session, c.byref(image_of(pixels())), None) == INVALID
    assert "takes no images" in capi.error()
    audio = audio_of(samples(0.1, 16000, 1), 16000)
    assert lib.tandem_session_prefill_audio(session, c.byref(audio), None) == INVALID
    assert "takes no sound" in capi.error()
    assert lib.tandem_session_close(session) == OK and lib.tandem_engine_close(text) == OK
