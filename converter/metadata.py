"""The LlmMetadata section: what LiteRT-LM needs to know beside the graphs, as protobuf bytes.

A minimal encoder of the wire format; only the fields written here exist. Field numbers are those of LiteRT-LM 0.18.1
(`LlmMetadata`, `TokenUnion`, `SamplerParameters`, `LlmModelType`).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from .family import ModelSpec

_TOP_P = 2  # SamplerParameters.Type
_MODEL_TYPE = {"gemma3_text": 4, "gemma4_unified": 8}  # the oneof's field; `generic_model` for the rest
_GENERIC_MODEL = 1


def varint(value: int) -> bytes:
    """Base-128, least significant group first. `value` >= 0."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def integer(field: int, value: int) -> bytes:
    """A varint field (int32, bool, enum)."""
    return varint(field << 3) + varint(value)


def real(field: int, value: float) -> bytes:
    """A float field."""
    return varint(field << 3 | 5) + struct.pack("<f", value)


def message(field: int, body: bytes) -> bytes:
    """A length-delimited field: a message, a string's UTF-8, or packed integers."""
    return varint(field << 3 | 2) + varint(len(body)) + body


def _token_ids(ids: Sequence[int]) -> bytes:
    """The body of a TokenIds message."""
    return message(1, b"".join(varint(i) for i in ids))


def _token(field: int, token: int) -> bytes:
    """A TokenUnion field that holds one token id."""
    return message(field, message(1, _token_ids([token])))


def _sampler(sampler: dict[str, float]) -> bytes:
    body = integer(1, _TOP_P)
    if "top_k" in sampler:
        body += integer(2, int(sampler["top_k"]))
    body += real(3, sampler.get("top_p", 1.0)) + real(4, sampler.get("temperature", 1.0))
    return body


def portable_template(template: str | None) -> str | None:
    """The chat template if LiteRT-LM's template engine can run it: it has no dict.get(). Our manifest has it anyway."""
    return None if template is None or ".get(" in template else template


def llm_metadata(spec: ModelSpec, context: int, template: str | None) -> bytes:
    """The section's bytes."""
    out = _token(1, spec.bos_id)
    for stop in spec.eos_ids:
        out += _token(2, stop)
    if spec.sampler:
        out += message(4, _sampler(spec.sampler))
    out += integer(5, context)
    out += message(6, message(_MODEL_TYPE.get(spec.family, _GENERIC_MODEL), b""))
    portable = portable_template(template)
    if portable is not None:
        out += message(7, portable.encode())
    if spec.suppress_ids:
        out += message(9, _token_ids(spec.suppress_ids))
    out += integer(11, 0) + integer(12, 0)  # thinking and tools: this layer leaves them to our runtime
    out += _token(13, spec.pad_id)
    return out
