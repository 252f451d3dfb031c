"""Pictures of shapes, printed numbers and words, and short films of a moving shape, with questions."""

from __future__ import annotations

import random
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from . import words
from .drawing import BACKGROUNDS, CELL, COLOURS, SHAPES, SIZE, blank, draw
from .items import Item, Labels, Message, Picture, user

CHARACTERS = "0123456789ABCDEFGHIKLMNOPRSTUXZ"
INKS = ("black", "black", "blue", "red", "green", "purple", "brown")
GRID = SIZE // CELL  # patches per side
COUNTS = ["one", "two", "three", "four", "five"]


def _jittered(rng: random.Random, colour: tuple[int, int, int], by: int = 14) -> tuple[int, int, int]:
    r, g, b = (max(0, min(255, c + rng.randint(-by, by))) for c in colour)
    return r, g, b


def _canvas(rng: random.Random) -> np.ndarray:
    return blank(_jittered(rng, rng.choice(BACKGROUNDS), 6))


def _labels(things: dict[tuple[int, int], tuple[str, ...]]) -> Labels:
    """(column, row) of a patch -> words, to the labels of all patches in order."""
    return tuple(things.get((x, y), ()) for y in range(GRID) for x in range(GRID))


class Scene:
    """A few shapes on a plain ground, each inside a patch, or large over four."""

    def __init__(self, rng: random.Random, things: list[tuple[str, str]]) -> None:
        self.things, self.places = things, []
        self.pixels = _canvas(rng)
        taken: dict[tuple[int, int], tuple[str, ...]] = {}
        for colour, shape in things:
            large = rng.random() < 0.35
            side = 2 if large else 1
            while True:
                x, y = rng.randrange(GRID + 1 - side), rng.randrange(GRID + 1 - side)
                cells = [(x + i, y + j) for i in range(side) for j in range(side)]
                if not any(cell in taken for cell in cells):
                    break
            taken.update(dict.fromkeys(cells, (f" {colour}", f" {shape}")))
            radius = rng.uniform(34, 45) if large else rng.uniform(16, 22)
            room = max(0.0, side * CELL / 2 - radius - 1)
            cx, cy = ((at + side / 2) * CELL + rng.uniform(-room, room) for at in (x, y))
            draw(self.pixels, shape, _jittered(rng, COLOURS[colour]), cx, cy, radius)
            self.places.append((x + side / 2, y + side / 2))
        self.picture = Picture(self.pixels, _labels(taken))

    def where(self, index: int) -> str:
        """In words, by thirds of the picture."""
        x, y = self.places[index]
        across, down = (0 if at < 3 else 1 if at <= 5 else 2 for at in (x, y))
        if (across, down) == (1, 1):
            return "in the middle"
        return " ".join(["at the", *(["top", "", "bottom"][down] + " " + ["left", "", "right"][across]).split()])


def _named(thing: tuple[str, str]) -> str:
    colour, shape = thing
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {shape}"


def _exchange(kind: str, asked: list[tuple[str, str]], media: str, shown: Picture | tuple[Picture, ...]) -> Item:
    """Questions about the same media, one after another; the last answer is the item's own."""
    messages: list[Message] = [user(asked[0][0], media)]
    for (_, said), (question, _) in pairwise(asked):
        messages += [{"role": "assistant", "content": said}, user(question)]
    pictures = shown if isinstance(shown, tuple) else (shown,)
    return Item(kind, tuple(messages), asked[-1][1], asked[-1][1], media=pictures)


