"""Small generated media: pictures, recordings and films, as bytes. And the reference that preprocesses them."""

from __future__ import annotations

import importlib
import importlib.util
import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest


def noise(width: int, height: int, seed: int = 7) -> npt.NDArray[np.uint8]:
    """[H, W, 3], the top bytes of a linear congruential generator: the same on every machine."""
    count = 3 * width * height
    state, values = seed, np.empty(count, np.uint8)
    for i in range(count):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        values[i] = state >> 24
    return values.reshape(height, width, 3)


def scene(width: int, height: int, shift: int = 0) -> npt.NDArray[np.uint8]:
    """[H, W, 3], smooth, so that lossy codecs keep it about."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([(x + 8 * shift) % 256, (y + x) % 256, np.full_like(x, 16 * shift % 256)], -1).astype(np.uint8)


def picture(image: Any, kind: str, **options: Any) -> bytes:
    """A PIL image or array as a file of format `kind`."""
    from PIL import Image

    out = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(out, kind, **options)
    return out.getvalue()


def tone(seconds: float, rate: int, channels: int = 1) -> npt.NDArray[np.float32]:
    """[samples, channels]: 440 Hz, quieter from channel to channel."""
    t = np.arange(round(seconds * rate)) / rate
    return np.stack([np.sin(2 * np.pi * 440 * t) / (2 + c) for c in range(channels)], 1).astype(np.float32)


def recording(samples: npt.NDArray[Any], rate: int, kind: str = "WAV", subtype: str | None = None) -> bytes:
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=kind, subtype=subtype)
    return out.getvalue()


def film(
    frames: int,
    width: int = 64,
    height: int = 48,
    rate: int = 25,
    kind: str = "mp4",
    codec: str = "mpeg4",
    sound: str | None = None,
) -> bytes:
    """Frame i is one colour with red 8 * i % 256; `sound` is an audio codec for a tone as long as the film."""
    import av

    out = io.BytesIO()
    with av.open(out, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = 4_000_000
        track = container.add_stream(sound, rate=44100, layout="mono") if sound else None
        for i in range(frames):
            pixels = np.zeros((height, width, 3), np.uint8)
            pixels[..., 0] = 8 * i % 256
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
        if track is not None:
            samples = tone(frames / rate, 44100).T
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout="mono")
            frame.sample_rate = 44100
            fifo = av.AudioFifo()
            fifo.write(frame)
            while (part := fifo.read(track.codec_context.frame_size or 1024, partial=True)) is not None:
                container.mux(track.encode(part))
            container.mux(track.encode())
    return out.getvalue()


def reference_class(module: str, name: str) -> Any:
    """Class Gemma4Unified<name> of transformers, or a skip. Of torchvision, only Python is used: its build for another
    torch than ours lacks two operators that nothing here calls."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _libraries.append(library)
    try:
        found = importlib.import_module(f"transformers.models.gemma4_unified.{module}_gemma4_unified")
    except ImportError as error:
        pytest.skip(f"transformers without this model: {error}")
    return getattr(found, f"Gemma4Unified{name}")


_libraries: list[Any] = []  # an operator lives as long as its library
