"""Shared fixtures: tiny bundles of every family, made once per run, and a cache folder of their own."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CONTEXT = 128  # tokens that the tiny bundles hold


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests leave the user's cache folder alone."""
    before = os.environ.get("TANDEM_CACHE_DIR")
    os.environ["TANDEM_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["TANDEM_CACHE_DIR"]
    else:
        os.environ["TANDEM_CACHE_DIR"] = before


@pytest.fixture(scope="session", autouse=True)
def _interrupts() -> Iterator[None]:
    """Shells start what runs in the background with SIGINT ignored; tests send it to themselves and their children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes (once) and returns the tiny checkpoint "gemma4", "gemma3" or "base" (gemma3 without a chat template)."""
    from checkpoints import write_gemma3, write_gemma4

    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            write = write_gemma4 if kind == "gemma4" else write_gemma3
            made[kind] = write(tmp_path_factory.mktemp("checkpoints") / kind)
            if kind == "base":
                config = made[kind] / "tokenizer_config.json"
                values = json.loads(config.read_text())
                del values["chat_template"]
                config.write_text(json.dumps(values))
        return made[kind]

    return folder


@pytest.fixture(scope="session")
def bundle(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Converts (once) and returns the tiny bundle of a checkpoint kind and a recipe."""
    made: dict[tuple[str, str], Path] = {}

    def path(kind: str, quant: str) -> Path:
        from tandem_converter.convert import convert

        if (kind, quant) not in made:
            out = tmp_path_factory.mktemp("bundles") / f"{kind}-{quant}.litertlm"
            convert(checkpoint(kind), out, quant=quant, context=CONTEXT)
            made[kind, quant] = out
        return made[kind, quant]

    return path


@pytest.fixture(scope="session")
def tiny_gemma4(bundle: Callable[[str, str], Path]) -> Path:
    return bundle("gemma4", "f32")


@pytest.fixture(scope="session")
def tiny_gemma3(bundle: Callable[[str, str], Path]) -> Path:
    return bundle("gemma3", "f32")


@pytest.fixture(scope="session")
def tiny_gemma4_int8(bundle: Callable[[str, str], Path]) -> Path:
    return bundle("gemma4", "int8")


@pytest.fixture(scope="session")
def tiny_gemma3_int8(bundle: Callable[[str, str], Path]) -> Path:
    return bundle("gemma3", "int8")


@pytest.fixture(scope="session")
def tiny_base(bundle: Callable[[str, str], Path]) -> Path:
    """A model without a chat template."""
    return bundle("base", "f32")


@pytest.fixture(scope="session", params=["gemma4", "gemma3"])
def tiny_bundle(request: pytest.FixtureRequest, bundle: Callable[[str, str], Path]) -> Path:
    """The f32 bundle of each family in turn."""
    return bundle(request.param, "f32")
