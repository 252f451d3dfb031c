"""Shows a bundle's model, sections, sizes and memory plan."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from ..engine import native_module, open_path
from ..errors import translated
from .output import size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="a .litertlm file")
    parser.add_argument("--json", action="store_true", help="everything, as one JSON object")


def execute(args: argparse.Namespace) -> int:
    path = open_path(args.bundle)
    with translated():
        found = json.loads(native_module().inspect(path))
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
