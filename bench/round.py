"""What one round of speculative decoding costs, part by part, against a plain step of the same engine in the same run.

    python bench/round.py 12b.litertlm                  # a bundle with a drafter

Parts are measured in alternation, medians count: the target's step with 1, 2, ... rows (logits included), the
drafter's chain of 1 ... drafts, and the choice of a token.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

import tandem_lm as tl

DRAFTS = 3


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(engine: tl.Engine, depth: int, rows: tuple[int, ...], repetitions: int) -> dict[str, list[float]]:
    """Seconds of every part, by its name."""
    samples: dict[str, list[float]] = defaultdict(list)
    ids = np.random.default_rng(1).integers(0, engine.info.vocab_size, depth + max(rows) + 1).tolist()
    with engine.session() as session:
        session.prefill([engine.info.bos_id, *ids[:depth]])
        for repetition in range(-1, repetitions):
            found: dict[str, float] = {}
            for count in rows:
                session.rewind(depth)
                part = ids[depth : depth + count]
                found[f"step of {count}"] = timed(lambda part=part: session.logits(part))  # type: ignore[misc]
            for count in range(1, DRAFTS + 1) if engine.info.has_drafter else ():
                session.rewind(depth)
                list(session.generate(tl.SamplingParams(max_tokens=2, stop_ids=(), drafter="off")))
                found[f"{count} drafts"] = timed(lambda count=count: session._native.draft(count))  # type: ignore[misc]
            before = session.stats()
            list(session.generate(tl.SamplingParams(max_tokens=2, stop_ids=(), drafter="off")))
            found["choice of a token"] = session.stats().since(before).sample_seconds / 2
            if repetition >= 0:  # the first is a warm-up
                for name, seconds in found.items():
                    samples[name].append(seconds)
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-d", "--depth", type=int, default=64, help="tokens in the cache")
    parser.add_argument("-r", "--repetitions", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the samples here")
    args = parser.parse_args()
    rows = (1, 2, 3, 4, 5, 6, 8, 16)
    with tl.Engine(args.bundle, num_threads=args.threads, max_context=args.depth + 64) as engine:
        samples = measure(engine, args.depth, rows, args.repetitions)
    median = {name: statistics.median(values) for name, values in samples.items()}
    plain = median["step of 1"]
    print("| part | median ms | of a plain step |\n| --- | ---: | ---: |")
    for name, seconds in median.items():
        print(f"| {name} | {1e3 * seconds:.2f} | {seconds / plain:.3f} |")
    if f"{DRAFTS} drafts" in median:
        whole = median[f"{DRAFTS} drafts"] + median[f"step of {DRAFTS + 1}"] + median["choice of a token"]
        print(f"| a round of {DRAFTS} drafts | {1e3 * whole:.2f} | {whole / plain:.3f} |")
    if args.json:
        args.json.write_text(json.dumps(samples) + "\n")


if __name__ == "__main__":
    main()
