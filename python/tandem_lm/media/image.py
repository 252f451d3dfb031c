"""A still picture: any common file format, or an array, to RGB of 8 bits."""

from __future__ import annotations

import hashlib
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _checks, _native
from ..errors import InvalidRequestError
from ._sources import Encoded, decoding, encoded, package

BUDGETS = (70, 140, 280, 560, 1120)  # soft tokens per image that the model was trained with

# Pillow's readers that decode inside this process and for which a bomb is seen before pixels are allocated.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO")
_REMEDY = "check that it is a complete picture of a common format (JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF)"
_ORIENTATION = 0x0112  # EXIF tag; what undoes each of its values
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}

Pixels = npt.NDArray[np.uint8]


class Image:
    """A picture for the model. Decoded at once, so that a bad file is refused here.

    source: path, bytes, data URL, PIL image, or uint8 array [H, W], [H, W, 1], [H, W, 3] (RGB) or [H, W, 4] (RGBA).
    Rotated as its EXIF orientation says; transparency becomes white; 16-bit values keep their upper byte.
    max_soft_tokens: 70, 140, 280, 560 or 1120, the most tokens it may take; None leaves it to the engine.
    frame: which frame of an animated file. (For several frames in order, see Video.)
    """

    def __init__(self, source: object, *, max_soft_tokens: int | None = None, frame: int = 0) -> None:
        if max_soft_tokens is not None and max_soft_tokens not in BUDGETS:
            names = ", ".join(map(str, BUDGETS))
            raise InvalidRequestError(f"max_soft_tokens is {max_soft_tokens!r}; it must be one of {names}")
        self.max_soft_tokens = max_soft_tokens
        frame = _checks.integer("frame", frame, 0)
        file = encoded("image", source)
        if file is not None:
            self._rgb = _decode(file, frame)
        elif isinstance(source, np.ndarray):
            if frame:
                raise InvalidRequestError("frame= is for animated files; an array is one picture")
            self._rgb = from_array(source)
        elif _is_pil(source):
            with decoding("image (PIL)", _REMEDY):
                self._rgb = _from_pil(source, frame, "image (PIL)")
        else:
            raise InvalidRequestError(
                f"an image must be a path, bytes, a data URL, a PIL image or a uint8 array; got {type(source).__name__}"
            )
        self._rgb.flags.writeable = False
        self._hash = ""

    def rgb(self) -> Pixels:
        """[H, W, 3], read-only."""
        return self._rgb

    @property
    def width(self) -> int:
        return int(self._rgb.shape[1])

    @property
    def height(self) -> int:
        return int(self._rgb.shape[0])

    @property
    def content_hash(self) -> str:
        """SHA-256 over the decoded pixels and the budget, in hex: equal exactly when the model sees the same."""
        if not self._hash:
            digest = hashlib.sha256(f"image {self.width} {self.height} {self.max_soft_tokens}\n".encode())
            digest.update(self._rgb.data)
            self._hash = digest.hexdigest()
        return self._hash

    def __repr__(self) -> str:
        return f"Image({self.width}x{self.height}, max_soft_tokens={self.max_soft_tokens})"


def check_size(name: str, width: int, height: int, most: int) -> None:
    """Refuses a size before anything is allocated for it; `most` pixels in all."""
    side = _native.media_limits["max_image_side"]
    if not (0 < width <= side and 0 < height <= side and width * height <= most):
        raise InvalidRequestError(
            f"{name}: {width}x{height} pixels; sides must be 1 to {side} and the area at most {most} pixels: "
            "make it smaller first"
        )


def from_array(array: npt.NDArray[Any]) -> Pixels:
    """A copy of `array` as RGB. Needs no package."""
    channels = 1 if array.ndim == 2 else array.shape[-1] if array.ndim == 3 else 0
    if array.dtype != np.uint8 or channels not in (1, 3, 4):
        raise InvalidRequestError(
            f"an image array must be uint8 [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]; got {array.dtype} "
            f"{list(array.shape)}"
        )
    check_size("image array", array.shape[1], array.shape[0], _native.media_limits["max_image_pixels"])
    pixels = array.reshape(*array.shape[:2], channels)
    if channels == 1:
        return np.repeat(pixels, 3, axis=2)
    if channels == 3:
        return np.array(pixels, order="C", copy=True)
    # In floats and with this rounding, as the reference treats arrays. By rows, so that little of it is in float.
    rgb = np.empty((*pixels.shape[:2], 3), np.uint8)
    rows = max(1, (1 << 20) // pixels.shape[1])
    for start in range(0, len(pixels), rows):
        part = pixels[start : start + rows].astype(np.float32) * np.float32(1 / 255)
        alpha = part[..., 3:]
        rgb[start : start + rows] = (part[..., :3] * alpha + (1 - alpha)) * np.float32(256 - 1e-3)
    return rgb


def _is_pil(source: object) -> bool:
    return any(base.__module__ == "PIL.Image" for base in type(source).__mro__)


def _decode(file: Encoded, frame: int) -> Pixels:
    pil = package("PIL.Image", "decoding a picture")
    pil.init()
    formats = [name for name in _FORMATS if name in pil.OPEN]  # a build of Pillow may lack some
    with file.open() as stream, decoding(file.name, _REMEDY), warnings.catch_warnings():
        # Sizes are checked here, against our own limit; damaged metadata that Pillow warns of does not matter.
        warnings.simplefilter("ignore")
        try:
            picture = pil.open(stream, formats=formats)
        except pil.DecompressionBombError as error:
            raise InvalidRequestError(f"{file.name}: {error}; make it smaller first") from error
        with picture:
            return _from_pil(picture, frame, file.name)


def _from_pil(picture: Any, frame: int, name: str) -> Pixels:
    most = _native.media_limits["max_image_pixels"]
    check_size(name, picture.width, picture.height, most)
    before = picture.tell()
    try:
        if frame:
            try:
                picture.seek(frame)
            except EOFError as error:
                raise InvalidRequestError(f"{name}: it has no frame {frame}; frames are counted from 0") from error
            check_size(name, picture.width, picture.height, most)
        picture.load()
        return _to_rgb(_upright(picture), name)
    finally:
        if frame:
            picture.seek(before)  # a PIL image belongs to the caller


def _upright(picture: Any) -> Any:
    try:
        turn = _TURNS.get(picture.getexif().get(_ORIENTATION))
    except Exception:  # damaged EXIF data: the picture itself was decoded
        return picture
    if turn is None:
        return picture
    return picture.transpose(package("PIL.Image", "decoding a picture").Transpose[turn])


def _to_rgb(picture: Any, name: str) -> Pixels:
    if picture.mode == "F":
        raise InvalidRequestError(f"{name}: pixels are floats, whose range is not known; convert it to 8 bits first")
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        grey = (np.asarray(picture).astype(np.int32) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if "A" in picture.getbands() or picture.info.get("transparency") is not None:
        pil = package("PIL.Image", "decoding a picture")
        picture = picture.convert("RGBA")
        picture = pil.alpha_composite(pil.new("RGBA", picture.size, (255, 255, 255, 255)), picture)
    return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))
