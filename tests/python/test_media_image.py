"""Pictures: what the loader makes of files, modes and arrays, and patches bit-exact to the reference processor."""

from __future__ import annotations

import base64
import hashlib
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from media_files import noise, picture, reference_class, scene

import tandem_lm as tl
from tandem_lm import _native

PIL = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

SIZES = [(1, 1), (3, 900), (900, 3), (224, 224), (1080, 1920), (2000, 2000), (37, 301), (576, 1056)]  # H, W


def digest(array: npt.NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()[:16]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("budget", [70, 280, 1120])
def test_patches_are_the_processors(height: int, width: int, budget: int) -> None:
    reference = reference_class("image_processing", "ImageProcessor")()
    rgb = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = reference(images=[PIL.fromarray(rgb)], return_tensors="pt", max_soft_tokens=budget)
    count = int(expected["num_soft_tokens_per_image"][0])
    patches, positions, size = _native.prepare_image(tl.Image(rgb).rgb(), budget)
    assert len(patches) == count and size[0] * size[1] == count * 48 * 48
    assert np.array_equal(patches, expected["pixel_values"][0, :count].numpy())
    assert np.array_equal(positions, expected["image_position_ids"][0, :count].numpy())


def test_video_frames_are_the_processors() -> None:
    reference = reference_class("video_processing", "VideoProcessor")()
    torch = pytest.importorskip("torch")
    from transformers.video_utils import VideoMetadata

    frames = np.random.default_rng(1).integers(0, 256, (40, 90, 160, 3), dtype=np.uint8)
    meta = VideoMetadata(total_num_frames=40, fps=24.0, duration=40 / 24, width=160, height=90)
    expected = reference(
        videos=[torch.from_numpy(frames.transpose(0, 3, 1, 2).copy())], return_tensors="pt", video_metadata=[meta]
    )
    video = tl.Video(frames, frame_rate=24)
    assert len(video) == 32
    for i, (_, rgb) in enumerate(video.frames()):
        patches, positions, _ = _native.prepare_image(rgb, 70, video=True)
        assert np.array_equal(patches, expected["pixel_values_videos"].reshape(32, 70, -1)[i, : len(patches)].numpy())
        assert np.array_equal(positions, expected["video_position_ids"].reshape(32, 70, 2)[i, : len(patches)].numpy())


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "PA", "1", "CMYK"])
def test_modes_are_the_processors(mode: str) -> None:
    reference = reference_class("image_processing", "ImageProcessor")()
    image = PIL.fromarray(scene(90, 60)).convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(PIL.fromarray(scene(90, 60)[..., 1]))
    expected = reference(images=[image], return_tensors="pt", max_soft_tokens=70)
    count = int(expected["num_soft_tokens_per_image"][0])
    patches, _, _ = _native.prepare_image(tl.Image(image).rgb(), 70)
    assert np.array_equal(patches, expected["pixel_values"][0, :count].numpy())


def test_rgba_arrays_are_the_processors() -> None:
    reference = reference_class("image_processing", "ImageProcessor")()
    rgba = np.random.default_rng(2).integers(0, 256, (64, 100, 4), dtype=np.uint8)
    expected = reference(images=[rgba], return_tensors="pt", max_soft_tokens=70)
    count = int(expected["num_soft_tokens_per_image"][0])
    patches, _, _ = _native.prepare_image(tl.Image(rgba).rgb(), 70)
    assert np.array_equal(patches, expected["pixel_values"][0, :count].numpy())


@pytest.mark.parametrize(
    ("height", "width", "budget", "video", "golden"),
    [
        (1, 1, 70, False, "f8c2d0188dfd5d4b"),
        (3, 90, 70, False, "8c4d50bb147b03ad"),
        (90, 3, 140, False, "9f2962f728a2c8d3"),
        (60, 100, 280, False, "c04d797c58a99515"),
        (60, 100, 70, True, "2af4aaf6dc9ceb1c"),
    ],
)
def test_patches_of_the_reference(height: int, width: int, budget: int, video: bool, golden: str) -> None:
    """The same without transformers: hashes of patches that were compared with its processor's."""
    patches, positions, _ = _native.prepare_image(noise(width, height), budget, video=video)
    assert patches.dtype == np.float32 and positions.dtype == np.int32
    assert digest(patches) == golden


def test_lossless_files_keep_every_pixel(tmp_path: Path) -> None:
    rgb = noise(31, 17)
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        path = tmp_path / f"picture.{kind.lower()}"
        data = picture(rgb, kind)
        path.write_bytes(data)
        url = f"data:image/{kind.lower()};base64," + base64.b64encode(data).decode()
        for source in (path, str(path), data, bytearray(data), url):
            assert np.array_equal(tl.Image(source).rgb(), rgb), kind
    assert np.array_equal(tl.Image(picture(rgb, "WEBP", lossless=True)).rgb(), rgb)


