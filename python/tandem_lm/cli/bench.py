"""Measures speed in llama-bench's vocabulary.

ppN reads a prompt of N tokens, tgN generates N, "@ dN" does so after N others; tokens per second, mean ± standard
deviation. Speculative decoding is off unless --drafter asks for it: its gain depends on the text, which is random here.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._quiet import without_greeting
from ..bench import BenchTest, Result, plan_tests, run_tests
from ..engine import Engine
from ..errors import InvalidRequestError
from ..memory import peak_rss_bytes
from ..types import SamplingParams
from .output import note, size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="a .litertlm file")
    for flag, name, default, what in (
        ("-p", "--n-prompt", [512], "prompt lengths"),
        ("-n", "--n-gen", [128], "generation lengths"),
        ("-d", "--n-depth", [0], "tokens before them"),
    ):
        parser.add_argument(
            flag, name, type=_numbers, default=default, metavar="N,...", help=f"{what} (default: {default[0]})"
        )
    parser.add_argument("-t", "--threads", type=int, metavar="N", help="threads (default: one per physical core)")
    parser.add_argument("-r", "--repetitions", type=int, default=5, metavar="N", help="default: %(default)s")
    parser.add_argument("-o", "--output", choices=("md", "json", "csv"), default="md", help="default: %(default)s")
    parser.add_argument("--kv-dtype", default="f16", metavar="TYPE", help="of the cache (default: %(default)s)")
    parser.add_argument("--graph", default="auto", metavar="GRAPH", help="fast, portable or auto (default)")
    parser.add_argument("--drafter", choices=("auto", "on", "off"), default="off", help="default: %(default)s")
    parser.add_argument("--draft-tokens", type=int, metavar="K", help="draft K tokens per round (default: what pays)")
    parser.add_argument(
        "--simulate-acceptance",
        type=_chances,
        metavar="P1,P2,...",
        help="let draft 1, 2, ... be accepted with these chances when all before it were, whatever the model says: "
        "what the machinery yields at an acceptance that an untrained drafter cannot show. Marked as simulated",
    )
    parser.add_argument("--backend", default="cpu", metavar="B", help="cpu (default), gpu, gpu:NAME or auto")
    parser.add_argument("--no-warmup", action="store_true", help="time the first run too")


def execute(args: argparse.Namespace) -> int:
    tests = plan_tests(args.n_prompt, args.n_gen, args.n_depth)
    if args.drafter == "off" and (args.draft_tokens or args.simulate_acceptance):
        raise InvalidRequestError("--draft-tokens and --simulate-acceptance need --drafter auto or --drafter on")

    def progress(name: str, done: int) -> None:
        if sys.stderr.isatty():
            note(f"{name}: {done}/{args.repetitions}")

    with open_bench_engine(
        args.bundle, tests, args.threads, args.kv_dtype, args.graph, args.drafter, args.backend
    ) as engine:
        decoding = SamplingParams(draft_tokens=args.draft_tokens, simulate_acceptance=args.simulate_acceptance or ())
        results = list(run_tests(engine, tests, args.repetitions, not args.no_warmup, progress, decoding))
        write = {"md": as_table, "json": as_json, "csv": as_csv}[args.output]
        print(write(engine, results, args.simulate_acceptance or ()), end="")
    return 0


def open_bench_engine(
    bundle: str,
    tests: Sequence[BenchTest],
    threads: int | None,
    kv_dtype: str,
    graph: str,
    drafter: str = "off",
    backend: str = "cpu",
) -> Engine:
    """An engine with the context that the tests need. That of portable graphs, a GPU's too, is part of the bundle."""
    context = None if graph == "portable" or backend != "cpu" else max(test.context for test in tests)
    with without_greeting():
        return Engine(
            bundle,
            backend=backend,
            num_threads=threads,
            max_context=context,
            kv_dtype=kv_dtype,
            graph=graph,
            drafter=drafter,
        )


def facts(engine: Engine, results: Sequence[Result], simulated: Sequence[float]) -> dict[str, Any]:
    """What the results have in common."""
    info = engine.info
    first = [r for r in results if r.test.n_prompt and not r.test.n_depth]
    return {
        "model": Path(engine.path).name,
        "model_bytes": Path(engine.path).stat().st_size,
        "family": info.family,
        "quantization": info.quantization,
        "backend": info.backend,
        "graph": info.graph,
        "threads": info.num_threads,
        "kv_dtype": info.kv_dtype,
        "simulated_acceptance": list(simulated),
        "load_seconds": info.load_seconds,
        "warm_start": info.warm_start,
        "time_to_first_token_seconds": sum(first[0].samples_s) / len(first[0].samples_s) if first else None,
        "time_to_first_token_prompt": first[0].test.n_prompt if first else None,
        "peak_rss_bytes": max([peak_rss_bytes(), *(r.peak_rss_bytes for r in results)]),
    }


