"""Tandem against other runtimes on the same work, in alternation; writes a table, the samples and a plot.

    python bench/compare.py 270m.litertlm --gguf-from gemma3-270m.gguf --litert-lm 270m.litertlm -n 128 -d 0,16384

Every sample is a process of its own (bench/peers.py): a round measures one test with each runtime in turn, and rounds
begin with another runtime each. Medians count, and above all their ratios: absolute speeds move with the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import machine
from roofline import Roofline, roofline

from tandem_lm import gpu
from tandem_lm.bench import BenchTest, plan_tests
from tandem_lm.engine import native_module

HERE = Path(__file__).resolve().parent
MODEL_SECTION = "tf_lite_prefill_decode"
OURS = "Tandem"
DRAFTING = {"on": "Tandem, drafting", "auto": "Tandem, drafts rejected"}
QUIET = 0.5  # load average above which neighbours are likely to disturb
QUANTIZE = """
import sys
from pathlib import Path
from quality import quantize_gguf, write_f32_gguf
source, full, out = map(Path, sys.argv[1:])
write_f32_gguf(source, full)
quantize_gguf(full, out, "Q4_0")
"""


@dataclass(frozen=True)
class Peer:
    name: str
    model: Path
    weight_bytes: int
    acceptance: tuple[float, ...] = ()  # simulated, of a Tandem with its drafter


@dataclass
class Cell:
    """One test on one runtime."""

    samples_s: list[float] = field(default_factory=list)
    load_s: list[float] = field(default_factory=list)
    peak_rss: list[int] = field(default_factory=list)
    load_average: list[float] = field(default_factory=list)
    error: str = ""

    @property
    def seconds(self) -> float | None:
        return statistics.median(self.samples_s) if self.samples_s else None


Cells = dict[tuple[BenchTest, Peer], Cell]


# -------------------------------------------------------------------------------------------------------- measuring
def measure(
    tests: Sequence[BenchTest], peers: Sequence[Peer], args: argparse.Namespace, work: Path
) -> Iterator[tuple[Sequence[BenchTest], Cells]]:
    """After every test: those that are done, and all cells."""
    cells: Cells = {(test, peer): Cell() for test in tests for peer in peers}
    for place, test in enumerate(tests):
        for turn in range(args.rounds):
            for peer in [*peers[turn % len(peers) :], *peers[: turn % len(peers)]]:
                cell = cells[test, peer]
                if peer.acceptance and not test.n_gen:
                    cell.error = "drafts speed up writing only"
                if not cell.error:  # what failed once fails again
                    sample(test, peer, cell, args, work)
                    speed = cell.error or f"{test.tokens / cell.samples_s[-1]:.2f} t/s"
                    print(f"{test.name}, round {turn + 1}/{args.rounds}: {peer.name} {speed}", file=sys.stderr)
        yield tests[: place + 1], cells


def sample(test: BenchTest, peer: Peer, cell: Cell, args: argparse.Namespace, work: Path) -> None:
    job, out = work / "job.json", work / "answer.json"
    out.unlink(missing_ok=True)
    values = {
        "peer": peer.name,
        "acceptance": peer.acceptance,
        "model": str(peer.model),
        "threads": args.threads,
        "backend": args.backend,
        "kv_dtype": args.kv_dtype,
    }
    cache = work / "cache"
    cache.mkdir(exist_ok=True)
    job.write_text(json.dumps({**values, **asdict(test), "graph": args.graph, "cache": str(cache), "out": str(out)}))
    cell.load_average.append(os.getloadavg()[0])
    command = [sys.executable, str(HERE / "peers.py"), str(job)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=args.timeout, check=False
        )
    except subprocess.TimeoutExpired:
        cell.error = f"more than {args.timeout} s"
        return
    if done.returncode or not out.exists():
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        cell.error = f"failed ({done.returncode}): {last[0] if last else 'no message'}"
        return
    answer = json.loads(out.read_text())
    cell.samples_s.append(answer["seconds"])
    cell.load_s.append(answer["load_seconds"])
    cell.peak_rss.append(answer["peak_rss_bytes"])


def inspect(bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(native_module().inspect(str(bundle)))
    return found


def section_bytes(bundle: Path) -> int:
    """Weights of a bundle; the file's size where it is another converter's."""
    try:
        return next(int(s["bytes"]) for s in inspect(bundle)["sections"] if s["name"] == MODEL_SECTION)
    except native_module().NativeError:
        return bundle.stat().st_size


def packed_bytes(bundle: Path) -> int:
    """The weights of a bundle as this machine reads them."""
    plan: dict[str, Any] = native_module().memory_plan(str(bundle))
    return int(plan["parts"]["weights"])


def quantized_gguf(source: Path, folder: Path) -> Path:
    """A Q4_0 of a GGUF's weights, made by llama.cpp itself from float32, in a process that takes its memory with it."""
    out = folder / f"{source.stem.removesuffix('-q4_k_m')}-q4_0.gguf"
    if not out.exists():
        with tempfile.TemporaryDirectory(dir=folder) as made:
            files = [source.resolve(), Path(made).resolve() / "f32.gguf", out.resolve()]
            subprocess.run([sys.executable, "-c", QUANTIZE, *files], cwd=HERE, check=True, stderr=subprocess.DEVNULL)
    return out


