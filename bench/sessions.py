"""What keeping, copying and waking a session costs: clone, first write after it, save, restore, prefix cache.

    python bench/sessions.py 12b-12layers.litertlm -d 32768

Prefills DEPTH random tokens once, then repeats every part; medians count. The file is compared with the bytes of the
keys and values that it must hold: every token of full layers, what the rings have of the others, and the token ids.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import tandem_lm as tl
from tandem_lm.engine import native_module

CLONES = 20  # held at once, to measure the memory of one
ELEMENT_BYTES = {"f32": 4, "f16": 2, "int8": 1}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def anonymous_bytes() -> int:
    """Resident memory of this process that is no file (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this system does not say what memory a process has (RssAnon); run it on Linux")


def formula_bytes(engine: tl.Engine, session: tl.Session) -> int:
    """Bytes of the rows and tokens that a saved session must hold; the newest token has no keys and values yet."""
    layers = json.loads(native_module().inspect(str(engine.path)))["manifest"]["model"]["layers"]
    scales = 4 if engine.info.kv_dtype == "int8" else 0

    def row(layer: dict[str, Any]) -> int:
        return int(2 * layer["kv_heads"] * (layer["head_dim"] * ELEMENT_BYTES[engine.info.kv_dtype] + scales))

    full = sum(row(layer) for layer in layers if not layer["window"])
    sliding = sum(row(layer) for layer in layers if layer["window"])
    slots = (session.cache_bytes - full * engine.info.max_context) // sliding if sliding else 0
    rows = session.position - 1
    return full * rows + sliding * min(rows, slots) + 4 * session.position


def measure(engine: tl.Engine, depth: int, repetitions: int, folder: Path) -> dict[str, Any]:
    ids = [engine.info.bos_id, *np.random.default_rng(1).integers(0, engine.info.vocab_size, depth - 1).tolist()]
    one = tl.SamplingParams(max_tokens=1, stop_ids=(), drafter="off")
    samples: dict[str, list[float]] = defaultdict(list)
    session = engine.session()
    prefill, _ = timed(lambda: session.prefill(ids))
    path = folder / "session"

    def step(session: tl.Session) -> None:
        list(session.generate(one))

    step(session)
    session.rewind(depth)
    for repetition in range(-1, repetitions):
        found: dict[str, float] = {}
        found["clone"], clone = timed(session.clone)
        found["first step after it"], _ = timed(partial(step, clone))
        clone.rewind(depth)
        found["another step"], _ = timed(partial(step, clone))
        clone.close()
        found["save"], _ = timed(lambda: session.save(path))
        found["restore"], woken = timed(lambda: engine.restore(path))
        found["its first step"], _ = timed(partial(step, woken))
        woken.close()
        if repetition >= 0:  # the first is a warm-up
            for name, seconds in found.items():
                samples[name].append(seconds)
    before = anonymous_bytes()
    clones = [session.clone() for _ in range(CLONES)]
    clone_bytes = (anonymous_bytes() - before) / len(clones)
    return {
        "depth": depth,
        "prefill_seconds": prefill,
        "clone_bytes": clone_bytes,
        "file_bytes": path.stat().st_size,
        "formula_bytes": formula_bytes(engine, session),
        "samples": samples,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("-d", "--depth", type=int, default=32768, metavar="N", help="tokens (default: %(default)s)")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-r", "--repetitions", type=int, default=11)
    parser.add_argument("--kv-dtype", default="f16")
    parser.add_argument(
        "--folder", type=Path, help="where the session is saved (default: the system's temporary folder)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(dir=args.folder) as folder,
        tl.Engine(
            args.bundle, num_threads=args.threads, max_context=args.depth + 64, kv_dtype=args.kv_dtype, drafter="off"
        ) as engine,
    ):
        found = measure(engine, args.depth, args.repetitions, Path(folder))
    print(f"{args.depth} tokens, prefilled in {found['prefill_seconds']:.1f} s")
    for name, seconds in found["samples"].items():
        print(f"{name:>20}  {1e3 * statistics.median(seconds):9.3f} ms  (worst {1e3 * max(seconds):.3f})")
    print(f"{'memory of a clone':>20}  {found['clone_bytes'] / 2**20:9.3f} MiB")
    print(f"{'file':>20}  {found['file_bytes'] / 2**20:9.1f} MiB, {found['file_bytes'] / found['formula_bytes']:.4f} x")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