def scene(rng: random.Random, questions: int = 3) -> Item:
    """One to three different shapes: what, what colour, which shape, where."""
    count = rng.choice([1, 1, 2, 2, 3])
    colours, shapes = rng.sample(sorted(COLOURS), count), rng.sample(sorted(SHAPES), count)
    things = list(zip(colours, shapes, strict=True))
    view = Scene(rng, things)
    order = sorted(range(count), key=lambda i: (view.places[i][1], view.places[i][0]))
    named = [_named(things[i]) for i in order]
    listed = named[0] if count == 1 else ", ".join(named[:-1]) + " and " + named[-1]
    asked = [(rng.choice(["What is in the picture?", "What do you see?", "Describe the picture."]), listed)]
    for i, (colour, shape) in enumerate(things):
        asked += [
            (f"What colour is the {shape}?", colour),
            (f"What shape is {colour}?", shape),
            (f"Where is the {colour} {shape}?", view.where(i)),
        ]
    return _exchange("scene", rng.sample(asked, min(questions, len(asked))), "image", view.picture)


def shape_colour(rng: random.Random) -> Item:
    """The examination of shape and colour: one shape, both named."""
    thing = (rng.choice(sorted(COLOURS)), rng.choice(sorted(SHAPES)))
    view = Scene(rng, [thing])
    return _exchange("shape_colour", [("What is in the picture?", _named(thing))], "image", view.picture)


def counting(rng: random.Random) -> Item:
    """Up to five shapes of one kind, and others."""
    shape, other = rng.sample(sorted(SHAPES), 2)
    count, others = rng.randint(1, 5), rng.randint(0, 2)
    colour = rng.choice(sorted(COLOURS))
    things = [(colour, shape)] * count + [(rng.choice(sorted(COLOURS)), other)] * others
    view = Scene(rng, things)
    asked = [(f"How many {'crosses' if shape == 'cross' else shape + 's'} are there?", COUNTS[count - 1])]
    if others:
        asked.append((f"How many {'crosses' if other == 'cross' else other + 's'} are there?", COUNTS[others - 1]))
    rng.shuffle(asked)
    return _exchange("counting", asked, "image", view.picture)


def crowd(rng: random.Random) -> Item:
    """Thirty shapes and characters, each in a patch, and whether one is there: every patch has its label, so that one
    picture teaches what thirty would."""
    from PIL import Image, ImageDraw

    cells = rng.sample([(x, y) for x in range(GRID) for y in range(GRID)], rng.randint(24, 36))
    drawn = len(cells) * 2 // 3
    pixels = _canvas(rng)
    labels: dict[tuple[int, int], tuple[str, ...]] = {}
    things = []
    for x, y in cells[:drawn]:
        colour, shape = rng.choice(sorted(COLOURS)), rng.choice(sorted(SHAPES))
        radius = rng.uniform(16, 22)
        cx, cy = ((at + 0.5) * CELL + rng.uniform(radius - 23, 23 - radius) for at in (x, y))
        draw(pixels, shape, _jittered(rng, COLOURS[colour]), cx, cy, radius)
        labels[x, y] = (f" {colour}", f" {shape}")
        things.append((colour, shape))
    image = Image.fromarray(pixels)
    pen = ImageDraw.Draw(image)
    for x, y in cells[drawn:]:
        character = rng.choice(CHARACTERS)
        at = ((x + 0.5) * CELL + rng.uniform(-4, 4), (y + 0.5) * CELL + rng.uniform(-3, 3))
        ink = _jittered(rng, COLOURS[rng.choice(INKS)])
        pen.text(at, character, ink, _font(rng.randint(36, 46)), anchor="mm", stroke_width=rng.randint(0, 1))
        labels[x, y] = (character,)
    thing = rng.choice(things)
    if rng.random() < 0.5:
        thing = next(t for t in iter(lambda: (rng.choice(sorted(COLOURS)), rng.choice(sorted(SHAPES))), None)
                     if t not in things)  # fmt: skip
    asked = f"Is there {_named(thing)}?"
    return _exchange("crowd", [(asked, "yes" if thing in things else "no")], "image",
                     Picture(np.asarray(image), _labels(labels)))  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- writing
