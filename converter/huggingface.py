"""A Hugging Face folder as a source of weights: config.json, safetensors (one or many), tokenizer, chat template."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ConversionError
from .family import read_config
from .fields import MAX_JSON_BYTES, parse_json, read_bytes
from .names import Shape, canonical, check_shapes, expected_shapes, from_hugging_face
from .safetensors import WEIGHT_DTYPES, SafetensorsFile
from .tensors import TensorSource

MAX_TOKENIZER_BYTES = 256 << 20
INDEX = "model.safetensors.index.json"
DTYPE_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class HuggingFaceSource(TensorSource):
    """See `converter/source.py` for the interface."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        config = self._json("config.json")
        files = [SafetensorsFile(folder / name) for name in self._weight_files()]
        self._home: dict[str, SafetensorsFile] = {}  # by the checkpoint's names
        for file in files:
            for name in file.entries:
                if name in self._home:
                    both = f"{self._home[name].path.name} and {file.path.name}"
                    raise ConversionError(f"duplicate tensor: {name!r} is in {both}")
                self._home[name] = file
        self._check_index()
        # The config speaks first: the tensors of a model that is not supported have names that mean nothing here.
        stored_as = [f.entries[n].dtype for n, f in self._home.items() if n.endswith("embed_tokens.weight")]
        self.dtype = DTYPE_NAMES.get(stored_as[0], "float32") if stored_as else "float32"
        self._describe(config)
        self._stored = canonical((name, self._canonical(name)) for name in self._home)
        shapes = {}
        for key, name in self._stored.items():
            entry = self._home[name].entries[name]
            if entry.dtype not in WEIGHT_DTYPES:
                raise self._home[name].wrong_dtype(name)
            shapes[key] = entry.shape
        check_shapes(self._expected(), shapes, self._stored, folder.name)
        self._shapes = shapes
        self.fingerprint = self._fingerprint(files)

    def _describe(self, config: dict[str, Any]) -> None:
        """Reads the config into `spec`."""
        self.spec = read_config(config, self._json("generation_config.json", optional=True), self.dtype)

    def _canonical(self, name: str) -> str | None:
        return from_hugging_face(name)

    def _expected(self) -> dict[str, Shape]:
        return expected_shapes(self.spec)

    def _json(self, name: str, optional: bool = False) -> dict[str, Any]:
        path = self.folder / name
        if optional and not path.exists():
            return {}
        return parse_json(read_bytes(path, MAX_JSON_BYTES), name)

    def _weight_files(self) -> list[str]:
        """The order that transformers uses: one file if there is one, else the shards of the index."""
        if (self.folder / "model.safetensors").exists():
            return ["model.safetensors"]
        if not (self.folder / INDEX).exists():
            other = any(self.folder.glob("*.bin")) or any(self.folder.glob("*.pt"))
            hint = "convert the PyTorch files to safetensors" if other else "download the checkpoint again"
            raise ConversionError(f"{self.folder}: neither model.safetensors nor {INDEX} is there; {hint}")
        names = sorted(set(self._weight_map().values()))
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise ConversionError(f"{INDEX}: {name[:60]!r} is not a safetensors file in the same folder")
            if not (self.folder / name).is_file():
                raise ConversionError(f"{self.folder}: the shard {name} is missing; download the checkpoint again")
        return names

    def _weight_map(self) -> dict[str, str]:
        table = self._json(INDEX).get("weight_map")
        if not isinstance(table, dict) or not table or not all(isinstance(v, str) for v in table.values()):
            raise ConversionError(f"{INDEX}: weight_map must map tensor names to file names")
        return table

    def _check_index(self) -> None:
        """Index and shards must list the same tensors in the same files."""
        if (self.folder / "model.safetensors").exists():
            return
        listed = self._weight_map()
        for name, file in listed.items():
            if name not in self._home or self._home[name].path.name != file:
                raise ConversionError(f"{INDEX}: tensor {name!r} is not in {file}; download the checkpoint again")
        for name, home in self._home.items():
            if name not in listed:
                raise ConversionError(f"{home.path.name}: tensor {name!r} is not listed in {INDEX}")

    def _fingerprint(self, files: list[SafetensorsFile]) -> str:
        digest = hashlib.sha256()
        for file in files:
            digest.update(f"{file.path.name} {file.file.size} {len(file.header)}\n".encode())
            digest.update(file.header)
        for name in ("config.json", "generation_config.json", "tokenizer.json"):
            path = self.folder / name
            if path.exists():
                data = read_bytes(path, MAX_TOKENIZER_BYTES)
                digest.update(f"{name} {len(data)}\n".encode())
                digest.update(data)
        digest.update((self.chat_template or "").encode())
        return digest.hexdigest()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def names(self) -> list[str]:
        return list(self._shapes)

    def _read(self, name: str, first: int, count: int) -> np.ndarray:
        stored = self._stored[name]
        return self._home[stored].read(stored, first, count)

    def _label(self, name: str) -> str:
        return self._stored[name]

    @cached_property
    def tokenizer_json(self) -> bytes:
        path = self.folder / "tokenizer.json"
        if not path.exists():
            raise ConversionError(
                f"{self.folder}: tokenizer.json is missing; download it too (a tokenizer.model alone is not enough)"
            )
        return read_bytes(path, MAX_TOKENIZER_BYTES)

    @cached_property
    def chat_template(self) -> str | None:
        """From chat_template.jinja, else from the older places."""
        path = self.folder / "chat_template.jinja"
        if path.exists():
            try:
                return read_bytes(path, MAX_JSON_BYTES).decode("utf-8")
            except UnicodeDecodeError:
                raise ConversionError("chat_template.jinja is not UTF-8; download it again") from None
        for name in ("chat_template.json", "tokenizer_config.json"):
            value = self._json(name, optional=True).get("chat_template")
            if isinstance(value, list):  # several named templates
                named = [v for v in value if isinstance(v, dict) and v.get("name") == "default"]
                value = named[0].get("template") if named else None
            if isinstance(value, str):
                return value
        return None