# -------------------------------------------------------------------------------------------------------- reporting
def limits(cells: Cells, model: dict[str, Any], kv_dtype: str, rates: dict[str, float]) -> dict[Any, Roofline | None]:
    return {
        (test, peer): None
        if peer.acceptance  # a step gives more than one token
        else roofline(model, peer.weight_bytes, test.n_prompt, test.n_gen, test.n_depth, kv_dtype, rates)
        for test, peer in cells
    }


def table(tests: Sequence[BenchTest], peers: Sequence[Peer], cells: Cells, roofs: dict[Any, Roofline | None]) -> str:
    lines = [
        "| test | runtime | t/s, median | lowest - highest | Tandem is | of the machine's limit | peak RSS | load |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for test in tests:
        ours = cells[test, peers[0]].seconds
        for peer in peers:
            cell = cells[test, peer]
            if cell.seconds is None:
                lines.append(f"| {test.name} | {peer.name} | - | {cell.error} | | | | |")
                continue
            speeds = [test.tokens / s for s in cell.samples_s]
            ratio = f"{cell.seconds / ours:.2f}x" if ours and peer != peers[0] else ""
            roof = roofs[test, peer]
            share = f"{100 * roof.seconds / cell.seconds:.0f} % ({roof.bound})" if roof else "?"
            lines.append(
                f"| {test.name} | {peer.name} | {test.tokens / cell.seconds:.2f} "
                f"| {min(speeds):.2f} - {max(speeds):.2f} | {ratio} "
                f"| {share} | {max(cell.peak_rss) / 2**30:.2f} GiB | {statistics.median(cell.load_s):.1f} s |"
            )
    return "\n".join(lines) + "\n"


def describe(facts: dict[str, Any], args: argparse.Namespace, peers: Sequence[Peer]) -> str:
    rates = facts["rates"]
    limit = "not measured"
    if rates:
        limit = f"{rates['bytes_per_second'] / 1e9:.1f} GB/s read"
        if "int8_macs_per_second" in rates:
            limit += f", {rates['int8_macs_per_second'] / 1e9:.0f} GMAC/s int8"
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    files = ", ".join(f"{peer.name}: {peer.model.name} ({peer.weight_bytes / 1e9:.2f} GB of weights)" for peer in peers)
    simulated = ", ".join(f"{chance:g}" for chance in args.simulate_acceptance or ())
    note = f"Drafting: SIMULATED acceptance {simulated}; the text is not the model's.\n\n" if simulated else ""
    gpus = ", ".join(f"{g['name']} ({g['kind']})" for g in facts.get("gpus", []))
    note += f"Backend {args.backend}; GPUs: {gpus}.\n\n" if gpus else ""
    return note + (
        f"{facts['cpu']} ({', '.join(facts['features'])}), {facts['cpus']} CPUs, L3 {facts['l3'] or '?'}, "
        f"{facts['memory_bytes'] / 2**30:.0f} GiB, {facts['system']}. {args.threads} threads: {limit}. "
        f"Load average {facts['load_average']:.1f} before, {facts['load_average_after']:.1f} after.\n\n"
        f"{files}. {versions}. KV cache {args.kv_dtype}; {args.rounds} alternating rounds.\n"
    )


def plot(tests: Sequence[BenchTest], peers: Sequence[Peer], cells: Cells, out: Path) -> None:
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is not installed (pip install '.[bench]'): no plot", file=sys.stderr)
        return
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "tandem"  # the same picture is the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(tests), figsize=(2.6 * len(tests) + 0.6, 3.4), squeeze=False)
    for axis, test in zip(axes[0], tests, strict=True):
        for place, peer in enumerate(peers):
            cell = cells[test, peer]
            if cell.seconds is None:
                continue
            bar = axis.bar(place, test.tokens / cell.seconds, color=f"C{place}", width=0.7)
            axis.bar_label(bar, fmt="%.3g", padding=2)
            axis.plot([place] * len(cell.samples_s), [test.tokens / s for s in cell.samples_s], "k.", markersize=3)
        axis.set_title(test.name)
        axis.set_xticks(range(len(peers)), [peer.name for peer in peers], rotation=20)
        axis.margins(y=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("tokens per second")
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})


def as_json(
    tests: Sequence[BenchTest], peers: Sequence[Peer], cells: Cells, roofs: dict[Any, Roofline | None]
) -> list[dict[str, Any]]:
    rows = []
    for test in tests:
        ours = cells[test, peers[0]].seconds
        for peer in peers:
            cell, roof = cells[test, peer], roofs[test, peer]
            median = cell.seconds
            rows.append(
                {
                    "test": test.name,
                    **asdict(test),
                    "runtime": peer.name,
                    **asdict(cell),
                    "median_ts": test.tokens / median if median else None,
                    "tandem_ratio": median / ours if median and ours else None,
                    "roofline": asdict(roof) if roof else None,
                    "of_limit": roof.seconds / median if roof and median else None,
                }
            )
    return rows


