"""Does anything grow? A conversation of many turns, then many short requests: memory, descriptors, threads.

    python bench/soak.py model.litertlm                          # 1000 turns, 10000 requests on 4 threads
    python bench/soak.py model.litertlm --turns 100 --requests 1000 --prefix-cache 8

The conversation slides when the context is full. Requests are of every kind that a server sees: answered, broken off,
cancelled, out of time, refused, with an image, forked, put to sleep and woken. Memory (VmRSS) is read after the first
tenth of each part, when caches and arenas have their size, and after every further one: what is lost with every request
grows to the end, what the allocator keeps does not. The exit status is 1 when memory grew by more than --limit MiB, or
when a descriptor or a thread is left.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

import tandem_lm as tl

ANSWER = 8  # tokens
IMAGES = 4  # different ones: an engine remembers what it has seen, within its own budget


@dataclass(frozen=True)
class Holdings:
    """What this process holds (Linux)."""

    memory: int  # bytes, resident
    files: int
    threads: int

    @classmethod
    def now(cls) -> Holdings:
        gc.collect()
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        files = len(list(Path("/proc/self/fd").iterdir()))
        return cls(int(fields["VmRSS"].split()[0]) * 1024, files, int(fields["Threads"]))


@dataclass(frozen=True)
class Found:
    """The holdings after each tenth of `count` rounds."""

    name: str
    count: int
    seconds: float
    tenths: tuple[Holdings, ...]

    @property
    def before(self) -> Holdings:
        return self.tenths[0]

    @property
    def after(self) -> Holdings:
        return self.tenths[-1]

    @property
    def growth(self) -> int:
        """Bytes."""
        return self.after.memory - self.before.memory

    def problems(self, limit: int) -> list[str]:
        found = []
        if self.growth > limit:
            found.append(f"{self.name}: memory grew by {self.growth / 2**20:.1f} MiB")
        for what in ("files", "threads"):
            before, after = getattr(self.before, what), getattr(self.after, what)
            if before != after:
                found.append(f"{self.name}: {before} {what} became {after}")
        return found

    def __str__(self) -> str:
        memory = " ".join(f"{holdings.memory / 2**20:.1f}" for holdings in self.tenths)
        return (
            f"{self.count} {self.name} in {self.seconds:.0f} s: memory {memory} MiB ({self.growth / 2**20:+.1f}), "
            f"descriptors {self.before.files} -> {self.after.files}, threads {self.before.threads} -> "
            f"{self.after.threads}"
        )


def in_tenths(count: int) -> list[range]:
    """The numbers below `count` in ten ranges."""
    ends = [count * tenth // 10 for tenth in range(11)]
    return [range(first, end) for first, end in pairwise(ends)]


def converse(engine: tl.Engine, turns: int) -> Found:
    """One conversation. Its history is the caller's to keep or drop: here the newest hundred messages stay."""
    params = tl.SamplingParams(max_tokens=ANSWER, stop_ids=())
    start, tenths = time.monotonic(), []
    with engine.conversation(system="Be brief.", slide=True) as chat:
        for numbers in in_tenths(turns):
            for turn in numbers:
                chat.send(f"What is {turn} and {turn * turn}?", params)
                del chat.history[1:-100]
            tenths.append(Holdings.now())
        if len(chat.history) != min(1 + 2 * turns, 101):
            raise SystemExit(f"the history has {len(chat.history)} messages")
    return Found("turns", turns, time.monotonic() - start, tuple(tenths))


class Requests:
    """Short requests, each of a kind by its number, on sessions of their own."""

    def __init__(self, engine: tl.Engine, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self.params = tl.SamplingParams(max_tokens=ANSWER, stop_ids=())
        pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 48, 64, 3), dtype=np.uint8)
        self.images = [tl.Image(image, max_soft_tokens=70) for image in pixels]
        self.kinds: list[Callable[[tl.Session, int], None]] = [
            self.answered, self.broken_off, self.cancelled, self.late, self.refused, self.forked, self.woken
        ]  # fmt: skip
        if "image" in engine.info.modalities:
            self.kinds.append(self.seen)

    def run(self, number: int) -> None:
        with self.engine.session() as session:
            self.kinds[number % len(self.kinds)](session, number)

    def _begin(self, session: tl.Session, number: int) -> None:
        ids = np.random.default_rng(number).integers(0, 256, 12 + number % 20).tolist()
        session.prefill([self.engine.info.bos_id, *ids])

    def _answer(self, session: tl.Session) -> list[int]:
        return [token.id for token in session.generate(self.params)]

    def answered(self, session: tl.Session, number: int) -> None:
        self._begin(session, number)
        self._answer(session)

    def broken_off(self, session: tl.Session, number: int) -> None:
        self._begin(session, number)
        next(session.generate(self.params))

    def cancelled(self, session: tl.Session, number: int) -> None:
        self._begin(session, number)
        generation = session.generate(self.params)
        next(generation)
        session.cancel()
        if next(generation, None) is not None or generation.finish_reason != "cancelled":
            raise SystemExit("a cancelled generation went on")

    def late(self, session: tl.Session, number: int) -> None:
        self._begin(session, number)
        if list(session.generate(self.params, timeout=1e-9)):
            raise SystemExit("a generation without time went on")

    def refused(self, session: tl.Session, number: int) -> None:
        self._begin(session, number)
        try:
            session.prefill([1] * (self.engine.info.max_context + 1))
        except tl.ContextLengthError:
            return
        raise SystemExit("a prompt longer than the context was taken")

    def forked(self, session: tl.Session, number: int) -> None:
        self._begin(session, number)
        with session.clone() as clone:
            clone.prefill([1, 2, 3])
            self._answer(clone)

    def woken(self, session: tl.Session, number: int) -> None:
        self._begin(session, number)
        path = self.folder / str(number)
        session.save(path)
        with self.engine.restore(path) as woken:
            path.unlink()
            self._answer(woken)

    def seen(self, session: tl.Session, number: int) -> None:
        session.prefill([self.engine.info.bos_id, self.images[number // len(self.kinds) % IMAGES], 5])
        self._answer(session)


def request(engine: tl.Engine, count: int, threads: int) -> Found:
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(threads) as pool:
        requests = Requests(engine, Path(folder))
        start, tenths = time.monotonic(), []
        for numbers in in_tenths(count):
            for _ in pool.map(requests.run, numbers):
                pass
            tenths.append(Holdings.now())
    return Found("requests", count, time.monotonic() - start, tuple(tenths))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="with a chat template")
    parser.add_argument("--turns", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=10000)
    parser.add_argument("--clients", type=int, default=4, help="threads that make requests (default: %(default)s)")
    parser.add_argument("-t", "--threads", type=int, default=1, help="of the engine (default: %(default)s)")
    parser.add_argument("-c", "--context", type=int, help="tokens (default: what the bundle was made for)")
    parser.add_argument("--prefix-cache", type=int, default=0, metavar="MIB", help="(default: none)")
    parser.add_argument(
        "--limit", type=float, default=32, metavar="MIB", help="growth of memory (default: %(default)s)"
    )
    args = parser.parse_args(arguments)
    problems = []
    with tl.Engine(
        args.bundle, num_threads=args.threads, max_context=args.context, prefix_cache=args.prefix_cache * 2**20
    ) as engine:
        if args.turns:
            found = converse(engine, args.turns)
            print(found, flush=True)
            problems += found.problems(int(args.limit * 2**20))
        if args.requests:
            found = request(engine, args.requests, args.clients)
            print(found, flush=True)
            problems += found.problems(int(args.limit * 2**20))
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
