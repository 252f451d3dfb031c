"""Lists the GPUs that Vulkan offers here, for --backend gpu:NAME."""

from __future__ import annotations

import argparse
import dataclasses
import json

from .. import gpu
from .output import size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON list")


def execute(args: argparse.Namespace) -> int:
    found = gpu.devices()
    if args.json:
        print(json.dumps([dataclasses.asdict(device) for device in found], indent=2))
        return 0
    for device in found:
        print(f"{device.name}: {device.kind}, {size(device.memory_bytes)}")
    if not found:
        print("no GPU: Vulkan has a loader but no driver")
    return 0
