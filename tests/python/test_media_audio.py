"""Recordings: files, arrays, rates and channels to mono 16 kHz, and frames."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from media_files import film, recording, reference_class, tone

import tandem_lm as tl
from tandem_lm import _native


def level(signal: npt.NDArray[Any]) -> float:
    return float(10 * np.log10(2 * np.mean(np.square(signal, dtype=np.float64)) + 1e-20))


@pytest.mark.parametrize("samples", [1, 639, 640, 641, 16000, 480000])
def test_frames(samples: int) -> None:
    wave = np.random.default_rng(samples).uniform(-1, 1, samples).astype(np.float32)
    audio = tl.Audio(wave, 16000)
    assert np.array_equal(audio.pcm(), wave)  # as it is: no gain, no filter
    frames = _native.frame_audio(audio.pcm())
    count = -(-samples // 640)
    assert frames.shape == (count, 640)
    assert np.array_equal(frames.reshape(-1), np.pad(wave, (0, count * 640 - samples)))


def test_frames_are_the_extractors() -> None:
    extract = reference_class("feature_extraction", "AudioFeatureExtractor")()
    for samples in (1, 639, 640, 641, 16000):
        wave = np.random.default_rng(samples).uniform(-1, 1, samples).astype(np.float32)
        expected = extract(wave, sampling_rate=16000, return_tensors="np")
        assert np.array_equal(_native.frame_audio(wave), np.asarray(expected["input_features"])[0])


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000, 192000])
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_rates_and_channels(rate: int, channels: int) -> None:
    audio = tl.Audio(tone(1, rate, channels), rate)
    assert len(audio.pcm()) == 16000 and audio.seconds == 1
    expected = tone(1, 16000, channels).mean(axis=1)
    assert level(audio.pcm()[500:-500] - expected[500:-500]) < -90


def test_as_good_as_soxr() -> None:
    """A sweep through the pass band, beside the converter that the reference uses. Both filters are flat there."""
    soxr = pytest.importorskip("soxr", reason="soxr is not installed")
    for rate in (8000, 22050, 44100, 48000):
        t = np.arange(2 * rate) / rate
        wave = (0.5 * np.sin(2 * np.pi * (50 + 0.11 * min(rate, 16000) * t) * t)).astype(np.float32)
        expected = soxr.resample(wave, rate, 16000, quality="HQ")
        ours = tl.Audio(wave, rate).pcm()
        assert abs(len(ours) - len(expected)) <= 1
        assert level(ours[800:-800] - expected[800 : len(ours) - 800]) < -80


@pytest.mark.parametrize(
    ("kind", "subtype"), [("WAV", "FLOAT"), ("WAV", "PCM_16"), ("FLAC", "PCM_24"), ("WAV", "PCM_U8")]
)
def test_lossless_files(kind: str, subtype: str, tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed")
    wave = tone(0.3, 16000, 2)
    data = recording(wave, 16000, kind, subtype)
    path = tmp_path / f"recording.{kind.lower()}"
    path.write_bytes(data)
    expected = soundfile.read(path, dtype="float32")[0].mean(axis=1)
    url = "data:audio/wav;base64," + base64.b64encode(data).decode()
    for source in (path, str(path), data, url):
        assert np.array_equal(tl.Audio(source).pcm(), expected)


@pytest.mark.parametrize(("kind", "subtype"), [("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")])
def test_lossy_files(kind: str, subtype: str) -> None:
    pytest.importorskip("soundfile", reason="soundfile is not installed")
    audio = tl.Audio(recording(tone(1, 44100), 44100, kind, subtype))
    assert abs(audio.seconds - 1) < 0.1
    assert -9 < level(audio.pcm()) < -4  # a tone of half of full scale


@pytest.mark.parametrize(("kind", "codec"), [("mp4", "aac"), ("matroska", "aac"), ("mov", "pcm_s16le")])
def test_sound_of_films(kind: str, codec: str) -> None:
    pytest.importorskip("av", reason="PyAV is not installed")
    data = film(25, kind=kind, sound=codec)
    audio = tl.Audio(data)
    assert abs(audio.seconds - 1) < 0.1
    assert level(audio.pcm()[4000:12000] - 0) == pytest.approx(-6, abs=1)
    track = tl.Video(data).audio_track()
    assert track is not None and track.content_hash == audio.content_hash
    assert tl.Video(film(3)).audio_track() is None


def test_ffmpeg_reads_what_libsndfile_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without soundfile the same files are decoded, to the same samples."""
    pytest.importorskip("av", reason="PyAV is not installed")
    pytest.importorskip("soundfile", reason="soundfile is not installed")
    files = [recording(tone(0.5, 44100, 2), 44100, kind, "PCM_16") for kind in ("WAV", "FLAC")]
    expected = [tl.Audio(data).pcm() for data in files]
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    for data, pcm in zip(files, expected, strict=True):
        assert np.array_equal(tl.Audio(data).pcm(), pcm)


@pytest.mark.parametrize("dtype", ["int16", "int32", "float32", "float64", "float16"])
def test_arrays(dtype: str) -> None:
    scale = {"int16": 2**15, "int32": 2**31}.get(dtype, 1)
    wave = np.array([0, 0.25, -0.5, -1.0] * 10)
    audio = tl.Audio((wave * scale).astype(dtype), 16000)
    assert np.array_equal(audio.pcm(), wave.astype(np.float32)) and not audio.pcm().flags.writeable


def test_content_hash() -> None:
    wave = tone(0.1, 16000)
    assert tl.Audio(wave, 16000).content_hash == tl.Audio(wave[:, 0].copy(), 16000).content_hash
    assert tl.Audio(wave, 16000).content_hash != tl.Audio(wave, 8000).content_hash


@pytest.mark.parametrize(
    ("array", "rate", "message"),
    [
        (np.zeros(0, np.float32), 16000, "0 samples"),
        (np.zeros((0, 2), np.float32), 44100, "0 samples"),
        (np.array([0, np.nan], np.float32), 16000, "sample 1 is not a finite"),
        (np.array([[0, 0], [0, np.inf]]), 44100, "sample 1 is not a finite"),
        (np.array([1e300]), 16000, "sample 0 is not a finite"),
        (np.zeros(9, np.float32), None, "sample_rate="),
        (np.zeros(9, np.float32), 7999, "sample_rate"),
        (np.zeros(9, np.float32), 192001, "sample_rate"),
        (np.zeros(9, np.float32), 44100.0, "sample_rate"),
        (np.zeros((2, 9), np.float32), 16000, "transpose or mix"),
        (np.zeros((1, 2, 3), np.float32), 16000, "audio array"),
        (np.zeros(9, np.uint8), 16000, "audio array"),
        (np.zeros(9, np.complex64), 16000, "audio array"),
        ([0.0, 0.0], 16000, "got list"),
    ],
)
def test_bad_arrays(array: Any, rate: Any, message: str) -> None:
    with pytest.raises(tl.InvalidRequestError, match=message):
        tl.Audio(array, rate)