def fields(result: Result) -> dict[str, Any]:
    """One result, named as llama-bench names them where it does."""
    stats = result.stats
    return {
        "test": result.test.name,
        "n_prompt": result.test.n_prompt,
        "n_gen": result.test.n_gen,
        "n_depth": result.test.n_depth,
        "avg_ts": result.avg_ts,
        "stddev_ts": result.stddev_ts,
        "samples_ns": [round(s * 1e9) for s in result.samples_s],
        "samples_ts": list(result.samples_ts),
        "peak_rss_bytes": result.peak_rss_bytes,
        "drafted": stats.drafted,
        "accepted": stats.accepted,
        "accepted_by_position": list(stats.accepted_by_position),
        "depths": list(stats.depths),
        "tokens_per_verify": stats.tokens_per_verify,
        "draft_seconds": stats.draft_seconds,
        "verify_seconds": stats.verify_seconds,
        "sample_seconds": stats.sample_seconds,
    }


def as_json(engine: Engine, results: Sequence[Result], simulated: Sequence[float] = ()) -> str:
    return json.dumps({**facts(engine, results, simulated), "results": [fields(r) for r in results]}, indent=2) + "\n"


def as_csv(engine: Engine, results: Sequence[Result], simulated: Sequence[float] = ()) -> str:
    common = facts(engine, results, simulated)
    common.pop("peak_rss_bytes")  # every row has its own
    rows = [{**common, **fields(r)} for r in results]
    for row in rows:
        for name, value in row.items():
            if isinstance(value, list):
                row[name] = " ".join(f"{n:.12g}" for n in value)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_table(engine: Engine, results: Sequence[Result], simulated: Sequence[float] = ()) -> str:
    common = facts(engine, results, simulated)
    drafting = any(r.stats.drafted for r in results)
    head = ["model", "size", "backend", "threads", "kv", "test", "t/s", "peak RSS"]
    head += ["drafted / accepted", "tokens per verify"] if drafting else []
    lines = [
        f"| {' | '.join(head)} |",
        "| --- | ---: | --- | ---: | --- | ---: | ---: | ---: |" + 2 * drafting * " ---: |",
    ]
    for r in results:
        cells = [
            f"{common['family']} {common['quantization']}",
            size(common["model_bytes"]),
            f"{common['backend']} {common['graph']}",
            str(common["threads"]),
            common["kv_dtype"],
            r.test.name,
            f"{r.avg_ts:.2f} ± {r.stddev_ts:.2f}",
            size(r.peak_rss_bytes),
        ]
        if drafting:
            cells += [f"{r.stats.drafted} / {r.stats.accepted}", f"{r.stats.tokens_per_verify:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    start = "weights found in the cache folder" if common["warm_start"] else "weights prepared for this machine"
    words = [f"load {common['load_seconds']:.2f} s ({start})"]
    if common["time_to_first_token_prompt"]:
        seconds, prompt = common["time_to_first_token_seconds"], common["time_to_first_token_prompt"]
        words.append(f"time to first token {seconds:.3f} s after a prompt of {prompt}")
    if simulated:
        chances = ", ".join(f"{chance:g}" for chance in simulated)
        words.append(f"SIMULATED acceptance {chances}: the text is not the model's")
    words.append(f"peak RSS {size(common['peak_rss_bytes'])}, mapped weights included")
    return "\n".join([*lines, "", "; ".join(words)]) + "\n"


def _numbers(text: str) -> list[int]:
    """ "512,1024" -> [512, 1024]"""
    numbers = [int(part) for part in text.split(",")]
    if any(n < 0 for n in numbers):
        raise ValueError
    return numbers


def _chances(text: str) -> tuple[float, ...]:
    """ "0.85,0.75" -> (0.85, 0.75)"""
    return tuple(float(part) for part in text.split(","))


_chances.__name__ = "list of chances"
_numbers.__name__ = "list of numbers"  # argparse's complaint says it
