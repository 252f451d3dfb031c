"""How fast media become what the model reads, without the model.

    python bench/media.py                    # a minute on two cores; needs tandem-lm[media]

Pictures: generated 1080p JPEGs (quality 90, a noisy gradient), decoded, resized to 280 tokens and cut into patches.
Sound: an hour of 44.1 kHz stereo from memory, block by block, to frames. Medians of the rounds.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image as Pillow

import tandem_lm as tl
from tandem_lm import _native

RATE, CHANNELS, SECONDS = 44_100, 2, 3600
BLOCK = 60  # seconds
BUDGET = 280


def jpeg() -> bytes:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:1080, 0:1920]
    gradient = np.stack([x / 7.5, y / 4.2, (x + y) / 12], -1)
    pixels = (gradient + rng.normal(0, 6, gradient.shape)).clip(0, 255).astype(np.uint8)
    out = io.BytesIO()
    Pillow.fromarray(pixels).save(out, "JPEG", quality=90)
    return out.getvalue()


def images_per_second(work: Callable[[], object], threads: int, count: int) -> float:
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        for future in [pool.submit(work) for _ in range(count)]:
            future.result()
        return count / (time.perf_counter() - start)


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
    options = parser.parse_args()
    data = jpeg()
    rgb = tl.Image(data).rgb()
    steps: dict[str, Callable[[], object]] = {
        "decode": lambda: tl.Image(data),
        "resize and cut": lambda: _native.prepare_image(rgb, BUDGET),
        "decode, resize and cut": lambda: _native.prepare_image(tl.Image(data).rgb(), BUDGET),
    }
    result: dict[str, object] = {"jpeg_bytes": len(data), "threads": options.threads}
    result["images_per_second"] = {
        name: round(
            statistics.median(images_per_second(work, options.threads, options.images) for _ in range(options.rounds)),
            1,
        )
        for name, work in steps.items()
    }
    result["seconds_for_an_hour_of_sound"] = round(statistics.median(hour_of_sound() for _ in range(options.rounds)), 2)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
