"""Authors .tflite flatbuffers: tensors, ops, signatures, shared quantisation tables, weights outside the flatbuffer.

A model is described first (`Model`, `Subgraph`), then serialised by `Model.serialize` as often as needed. The length
depends only on the description, not on weight offsets or scale values: a first pass with placeholders tells where the
weights begin, and a second one, after the weights were streamed out, has the real values.
Format: the tflite schema in the ai-edge-litert wheel; offsets in `Buffer.offset` count from the model's start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as _schema

schema: Any = _schema
Array = npt.NDArray[Any]

ALIGNMENT = 64  # of every external weight; XNNPACK and the host's buffers want no more
_INLINE_ALIGNMENT = 64  # what LiteRT asks of memory that a custom operator reads

F32 = int(schema.TensorType.FLOAT32)
F16 = int(schema.TensorType.FLOAT16)
I32 = int(schema.TensorType.INT32)
I8 = int(schema.TensorType.INT8)
I4 = int(schema.TensorType.INT4)
BOOL = int(schema.TensorType.BOOL)
_DTYPES = {"float32": F32, "float16": F16, "int32": I32, "int8": I8}


def align(offset: int, to: int = ALIGNMENT) -> int:
    """`offset` rounded up to a multiple of `to`."""
    return -(-offset // to) * to


@dataclass
class Buffer:
    """Bytes of a constant: inline (`data`), or outside the flatbuffer (`size` bytes at `offset` of the model)."""

    data: bytes | None = None
    size: int = 0
    offset: int = 0


@dataclass
class Weight:
    """A weight that every signature may use; its bytes lie outside the flatbuffer. `scales` is filled in when they are
    known: f32 [rows] (per row); block-wise scales are bytes of `scale_buffer` instead."""

    name: str
    shape: tuple[int, int]
    dtype: int
    buffer: int
    scales: Array | None = None
    scale_buffer: int = -1
    block: int = 0


@dataclass(frozen=True)
class Tensor:
    """A tensor of one subgraph."""

    index: int
    shape: tuple[int, ...]
    dtype: int


@dataclass
class _TensorRecord:
    name: str
    shape: tuple[int, ...]
    dtype: int
    buffer: int = 0
    weight: Weight | None = None
    scale_tensor: int = -1  # block-wise: the tensor of this subgraph that holds the scales


@dataclass
class _OpRecord:
    code: int
    inputs: list[int]
    outputs: list[int]
    options_type: int
    options: Any


@dataclass
class Subgraph:
    """One signature: its tensors, ops, and named inputs and outputs (in binding order)."""

    model: Model
    key: str
    tensors: list[_TensorRecord] = field(default_factory=list)
    ops: list[_OpRecord] = field(default_factory=list)
    inputs: list[tuple[str, Tensor]] = field(default_factory=list)
    outputs: list[tuple[str, Tensor]] = field(default_factory=list)
    _weights: dict[str, Tensor] = field(default_factory=dict)
    _constants: dict[tuple[int, tuple[int, ...]], Tensor] = field(default_factory=dict)

    def _add(self, record: _TensorRecord) -> Tensor:
        self.tensors.append(record)
        return Tensor(len(self.tensors) - 1, record.shape, record.dtype)

    def input(self, name: str, shape: Sequence[int], dtype: int = F32) -> Tensor:
        """Declares the next input."""
        tensor = self._add(_TensorRecord(name, tuple(shape), dtype))
        self.inputs.append((name, tensor))
        return tensor

    def output(self, name: str, tensor: Tensor) -> None:
        """Declares the next output."""
        self.outputs.append((name, tensor))

    def constant(self, array: Array) -> Tensor:
        """A small constant, stored inline once per model however often it is used."""
        array = np.asarray(array, order="C")
        buffer = self.model.inline(array.tobytes())
        dtype = _DTYPES[array.dtype.name]
        key = (buffer, array.shape)
        if key not in self._constants:
            self._constants[key] = self._add(_TensorRecord(f"c{buffer}", array.shape, dtype, buffer))
        return self._constants[key]

    def weight(self, weight: Weight) -> Tensor:
        """This subgraph's tensor of a shared weight."""
        if weight.name not in self._weights:
            scale_tensor = -1
            if weight.block:
                shape = (weight.shape[0], weight.shape[1] // weight.block)
                record = _TensorRecord(f"{weight.name}.scales", shape, F16, weight.scale_buffer)
                scale_tensor = self._add(record).index
            record = _TensorRecord(weight.name, weight.shape, weight.dtype, weight.buffer, weight, scale_tensor)
            self._weights[weight.name] = self._add(record)
        return self._weights[weight.name]

    def op(
        self,
        name: str,
        inputs: Sequence[Tensor | None],
        shape: Sequence[int],
        options: tuple[str, dict[str, Any]] | None = None,
        *,
        dtype: int = F32,
        version: int = 1,
        label: str = "",
    ) -> Tensor:
        """Adds a builtin op with one output. `options` = (table name of the schema, its fields)."""
        return self.op_with_outputs(name, inputs, [(shape, dtype)], options, version=version, label=label)[0]

    def op_with_outputs(
        self,
        name: str,
        inputs: Sequence[Tensor | None],
        outputs: Sequence[tuple[Sequence[int], int]],
        options: tuple[str, dict[str, Any]] | None = None,
        *,
        version: int = 1,
        label: str = "",
    ) -> list[Tensor]:
        """Adds a builtin op whose outputs have these shapes and types."""
        made = [
            self._add(_TensorRecord(label or f"t{len(self.tensors)}", tuple(int(d) for d in shape), dtype))
            for shape, dtype in outputs
        ]
        code = self.model.opcode(getattr(schema.BuiltinOperator, name), version)
        options_type, table = 0, None
        if options is not None:
            options_type = getattr(schema.BuiltinOptions, options[0])
            table = getattr(schema, options[0] + "T")()
            for key, value in options[1].items():
                if not hasattr(table, key):
                    raise AttributeError(f"{options[0]} has no field {key}")
                setattr(table, key, value)
        indices = [-1 if t is None else t.index for t in inputs]
        self.ops.append(_OpRecord(code, indices, [t.index for t in made], options_type, table))
        return made

    def custom(self, name: str, inputs: Sequence[Tensor], shape: Sequence[int], label: str = "") -> Tensor:
        """Adds an operator that the host implements under this name, with one f32 output."""
        out = self._add(_TensorRecord(label or f"t{len(self.tensors)}", tuple(int(d) for d in shape), F32))
        code = self.model.opcode(schema.BuiltinOperator.CUSTOM, 1, name)
        self.ops.append(_OpRecord(code, [t.index for t in inputs], [out.index], 0, None))
        return out


class Model:
    """A model under construction; serialise it with `serialize`."""

    def __init__(self, description: str) -> None:
        self.description = description
        self.buffers: list[Buffer] = [Buffer(data=b"")]  # buffer 0 is empty by convention
        self.subgraphs: list[Subgraph] = []
        self._inline: dict[bytes, int] = {}
        self._codes: dict[tuple[int, int, str], int] = {}

    def inline(self, data: bytes) -> int:
        """Index of an inline buffer with these bytes (equal bytes share one)."""
        if data not in self._inline:
            self.buffers.append(Buffer(data=data))
            self._inline[data] = len(self.buffers) - 1
        return self._inline[data]

    def external(self, size: int) -> int:
        """Index of a buffer of `size` bytes outside the flatbuffer."""
        self.buffers.append(Buffer(size=size))
        return len(self.buffers) - 1

    def opcode(self, builtin: int, version: int, custom: str = "") -> int:
        """Index of an operator code; `custom` names an operator of the host."""
        return self._codes.setdefault((builtin, version, custom), len(self._codes))

    def subgraph(self, key: str) -> Subgraph:
        """Begins the next signature."""
        graph = Subgraph(self, key)
        self.subgraphs.append(graph)
        return graph

    def layout(self, room: int = 0, room_alignment: int = ALIGNMENT) -> tuple[int, int]:
        """Places the external buffers behind the flatbuffer; returns (flatbuffer length, model length). `room` bytes
        between the two, from the next multiple of `room_alignment` on, are left to somebody else."""
        for buffer in self.buffers:
            buffer.offset = 1  # a placeholder; 0 would mean "inline" and leave the field out
        length = end = len(self.serialize())
        if room:
            end = align(length, room_alignment) + room
        for buffer in self.buffers:
            if buffer.data is None:
                buffer.offset = align(end)
                end = buffer.offset + buffer.size
        return length, end

    def serialize(self) -> bytes:
        """The flatbuffer, without the external buffers' bytes."""
        return _Serializer(self).run()


class _Serializer:
    """One pass over a Model."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._builder: Any = flatbuffers.Builder(1 << 20)
        self._quantization: dict[str, int] = {}  # per-row tables, shared by the signatures
        self._zeros: dict[int, int] = {}

    def run(self) -> bytes:
        b = self._builder
        model = self._model
        subgraphs = [self._subgraph(graph) for graph in model.subgraphs]
        signatures = [self._signature(i, graph) for i, graph in enumerate(model.subgraphs)]
        buffers = [self._buffer(buffer) for buffer in model.buffers]
        codes = [self._opcode(*code) for code in model._codes]
        vectors = [self._offsets(v) for v in (codes, subgraphs, buffers, signatures)]
        description = b.CreateString(model.description)
        schema.ModelStart(b)
        schema.ModelAddVersion(b, 3)
        schema.ModelAddOperatorCodes(b, vectors[0])
        schema.ModelAddSubgraphs(b, vectors[1])
        schema.ModelAddDescription(b, description)
        schema.ModelAddBuffers(b, vectors[2])
        schema.ModelAddSignatureDefs(b, vectors[3])
        b.Finish(schema.ModelEnd(b), file_identifier=b"TFL3")
        return bytes(b.Output())

    def _offsets(self, offsets: Sequence[int]) -> int:
        self._builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self._builder.PrependUOffsetTRelative(offset)
        return int(self._builder.EndVector())

    def _ints(self, values: Sequence[int]) -> int:
        return int(self._builder.CreateNumpyVector(np.asarray(values, np.int32)))

    def _opcode(self, builtin: int, version: int, custom: str) -> int:
        b = self._builder
        name = b.CreateString(custom) if custom else 0
        schema.OperatorCodeStart(b)
        if custom:
            schema.OperatorCodeAddCustomCode(b, name)
        schema.OperatorCodeAddDeprecatedBuiltinCode(b, min(builtin, 127))
        schema.OperatorCodeAddBuiltinCode(b, builtin)
        schema.OperatorCodeAddVersion(b, version)
        return int(schema.OperatorCodeEnd(b))

    def _buffer(self, buffer: Buffer) -> int:
        b = self._builder
        data = 0
        if buffer.data:
            # The generated code aligns bytes to 1; kernels read these as f32.
            b.StartVector(1, len(buffer.data), _INLINE_ALIGNMENT)
            b.head -= len(buffer.data)
            b.Bytes[b.head : b.head + len(buffer.data)] = buffer.data
            data = b.EndVector()
        schema.BufferStart(b)
        if data:
            schema.BufferAddData(b, data)
        if buffer.data is None:
            schema.BufferAddOffset(b, buffer.offset)
            schema.BufferAddSize(b, buffer.size)
        return int(schema.BufferEnd(b))

    def _quantized(self, weight: Weight, scale_tensor: int) -> int:
        """The quantisation table of a weight; 0 for a plain float one."""
        b = self._builder
        if weight.dtype in (F32, F16):
            return 0
        if weight.block:  # refers to a tensor index of the subgraph, so it cannot be shared (it is a few bytes)
            schema.BlockwiseQuantizationStart(b)
            schema.BlockwiseQuantizationAddScales(b, scale_tensor)
            schema.BlockwiseQuantizationAddZeroPoints(b, -1)
            schema.BlockwiseQuantizationAddBlockSize(b, weight.block)
            details = schema.BlockwiseQuantizationEnd(b)
            schema.QuantizationParametersStart(b)
            schema.QuantizationParametersAddDetailsType(b, schema.QuantizationDetails.BlockwiseQuantization)
            schema.QuantizationParametersAddDetails(b, details)
            return int(schema.QuantizationParametersEnd(b))
        if weight.name not in self._quantization:
            rows = weight.shape[0]
            scales = np.zeros(rows, np.float32) if weight.scales is None else weight.scales
            if scales.shape != (rows,):
                raise ValueError(f"{weight.name}: {scales.shape} scales for {rows} rows")
            if rows not in self._zeros:
                self._zeros[rows] = b.CreateNumpyVector(np.zeros(rows, np.int64))
            scale = b.CreateNumpyVector(scales.astype(np.float32))
            schema.QuantizationParametersStart(b)
            schema.QuantizationParametersAddScale(b, scale)
            schema.QuantizationParametersAddZeroPoint(b, self._zeros[rows])
            self._quantization[weight.name] = int(schema.QuantizationParametersEnd(b))
        return self._quantization[weight.name]

    def _tensor(self, record: _TensorRecord) -> int:
        b = self._builder
        quantization = self._quantized(record.weight, record.scale_tensor) if record.weight else 0
        name = b.CreateString(record.name)
        shape = self._ints(record.shape)
        schema.TensorStart(b)
        schema.TensorAddShape(b, shape)
        schema.TensorAddType(b, record.dtype)
        schema.TensorAddBuffer(b, record.buffer)
        schema.TensorAddName(b, name)
        if quantization:
            schema.TensorAddQuantization(b, quantization)
        schema.TensorAddHasRank(b, True)
        return int(schema.TensorEnd(b))

    def _operator(self, op: _OpRecord) -> int:
        b = self._builder
        options = op.options.Pack(b) if op.options is not None else 0
        inputs = self._ints(op.inputs)
        outputs = self._ints(op.outputs)
        schema.OperatorStart(b)
        schema.OperatorAddOpcodeIndex(b, op.code)
        schema.OperatorAddInputs(b, inputs)
        schema.OperatorAddOutputs(b, outputs)
        if options:
            schema.OperatorAddBuiltinOptionsType(b, op.options_type)
            schema.OperatorAddBuiltinOptions(b, options)
        return int(schema.OperatorEnd(b))

    def _subgraph(self, graph: Subgraph) -> int:
        b = self._builder
        tensors = self._offsets([self._tensor(t) for t in graph.tensors])
        operators = self._offsets([self._operator(op) for op in graph.ops])
        inputs = self._ints([t.index for _, t in graph.inputs])
        outputs = self._ints([t.index for _, t in graph.outputs])
        name = b.CreateString(graph.key)
        schema.SubGraphStart(b)
        schema.SubGraphAddTensors(b, tensors)
        schema.SubGraphAddInputs(b, inputs)
        schema.SubGraphAddOutputs(b, outputs)
        schema.SubGraphAddOperators(b, operators)
        schema.SubGraphAddName(b, name)
        return int(schema.SubGraphEnd(b))

    def _signature(self, index: int, graph: Subgraph) -> int:
        b = self._builder
        inputs = self._offsets([self._tensor_map(name, t) for name, t in graph.inputs])
        outputs = self._offsets([self._tensor_map(name, t) for name, t in graph.outputs])
        key = b.CreateString(graph.key)
        schema.SignatureDefStart(b)
        schema.SignatureDefAddInputs(b, inputs)
        schema.SignatureDefAddOutputs(b, outputs)
        schema.SignatureDefAddSignatureKey(b, key)
        schema.SignatureDefAddSubgraphIndex(b, index)
        return int(schema.SignatureDefEnd(b))

    def _tensor_map(self, name: str, tensor: Tensor) -> int:
        b = self._builder
        offset = b.CreateString(name)
        schema.TensorMapStart(b)
        schema.TensorMapAddName(b, offset)
        schema.TensorMapAddTensorIndex(b, tensor.index)
        return int(schema.TensorMapEnd(b))
