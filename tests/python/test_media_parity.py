"""From a file to embeddings, at the real patch size: pictures of every shape and mode, and recordings of every rate and
number of channels, against the numpy reference and against transformers' own processor and model."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import reference
from checkpoints import write_gemma4
from media_files import picture, recording, reference_class, scene
from test_graph import load

import tandem_lm as tl
from tandem_converter.convert import convert
from tandem_lm import _native

PIL = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

TOLERANCE = 1e-3  # of the largest value of the reference
BUDGET = 70


@dataclass
class Model:
    checkpoint: Path
    engine: tl.Engine
    weights: dict[str, npt.NDArray[np.float32]]

    @cached_property
    def oracle(self) -> Any:
        """transformers' model of the same weights."""
        torch = pytest.importorskip("torch", reason="transformers parity needs torch")
        transformers = pytest.importorskip("transformers", reason="transformers parity needs transformers")
        loader = getattr(transformers, "Gemma4UnifiedForConditionalGeneration", None)
        if loader is None:
            pytest.skip("this transformers has no Gemma 4 Unified")
        return loader.from_pretrained(self.checkpoint, dtype=torch.float32).eval().model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    folder = tmp_path_factory.mktemp("parity")
    checkpoint = write_gemma4(folder / "checkpoint", patch_size=16, positions=1120)
    convert(checkpoint, folder / "m.litertlm", quant="f32", context=64)
    weights, _ = load(checkpoint)
    with tl.Engine(folder / "m.litertlm") as engine:
        yield Model(checkpoint, engine, {**weights, **reference.module_names(weights)})


def deviation(got: npt.NDArray[Any], want: npt.NDArray[Any]) -> float:
    assert got.shape == want.shape
    return float(np.abs(got - want).max() / np.abs(want).max())


