"""How fast media become what the model reads.

    python bench/media.py                          # a minute on two cores; needs tandem-lm[media]
    python bench/media.py --bundle 12b.litertlm    # also through that model's embedders

Pictures: generated 1080p JPEGs (quality 90, a noisy gradient), decoded, resized to the budget and cut into patches;
with a bundle also embedded, each another one. Sound: an hour of 44.1 kHz stereo from memory, block by block, to
frames. Medians of the rounds. `--only` leaves out what is not named.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

import tandem_lm as tl
from tandem_lm import _native

RATE, CHANNELS, SECONDS = 44_100, 2, 3600
BLOCK = 60  # seconds
BUDGET = 280


def photo() -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:1080, 0:1920]
    gradient = np.stack([x / 7.5, y / 4.2, (x + y) / 12], -1)
    return (gradient + rng.normal(0, 6, gradient.shape)).clip(0, 255).astype(np.uint8)


def jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Pillow.fromarray(pixels).save(out, "JPEG", quality=90)
    return out.getvalue()


def variants(count: int) -> list[npt.NDArray[np.uint8]]:
    """Pictures that differ, for an engine remembers what it has seen."""
    out = [photo()]
    for i in range(1, count):
        out.append(out[0].copy())
        out[i][:16, :16] = (i % 16 * 16, i // 16 * 16, 0)
    return out


def images_per_second(work: Callable[[], object], threads: int, count: int) -> float:
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        for future in [pool.submit(work) for _ in range(count)]:
            future.result()
        return count / (time.perf_counter() - start)


def embedding(bundle: str, options: argparse.Namespace) -> dict[str, float]:
    """Images per second through the embedder, by budget, from files and from pixels."""
    pixels = variants(options.rounds * options.images)
    sources: dict[str, list[object]] = {"decode, ": [jpeg(one) for one in pixels], "": list(pixels)}
    rates = {}
    for budget in options.budgets:
        for steps, given in sources.items():
            with tl.Engine(bundle) as engine:  # a new one has seen nothing
                engine.embed_image(np.zeros((9, 9, 3), np.uint8), budget)  # compiles
                work = partial(lambda engine, left, budget: engine.embed_image(next(left), budget),
                               engine, iter(given), budget)  # fmt: skip
                rates[f"{steps}resize, cut and embed {budget}"] = statistics.median(
                    images_per_second(work, options.threads, options.images) for _ in range(options.rounds)
                )
    return rates


def hour_of_sound() -> float:
    block = np.random.default_rng(1).uniform(-1, 1, (BLOCK * RATE, CHANNELS)).astype(np.float32)
    start = time.perf_counter()
    converter = _native.AudioConverter(CHANNELS, RATE)
    parts = [converter.push(block) for _ in range(SECONDS // BLOCK)]
    frames = _native.frame_audio(np.concatenate([*parts, converter.finish()]))
    seconds = time.perf_counter() - start
    assert frames.shape == (25 * SECONDS, 640)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-t", "--threads", type=int, default=2, help="pictures at a time")
    parser.add_argument("-r", "--rounds", type=int, default=5)
    parser.add_argument("-n", "--images", type=int, default=40, help="per round")
    parser.add_argument("--bundle", help="a model with eyes, for the embedding")
    parser.add_argument("--budgets", type=int, nargs="+", default=[BUDGET, 70], help="soft tokens, with --bundle")
    parser.add_argument("--only", choices=("images", "embedding", "sound"), nargs="+")
    options = parser.parse_args()
    wanted = options.only or ["images", "embedding", "sound"]
    data = jpeg(photo())
    rgb = tl.Image(data).rgb()
    steps: dict[str, Callable[[], object]] = {
        "decode": lambda: tl.Image(data),
        "resize and cut": lambda: _native.prepare_image(rgb, BUDGET),
        "decode, resize and cut": lambda: _native.prepare_image(tl.Image(data).rgb(), BUDGET),
    }
    rates: dict[str, float] = {}
    if "images" in wanted:
        for name, work in steps.items():
            rates[name] = statistics.median(
                images_per_second(work, options.threads, options.images) for _ in range(options.rounds)
            )
    if options.bundle and "embedding" in wanted:
        rates |= embedding(options.bundle, options)
    result: dict[str, object] = {"jpeg_bytes": len(data), "threads": options.threads}
    if rates:
        result["images_per_second"] = {name: round(rate, 1) for name, rate in rates.items()}
    if "sound" in wanted:
        seconds = statistics.median(hour_of_sound() for _ in range(options.rounds))
        result["seconds_for_an_hour_of_sound"] = round(seconds, 2)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
