"""Checks a bundle's structure and checksums; lists what is wrong."""

from __future__ import annotations

import argparse

from ..engine import native_module, open_path
from ..errors import translated
from .output import complain


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="a .litertlm file")


def execute(args: argparse.Namespace) -> int:
    path = open_path(args.bundle)
    with translated():
        problems: list[str] = native_module().verify(path)
    for problem in problems:
        complain(f"{path}: {problem}")
    if problems:
        return 1
    print(f"{path}: sound")
    return 0
