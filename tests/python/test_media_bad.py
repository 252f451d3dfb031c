"""Bad media: one clean error each, in bounded memory, whatever the file holds."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media_files import film, noise, picture, recording, scene, tone

import tandem_lm as tl

pytest.importorskip("PIL", reason="Pillow is not installed")
pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("soundfile", reason="soundfile is not installed")

LOADERS: dict[str, Callable[[Any], Any]] = {
    "image": lambda source: tl.Image(source).rgb(),
    "audio": lambda source: tl.Audio(source).pcm(),
    "video": lambda source: list(tl.Video(source).frames()),
}


def png(width: int, height: int, rows: bytes) -> bytes:
    """A PNG of grey bytes whose header says width x height, whatever `rows` hold."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def wav(channels: int, rate: int, bits: int, data: bytes, claimed: int | None = None) -> bytes:
    block = channels * bits // 8
    size = len(data) if claimed is None else claimed
    head = struct.pack("<HHIIHH", 1, channels, rate, (rate * block) & 0xFFFFFFFF, block & 0xFFFF, bits)
    return (
        b"RIFF"
        + struct.pack("<I", (36 + size) & 0xFFFFFFFF)
        + b"WAVEfmt \x10\0\0\0"
        + head
        + b"data"
        + (struct.pack("<I", size) + data)
    )


def refusal(kind: str, source: Any) -> str:
    with pytest.raises(tl.InvalidRequestError) as caught:
        LOADERS[kind](source)
    message = str(caught.value)
    assert message.startswith(kind) and "\n" not in message and len(message) < 500
    return message


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_truncated_pictures(kind: str) -> None:
    data = picture(noise(64, 64), kind)
    for part in (0.1, 0.5, 0.8):
        refusal("image", data[: int(part * len(data))])


def test_truncated_recordings_and_films() -> None:
    flac = recording(tone(1, 16000) + np.random.default_rng(0).normal(0, 0.1, (16000, 1)), 16000, "FLAC")
    for part in (0.0005, 0.5, 0.9):
        refusal("audio", flac[: int(part * len(flac))])
    data = film(40, sound="aac")  # its index is at the end
    for part in (0.001, 0.5, 0.95):
        refusal("video", data[: int(part * len(data))])
        refusal("audio", data[: int(part * len(data))])


def test_a_film_that_ends_early() -> None:
    """The header of an AVI names 40 frames, but the last of them are not there."""
    data = film(40, kind="avi")
    assert len(LOADERS["video"](data)) == 32
    assert "of the 40 frames" in refusal("video", data[: int(0.6 * len(data))])


@pytest.mark.parametrize("name", ["picture.png", "recording.wav", "film.mp4"])
def test_wrong_contents(name: str, tmp_path: Path) -> None:
    kind = {"png": "image", "wav": "audio", "mp4": "video"}[name[-3:]]
    for content in (b"This is plain text, no medium at all.\n" * 50, os.urandom(5000), b"\0" * 5000, b"#!/bin/sh\n"):
        path = tmp_path / name
        path.write_bytes(content)
        assert str(path) in refusal(kind, path)


def test_one_kind_for_another() -> None:
    still, sound, moving = picture(noise(9, 9), "PNG"), recording(tone(0.1, 8000), 8000), film(5)
    refusal("image", sound)
    refusal("image", moving)
    refusal("audio", still)
    assert "no sound" in refusal("audio", moving)
    refusal("video", still)
    assert "no picture" in refusal("video", sound)


def test_empty_sources(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    for kind in LOADERS:
        refusal(kind, empty)
        assert "0 bytes" in refusal(kind, b"")
        assert "0 bytes" in refusal(kind, "data:;base64,")


def test_unreadable_paths(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for kind, load in LOADERS.items():
        for path in (tmp_path / "absent", tmp_path, fifo, "/dev/zero", "nul\0name", tmp_path / ("x" * 300)):
            with pytest.raises(tl.FileError, match=f"cannot read {kind}"):
                load(path)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("data:image/png;base64", "comma"),
        ("data:image/png;base64,@@@@", "base64"),
        ("data:image/png;base64,abc", "base64"),
        ("data:,plain%20text", "decoded"),
        ("https://example.com/x.png", "download it first"),
        ("file:///tmp/x.png", "download it first"),
    ],
)
def test_bad_urls(url: str, message: str) -> None:
    for kind in LOADERS:
        assert message in refusal(kind, url)


