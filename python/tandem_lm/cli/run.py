"""One answer, streamed to stdout.

The prompt goes through the model's chat template; --raw continues the text as it is.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..engine import Engine, Session
from ..memory import peak_rss_bytes
from ..types import SamplingParams
from .options import (
    add_engine_options,
    add_media_options,
    add_prefix_option,
    add_sampling_options,
    media,
    open_engine,
    read_prompt,
    sampling_params,
)
from .output import show, work_bar

if TYPE_CHECKING:
    from ..prompt import Progress

Media = dict[str, Any]  # "images", "videos" and "audio"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_engine_options(parser)
    parser.add_argument("-p", "--prompt", required=True, metavar="TEXT", help='the prompt; "-" reads it from stdin')
    parser.add_argument("--system", metavar="TEXT", help="system prompt")
    parser.add_argument(
        "--raw", action="store_true", help="no chat template: continue TEXT; special tokens in it count"
    )
    add_media_options(parser)
    add_prefix_option(parser)
    add_sampling_options(parser, 256, "greedy")
    parser.add_argument("--stats", choices=("json",), help="statistics to stderr when done")


def execute(args: argparse.Namespace) -> int:
    prompt = read_prompt(args.prompt)
    attached = media(args)  # a file that cannot be read is told before the model is loaded
    with open_engine(args) as engine, work_bar() as progress:
        params = sampling_params(args, engine, recommended=False)
        answer = (
            _Raw(engine, prompt, attached, params, progress)
            if args.raw
            else _Chat(engine, prompt, args.system, attached, params, progress)
        )
        start = time.perf_counter()
        first = None
        for text in answer.pieces():
            if first is None:
                first = time.perf_counter() - start
            show(text)
        show("\n")
        if args.stats:
            print(json.dumps(_statistics(engine, answer, first)), file=sys.stderr)
    return 0


class _Raw:
    def __init__(
        self, engine: Engine, prompt: str, media: Media, params: SamplingParams, progress: Progress | None
    ) -> None:
        ids = raw_ids(engine, prompt)
        head = [ids.pop(0)] if engine.info.add_bos else []
        self._prompt = [*head, *media["images"], *media["videos"], *ids, *media["audio"]]
        self._params, self._progress = params, progress
        self.session: Session = engine.session()
        self.finish_reason = ""

    def pieces(self) -> Iterator[str]:
        self.session.prefill(self._prompt, self._progress)
        with self.session.generate(self._params) as generation:
            for token in generation:
                yield token.text
        self.finish_reason = generation.finish_reason


class _Chat:
    def __init__(
        self,
        engine: Engine,
        prompt: str,
        system: str | None,
        media: Media,
        params: SamplingParams,
        progress: Progress | None,
    ) -> None:
        self._chat = engine.conversation(system=system)
        self._pieces = self._chat.stream(prompt, params, **media, progress=progress)
        self.session = self._chat.session

    @property
    def finish_reason(self) -> str:
        return self._chat.finish_reason

    def pieces(self) -> Iterator[str]:
        return self._pieces


def raw_ids(engine: Engine, text: str) -> list[int]:
    """Ids of text that is to be continued: one bos token in front if the model wants it."""
    info = engine.info
    ids = engine.tokenizer.encode(text, parse_special=True)
    if info.add_bos and ids[:1] != [info.bos_id]:
        ids.insert(0, info.bos_id)
    return ids


def _statistics(engine: Engine, answer: _Raw | _Chat, first: float | None) -> dict[str, Any]:
    stats = answer.session.stats()
    return {
        **asdict(stats),
        "prefill_tokens_per_second": stats.prefill_tokens_per_second,
        "decode_tokens_per_second": stats.decode_tokens_per_second,
        "time_to_first_token_seconds": first,
        "load_seconds": engine.info.load_seconds,
        "peak_rss_bytes": peak_rss_bytes(),
        "finish_reason": answer.finish_reason,
    }
