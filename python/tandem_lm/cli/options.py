"""Options that several commands share, and what becomes of them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from .._quiet import without_greeting
from ..conversation import recommended_params
from ..engine import Engine
from ..errors import InvalidRequestError
from ..media import Audio, Image, Video
from ..types import SamplingParams
from .loading import packing_bar
from .output import complain


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="a .litertlm file")
    parser.add_argument("-t", "--threads", type=int, metavar="N", help="threads (default: one per physical core)")
    parser.add_argument(
        "--max-context", type=int, metavar="N", help="tokens a session can hold (default: the bundle's)"
    )
    parser.add_argument(
        "--kv-dtype", default="f16", metavar="TYPE", help="of the cache: f16 (default), f32, or int8, the smallest"
    )
    add_backend_options(parser)


def add_backend_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend",
        default="cpu",
        metavar="B",
        help="cpu (default), gpu, gpu:NAME, or auto: the GPU where it agrees with the CPU (tandem devices lists GPUs)",
    )
    parser.add_argument("--fallback", default="none", metavar="B", help="cpu: goes on there where the GPU fails")


def add_prefix_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prefix-cache",
        metavar="DIR",
        help="keep what was computed of the prompt in DIR (up to 1 GiB), for later runs that begin alike",
    )


def add_sampling_options(parser: argparse.ArgumentParser, max_tokens: int, default: str) -> None:
    group = parser.add_argument_group(f"sampling (default: {default})")
    group.add_argument("-n", "--max-tokens", type=int, default=max_tokens, metavar="N", help="default: %(default)s")
    group.add_argument("--temperature", type=float, metavar="T", help="0 takes the most likely token")
    group.add_argument("--top-k", type=int, metavar="K", help="0 keeps all tokens")
    group.add_argument("--top-p", type=float, metavar="P")
    group.add_argument("--min-p", type=float, metavar="M")
    group.add_argument("--repetition-penalty", type=float, metavar="R")
    group.add_argument("--seed", type=int, metavar="S")
    group.add_argument("--stop", action="append", metavar="TEXT", help="end before TEXT; may be repeated")
    group.add_argument(
        "--drafter",
        choices=("auto", "on", "off"),
        default="auto",
        help="speculative decoding: where it pays (default), always, or never",
    )
    group.add_argument("--draft-tokens", type=int, metavar="K", help="draft K tokens per round (default: what pays)")


def add_media_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("images and sound (each may be repeated; images come before the text)")
    group.add_argument("--image", action="append", default=[], metavar="FILE")
    group.add_argument("--audio", action="append", default=[], metavar="FILE")
    group.add_argument("--video", action="append", default=[], metavar="FILE", help="frames of it, with their times")
    group.add_argument("--image-tokens", type=int, metavar="N", help="most tokens per image: 70, 140, 280, 560 or 1120")
    group.add_argument("--video-fps", type=float, metavar="R", help="frames per second (default: 32 in all)")
    group.add_argument("--video-sound", action="store_true", help="with the sound of the videos")


def media(args: argparse.Namespace) -> dict[str, Any]:
    """What add_media_options asked for, as the arguments of Conversation.stream."""
    return {
        "images": [Image(file, max_soft_tokens=args.image_tokens) for file in args.image],
        "videos": [Video(file, fps=args.video_fps, audio=args.video_sound) for file in args.video],
        "audio": [Audio(file) for file in args.audio],
    }


def open_engine(args: argparse.Namespace) -> Engine:
    """The engine that the command line asks for."""
    with packing_bar(Path(args.bundle)), without_greeting():
        engine = Engine(
            args.bundle,
            backend=args.backend,
            num_threads=args.threads,
            max_context=args.max_context,
            kv_dtype=args.kv_dtype,
            drafter=getattr(args, "drafter", "auto"),
            prefix_cache_dir=getattr(args, "prefix_cache", None),
            fallback=args.fallback,
        )
    if args.backend != "cpu" and engine.info.backend == "cpu":
        complain(f"note: {engine.info.backend_reason}")
    return engine


def sampling_params(args: argparse.Namespace, engine: Engine, *, recommended: bool) -> SamplingParams:
    """`recommended`: start from the model's own sampler settings; else from greedy."""
    changes = {
        name: getattr(args, name)
        for name in (
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "repetition_penalty",
            "seed",
            "max_tokens",
            "draft_tokens",
        )
        if getattr(args, name) is not None
    }
    changes["stop_strings"] = tuple(args.stop or ())
    if recommended:
        return recommended_params(engine, **changes)
    if {"top_k", "top_p", "min_p"} & changes.keys():
        changes.setdefault("temperature", 1.0)  # they mean nothing to a greedy choice
    return SamplingParams(**changes)


def read_prompt(text: str) -> str:
    """TEXT of the command line; "-" reads all of stdin."""
    if text == "-":
        text = decode("stdin", sys.stdin.buffer.read())
    if not text:
        raise InvalidRequestError("the prompt is empty; write some text")
    return text


def read_text(path: Path) -> str:
    return decode(str(path), path.read_bytes())


def decode(name: str, data: bytes) -> str:
    """UTF-8 text; a binary file given by mistake is told apart from a short or odd text."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{name} is not UTF-8 text (byte {error.start}); convert it first") from None
    if "\0" in text:
        raise InvalidRequestError(f"{name} contains a NUL character (at {text.index(chr(0))}), so it is not text")
    return text
