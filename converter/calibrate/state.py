"""What a calibration has reached, in a folder beside the bundle: finished tensors, and the residual stream between two
layers. Everything is written under another name first, so that a killed process leaves only whole files; a folder that
belongs to other options or another checkpoint is emptied."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..quantize import Quantized, Scheme

F32 = npt.NDArray[np.float32]
KEY = "key"


class State:
    """`key` names everything that the result depends on."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        stamp = folder / KEY
        if not stamp.is_file() or stamp.read_text() != key:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            stamp.write_text(key)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    # ------------------------------------------------------------------------------------------------------ tensors
    def save(self, name: str, tensor: Quantized) -> None:
        scales = np.empty(0, np.float32) if tensor.scales is None else tensor.scales
        figures = np.array([tensor.error[k] for k in sorted(tensor.error)])
        self._write(
            f"{name}.npz", data=tensor.data, scales=scales, scheme=np.array(tensor.scheme.name),
            keys=np.array(sorted(tensor.error)), figures=figures,
        )  # fmt: skip

    def load(self, name: str) -> Quantized | None:
        """None for a tensor that calibration does not change."""
        path = self.folder / f"{name}.npz"
        if not path.exists():
            return None
        with np.load(path) as file:
            scheme = Scheme.parse(str(file["scheme"]))
            data = file["data"]
            error = {str(k): float(v) for k, v in zip(file["keys"], file["figures"], strict=True)}
            shape = (len(data), data.shape[1] * (2 if scheme.bits == 4 else 1))
            return Quantized(scheme, shape, data, file["scales"], error)

    def save_vector(self, name: str, values: F32) -> None:
        self._write(f"{name}.npz", vector=values)

    def vector(self, name: str) -> F32 | None:
        """A small tensor that calibration has changed, or None."""
        path = self.folder / f"{name}.npz"
        if not path.exists():
            return None
        with np.load(path) as file:
            result: F32 = file["vector"]
            return result

    def save_choice(self, schemes: dict[str, str]) -> None:
        part = self.folder / "part-choice.json"
        part.write_text(json.dumps(schemes))
        part.replace(self.folder / "choice.json")

    def choice(self) -> dict[str, str] | None:
        """The schemes that were chosen for the matrices, if they were."""
        path = self.folder / "choice.json"
        if not path.exists():
            return None
        return {str(name): str(scheme) for name, scheme in json.loads(path.read_text()).items()}

    def _write(self, name: str, **arrays: npt.NDArray[np.generic]) -> None:
        part = self.folder / f"part-{name}"
        with part.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        part.replace(self.folder / name)

    # ------------------------------------------------------------------------------------------------------- stream
    def layers_done(self) -> int:
        """How many layers are finished; their output is `stream`."""
        found = [int(p.stem.removeprefix("stream-")) for p in self.folder.glob("stream-*.f32")]
        return max(found, default=-1)

    def stream(self, layers: int, shape: tuple[int, int, int]) -> F32:
        """The residual stream [S, L, H] after so many layers, mapped for reading."""
        result: F32 = np.memmap(self._stream(layers), np.float32, "r", shape=shape)
        return result

    def scratch(self, name: str, shape: tuple[int, int, int]) -> F32:
        """Space for a stream in the making, mapped for writing."""
        result: F32 = np.memmap(self.folder / f"part-{name}", np.float32, "w+", shape=shape)
        return result

    def finish_layer(self, layers: int, stream: F32) -> None:
        """`stream`, made by scratch("stream"), is the output of layer `layers` - 1: everything before is settled."""
        assert isinstance(stream, np.memmap)
        stream.flush()
        (self.folder / "part-stream").replace(self._stream(layers))
        self._stream(layers - 1).unlink(missing_ok=True)

    def _stream(self, layers: int) -> Path:
        return self.folder / f"stream-{layers}.f32"
