"""The least time that a test can take on a machine: its bytes over the bandwidth, its multiply-adds over the int8 rate.

Counted: the weights, once per generated token or per block of 512 prompt tokens, and for generated tokens the keys and
values they look at; the multiply-adds of the linear layers and, where logits are made, of the head. Attention's own
multiply-adds are left out, so that at a depth the share of the limit falls for every runtime.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

BLOCK = 512  # prompt tokens for which the weights are read once
KV_BYTES = {"f32": 4, "f16": 2, "int8": 1}


@dataclass(frozen=True)
class Roofline:
    bytes: float
    macs: float
    seconds: float  # at the machine's limit
    bound: str  # "memory" or "int8"


def layer_macs(model: dict[str, Any]) -> int:
    """Multiply-adds of all linear layers for one token; the head's are vocab_size * hidden_size."""
    hidden, total = model["hidden_size"], 0
    for layer in model["layers"]:
        query, kv = model["num_heads"] * layer["head_dim"], layer["kv_heads"] * layer["head_dim"]
        total += hidden * (2 * query + kv * (1 if layer["k_eq_v"] else 2) + 3 * model["intermediate_size"])
    return total


def kv_bytes(model: dict[str, Any], position: float, kv_dtype: str) -> float:
    """Keys and values that one token at `position` looks at."""
    total = 0.0
    for layer in model["layers"]:
        keys = min(position, layer["window"]) if layer["window"] else position
        total += 2 * keys * layer["kv_heads"] * layer["head_dim"] * KV_BYTES[kv_dtype]
    return total


def roofline(
    model: dict[str, Any],
    weight_bytes: int,
    prompt: int,
    generated: int,
    depth: int,
    kv_dtype: str,
    rates: dict[str, float],
) -> Roofline | None:
    """None when the machine's rates are not known."""
    head = model["vocab_size"] * model["hidden_size"]
    if prompt:
        blocks = -(-prompt // BLOCK)
        total_bytes, macs = float(weight_bytes * blocks), prompt * layer_macs(model) + head
    else:
        cached = sum(kv_bytes(model, depth + i + 1, kv_dtype) for i in range(generated))
        total_bytes, macs = weight_bytes * generated + cached, generated * (layer_macs(model) + head)
    bandwidth, rate = rates.get("bytes_per_second", 0), rates.get("int8_macs_per_second", 0)
    if not bandwidth:
        return None
    memory, compute = total_bytes / bandwidth, macs / rate if rate else 0.0
    return Roofline(total_bytes, macs, max(memory, compute), "memory" if memory >= compute else "int8")
