"""Checkpoint in, bundle out: `convert` is the one entry point."""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import bundle, fast_graph, graph, metadata, tokenizer
from . import drafter as drafting
from .errors import ConversionError
from .quantize import quantize_rows
from .recipe import Recipe
from .report import Report
from .source import Source, open_source
from .tflite import Array, Buffer

VERSION = "0.1.0"
DEFAULT_CONTEXT = 4096
MIN_CONTEXT = 16
PREFILL_SIZES = (8, 64, 512)
MAIN_MODEL = "tf_lite_prefill_decode"
_CHUNK = 1 << 24  # of a matrix that stays float32: weights in memory at once

Progress = Callable[[int, int, str], None]


def convert(
    source_path: str | Path,
    out_path: str | Path,
    *,
    quant: str = "int8",
    context: int | None = None,
    report: str | Path | None = None,
    drafter: str | Path | None = None,
    drafter_quant: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Converts a Hugging Face folder or a GGUF file to a .litertlm bundle.

    `quant` is a recipe's name or the path of its JSON file, `context` the cache length the portable graphs are built
    for, `report` where the error report goes as JSON. `drafter` is the folder of the model's MTP assistant and
    `drafter_quant` its recipe (None: the model's). `progress(done_bytes, total_bytes, tensor_name)` is called as the
    bundle grows. The same input gives the same bytes. Raises ConversionError; then, and on an interrupt, there is no
    new file and an older one of the same name is untouched."""
    out_path = Path(out_path)
    if not out_path.parent.is_dir():
        raise ConversionError(f"{out_path.parent}: no such folder; create it or choose another output path")
    if out_path.is_dir():
        raise ConversionError(f"{out_path}: is a folder; give the name of the bundle to write")
    recipe = Recipe.load(quant)
    source = open_source(Path(source_path))
    spec = source.spec
    length = _context(spec.max_context, context)
    sizes = tuple(n for n in PREFILL_SIZES if n <= length)
    small = {name: source.tensor(name) for name in graph.small_names(spec)}
    built = graph.build(spec, recipe.scheme, small, length, sizes)
    fast_graph.author(built.model, spec, {w.name: w.weight for w in built.weights}, small)
    _, model_size = built.model.layout()
    helper = None
    if drafter is not None:
        helper = drafting.open_drafter(drafter, spec, Recipe.load(drafter_quant or quant))
        helper_graph = drafting.build(helper)
        _, helper_size = helper_graph.model.layout()
    digest = tokenizer.digest(
        source.tokenizer_json, bos_id=spec.bos_id, eos_id=spec.eos_ids[0] if spec.eos_ids else None, pad_id=spec.pad_id
    )
    result = Report(recipe.name)
    with bundle.BundleWriter(out_path) as writer:
        writer.add(bundle.LLM_METADATA, "", metadata.llm_metadata(spec, length, source.chat_template))
        writer.add(bundle.HF_TOKENIZER, "", _compressed(source.tokenizer_json))
        total = model_size + (helper_size if helper else 0)
        writer.require_space(total + len(digest) + 5 * bundle.BLOCK)
        meter = _Meter(progress, total)
        section = writer.reserve(bundle.TFLITE, MAIN_MODEL, model_size)
        _write_model(source, built, writer, section, result, meter, "")
        manifest = _manifest(source, recipe, length, sizes)
        if helper is not None:
            section = writer.reserve(bundle.TFLITE, drafting.MODEL_TYPE, helper_size)
            _write_model(helper.source, helper_graph, writer, section, result, meter, "drafter.")
            manifest["drafter"] = helper.manifest(source)
        writer.add(bundle.BINARY, bundle.TOKENIZER, digest)
        writer.finish(manifest, {"generator": f"tandem {VERSION}"})
    meter.finish()
    if report is not None:
        _write_report(Path(report), result)
    return result


class _Meter:
    """Turns bytes written into calls of `progress`."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def begin(self, name: str) -> None:
        if self._progress is not None:
            self._progress(self._done, self._total, name)

    def add(self, size: int) -> None:
        self._done += size

    def finish(self) -> None:
        if self._progress is not None:
            self._progress(self._total, self._total, "")


def _write_model(
    source: Source,
    built: graph.Graph,
    writer: bundle.BundleWriter,
    section: bundle.Section,
    result: Report,
    meter: _Meter,
    prefix: str,
) -> None:
    """Streams a model's weights into its section, then the flatbuffer, which now knows the scales. `prefix` tells its
    tensors apart in the report."""
    length = min(buffer.offset for buffer in built.model.buffers if buffer.data is None)
    meter.add(length)
    for planned in built.weights:
        meter.begin(prefix + planned.name)
        _stream(source, planned, built.model.buffers, writer, section, result, prefix)
        meter.add(built.model.buffers[planned.weight.buffer].size)
    flatbuffer = built.model.serialize()
    if len(flatbuffer) > length:
        raise AssertionError(f"the flatbuffer grew to {len(flatbuffer)} bytes; the weights begin at {length}")
    writer.write(section, 0, flatbuffer)


def _write_report(path: Path, result: Report) -> None:
    try:
        path.write_bytes(result.to_json())
    except OSError as error:
        raise ConversionError(
            f"{path}: the report cannot be written: {error.strerror}; the bundle is complete"
        ) from None


def _context(maximum: int, wanted: int | None) -> int:
    if wanted is None:
        return min(maximum, DEFAULT_CONTEXT)
    if not MIN_CONTEXT <= wanted <= maximum:
        raise ConversionError(f"a context of {wanted} tokens: this model allows {MIN_CONTEXT} to {maximum}")
    return wanted


def _compressed(tokenizer_json: bytes) -> bytes:
    return struct.pack("<Q", len(tokenizer_json)) + zlib.compress(tokenizer_json, 9)


def _stream(
    source: Source,
    planned: graph.PlannedWeight,
    buffers: list[Buffer],
    writer: bundle.BundleWriter,
    section: bundle.Section,
    result: Report,
    prefix: str = "",
) -> None:
    """Quantises one matrix into its place; keeps only per-row scales (for the flatbuffer) and the error figures."""
    weight, name = planned.weight, planned.name
    rows, cols = weight.shape
    at = buffers[weight.buffer].offset
    if planned.scheme.bits == 32:
        step = max(1, _CHUNK // cols)
        for first in range(0, rows, step):
            last = min(first + step, rows)
            writer.write(section, at + 4 * first * cols, _raw(source.rows(name, first, last)))
        result.add_float(prefix + name, weight.shape)
        return
    quantized = quantize_rows(lambda first, last: source.rows(name, first, last), weight.shape, planned.scheme)
    writer.write(section, at, _raw(quantized.data))
    if quantized.scales is not None and weight.block:
        writer.write(section, buffers[weight.scale_buffer].offset, _raw(quantized.scales))
    else:
        weight.scales = quantized.scales
    result.add(prefix + name, quantized)


def _raw(array: Array) -> memoryview:
    """The bytes of an array."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _manifest(source: Source, recipe: Recipe, context: int, sizes: tuple[int, ...]) -> dict[str, Any]:
    """What our runtime needs beside LlmMetadata; `BundleWriter.finish` adds the checksums."""
    spec = source.spec
    return {
        "format": 1,
        "generator": f"tandem {VERSION}",
        "family": spec.family,
        "quantization": recipe.name,
        "source": {"fingerprint": source.fingerprint, "dtype": source.dtype},
        "model": dataclasses.asdict(spec),
        "context": context,
        "prefill_sizes": list(sizes),
        "tokens": {
            "bos": spec.bos_id,
            "eos": list(spec.eos_ids),
            "pad": spec.pad_id,
            "suppress": list(spec.suppress_ids),
        },
        "sampler": spec.sampler,
        "chat_template": source.chat_template,
        "add_bos": True,
    }