def report(
    tests: Sequence[BenchTest],
    peers: Sequence[Peer],
    cells: Cells,
    roofs: dict[Any, Roofline | None],
    facts: dict[str, Any],
    args: argparse.Namespace,
    out: Path,
) -> str:
    """Writes the three files; the table is returned too."""
    text = f"{table(tests, peers, cells, roofs)}\n{describe(facts, args, peers)}"
    out.parent.mkdir(parents=True, exist_ok=True)
    options = {"threads": args.threads, "rounds": args.rounds, "kv_dtype": args.kv_dtype, "graph": args.graph,
               "backend": args.backend}  # fmt: skip
    models = {peer.name: {"file": peer.model.name, "weight_bytes": peer.weight_bytes} for peer in peers}
    record = {"machine": facts, "options": options, "models": models, "rows": as_json(tests, peers, cells, roofs)}
    Path(f"{out}.json").write_text(json.dumps(record, indent=1) + "\n")
    Path(f"{out}.md").write_text(text)
    plot(tests, peers, cells, Path(f"{out}.svg"))
    return text


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="Tandem's bundle")
    parser.add_argument("--gguf", type=Path, help="llama.cpp's model")
    parser.add_argument("--gguf-from", type=Path, help="make llama.cpp's model from this GGUF: Q4_0, by llama.cpp")
    parser.add_argument("--litert-lm", type=Path, help="LiteRT-LM's bundle; may be Tandem's, with a context that suits")
    parser.add_argument("-p", "--n-prompt", type=numbers, default=[512])
    parser.add_argument("-n", "--n-gen", type=numbers, default=[128])
    parser.add_argument("-d", "--n-depth", type=numbers, default=[0])
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-r", "--rounds", type=int, default=5)
    parser.add_argument("--kv-dtype", default="f16", choices=("f16", "f32"))
    parser.add_argument("--graph", default="auto", help="which of Tandem's graphs")
    parser.add_argument("--backend", default="cpu", help="cpu, gpu or gpu:NAME, for every runtime")
    parser.add_argument("--gpu-bandwidth", type=float, default=0, help="GB/s of the GPU's memory, for the share of it")
    parser.add_argument(
        "--simulate-acceptance",
        type=lambda text: tuple(map(float, text.split(","))),
        help="also measure Tandem with its drafter at this acceptance, and with drafts that are never right",
    )
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for one sample")
    parser.add_argument("--work", type=Path, help="keep made files here (default: a folder that is removed)")
    parser.add_argument("--out", type=Path, help="without suffix (default: bench/results/NAME-OF-THE-BUNDLE)")
    args = parser.parse_args()
    out = args.out or HERE / "results" / args.bundle.stem
    if args.backend != "cpu":
        args.kv_dtype = "f32"  # the portable graphs', which Tandem runs there; the same for all

    tests = plan_tests(args.n_prompt, args.n_gen, args.n_depth)
    with tempfile.TemporaryDirectory() as made:
        work = args.work or Path(made)
        work.mkdir(parents=True, exist_ok=True)
        peers = [Peer(OURS, args.bundle, packed_bytes(args.bundle))]
        if args.simulate_acceptance:
            peers.append(Peer(DRAFTING["on"], args.bundle, peers[0].weight_bytes, args.simulate_acceptance))
            peers.append(Peer(DRAFTING["auto"], args.bundle, peers[0].weight_bytes, (0.0,)))
        gguf = quantized_gguf(args.gguf_from, work) if args.gguf_from else args.gguf
        if gguf:
            peers.append(Peer("llama.cpp", gguf, gguf.stat().st_size))
        if args.litert_lm:
            peers.append(Peer("LiteRT-LM", args.litert_lm, section_bytes(args.litert_lm)))
        facts = machine.facts(args.threads)
        if args.backend != "cpu":  # the CPU's limits say nothing; those of a GPU are taken from its data sheet
            facts["rates"] = {"bytes_per_second": args.gpu_bandwidth * 1e9} if args.gpu_bandwidth else {}
            facts["gpus"] = [asdict(device) for device in gpu.devices()]
        if facts["load_average"] > QUIET:
            print(f"load average {facts['load_average']:.1f}: others are using this machine", file=sys.stderr)
        model = inspect(args.bundle)["manifest"]["model"]
        text = ""
        for done, cells in measure(tests, peers, args, work):  # a long run that is ended leaves what it had
            facts["load_average_after"] = os.getloadavg()[0]
            text = report(done, peers, cells, limits(cells, model, args.kv_dtype, facts["rates"]), facts, args, out)
    print(text, end="")


if __name__ == "__main__":
    main()
