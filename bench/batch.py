"""Tokens per second of several sessions at once against one: what batched decoding gives.

    python bench/batch.py model.litertlm                       # 1, 2, 4 and 8 sessions, a thread each
    python bench/batch.py model.litertlm -s 1,4 -d 1024 -n 64 -t 2 -r 5 --json

Every session has a random prompt of `-d` tokens and then generates `-n`, with plain decoding unless `--drafter` says
otherwise. Numbers of sessions are measured in alternation, medians count; the clock runs from the moment when all
prompts are done to the last token. Texts are compared with those of the sessions alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import tandem_lm as tl


@dataclass
class Found:
    rates: list[float] = field(default_factory=list)  # tokens per second of all sessions together
    rows: list[float] = field(default_factory=list)  # per step


def generate(sessions: list[tl.Session], depth: int, params: tl.SamplingParams) -> tuple[float, list[list[int]]]:
    """Seconds, and the tokens of each session, which all start from their first `depth` tokens."""
    ready = threading.Barrier(len(sessions) + 1)

    def work(session: tl.Session) -> list[int]:
        session.rewind(depth)
        generation = session.generate(params)
        ready.wait()
        return [token.id for token in generation]

    with ThreadPoolExecutor(len(sessions)) as pool:
        running = [pool.submit(work, session) for session in sessions]
        ready.wait()
        start = time.perf_counter()
        tokens = [one.result() for one in running]
        return time.perf_counter() - start, tokens


def measure(
    engine: tl.Engine, counts: list[int], depth: int, new: int, repetitions: int, drafter: str
) -> dict[int, Found]:
    """By the number of sessions."""
    rng = np.random.default_rng(1)
    params = tl.SamplingParams(max_tokens=new, stop_ids=(), drafter=drafter)
    sessions = [engine.session() for _ in range(max(counts))]
    for session in sessions:
        ids = rng.integers(0, engine.tokenizer.vocab_size - 16, depth - 1).tolist()
        session.prefill([engine.info.bos_id, *ids])
    expected = [generate([session], depth, params)[1][0] for session in sessions]
    found: dict[int, Found] = defaultdict(Found)
    for repetition in range(-1, repetitions):
        for count in counts:
            before = engine.stats()
            seconds, tokens = generate(sessions[:count], depth, params)
            if tokens != expected[:count]:
                raise SystemExit(f"{count} sessions at once gave other tokens than alone: this is a defect")
            if repetition >= 0:  # the first is a warm-up
                found[count].rates.append(count * new / seconds)
                found[count].rows.append(engine.stats().since(before).rows_per_step)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("-s", "--sessions", default="1,2,4,8", help="numbers of sessions, separated by commas")
    parser.add_argument("-d", "--depth", type=int, default=256, help="tokens of each prompt")
    parser.add_argument("-n", "--new", type=int, default=32, help="tokens that each session generates")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-r", "--repetitions", type=int, default=5)
    parser.add_argument("--drafter", choices=("auto", "on", "off"), default="off")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    counts = sorted({1, *(int(count) for count in args.sessions.split(","))})
    with tl.Engine(args.bundle, num_threads=args.threads, max_context=args.depth + args.new + 16) as engine:
        found = measure(engine, counts, args.depth, args.new, args.repetitions, args.drafter)
    alone = statistics.median(found[1].rates)
    if args.json:
        print(json.dumps({count: {"tokens_per_second": one.rates, "rows": one.rows} for count, one in found.items()}))
        return
    print("| sessions | tokens per second, all together | against one | rows per step |\n| ---: | ---: | ---: | ---: |")
    for count, one in found.items():
        rate = statistics.median(one.rates)
        print(f"| {count} | {rate:.1f} | {rate / alone:.2f} | {statistics.median(one.rows):.1f} |")


if __name__ == "__main__":
    main()