def test_the_extension_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(picture(noise(8, 8), "PNG"))
    assert np.array_equal(tl.Image(path).rgb(), noise(8, 8))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    upright = scene(40, 24)
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = PIL.Exif()
    exif[0x0112] = orientation
    data = picture(np.ascontiguousarray(turned), "PNG", exif=exif)
    assert np.array_equal(tl.Image(data).rgb(), upright)


def test_transparency_becomes_white() -> None:
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (10, 20, 30, 255)
    rgba[1, 1] = (0, 0, 0, 128)
    for source in (rgba, picture(rgba, "PNG"), picture(rgba, "WEBP", lossless=True, exact=True)):
        rgb = tl.Image(source).rgb()
        assert rgb[0, 0].tolist() == [10, 20, 30] and rgb[0, 1].tolist() == [255, 255, 255]
        assert abs(int(rgb[1, 1, 0]) - 127) <= 1
    palette = PIL.fromarray(scene(16, 16)).quantize(8)
    assert (tl.Image(picture(palette, "PNG", transparency=0)).rgb() == 255).all(axis=2).any()


def test_sixteen_bits_keep_the_upper_byte() -> None:
    deep = (np.arange(64 * 64, dtype=np.uint16) * 16).reshape(64, 64)
    for kind in ("PNG", "TIFF"):
        rgb = tl.Image(picture(PIL.fromarray(deep), kind)).rgb()
        assert np.array_equal(rgb, np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, 2))


def test_cmyk_and_grey_files() -> None:
    cmyk = PIL.fromarray(scene(64, 64)).convert("CMYK")
    expected = np.asarray(cmyk.convert("RGB"))
    assert np.array_equal(tl.Image(picture(cmyk, "TIFF")).rgb(), expected)
    assert np.abs(tl.Image(picture(cmyk, "JPEG", quality=100)).rgb().astype(int) - expected).mean() < 4
    grey = scene(20, 10)[..., 0]
    for source in (grey, grey[..., None], picture(grey, "PNG")):
        assert np.array_equal(tl.Image(source).rgb(), np.repeat(grey[..., None], 3, 2))


def test_frames_of_animated_files() -> None:
    frames = [PIL.new("RGB", (12, 8), (60 * i, 0, 0)) for i in range(4)]
    data = picture(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100)
    assert tl.Image(data).rgb()[0, 0, 0] == 0
    assert tl.Image(data, frame=2).rgb()[0, 0].tolist() == [120, 0, 0]
    with pytest.raises(tl.InvalidRequestError, match="no frame 4"):
        tl.Image(data, frame=4)


def test_arrays_of_any_layout() -> None:
    rgb = noise(20, 10)
    wide = np.ascontiguousarray(np.concatenate([rgb, rgb], 1))
    for view in (
        rgb,
        np.asfortranarray(rgb),
        wide[:, :20],
        rgb[::-1][::-1],
        np.ascontiguousarray(rgb[..., ::-1])[..., ::-1],
    ):
        assert np.array_equal(tl.Image(view).rgb(), rgb)
    source = rgb.copy()
    image = tl.Image(source)
    source[:] = 0
    assert np.array_equal(image.rgb(), rgb) and not image.rgb().flags.writeable


def test_content_hash() -> None:
    rgb = noise(20, 10)
    same = tl.Image(picture(rgb, "PNG"))
    assert same.content_hash == tl.Image(rgb).content_hash == tl.Image(picture(rgb, "BMP")).content_hash
    others = [tl.Image(rgb, max_soft_tokens=70), tl.Image(rgb[::-1]), tl.Image(rgb.reshape(20, 10, 3))]
    assert len({same.content_hash, *(image.content_hash for image in others)}) == 4


@pytest.mark.parametrize("budget", [0, 1, 71, 281, 2240, "280", True, 280.5])
def test_budgets_are_those_of_the_model(budget: Any) -> None:
    with pytest.raises(tl.InvalidRequestError, match="max_soft_tokens"):
        tl.Image(noise(2, 2), max_soft_tokens=budget)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.uint16),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 0, 3), np.uint8),
        np.broadcast_to(np.uint8(0), (70000, 1, 3)),
        np.broadcast_to(np.uint8(0), (60000, 60000, 3)),
    ],
)
def test_bad_arrays(array: npt.NDArray[Any]) -> None:
    with pytest.raises(tl.InvalidRequestError, match="image array"):
        tl.Image(array)


def test_pillow_stays_quiet() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tl.Image(picture(noise(9, 9), "TIFF"))
        with pytest.raises(tl.InvalidRequestError):
            tl.Image(io.BytesIO(b"").read() or b"no picture")
