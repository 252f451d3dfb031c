"""The section `tandem_weights`: where each matrix lies in the model's section, and the small vectors as the graphs
have them. Steps of a few tokens run from it without a graph (csrc/model/native_step.h).

Little-endian: magic; per matrix, in the order of graph.matrix_shapes, 7 x u64: the buffer's index, bits, block,
outputs, inputs, offset and bytes in the section; then float32 vectors, each from a multiple of 64 bytes on: the final
norm, and per layer its four norms, q_norm (times the attention scale), k_norm and, where the family has it, the scalar.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np

from .family import ModelSpec
from .graph import Graph, norm_factor
from .tflite import Array

MODEL_TYPE = "tandem_weights"
_MAGIC = b"TANDEMW1"
_ALIGNMENT = 64
_NORMS = ("input_norm", "post_attention_norm", "pre_feedforward_norm", "post_feedforward_norm")


def build(graph: Graph, spec: ModelSpec, small: Mapping[str, Array]) -> bytes:
    """The section's bytes; the model has been laid out."""
    out = bytearray(_MAGIC)
    for planned in graph.weights:
        weight = planned.weight
        buffer = graph.model.buffers[weight.buffer]
        scheme = planned.scheme
        out += struct.pack("<7Q", weight.buffer, scheme.bits, scheme.block, *weight.shape, buffer.offset, buffer.size)

    def add(vector: Array) -> None:
        out.extend(bytes(-len(out) % _ALIGNMENT))
        out.extend(np.ascontiguousarray(vector, dtype="<f4").tobytes())

    add(norm_factor(small["norm.weight"], spec))
    for i in range(len(spec.layers)):
        for norm in _NORMS:
            add(norm_factor(small[f"layers.{i}.{norm}.weight"], spec))
        add(norm_factor(small[f"layers.{i}.q_norm.weight"], spec, spec.attention_scale))
        add(norm_factor(small[f"layers.{i}.k_norm.weight"], spec))
        if spec.layer_scalar:
            add(small[f"layers.{i}.scalar"].reshape(1))
    return bytes(out)