@cache
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _write(rng: random.Random, text: str) -> Picture:
    """A line of characters, one in each patch, of one size and colour."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(_canvas(rng))
    pen = ImageDraw.Draw(image)
    ink = _jittered(
        rng, rng.choice([COLOURS[c] for c in ("black", "black", "blue", "red", "green", "purple", "brown")])
    )
    size, bold = rng.randint(36, 46), rng.randint(0, 1)
    column, row = rng.randrange(GRID + 1 - len(text)), rng.randrange(GRID)
    dx, dy = rng.uniform(-3, 3), rng.uniform(-3, 3)
    things: dict[tuple[int, int], tuple[str, ...]] = {}
    for i, character in enumerate(text):
        at = ((column + i + 0.5) * CELL + dx + rng.uniform(-1, 1), (row + 0.5) * CELL + dy)
        pen.text(at, character, ink, _font(size), anchor="mm", stroke_width=bold)
        things[column + i, row] = (character,)
    return Picture(np.asarray(image), _labels(things))


def number(rng: random.Random) -> Item:
    """A printed number of three digits."""
    digits = f"{rng.randint(0, 999):03d}"
    asked = rng.choice(["What number is printed?", "Read the number.", "Which number do you see?"])
    return _exchange("number", [(asked, digits)], "image", _write(rng, digits))


def printed_word(rng: random.Random) -> Item:
    text = rng.choice(words.PRINTED)
    asked = rng.choice(["What is written here?", "Read the word.", "What does the sign say?"])
    return _exchange("word", [(asked, text.lower())], "image", _write(rng, text))


# -------------------------------------------------------------------------------------------------------------- moving
WAYS = {"to the left": (-1, 0), "to the right": (1, 0), "up": (0, -1), "down": (0, 1)}


def _covered(x: float, y: float, half: float) -> list[tuple[int, int]]:
    """The patches of which a square around (x, y) covers a sixth at least."""

    def shared(at: float) -> dict[int, float]:
        spans = {i: min(at + half, (i + 1) * CELL) - max(at - half, i * CELL) for i in range(GRID)}
        return {i: span / CELL for i, span in spans.items() if span > 0}

    across, down = shared(x), shared(y)
    return [(i, j) for i in across for j in down if across[i] * down[j] > 1 / 6]


def movement(rng: random.Random, frames: int = 4) -> Item:
    """A film, one frame per second, of a shape that moves one way."""
    way = rng.choice(sorted(WAYS))
    colour, shape = rng.choice(sorted(COLOURS)), rng.choice(sorted(SHAPES))
    radius, step = rng.uniform(20, 40), rng.uniform(46, 76)
    travel = step * (frames - 1)
    free = SIZE - 2 * radius - 4
    step, travel = (step, travel) if travel < free else (free / (frames - 1), free)
    along = rng.uniform(radius + 2, SIZE - radius - 2 - travel)
    across = rng.uniform(radius + 2, SIZE - radius - 2)
    ground = _canvas(rng)
    ink = _jittered(rng, COLOURS[colour])
    shown = []
    for i in range(frames):
        vx, vy = WAYS[way]
        moved = along + i * step if vx + vy > 0 else along + travel - i * step
        x, y = (moved, across) if vx else (across, moved)
        pixels = ground.copy()
        draw(pixels, shape, ink, x, y, radius)
        named = (f" {colour}", f" {way.split()[-1]}") if i else (f" {colour}",)  # the first frame shows no way
        things: dict[tuple[int, int], tuple[str, ...]] = dict.fromkeys(_covered(x, y, 0.8 * radius), named)
        shown.append(Picture(pixels, _labels(things)))
    film = Picture(np.stack([one.pixels for one in shown]), tuple(label for one in shown for label in one.labels))
    asked = [(rng.choice(["Which way does it move?", f"Which way does the {shape} move?"]), way)]
    if rng.random() < 0.3:
        asked.insert(0, ("What colour is it?", colour))
    return _exchange("movement", asked, "video", film)
