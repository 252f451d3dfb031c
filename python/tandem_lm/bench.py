"""Speed of an engine in llama-bench's vocabulary: ppN reads a prompt of N tokens, tgN writes N, `@ dN` after N others.

What is timed: for ppN, appending N pseudo-random tokens until the logits after the last are there; for tgN, N steps of
greedy decoding with end tokens ignored. What is not: loading, a warm-up, and filling the depth. At depth 0 every
repetition has a fresh session; at a depth the session is filled once and rewound to the depth between repetitions.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from . import _checks
from .engine import Engine, Session
from .errors import InvalidRequestError
from .memory import peak_rss_bytes, reset_peak_rss
from .types import SamplingParams, Stats

Progress = Callable[[str, int], None]  # the test's name and how many repetitions are done


@dataclass(frozen=True)
class BenchTest:
    """One of `n_prompt` and `n_gen` is 0."""

    n_prompt: int
    n_gen: int
    n_depth: int = 0

    @property
    def name(self) -> str:
        kind = f"pp{self.n_prompt}" if self.n_prompt else f"tg{self.n_gen}"
        return f"{kind} @ d{self.n_depth}" if self.n_depth else kind

    @property
    def tokens(self) -> int:
        return self.n_prompt or self.n_gen

    @property
    def context(self) -> int:
        """Tokens that a session must hold."""
        return self.n_depth + self.tokens + 2  # the first token, and one that is generated to settle


@dataclass(frozen=True)
class Result:
    test: BenchTest
    samples_s: tuple[float, ...]  # seconds per repetition
    peak_rss_bytes: int
    stats: Stats  # of the repetitions' decoding, speculative counters included

    @property
    def samples_ts(self) -> tuple[float, ...]:
        """Tokens per second per repetition."""
        return tuple(self.test.tokens / seconds for seconds in self.samples_s)

    @property
    def avg_ts(self) -> float:
        return statistics.fmean(self.samples_ts)

    @property
    def stddev_ts(self) -> float:
        return statistics.stdev(self.samples_ts) if len(self.samples_s) > 1 else 0.0


def plan_tests(prompts: Sequence[int], generations: Sequence[int], depths: Sequence[int]) -> list[BenchTest]:
    """Every depth with every prompt length, then with every generation length; 0 leaves a kind out."""
    tests = []
    for depth in depths:
        _checks.integer("depth", depth, 0)
        tests += [BenchTest(_checks.integer("prompt", n, 0), 0, depth) for n in prompts if n]
        tests += [BenchTest(0, _checks.integer("generation", n, 0), depth) for n in generations if n]
    if not tests:
        raise InvalidRequestError("there is nothing to measure; give a prompt length (-p) or a generation length (-n)")
    return tests


def run_tests(
    engine: Engine,
    tests: Sequence[BenchTest],
    repetitions: int = 5,
    warm_up: bool = True,
    progress: Progress | None = None,
    decoding: SamplingParams | None = None,
) -> Iterator[Result]:
    """Measures the tests in turn and yields each result when it is there. `decoding` says how tokens are drafted
    (draft_tokens, simulate_acceptance)."""
    _checks.integer("repetitions", repetitions, 1)
    for test in tests:
        yield _Runner(engine, test, decoding or SamplingParams()).measure(
            repetitions, warm_up, progress or (lambda _name, _done: None)
        )


class _Runner:
    def __init__(self, engine: Engine, test: BenchTest, decoding: SamplingParams) -> None:
        info = engine.info
        self._engine, self._test, self._decoding = engine, test, decoding
        random = np.random.default_rng(1).integers(0, info.vocab_size, test.n_depth + test.n_prompt + 1).tolist()
        random[0] = info.bos_id
        # Decoding continues a token that is not in the cache yet; reading a prompt starts behind the depth.
        before = test.n_depth if test.n_prompt else test.n_depth + 1
        self._before, self._prompt = random[:before], random[before : before + test.n_prompt]

    def measure(self, repetitions: int, warm_up: bool, progress: Progress) -> Result:
        reset_peak_rss()
        name, done = self._test.name, 0
        progress(name, done)
        seconds: list[float] = []
        stats = Stats()
        session: Session | None = None
        for repetition in range(-1 if warm_up else 0, repetitions):
            if session is None or not self._test.n_depth:
                if session is not None:
                    session.close()
                session = self._engine.session()
                self._append(session, self._before)
            self._settle(session)
            earlier = session.stats()
            taken = self._timed(session, short=repetition < 0)
            if repetition < 0:
                continue
            seconds.append(taken)
            stats += session.stats().since(earlier)
            done += 1
            progress(name, done)
        if session is not None:
            session.close()
        return Result(self._test, tuple(seconds), peak_rss_bytes(), stats)

    def _append(self, session: Session, ids: list[int]) -> None:
        if ids:
            session.prefill(ids)

    def _settle(self, session: Session) -> None:
        """Brings the session to its depth, with all that is before it in the cache, whatever was done since."""
        depth = len(self._before)
        session.rewind(depth)
        if self._test.n_depth:
            self._generate(session, 1)
            session.rewind(depth)

    def _timed(self, session: Session, short: bool) -> float:
        start = time.perf_counter()
        if self._prompt:
            session.prefill(self._prompt)
            self._generate(session, 1)
        else:
            self._generate(session, 1 if short else self._test.n_gen)
        return time.perf_counter() - start

    def _generate(self, session: Session, count: int) -> None:
        made = sum(1 for _ in session.generate(replace(self._decoding, max_tokens=count, stop_ids=())))
        if made != count:
            raise InvalidRequestError(
                f"{self._test.name}: the context ended after {made} of {count} tokens; use a smaller depth"
            )