# ----------------------------------------------------------------------------------------------------------- pictures
def noise(height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def rotated_by_exif() -> bytes:
    exif = PIL.Exif()
    exif[0x0112] = 6
    return picture(scene(60, 90), "JPEG", quality=95, exif=exif)


def with_alpha(mode: str) -> Any:
    image = PIL.fromarray(scene(90, 60)).convert(mode)
    image.putalpha(PIL.fromarray(scene(90, 60)[..., 1]))
    return image


SIZES = [(1, 1), (3, 900), (900, 3), (224, 224), (1080, 1920), (2000, 2000)]  # height, width
FILES: dict[str, Any] = {
    **{f"{height}x{width}": lambda h=height, w=width: picture(noise(h, w), "PNG") for height, width in SIZES},
    "JPEG": lambda: picture(scene(97, 61), "JPEG"),
    "RGBA": lambda: picture(with_alpha("RGBA"), "PNG"),
    "grey with alpha": lambda: picture(with_alpha("LA"), "PNG"),
    "grey": lambda: picture(scene(50, 40)[..., 0], "PNG"),
    "16 bits": lambda: picture(PIL.fromarray((np.arange(6000, dtype=np.uint16) * 10).reshape(60, 100)), "PNG"),
    "CMYK": lambda: picture(PIL.fromarray(scene(64, 80)).convert("CMYK"), "JPEG"),
    "palette": lambda: picture(PIL.fromarray(scene(64, 80)).quantize(32), "PNG"),
    "transparent palette": lambda: picture(PIL.fromarray(scene(64, 80)).quantize(8), "PNG", transparency=0),
    "EXIF": rotated_by_exif,
}


def as_a_user_would(data: bytes) -> Any:
    """The PIL image that is handed to transformers' processor: upright; 16 bits cut to the upper 8, where Pillow's own
    conversion clips them to white."""
    from PIL import ImageOps

    image = ImageOps.exif_transpose(PIL.open(io.BytesIO(data)))
    if image.mode.startswith("I"):
        return PIL.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return image


@pytest.mark.parametrize("name", FILES)
def test_pictures_equal_the_reference(model: Model, name: str) -> None:
    """The patches are compared bit by bit with the processor's in test_media_image.py."""
    data = FILES[name]()
    patches, positions, (width, height) = _native.prepare_image(tl.Image(data).rgb(), BUDGET)
    image = as_a_user_would(data)
    assert (height, width) == reference.target_size(image.height, image.width, max_soft=BUDGET)
    columns = width // 48
    assert positions.tolist() == [[i % columns, i // columns] for i in range(width * height // 48**2)]
    got = model.engine.embed_image(data, BUDGET)
    assert deviation(got, reference.vision_embed(model.weights, patches, positions)) <= TOLERANCE


@pytest.mark.parametrize("name", FILES)
def test_pictures_equal_transformers(model: Model, name: str) -> None:
    """Its processor and its model, from the same file."""
    processor = reference_class("image_processing", "ImageProcessor")()
    torch = pytest.importorskip("torch")
    data = FILES[name]()
    inputs = processor(images=[as_a_user_would(data)], return_tensors="pt", max_soft_tokens=BUDGET)
    count = int(inputs["num_soft_tokens_per_image"][0])
    patches, positions, _ = _native.prepare_image(tl.Image(data).rgb(), BUDGET)
    assert np.array_equal(patches, inputs["pixel_values"][0, :count].numpy())
    assert np.array_equal(positions, inputs["image_position_ids"][0, :count].numpy())
    with torch.no_grad():
        seen = model.oracle.get_image_features(inputs["pixel_values"], inputs["image_position_ids"], return_dict=True)
    got = model.engine.embed_image(data, BUDGET)
    assert deviation(got, seen.pooler_output[0].numpy()) <= TOLERANCE


def test_video_frames_equal_transformers(model: Model) -> None:
    processor = reference_class("video_processing", "VideoProcessor")()
    torch = pytest.importorskip("torch")
    from transformers.video_utils import VideoMetadata

    frames = np.stack([scene(160, 90, shift) for shift in range(32)])
    inputs = processor(
        videos=[torch.from_numpy(frames.transpose(0, 3, 1, 2).copy())], return_tensors="pt",
        video_metadata=[VideoMetadata(total_num_frames=32, fps=24.0, duration=32 / 24, width=160, height=90)],
    )  # fmt: skip
    pixels = inputs["pixel_values_videos"].reshape(32, BUDGET, -1)
    positions = inputs["video_position_ids"].reshape(32, BUDGET, 2)
    for i, (_, rgb) in enumerate(tl.Video(frames, frame_rate=24).frames()):
        got = model.engine._soft_image(rgb, video=True).native.values
        with torch.no_grad():
            seen = model.oracle.get_image_features(pixels[i : i + 1], positions[i : i + 1], return_dict=True)
        assert deviation(got, seen.pooler_output[0].numpy()) <= TOLERANCE


# --------------------------------------------------------------------------------------------------------- recordings
def speech(seconds: float, rate: int, channels: int = 1) -> npt.NDArray[np.float32]:
    """[samples, channels]: a chord below 3 kHz, which every rate can hold, at its exact values. Faded at both ends:
    a recording that begins in the middle of a wave means something else to every converter."""
    t = np.arange(round(seconds * rate)) / rate
    fade = np.minimum(1, np.minimum(t, seconds - t) / 0.01).clip(0) ** 2
    wave = sum(np.sin(2 * np.pi * hertz * t + hertz) for hertz in (130, 417, 1093, 2711)) / 5
    return np.stack([wave * fade * (1 - 0.1 * c) for c in range(channels)], 1).astype(np.float32)


@pytest.mark.parametrize("samples", [1, 639, 640, 641, 16000, 480_000])
def test_samples_equal_transformers(model: Model, samples: int) -> None:
    extractor = reference_class("feature_extraction", "AudioFeatureExtractor")()
    torch = pytest.importorskip("torch")
    wave = (0.1 * np.random.default_rng(samples).standard_normal(samples)).astype(np.float32)
    inputs = extractor(wave, sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        heard = model.oracle.get_audio_features(
            inputs["input_features"].float(), inputs["input_features_mask"].bool(), return_dict=True
        )
    got = model.engine.embed_audio(tl.Audio(wave, 16000))
    assert len(got) == -(-samples // 640)
    assert deviation(got, heard.pooler_output[0].numpy()) <= TOLERANCE


@pytest.mark.parametrize("channels", range(1, 9))
@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000, 192000])
def test_rates_and_channels_equal_the_reference(model: Model, rate: int, channels: int) -> None:
    """The wave at 16 kHz is known exactly, so the whole way is measured: mixing, the filter and the projection."""
    got = model.engine.embed_audio(tl.Audio(speech(0.6, rate, channels), rate))
    mono = speech(0.6, 16000, channels).mean(axis=1)
    assert deviation(got, reference.audio_embed(model.weights, reference.audio_frames(mono))) <= TOLERANCE


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 192000])
def test_files_equal_what_transformers_would_hear(model: Model, rate: int) -> None:
    """Its loader is soundfile and soxr."""
    soxr = pytest.importorskip("soxr", reason="soxr is not installed")
    soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed")
    data = recording(speech(1, rate, 2), rate, "WAV", "FLOAT")
    wave, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    mono = soxr.resample(wave.mean(axis=1), rate, 16000, quality="HQ")
    got = model.engine.embed_audio(data)
    assert deviation(got, reference.audio_embed(model.weights, reference.audio_frames(mono[:16000]))) <= TOLERANCE
