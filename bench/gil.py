"""How far another Python thread gets while the model runs: whether the interpreter is free during prefill and decode.

    python bench/gil.py model.litertlm -t 1

One thread runs pure Python, another one prefills, decodes, hashes (which holds no lock either) or is not there. Each
round measures all four, one after the other; the medians of the ratios count. With a core to spare for each thread the
share of the speed of being alone is the figure. The speed beside hashing tells what a second busy thread costs on this
machine whoever runs it; where other programs want the cores, both are as random as their turns.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import tandem_lm as tl

WORK = ("prefill", "decode")
SETTLE = 0.1  # seconds until a worker is at its work


def rate(seconds: float) -> float:
    """Rounds of pure Python per second of this thread."""
    rounds, start = 0, time.monotonic()
    while time.monotonic() < start + seconds:
        for _ in range(1000):
            pass
        rounds += 1
    return rounds / (time.monotonic() - start)


def beside(work: Callable[[threading.Event], None], seconds: float) -> float:
    """The rate while `work(stop)` runs on another thread."""
    stop = threading.Event()
    worker = threading.Thread(target=work, args=(stop,))
    worker.start()
    time.sleep(SETTLE)
    found = rate(seconds)
    stop.set()
    worker.join()
    return found


def measure(engine: tl.Engine, tokens: int, repetitions: int, seconds: float) -> dict[str, dict[str, list[float]]]:
    """By "alone" and "hash": the shares of those rates that are left beside "prefill" and "decode"."""
    ids = np.random.default_rng(1).integers(0, 256, tokens).tolist()
    data = bytes(2**24)
    params = tl.SamplingParams(max_tokens=100, stop_ids=())

    def hash_data(stop: threading.Event) -> None:
        while not stop.is_set():
            hashlib.sha256(data).digest()

    def prefill(stop: threading.Event) -> None:
        with engine.session() as session:
            while not stop.is_set():
                session.rewind(0)
                session.prefill(ids)

    def decode(stop: threading.Event) -> None:
        with engine.session() as session:
            session.prefill(ids[:2])
            while not stop.is_set():
                session.rewind(2)
                for _ in session.generate(params):
                    if stop.is_set():
                        break

    workers = {"hash": hash_data, "prefill": prefill, "decode": decode}
    shares: dict[str, dict[str, list[float]]] = {than: {kind: [] for kind in WORK} for than in ("alone", "hash")}
    for _ in range(repetitions):
        rates = {"alone": rate(seconds), **{kind: beside(work, seconds) for kind, work in workers.items()}}
        for than, kinds in shares.items():
            for kind in kinds:
                kinds[kind].append(rates[kind] / rates[than])
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("-t", "--threads", type=int, default=1, help="of the engine (default: %(default)s)")
    parser.add_argument("-p", "--prompt", type=int, default=2000, metavar="N", help="tokens (default: %(default)s)")
    parser.add_argument("-r", "--repetitions", type=int, default=7)
    parser.add_argument("-s", "--seconds", type=float, default=0.5, help="of each measurement (default: %(default)s)")
    args = parser.parse_args()
    with tl.Engine(args.bundle, num_threads=args.threads, max_context=args.prompt + 128, drafter="off") as engine:
        found = measure(engine, args.prompt, args.repetitions, args.seconds)
    for than, kinds in found.items():
        for kind, shares in kinds.items():
            print(
                f"beside {kind:>7}: {statistics.median(shares):6.1%} of the speed {than:>5}  (least {min(shares):.1%})"
            )


if __name__ == "__main__":
    main()