def test_bombs_are_refused_by_their_header() -> None:
    for width, height in ((60_000, 60_000), (2**31 - 1, 2**31 - 1), (65_537, 1), (12_000, 12_000)):
        assert "make it smaller" in refusal("image", png(width, height, b"\0" * 1000))
    refusal("image", png(0, 5, b""))
    refusal("image", png(5000, 5000, b"\0" * 1000))  # within the limit, but the rows are not there


def test_five_thousand_frames_in_a_file() -> None:
    video = tl.Video(film(5000, width=16, height=16))
    assert video.total_frames == 5000 and len(list(video.frames())) == 32
    with pytest.raises(tl.InvalidRequestError, match="at most 4096"):
        tl.Video(film(5000, width=16, height=16), fps=25)


# Loads what it is told to in a process of its own, and prints what that added to the peak of its memory.
PEAK = """
import resource, sys
import numpy as np
import tandem_lm as tl
kind, path, warm = sys.argv[1:]
load = {"image": lambda p: tl.Image(p).rgb(), "audio": lambda p: tl.Audio(p).pcm(),
        "video": lambda p: list(tl.Video(p).frames())}[kind]
load(warm)
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
before = peak()
try:
    load(path)
    print("loaded", peak() - before)
except tl.TandemError as error:
    print(type(error).__name__, peak() - before)
"""


@pytest.mark.parametrize("name", ["header", "rows", "gif", "tiff", "sound", "film"])
def test_bombs_take_little_memory(name: str, tmp_path: Path) -> None:
    """Small files that say, or become, hundreds of megabytes."""
    long = np.zeros((16000 * 60 * 30, 1), np.int16)  # half an hour of silence: 110 MB as float
    kind, data, warm, most = {
        "header": ("image", png(60_000, 60_000, b"\0" * 1000), png(2, 2, b"\0" * 6), 8 << 20),
        "rows": ("image", png(50, 50, b"\0" * (300 << 20)), png(2, 2, b"\0" * 6), 16 << 20),
        "gif": ("image", gif(65_000, 65_000), picture(noise(4, 4), "GIF"), 8 << 20),
        "tiff": ("image", tiff(200_000, 200_000), picture(noise(4, 4), "TIFF"), 8 << 20),
        "sound": ("audio", recording(long, 16000, "FLAC"), recording(long[:800], 16000, "FLAC"), 320 << 20),
        "film": ("video", film(400, width=64, height=64), film(3), 64 << 20),
    }[name]
    assert len(data) < 1 << 20
    (tmp_path / "bomb").write_bytes(data)
    (tmp_path / "small").write_bytes(warm)
    command = [sys.executable, "-c", PEAK, kind, str(tmp_path / "bomb"), str(tmp_path / "small")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-1000:]
    result, added = done.stdout.split()
    assert result == {"sound": "loaded", "film": "loaded", "rows": "loaded"}.get(name, "InvalidRequestError")
    assert int(added) < most


def gif(width: int, height: int) -> bytes:
    """A GIF whose screen says width x height, with a picture of one pixel."""
    data = picture(noise(1, 1), "GIF")
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


