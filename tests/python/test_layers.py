"""Keeps the include rule: a layer of csrc includes itself and the layers below it, nothing else."""

import re
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[2] / "csrc"

# Layer -> layers it may include (csrc/README.md draws the picture).
ALLOWED = {
    "base": set(),
    "bundle": {"base"},
    "tokenizer": {"base"},
    "media": {"base"},
    "litert": {"base"},
    "kernels": {"base"},
    "kv": {"base", "kernels"},
    "model": {"base", "bundle", "litert", "kernels", "kv"},
    "decode": {"base", "tokenizer", "model"},
    "engine": {"base", "bundle", "tokenizer", "media", "litert", "kernels", "kv", "model", "decode"},
    "capi": {"base", "bundle", "tokenizer", "media", "litert", "kernels", "kv", "model", "decode", "engine", "tandem"},
    "include": {"tandem"},  # csrc/include/tandem: what others see
    "examples": set(),
    "bindings": {"base", "bundle", "tokenizer", "media", "litert", "kernels", "kv", "model", "decode", "engine"},
}


def layers() -> list[str]:
    return sorted(path.name for path in CSRC.iterdir() if path.is_dir())


@pytest.mark.parametrize("layer", layers())
def test_includes_go_one_way(layer: str) -> None:
    assert layer in ALLOWED, f"csrc/{layer} is a new layer: say here what it may include"
    wrong = []
    for path in sorted((CSRC / layer).rglob("*.[hc]*")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            found = re.match(r'\s*#include "([^"/]+)/', line)
            if found and found[1] != layer and found[1] not in ALLOWED[layer]:
                wrong.append(f"{path.relative_to(CSRC)}:{number}: {line.strip()}")
    assert not wrong, "\n".join(wrong)
