"""Reads bundles and runs their graphs with the LiteRT package: an independent check of what the converter wrote."""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flatbuffers.table
import numpy as np
from flatbuffers import number_types

HIDDEN = np.float32(-0.7 * np.finfo(np.float32).max)


@dataclass(frozen=True)
class Section:
    data_type: int
    model_type: str
    begin: int
    end: int


def read_sections(path: Path) -> list[Section]:
    """The section table of the header, straight from the flatbuffer."""
    head = path.read_bytes()[:16384]
    assert head[:8] == b"LITERTLM"
    assert struct.unpack_from("<I", head, 8)[0] == 1
    (end,) = struct.unpack_from("<Q", head, 24)
    body = head[32:end]

    def table(at: int) -> Any:
        return flatbuffers.table.Table(body, at)

    def child(t: Any, slot: int) -> int:
        offset = t.Offset(4 + 2 * slot)
        assert offset, f"slot {slot} is missing"
        return t.Indirect(t.Pos + offset)

    def children(t: Any, slot: int) -> list[Any]:
        offset = t.Offset(4 + 2 * slot)
        start = t.Vector(offset)
        return [table(t.Indirect(start + 4 * i)) for i in range(t.VectorLen(offset))]

    def scalar(t: Any, slot: int, kind: Any) -> int:
        return int(t.GetSlot(4 + 2 * slot, 0, kind))

    root = table(struct.unpack_from("<I", body)[0])
    sections = []
    for item in children(table(child(root, 1)), 0):
        pairs = {}
        for pair in children(item, 0):
            value = table(child(pair, 2))
            pairs[pair.String(pair.Pos + pair.Offset(4))] = value.String(value.Pos + value.Offset(4))
        kinds = (number_types.Uint64Flags, number_types.Uint64Flags, number_types.Uint8Flags)
        begin, stop, data_type = (scalar(item, slot, kind) for slot, kind in zip((1, 2, 3), kinds, strict=True))
        sections.append(Section(data_type, pairs.get(b"model_type", b"").decode(), begin, stop))
    return sections


def section_bytes(path: Path, data_type: int, model_type: str = "") -> bytes:
    (section,) = [s for s in read_sections(path) if (s.data_type, s.model_type) == (data_type, model_type)]
    with path.open("rb") as file:
        file.seek(section.begin)
        return file.read(section.end - section.begin)


def read_manifest(path: Path) -> dict[str, Any]:
    data = section_bytes(path, 1, "tandem_manifest")
    assert data[:8] == b"TANDEMM1"
    (size,) = struct.unpack_from("<I", data, 8)
    result: dict[str, Any] = json.loads(data[48 : 48 + size])
    return result


class Runner:
    """Prefill and decode of a bundle's main model; K and V live in buffers that are both input and output."""

    def __init__(self, path: Path, threads: int = 2, cache: str | None = None) -> None:
        from ai_edge_litert.compiled_model import CompiledModel
        from ai_edge_litert.options import CpuOptions, HardwareAccelerator, Options

        manifest = read_manifest(path)
        self.context: int = manifest["context"]
        self.vocab: int = manifest["model"]["vocab_size"]
        self.layers = manifest["model"]["layers"]
        self.tflite = path.with_suffix(".tflite")
        (main,) = [s for s in read_sections(path) if s.model_type == "tf_lite_prefill_decode"]
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            self.tflite.write_bytes(whole[main.begin : main.end])
        cpu = CpuOptions(num_threads=threads)
        if cache is not None:
            cpu = CpuOptions(num_threads=threads, xnnpack_weight_cache_path=cache)
        options = Options(hardware_accelerators=HardwareAccelerator.CPU, cpu_options=cpu)
        self.model = CompiledModel.from_file(str(self.tflite), options=options)
        self.kv = {}
        for i, layer in enumerate(self.layers):
            for kind in "kv":
                name = f"kv_cache_{kind}_{i}"
                self.kv[name] = self.model.create_input_buffer_by_name("decode", name)
                self.kv[name].write(np.zeros(layer["kv_heads"] * self.context * layer["head_dim"], np.float32))
        self.made: dict[tuple[str, str], Any] = {}

    def call(self, key: str, size: int, tokens: Sequence[int], position: int, first: int = 0) -> dict[str, np.ndarray]:
        """Runs `tokens` from `position` on through a signature of `size`; keys before `first` are hidden."""
        count = len(tokens)
        ids, positions = np.zeros(size, np.int32), np.zeros(size, np.int32)
        ids[:count] = tokens
        positions[:count] = np.arange(position, position + count)
        mask = np.full((size, self.context), HIDDEN, np.float32)
        for row in range(count):
            mask[row, first : position + row + 1] = 0
        inputs: dict[str, Any] = dict(self.kv)
        for name, value in (("tokens", ids), ("input_pos", positions), ("mask", mask.reshape(-1))):
            if (key, name) not in self.made:
                self.made[key, name] = self.model.create_input_buffer_by_name(key, name)
            inputs[name] = self.made[key, name]
            inputs[name].write(value)
        outputs: dict[str, Any] = dict(self.kv)
        if key == "decode":
            for name in ("activations", "logits"):
                if (key, name) not in self.made:
                    self.made[key, name] = self.model.create_output_buffer_by_name(key, name)
                outputs[name] = self.made[key, name]
        self.model.run_by_name(key, inputs, outputs)
        if key != "decode":
            return {}
        return {"logits": outputs["logits"].read(self.vocab, np.float32).copy()}

    def decode(self, token: int, position: int, first: int = 0) -> np.ndarray:
        return self.call("decode", 1, [token], position, first)["logits"]