def tiff(width: int, height: int) -> bytes:
    """A TIFF that says width x height and holds nothing."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1),
            (278, 4, height), (279, 4, 0xFFFFFFF0)]  # fmt: skip
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + body + bytes(4)


def test_lying_recordings() -> None:
    data = b"\1\2" * 800
    assert len(tl.Audio(wav(1, 16000, 16, data, claimed=0x7FFFFFFF)).pcm()) == 800  # what is there is heard
    assert "0 samples" in refusal("audio", wav(1, 16000, 16, b""))
    assert "channels" in refusal("audio", wav(9, 16000, 16, data[:1440]))
    assert "Hz" in refusal("audio", wav(1, 4000, 16, data))
    assert "Hz" in refusal("audio", wav(1, 2_000_000_000, 16, data))
    for channels, rate, bits in ((0, 16000, 16), (1, 0, 16), (65535, 16000, 16), (1, 16000, 0)):
        refusal("audio", wav(channels, rate, bits, data))


def test_samples_that_are_not_finite() -> None:
    samples = tone(0.1, 44100, 2)
    samples[1234, 1] = np.nan
    assert "sample 1234 is not a finite number" in refusal("audio", recording(samples, 44100, "WAV", "FLOAT"))


def test_unsupported_codecs() -> None:
    data = film(10, kind="matroska", sound="aac")
    for kind, codec in (("video", b"V_MPEG4/ISO/ASP"), ("audio", b"A_AAC")):
        assert codec in data
        assert "codec is not supported" in refusal(kind, data.replace(codec, codec[:-1] + b"?"))


def test_playlists_open_no_other_files(tmp_path: Path) -> None:
    (tmp_path / "film.ts").write_bytes(film(10, kind="mpegts", codec="mpeg2video"))
    playlist = tmp_path / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfilm.ts\n#EXT-X-ENDLIST\n")
    concat = tmp_path / "list.ffconcat"
    concat.write_text(f"ffconcat version 1.0\nfile '{tmp_path}/film.ts'\n")
    assert tl.Video(tmp_path / "film.ts").total_frames == 10
    for path in (playlist, concat):
        refusal("video", path)


@pytest.mark.parametrize(("package", "kind"), [("PIL", "image"), ("av", "video"), ("av", "audio")])
def test_absent_packages(package: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*sys.modules]:
        if name.partition(".")[0] in (package, "soundfile"):
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(tl.InvalidRequestError, match=r"pip install 'tandem-lm\[media\]'"):
        LOADERS[kind](b"anything")


def test_import_is_lazy() -> None:
    code = "import sys, tandem_lm; print([n for n in ('PIL', 'av', 'soundfile', 'soxr') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Runs in a process of its own, so that a crash is seen as one, with an upper limit on its memory.
MUTATE = """
import json, random, resource, sys
import tandem_lm as tl
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
folder, count = sys.argv[1], int(sys.argv[2])
seeds = json.load(open(folder + "/seeds.json"))
load = {"image": lambda d: tl.Image(d).rgb(), "audio": lambda d: tl.Audio(d).pcm(),
        "video": lambda d: [tl.Video(d).audio_track(), *tl.Video(d).frames()]}
results = {}
for number in range(count):
    rng = random.Random(number)
    kind, name = seeds[number % len(seeds)]
    data = bytearray(open(folder + "/" + name, "rb").read())
    for _ in range(rng.choice((1, 3, 10))):
        at = rng.randrange(min(len(data), 600) if rng.random() < 0.6 else len(data))
        how = rng.randrange(5)
        if how == 0: data[at] ^= 1 << rng.randrange(8)
        elif how == 1: data[at:at + 4] = bytes([255, 255, 255, rng.randrange(256)])
        elif how == 2: del data[at:at + rng.randrange(1, 64)]
        elif how == 3: data[at:at] = data[at:at + rng.randrange(1, 64)]
        else: data[at:at + 4] = bytes(4)
        if len(data) < 16: break
    print(number, kind, name, file=sys.stderr, flush=True)
    try:
        load[kind](bytes(data))
        result = "loaded"
    except tl.TandemError as error:
        result = type(error).__name__
    results[result] = results.get(result, 0) + 1
print(json.dumps(results))
"""


def mutate(folder: Path, count: int) -> dict[str, int]:
    rgb, wave = scene(48, 40), tone(0.2, 22050, 2)
    files = {
        ("image", "jpeg"): picture(rgb, "JPEG"),
        ("image", "png"): picture(rgb, "PNG"),
        ("image", "webp"): picture(rgb, "WEBP"),
        ("image", "gif"): picture(rgb, "GIF"),
        ("image", "tiff"): picture(rgb, "TIFF", compression="tiff_lzw"),
        ("image", "bmp"): picture(rgb, "BMP"),
        ("audio", "wav"): recording(wave, 22050, "WAV", "FLOAT"),
        ("audio", "flac"): recording(wave, 22050, "FLAC"),
        ("audio", "ogg"): recording(wave, 22050, "OGG"),
        ("audio", "mp3"): recording(wave, 22050, "MP3"),
        ("audio", "m4a"): film(6, sound="aac"),
        ("video", "mp4"): film(12, sound="aac"),
        ("video", "mkv"): film(12, kind="matroska"),
        ("video", "avi"): film(12, kind="avi"),
    }
    for (_, name), data in files.items():
        (folder / name).write_bytes(data)
    (folder / "seeds.json").write_text(json.dumps(list(files)))
    done = subprocess.run(
        [sys.executable, "-c", MUTATE, str(folder), str(count)],
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-1000:]
    results: dict[str, int] = json.loads(done.stdout)
    return results


def test_mutated_files(tmp_path: Path) -> None:
    results = mutate(tmp_path, 300)
    assert set(results) <= {"loaded", "InvalidRequestError"} and results["InvalidRequestError"] > 30


@pytest.mark.slow
def test_many_mutated_files(tmp_path: Path) -> None:
    results = mutate(tmp_path, 1000)
    assert set(results) <= {"loaded", "InvalidRequestError"} and results["InvalidRequestError"] > 100
