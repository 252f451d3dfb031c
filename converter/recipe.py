"""Which scheme each weight gets: a named recipe or a JSON file of tensor-name patterns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import ConversionError
from .fields import MAX_JSON_BYTES, parse_json, read_bytes
from .quantize import SCHEMES, Scheme

NAMED = tuple(name for name in SCHEMES if name != "int4-block64")  # the ones that are documented and measured
MATRICES = re.compile(r"embed\.weight|(pre|post)_projection\.weight|layers\.\d+\.(q|k|v|o|gate|up|down)\.weight")
FLOAT = Scheme(32)


@dataclass(frozen=True)
class Recipe:
    """`rules`: (pattern over canonical names, scheme), the first match wins; `default` takes the rest. Norms, scalars
    and media tensors always stay float32."""

    name: str
    rules: tuple[tuple[re.Pattern[str], Scheme], ...]
    default: Scheme

    @staticmethod
    def load(name_or_path: str | Path) -> Recipe:
        """One of the named recipes, or a JSON file {"pattern": "scheme", ..., "default": "scheme"}."""
        text = str(name_or_path)
        if text in SCHEMES:
            scheme = Scheme.parse(text)
            # A lookup table has no block form, and the table is also the LM head: 8 bits keep it close.
            rules = ((re.compile(r"embed\.weight"), Scheme(8)),) if scheme.block else ()
            return Recipe(text, rules, scheme)
        path = Path(name_or_path)
        if path.suffix != ".json" and not path.is_file():
            raise ConversionError(
                f"unknown recipe {text!r}; choose one of {', '.join(NAMED)} or give a JSON file of patterns"
            )
        return Recipe.from_mapping(path.stem, parse_json(read_bytes(path, MAX_JSON_BYTES), path.name))

    @staticmethod
    def from_mapping(name: str, table: Mapping[str, object]) -> Recipe:
        rules, default = [], Scheme(8)
        for pattern, value in table.items():
            if not isinstance(value, str):
                raise ConversionError(f"recipe {name}: the scheme of {pattern!r} must be a string")
            scheme = Scheme.parse(value)
            if pattern == "default":
                default = scheme
                continue
            try:
                rules.append((re.compile(pattern), scheme))
            except re.error as error:
                raise ConversionError(f"recipe {name}: {pattern!r} is not a regular expression: {error}") from None
        recipe = Recipe(name, tuple(rules), default)
        recipe.scheme("embed.weight")  # a table that cannot be converted is refused before the work starts
        return recipe

    def scheme(self, name: str) -> Scheme:
        """The scheme of the tensor with this canonical name."""
        if not MATRICES.fullmatch(name):
            return FLOAT
        chosen = next((scheme for pattern, scheme in self.rules if pattern.fullmatch(name)), self.default)
        if name == "embed.weight" and chosen.block:
            raise ConversionError(
                f"recipe {self.name}: embed.weight cannot be {chosen.name}, a lookup table has no block form; "
                "give it int8, int4-channel or f32"
            )
        return chosen


@dataclass(frozen=True)
class Auto:
    """A recipe that is still to be chosen: at most `bits` per weight of the layers' matrices, scales included."""

    bits: float

    def recipe(self, schemes: Mapping[str, str]) -> Recipe:
        """`schemes`: the choice for each of those matrices. The table keeps 8 bits."""
        rules = tuple((re.compile(re.escape(name)), Scheme.parse(scheme)) for name, scheme in schemes.items())
        return Recipe(f"auto-{self.bits:g}", rules, Scheme(8))
