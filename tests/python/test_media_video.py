"""Films: sampling, times, decoding one by one, progress and cancellation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media_files import film, noise, picture, scene

import tandem_lm as tl

av = pytest.importorskip("av", reason="PyAV is not installed")


def reds(video: tl.Video) -> list[int]:
    return [int(rgb[..., 0].mean()) for _, rgb in video.frames()]


@pytest.mark.parametrize(
    ("kind", "codec"),
    [("mp4", "mpeg4"), ("matroska", "mpeg4"), ("avi", "mpeg4"), ("mp4", "libx264"), ("webm", "libvpx")],
)
def test_frames_and_times(kind: str, codec: str, tmp_path: Path) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg lacks {codec}")
    path = tmp_path / "film"
    path.write_bytes(film(20, rate=10, kind=kind, codec=codec))
    video = tl.Video(path, num_frames=5)
    assert (video.total_frames, video.frame_rate, len(video)) == (20, 10.0, 5)
    assert video.indices == (0, 4, 8, 12, 16)
    assert video.timestamps == (0.0, 0.4, 0.8, 1.2, 1.6)
    for (seconds, rgb), index in zip(video.frames(), video.indices, strict=True):
        assert seconds == index / 10 and rgb.shape == (48, 64, 3) and rgb.dtype == np.uint8
        assert abs(int(rgb[..., 0].mean()) - 8 * index) < 8 and rgb[..., 1].mean() < 8


def test_sampling() -> None:
    frames = np.zeros((100, 2, 2, 3), np.uint8)
    assert tl.Video(frames, frame_rate=25).indices == tuple(i * 100 // 32 for i in range(32))
    assert tl.Video(frames[:7], frame_rate=25).indices == tuple(range(7))
    assert tl.Video(frames, frame_rate=25, num_frames=3).indices == (0, 33, 66)
    assert tl.Video(frames, frame_rate=25, fps=1).indices == (0, 25, 50, 75)
    assert tl.Video(frames, frame_rate=25, fps=0.001).indices == (0,)
    assert tl.Video(frames, frame_rate=25, fps=60).indices == tuple(range(100))


def test_arrays_and_lists() -> None:
    frames = np.stack([scene(20, 10, shift) for shift in range(6)])
    expected = [(i / 2, frames[i]) for i in range(6)]
    for source in (frames, list(frames), tuple(frames)):
        got = list(tl.Video(source, frame_rate=2).frames())
        assert all(a[0] == b[0] and np.array_equal(a[1], b[1]) for a, b in zip(got, expected, strict=True))
    assert tl.Video(frames, frame_rate=2).audio_track() is None


def test_animated_gif() -> None:
    from PIL import Image

    frames = [Image.new("RGB", (12, 8), (60 * i, 0, 0)) for i in range(4)]
    data = picture(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100)
    assert reds(tl.Video(data)) == [0, 60, 120, 180]


def test_progress_and_cancellation() -> None:
    video = tl.Video(film(30), num_frames=3)
    seen: list[tuple[int, int]] = []
    list(video.frames(lambda done, total: seen.append((done, total))))
    assert seen == [(i + 1, 21) for i in range(21)]  # the last sampled frame is number 20

    class Stop(Exception):
        pass

    def stop(done: int, _total: int) -> None:
        if done == 5:
            raise Stop

    with pytest.raises(Stop):
        list(video.frames(stop))
    frames = video.frames()
    next(frames)
    frames.close()  # half-way: the file is closed, and the film can be read again
    assert len(reds(video)) == 3


def test_only_sampled_frames_are_kept() -> None:
    """A film of many frames costs the memory of one."""
    import tracemalloc

    video = tl.Video(film(120, width=320, height=240), num_frames=60)
    tracemalloc.start()
    count = sum(1 for _ in video.frames())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 60 and peak < 8 * 320 * 240 * 3


def test_content_hash(tmp_path: Path) -> None:
    data = film(12)
    path = tmp_path / "film.mp4"
    path.write_bytes(data)
    assert tl.Video(path).content_hash == tl.Video(data).content_hash
    hashes = {v.content_hash for v in (tl.Video(data), tl.Video(data, num_frames=3), tl.Video(data, audio=True))}
    assert len(hashes) == 3
    frames = np.stack([noise(4, 4, seed) for seed in range(3)])
    assert tl.Video(frames, frame_rate=1).content_hash != tl.Video(frames[::-1], frame_rate=1).content_hash


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (np.zeros((3, 4, 4, 3), np.uint8), {}, "frame_rate="),
        (np.zeros((0, 4, 4, 3), np.uint8), {"frame_rate": 1}, "0 frames"),
        (np.zeros((4, 4, 3), np.uint8), {"frame_rate": 1}, "N, H, W, 3"),
        (np.zeros((3, 4, 4, 3), np.uint8), {"frame_rate": 0}, "frame_rate"),
        (np.zeros((3, 4, 4, 3), np.uint8), {"frame_rate": 1, "num_frames": 4}, "has 3 frames"),
        (np.zeros((3, 4, 4, 3), np.uint8), {"frame_rate": 1, "num_frames": 0}, "num_frames"),
        (np.zeros((3, 4, 4, 3), np.uint8), {"frame_rate": 1, "fps": 0}, "fps"),
        (np.zeros((3, 4, 4, 3), np.uint8), {"frame_rate": 1, "fps": 1, "num_frames": 1}, "one of them"),
        (np.broadcast_to(np.uint8(0), (5000, 4, 4, 3)), {"frame_rate": 25, "fps": 25}, "at most 4096"),
        (7, {}, "got int"),
    ],
)
def test_bad_requests(source: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(tl.InvalidRequestError, match=message):
        tl.Video(source, **options)


def test_five_thousand_frames_are_sampled() -> None:
    frames = np.broadcast_to(np.uint8(9), (5000, 4, 4, 3))
    video = tl.Video(frames, frame_rate=25)
    assert len(video) == 32 and video.timestamps[-1] == 4843 / 25
    assert len(reds(video)) == 32
