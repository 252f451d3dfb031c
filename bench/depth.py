"""What depth costs: decode, a prompt of 512 tokens, waking from a file, and memory, far into a context.

    cmake -S . -B build -DTANDEM_PYTHON=OFF && cmake --build build --target bench_deepen_session
    python bench/depth.py model.litertlm -d 16384,32256 --tool build/bench_deepen_session

The cache of each depth is made up (bench/deepen_session.cc) rather than prefilled, which would take hours on a 12B; its
numbers mean nothing, their places are those of a real one. Depths and depth 0 are measured in alternation, medians
count. The peak is that of this process, weights and files mapped included, beside the plan of the same engine.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tandem_lm as tl

SHORT = 8  # tokens of the session at depth 0
PROMPT = 512


def decode(session: tl.Session, count: int) -> float:
    """Tokens per second, plain. The session ends where it began."""
    depth = session.position
    times, last = [], time.perf_counter()
    params = tl.SamplingParams(temperature=0.0, max_tokens=count + 1, stop_ids=(), drafter="off")
    for _ in session.generate(params):
        now = time.perf_counter()
        times.append(now - last)
        last = now
    session.rewind(depth)
    return 1 / statistics.median(times[1:])


def prompt(session: tl.Session, ids: Sequence[int]) -> float:
    """Tokens per second of reading `ids`, up to the logits behind them. The session ends where it began."""
    depth = session.position
    start = time.perf_counter()
    session.prefill(ids[:-1])
    session.logits(ids[-1:])
    seconds = time.perf_counter() - start
    session.rewind(depth)
    return len(ids) / seconds


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(
    bundle: Path, tool: Path, depths: list[int], new: int, repetitions: int, threads: int, folder: Path
) -> dict[str, Any]:
    context = max(depths) + PROMPT + 64
    rng = np.random.default_rng(1)
    samples: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    with tl.Engine(bundle, num_threads=threads, max_context=context, kv_dtype="f16", drafter="off") as engine:
        ids = [int(i) for i in rng.integers(0, engine.tokenizer.vocab_size - 64, SHORT + PROMPT)]
        sessions = {0: engine.session()}
        sessions[0].prefill(ids[:SHORT])
        short = folder / "short"
        sessions[0].save(short)
        for depth in depths:
            path = folder / str(depth)
            subprocess.run([tool, bundle, short, str(depth), str(context), path], check=True)
            engine.restore(path).close()  # the file is then in the system's cache
            for _ in range(repetitions):
                start = time.perf_counter()
                woken = engine.restore(path)
                samples["restore_ms"][depth].append(1e3 * (time.perf_counter() - start))
                woken.close()
            sessions[depth] = engine.restore(path)
        for repetition in range(-1, repetitions):
            for depth, session in sessions.items():
                rate = decode(session, new)
                if repetition >= 0:
                    samples["decode"][depth].append(rate)
        decoded = peak_bytes()
        for _ in range(repetitions):
            for depth, session in sessions.items():
                samples["prompt"][depth].append(prompt(session, ids[SHORT:]))
        files = {depth: (folder / str(depth)).stat().st_size for depth in depths}
        plan = sum(engine.info.memory.values())
    return {"context": context, "samples": samples, "file_bytes": files, "plan_bytes": plan,
            "peak_bytes_decoding": decoded, "peak_bytes": peak_bytes()}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("-d", "--depths", default="16384,32256", help="tokens (default: %(default)s)")
    parser.add_argument("-n", type=int, default=32, help="tokens to decode (default: %(default)s)")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-r", "--repetitions", type=int, default=5)
    parser.add_argument("--tool", type=Path, required=True, help="the built bench_deepen_session")
    parser.add_argument("--folder", type=Path, help="for the sessions (default: the system's temporary folder)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    args = parser.parse_args()
    depths = [int(depth) for depth in args.depths.split(",")]
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        found = measure(args.bundle, args.tool, depths, args.n, args.repetitions, args.threads, Path(folder))
    medians = {
        what: {depth: statistics.median(values) for depth, values in by_depth.items()}
        for what, by_depth in found["samples"].items()
    }
    print(
        f"{'depth':>7} {'decode t/s':>11} {'of depth 0':>11} {f'pp{PROMPT} t/s':>10} {'restore ms':>11} {'file MiB':>9}"
    )
    for depth, rate in medians["decode"].items():
        woken = f"{medians['restore_ms'][depth]:11.1f} {found['file_bytes'][depth] / 2**20:9.1f}" if depth else ""
        print(f"{depth:>7} {rate:11.2f} {rate / medians['decode'][0]:11.3f} {medians['prompt'][depth]:10.1f} {woken}")
    plan, peak = found["plan_bytes"] / 1e9, found["peak_bytes_decoding"] / 1e9
    print(f"peak memory while decoding {peak:.2f} GB, {peak / plan:.3f} of the plan for {found['context']} tokens "
          f"({plan:.2f} GB); with the prompts {found['peak_bytes'] / 1e9:.2f} GB")  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
