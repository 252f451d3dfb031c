"""Checkpoint in, bundle out: `convert` is the one entry point."""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import bundle, embedder, fast_graph, graph, media, metadata, tokenizer, weight_table
from . import drafter as drafting
from .calibrate import run as calibration
from .calibrate.qat import KINDS as QAT
from .calibrate.qat import SCHEME as QAT_SCHEME
from .calibrate.qat import quantize_q4_0
from .errors import ConversionError
from .quantize import Quantized, quantize_rows
from .recipe import Auto, Recipe
from .report import FloatError, Report
from .source import Rows, Source, open_source
from .tflite import Array, Buffer

VERSION = "0.1.0"
DEFAULT_CONTEXT = 4096
MIN_CONTEXT = 16
DEFAULT_BITS = 4.5  # per weight, of the recipe auto
PREFILL_SIZES = (8, 64, 512)
MAIN_MODEL = "tf_lite_prefill_decode"
_CHUNK = 1 << 24  # of a matrix that stays float32: weights in memory at once

Progress = Callable[[int, int, str], None]


def convert(
    source_path: str | Path | Source,
    out_path: str | Path,
    *,
    quant: str = "int8",
    bits: float | None = None,
    context: int | None = None,
    report: str | Path | None = None,
    drafter: str | Path | None = None,
    drafter_quant: str | None = None,
    calibrate: calibration.Request | None = None,
    qat: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Converts a Hugging Face folder, a GGUF file or an open source to a .litertlm bundle.

    `quant` is a recipe's name, the path of its JSON file, or "auto", which chooses every matrix's scheme within `bits`
    per weight and needs `calibrate`; `context` the cache length the portable graphs are built for, `report` where the
    error report goes as JSON. `drafter` is the folder of the model's MTP assistant and `drafter_quant` its recipe
    (None: the model's, int8 for auto). `calibrate` quantises for the least error on a text (converter/calibrate); an
    interrupted run leaves `<out_path>.calibration`, and the next one goes on from there. `qat` "q4_0": the weights
    were trained for that grid, and int4-block32 keeps it. `progress(done_bytes, total_bytes, tensor_name)` is called
    as the bundle grows. The same input gives the same bytes. Raises ConversionError; then, and on an interrupt, there
    is no new file and an older one of the same name is untouched."""
    out_path = Path(out_path)
    if not out_path.parent.is_dir():
        raise ConversionError(f"{out_path.parent}: no such folder; create it or choose another output path")
    if out_path.is_dir():
        raise ConversionError(f"{out_path}: is a folder; give the name of the bundle to write")
    recipe = _recipe(quant, bits, calibrate is not None)
    if qat is not None and (qat not in QAT or quant != "int4-block32" or calibrate is not None):
        raise ConversionError(f"qat {qat[:20]!r}: supported is q4_0 with int4-block32 and without calibration")
    source = open_source(Path(source_path)) if isinstance(source_path, (str, Path)) else source_path
    spec = source.spec
    length = _context(spec.max_context, context)
    sizes = tuple(n for n in PREFILL_SIZES if n <= length)
    small = {name: source.tensor(name) for name in graph.small_names(spec)}
    digest = tokenizer.digest(
        source.tokenizer_json, bos_id=spec.bos_id, eos_id=spec.eos_ids[0] if spec.eos_ids else None, pad_id=spec.pad_id
    )
    calibrated = None
    if calibrate is not None:
        calibrated = calibration.calibrate(source, recipe, calibrate, digest, out_path)
        recipe = calibrated.recipe
        small = {name: calibrated.vector(name, values) for name, values in small.items()}
    helper = (
        None
        if drafter is None
        else drafting.open_drafter(drafter, spec, Recipe.load(drafter_quant or (quant if quant != "auto" else "int8")))
    )
    verify = drafting.VERIFY_ROWS if helper else 0
    assert isinstance(recipe, Recipe)
    ready = calibrated.tensor if calibrated else partial(_on_grid, source, recipe) if qat else None
    built = graph.build(spec, recipe.scheme, small, length, sizes, verify, media.embedded_sizes(spec, sizes))
    fast_graph.author(built.model, spec, {w.name: w.weight for w in built.weights}, small, media.block_rows(spec))
    senses = media.build(source)
    senses_sizes = {model_type: sense.model.layout()[1] for model_type, sense in senses.items()}
    if helper is None:
        _, model_size = built.model.layout()
    else:
        lookup, model_size = embedder.lay_out(built, spec)
        helper_graph = drafting.build(helper, length)
        _, helper_size = helper_graph.model.layout()
    result = Report(recipe.name)
    with bundle.BundleWriter(out_path) as writer:
        writer.add(bundle.LLM_METADATA, "", metadata.llm_metadata(spec, length, source.chat_template))
        writer.add(bundle.HF_TOKENIZER, "", _compressed(source.tokenizer_json))
        total = model_size + (helper_size if helper else 0) + sum(senses_sizes.values())
        writer.require_space(total + len(digest) + (5 + len(senses)) * bundle.BLOCK)
        meter = _Meter(progress, total)
        section = writer.reserve(bundle.TFLITE, MAIN_MODEL, model_size)
        _write_model(source, built, writer, section, result, meter, "", ready)
        manifest = _manifest(source, recipe, length, sizes)
        if calibrated is not None:
            manifest["calibration"] = calibrated.facts
        if helper is not None:
            nested = writer.nest(bundle.TFLITE, embedder.MODEL_TYPE, section, lookup.offset, lookup.size)
            writer.write(nested, 0, lookup.serialize(built.weights[0].weight))
            section = writer.reserve(bundle.TFLITE, drafting.MODEL_TYPE, helper_size)
            _write_model(helper.source, helper_graph, writer, section, result, meter, "drafter.")
            manifest["drafter"] = helper.manifest(source)
        for model_type, sense in senses.items():
            section = writer.reserve(bundle.TFLITE, model_type, senses_sizes[model_type])
            _write_model(media.MediaRows(source), sense, writer, section, result, meter, "")
        if senses:
            manifest["media"] = media.manifest(spec)
        writer.add(bundle.BINARY, weight_table.MODEL_TYPE, weight_table.build(built, spec, small))
        writer.add(bundle.BINARY, bundle.TOKENIZER, digest)
        writer.finish(manifest, {"generator": f"tandem {VERSION}"})
    meter.finish()
    if calibrated is not None:
        calibrated.remove()
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
    source: Rows,
    built: graph.Graph,
    writer: bundle.BundleWriter,
    section: bundle.Section,
    result: Report,
    meter: _Meter,
    prefix: str,
    ready: Callable[[str], Quantized | None] | None = None,
) -> None:
    """Streams a model's weights into its section, then the flatbuffer, which now knows the scales. `prefix` tells its
    tensors apart in the report; `ready` has those that calibration has quantised."""
    length = min(buffer.offset for buffer in built.model.buffers if buffer.data is None)
    meter.add(length)
    for planned in built.weights:
        meter.begin(prefix + planned.name)
        done = ready(planned.name) if ready else None
        _stream(source, planned, built.model.buffers, writer, section, result, prefix, done)
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


def _on_grid(source: Source, recipe: Recipe, name: str) -> Quantized | None:
    """A matrix of a checkpoint that was trained for Q4_0; the table is not one of them."""
    return quantize_q4_0(source.tensor(name)) if recipe.scheme(name) == QAT_SCHEME else None


def _recipe(quant: str, bits: float | None, calibrated: bool) -> Recipe | Auto:
    if quant != "auto":
        if bits is not None:
            raise ConversionError("bits are for the recipe auto; others say themselves how many they use")
        return Recipe.load(quant)
    if not calibrated:
        raise ConversionError("the recipe auto measures on a text; calibrate as well (--calibrate)")
    return Auto(DEFAULT_BITS if bits is None else bits)


def _context(maximum: int, wanted: int | None) -> int:
    if wanted is None:
        return min(maximum, DEFAULT_CONTEXT)
    if not MIN_CONTEXT <= wanted <= maximum:
        raise ConversionError(f"a context of {wanted} tokens: this model allows {MIN_CONTEXT} to {maximum}")
    return wanted


def _compressed(tokenizer_json: bytes) -> bytes:
    return struct.pack("<Q", len(tokenizer_json)) + zlib.compress(tokenizer_json, 9)


def _stream(
    source: Rows,
    planned: graph.PlannedWeight,
    buffers: list[Buffer],
    writer: bundle.BundleWriter,
    section: bundle.Section,
    result: Report,
    prefix: str = "",
    ready: Quantized | None = None,
) -> None:
    """Quantises one matrix into its place, or puts a `ready` one there; keeps only per-row scales (for the flatbuffer)
    and the error figures."""
    weight, name = planned.weight, planned.name
    rows, cols = weight.shape
    at = buffers[weight.buffer].offset
    size = planned.scheme.bits // 8
    if size > 1:
        step = max(1, _CHUNK // cols)
        error = FloatError()
        for first in range(0, rows, step):
            values = source.rows(name, first, min(first + step, rows))
            stored = values.astype(f"<f{size}", copy=False)
            writer.write(section, at + size * first * cols, _raw(stored))
            error.add(values, stored)
        result.add_float(prefix + name, weight.shape, 8 * size, error)
        return
    quantized = ready or quantize_rows(lambda first, last: source.rows(name, first, last), weight.shape, planned.scheme)
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
