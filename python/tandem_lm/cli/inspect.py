"""Shows a bundle's model, sections, sizes and memory plan."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from ..engine import native_module, open_path
from ..errors import translated
from ..memory import MemoryPlan, plan_memory
from .output import size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="a .litertlm file")
    parser.add_argument("--json", action="store_true", help="everything, as one JSON object")
    parser.add_argument("--memory", action="store_true", help="what running it will take, and whether that fits")
    parser.add_argument("--context", type=int, metavar="N", help="tokens to plan for (default: the bundle's)")
    parser.add_argument("--kv-dtype", default="f16", metavar="TYPE", help="of the cache (default: %(default)s)")
    parser.add_argument("--graph", default="auto", metavar="GRAPH", help="fast, portable or auto (default)")


def execute(args: argparse.Namespace) -> int:
    path = open_path(args.bundle)
    with translated():
        found = json.loads(native_module().inspect(path))
    if args.memory:
        plan = plan_memory(path, args.context, args.kv_dtype, args.graph)
        if args.json:
            print(json.dumps({**dataclasses.asdict(plan), "fits": plan.fits}, indent=2))
        else:
            print("\n".join(describe_plan(plan)))
        return 0
    if args.json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return 0
    print(f"{path}: {size(found['totals']['file'])}")
    for line in describe(found):
        print(line)
    return 0


def describe(found: dict[str, Any]) -> Iterator[str]:
    """The readable form of the JSON: model, memory, sections."""
    manifest: dict[str, Any] = found.get("manifest") or {}
    if manifest:
        yield from _model(manifest)
    else:
        yield "no Tandem manifest: made by another converter"
    yield ""
    rows: list[tuple[str, ...]] = [("section", "offset", "bytes", "sha256")]
    checksums = manifest.get("sections", {})
    for section in found["sections"]:
        name = section["name"]
        sha256 = checksums.get(name, {}).get("sha256", "")
        rows.append((name, str(section["offset"]), size(section["bytes"]), sha256[:16]))
    yield from _table(rows)


def describe_plan(plan: MemoryPlan) -> Iterator[str]:
    meaning = {
        "weights": "packed, mapped from the cache folder",
        "drafter": "its weights",
        "graphs": "LiteRT's own data about them",
        "cache": f"keys and values of one session, {plan.kv_dtype}",
        "activations": "of the largest step",
        "runtime": "libraries and tokenizer",
    }
    yield f"{plan.graph} graphs, context of {plan.context} tokens"
    rows: list[tuple[str, ...]] = [(part, size(count), meaning.get(part, "")) for part, count in plan.parts.items()]
    rows += [("total", size(plan.total), ""), ("available", size(plan.available), "")]
    yield from _table(rows)
    if plan.fits:
        yield f"fits; the largest context that does is {plan.largest_context} tokens"
    elif plan.largest_context:
        yield f"does not fit; the largest context that does is {plan.largest_context} tokens"
    else:
        yield "does not fit with any context"


def _model(manifest: dict[str, Any]) -> Iterator[str]:
    model = manifest["model"]
    layers = model["layers"]
    full = sum(1 for layer in layers if not layer["window"])
    windows = sorted({layer["window"] for layer in layers if layer["window"]})
    sliding = f", {len(layers) - full} sliding ({', '.join(map(str, windows))} tokens)" if windows else ""
    context = manifest["context"]
    cache = sum(2 * 4 * layer["kv_heads"] * layer["head_dim"] * context for layer in layers)  # K and V, float32
    weights = manifest.get("sections", {}).get("tf_lite_prefill_decode", {}).get("bytes", 0)
    tokens = manifest["tokens"]
    yield from _table(
        [
            ("family", manifest["family"]),
            ("quantisation", manifest["quantization"]),
            ("made by", f"{manifest['generator']} from {manifest['source']['dtype']}"),
            ("layers", f"{len(layers)}: {full} full{sliding}"),
            ("hidden size", f"{model['hidden_size']}, {model['num_heads']} heads, MLP {model['intermediate_size']}"),
            ("vocabulary", str(model["vocab_size"])),
            ("end tokens", ", ".join(map(str, tokens["eos"]))),
            ("context", f"{context} tokens (the model was made for {model['max_context']})"),
            ("chat template", "yes" if manifest.get("chat_template") else "no (base model: use --raw)"),
            ("memory", f"{size(weights)} weights, and up to {size(cache)} KV cache for each session"),
        ]
    )


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
