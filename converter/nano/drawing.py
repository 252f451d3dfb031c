"""Shapes with smooth edges on an array of pixels; numpy alone, so that the demo can draw too."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

SIZE = 384  # pixels: 8 x 8 patches of 48, which the smallest budget (70) leaves as they are
CELL = 48
COLOURS = {
    "red": (215, 35, 35), "green": (35, 150, 55), "blue": (35, 75, 215), "yellow": (245, 210, 35),
    "orange": (245, 130, 25), "purple": (130, 45, 165), "pink": (250, 140, 185), "brown": (120, 75, 40),
    "black": (20, 20, 20),
}  # fmt: skip
BACKGROUNDS = ((255, 255, 255), (232, 236, 240), (250, 244, 228), (222, 236, 250))
Grid = np.ndarray


def _star(x: Grid, y: Grid) -> Grid:
    """Distance to a star of five points of radius 1: negative inside."""
    angle = np.arctan2(x, -y)
    turn = np.abs((angle / (2 * np.pi / 5) + 0.5) % 1.0 - 0.5) * (2 * np.pi / 5)
    r = np.hypot(x, y)
    px, py = r * np.cos(turn), r * np.sin(turn)  # one arm, along x: its tip at (1, 0), its notch at radius 0.42
    nx, ny = 0.42 * np.cos(np.pi / 5), 0.42 * np.sin(np.pi / 5)
    length = np.hypot(1 - nx, ny)
    distance: Grid = ((px - 1) * ny + py * (1 - nx)) / length
    return distance


SHAPES: dict[str, Callable[[Grid, Grid], Grid]] = {  # (x, y) in radii -> signed distance in radii, negative inside
    "circle": lambda x, y: np.hypot(x, y) - 1,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) - 0.88,
    "triangle": lambda x, y: np.maximum(y - 0.8, (np.abs(x) * 1.8 - y - 0.95) / 2.06),
    "star": _star,
    "cross": lambda x, y: np.maximum(
        np.minimum(np.maximum(np.abs(x), np.abs(y) * 3), np.maximum(np.abs(y), np.abs(x) * 3)) - 1, -1
    ),
    "diamond": lambda x, y: (np.abs(x) + np.abs(y) - 1) / np.sqrt(2),
}


def blank(background: tuple[int, int, int] = BACKGROUNDS[0]) -> np.ndarray:
    """uint8 [SIZE, SIZE, 3]"""
    return np.full((SIZE, SIZE, 3), background, np.uint8)


def draw(
    pixels: np.ndarray, shape: str, colour: tuple[int, int, int], x: float, y: float, radius: float
) -> None:  # fmt: skip
    """Draws a shape of `radius` pixels around (x, y) into uint8 [H, W, 3]."""
    height, width = pixels.shape[:2]
    left, right = max(0, int(x - radius - 2)), min(width, int(x + radius + 3))
    top, bottom = max(0, int(y - radius - 2)), min(height, int(y + radius + 3))
    ys, xs = np.mgrid[top:bottom, left:right]
    distance = SHAPES[shape]((xs + 0.5 - x) / radius, (ys + 0.5 - y) / radius) * radius
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    part = pixels[top:bottom, left:right]
    part[:] = np.rint(part * (1 - cover) + np.array(colour) * cover).astype(np.uint8)
