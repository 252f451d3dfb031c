"""A bundle's weights in float32, for tests: the exact oracle of a backend that does not quantise activations."""

from __future__ import annotations

import json
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


def write_dequantised(path: Path, out: Path) -> None:
    """Writes the int8 bundle `path` with the same weights in float32, its drafter left out. Only the portable graphs
    of it run (Engine(graph="portable"))."""
    data = path.read_bytes()
    told = json.loads(_native.inspect(str(path)))
    manifest = {key: value for key, value in told["manifest"].items() if key not in ("sections", "drafter")}
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
            kind = types.get(name, bundle.BINARY)
            named = "" if name in ("llm_metadata", "hf_tokenizer") else name
            writer.add(kind, named, _dequantised(payload) if name == MODEL else payload)
        writer.finish({**manifest, "quantization": "f32"}, {"generator": "test"})


def _dequantised(model: bytes) -> bytes:
    """The model with every matrix that is int8 per channel in float32."""
    made: Any = _schema.ModelT.InitFromObj(_schema.Model.GetRootAs(model, 0))
    scales: dict[int, tuple[np.ndarray, list[int]]] = {}
    for graph in made.subgraphs:
        for tensor in graph.tensors:
            quantization = tensor.quantization
            if quantization is None or quantization.scale is None or len(quantization.scale) == 0:
                continue
            assert tensor.type == _schema.TensorType.INT8 and quantization.quantizedDimension == 0
            scales[tensor.buffer] = np.asarray(quantization.scale, np.float32), list(tensor.shape)
            tensor.type, tensor.quantization = _schema.TensorType.FLOAT32, None
    for index, buffer in enumerate(made.buffers):
        if buffer.offset > 1:  # the bytes lie behind the flatbuffer
            buffer.data = np.frombuffer(model, np.uint8, buffer.size, buffer.offset)
        buffer.offset = buffer.size = 0
        if index in scales:
            scale, shape = scales[index]
            values = np.asarray(buffer.data).view(np.int8).reshape(shape).astype(np.float32)
            buffer.data = (values * scale.reshape(-1, *[1] * (len(shape) - 1))).reshape(-1).view(np.uint8)
    builder: Any = flatbuffers.Builder(1 << 20)
    builder.Finish(made.Pack(builder), b"TFL3")
    return bytes(builder.Output())
