"""Bundles made of bundles, for tests: with weights in float32, the exact oracle of a backend that does not quantise
activations, or with a model that is changed otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as _schema

from tandem_converter import bundle
from tandem_lm import _native

MODEL = "tf_lite_prefill_decode"
# What the portable graphs without a drafter do without, and what would say something else about the weights.
LEFT_OUT = ("tf_lite_embedder", "tf_lite_mtp_drafter", "tandem_weights", "tandem_manifest")


def rewrite_model(path: Path, out: Path, change: Callable[[Any], None], **manifest: str) -> None:
    """Writes the bundle `path` with its model (the object API of the schema) changed, and without a drafter. Only the
    portable graphs of it run."""
    data = path.read_bytes()
    told = json.loads(_native.inspect(str(path)))
    kept = {key: value for key, value in told["manifest"].items() if key not in ("sections", "drafter")}
    types = {
        "llm_metadata": bundle.LLM_METADATA,
        "hf_tokenizer": bundle.HF_TOKENIZER,
        **dict.fromkeys((MODEL, "tf_lite_vision_encoder", "tf_lite_audio_encoder_hw"), bundle.TFLITE),
    }
    with bundle.BundleWriter(out) as writer:
        for section in told["sections"]:
            name = section["name"]
            if name in LEFT_OUT:
                continue
            payload = data[section["offset"] : section["offset"] + section["bytes"]]
            if name == MODEL:
                payload = _changed(payload, change)
            named = "" if name in ("llm_metadata", "hf_tokenizer") else name
            writer.add(types.get(name, bundle.BINARY), named, payload)
        writer.finish({**kept, **manifest}, {"generator": "test"})


def write_dequantised(path: Path, out: Path) -> None:
    """Writes the int8 bundle `path` with the same weights in float32, for Engine(graph="portable")."""
    rewrite_model(path, out, _dequantise, quantization="f32")


def _changed(payload: bytes, change: Callable[[Any], None]) -> bytes:
    model: Any = _schema.ModelT.InitFromObj(_schema.Model.GetRootAs(payload, 0))
    for buffer in model.buffers:
        if buffer.offset > 1:  # the bytes lie behind the flatbuffer
            buffer.data = np.frombuffer(payload, np.uint8, buffer.size, buffer.offset)
        buffer.offset = buffer.size = 0
    change(model)
    builder: Any = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _dequantise(model: Any) -> None:
    """Every matrix that is int8 per channel becomes float32."""
    scales: dict[int, tuple[np.ndarray, list[int]]] = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            quantization = tensor.quantization
            if quantization is None or quantization.scale is None or len(quantization.scale) == 0:
                continue
            assert tensor.type == _schema.TensorType.INT8 and quantization.quantizedDimension == 0
            scales[tensor.buffer] = np.asarray(quantization.scale, np.float32), list(tensor.shape)
            tensor.type, tensor.quantization = _schema.TensorType.FLOAT32, None
    for index, (scale, shape) in scales.items():
        values = np.asarray(model.buffers[index].data).view(np.int8).reshape(shape).astype(np.float32)
        columns = scale.reshape(-1, *[1] * (len(shape) - 1))
        model.buffers[index].data = (values * columns).reshape(-1).view(np.uint8)
