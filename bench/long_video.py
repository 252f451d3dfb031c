"""A five-minute film, 313 frames of it and its sound: assembled, prefilled, answered, cancelled, asked again.

    tandem convert checkpoint model.litertlm --quant int4-channel --context 32768
    python bench/long_video.py model.litertlm            # minutes; needs tandem-lm[media]

The film is generated (480p, 12 frames per second, a tone that rises). Prints one JSON object: seconds of each stage,
tokens, peak resident memory beside the plan of `tandem inspect --memory`, how soon a cancelled prefill returns, and
what a second question computes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import tandem_lm as tl
from tandem_lm._quiet import without_greeting
from tandem_lm.memory import peak_rss_bytes

SECONDS, RATE, WIDTH, HEIGHT, FRAMES = 300, 12, 854, 480, 313
SOUND_RATE = 44_100


def write_film(path: Path) -> None:
    """H.264 (MPEG-4 where FFmpeg lacks it) and AAC, as a camera's file."""
    import av

    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    with av.open(str(path), "w", format="mp4") as container:
        picture = container.add_stream(codec, rate=RATE, options={"preset": "ultrafast"} if codec == "libx264" else {})
        picture.width, picture.height, picture.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = container.add_stream("aac", rate=SOUND_RATE, layout="mono")
        block = sound.codec_context.frame_size or 1024
        done = 0  # samples
        for i in range(SECONDS * RATE):
            pixels = np.stack([(x + 3 * i) % 256, (y + i) % 256, np.full_like(x, i // RATE % 256)], -1).astype(np.uint8)
            container.mux(picture.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            while done < (i + 1) * SOUND_RATE // RATE:
                t = np.arange(done, done + block) / SOUND_RATE
                wave = 0.3 * np.sin(2 * np.pi * (200 + t / 2) * t).astype(np.float32)
                frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
                frame.sample_rate, frame.pts = SOUND_RATE, done
                container.mux(sound.encode(frame))
                done += block
        container.mux(picture.encode())
        container.mux(sound.encode())


class Watch:
    """Notes when each stage is heard of first and last, and cancels at one of its steps."""

    def __init__(self, session: tl.Session, cancel: tuple[str, int] | None = None) -> None:
        self.seen: dict[str, list[float]] = {}
        self.cancelled_at = 0.0
        self._session, self._cancel = session, cancel

    def __call__(self, what: str, done: int, _total: int) -> None:
        now = time.perf_counter()
        self.seen.setdefault(what, [now, now])[1] = now
        if self._cancel and not self.cancelled_at and what == self._cancel[0] and done >= self._cancel[1]:
            self.cancelled_at = now
            self._session.cancel()


def cancelled(engine: tl.Engine, film: tl.Video, at: tuple[str, int]) -> dict[str, float]:
    """A prefill that is cancelled at a step of its work: how soon it ends, and what is there then."""
    with engine.session() as session:
        watch = Watch(session, at)
        try:
            session.prefill([film], watch)
        except tl.Cancelled:
            return {"seconds_until_it_ends": time.perf_counter() - watch.cancelled_at, "tokens": session.position}
    raise SystemExit(f"the prefill was not cancelled at {at}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--film", type=Path, help="another film, of which the frames are taken")
    parser.add_argument("-t", "--threads", type=int, help="threads (default: one per physical core)")
    parser.add_argument("-n", "--max-tokens", type=int, default=32, help="of each answer")
    options = parser.parse_args()
    result: dict[str, Any] = {}
    params = tl.SamplingParams(max_tokens=options.max_tokens, stop_ids=())
    with tempfile.TemporaryDirectory() as folder:
        path = options.film or Path(folder) / "film.mp4"
        if options.film is None:
            write_film(path)
        with without_greeting():
            engine = tl.Engine(options.bundle, num_threads=options.threads)
        result["plan_bytes"] = {**engine.info.memory, "total": sum(engine.info.memory.values())}
        result["peak_rss_bytes_loaded"] = peak_rss_bytes()
        film = tl.Video(path, num_frames=FRAMES, audio=True)
        result["film_bytes"], result["frames"] = path.stat().st_size, len(film)
        result["cancelled_while_frames_are_read"] = cancelled(engine, film, ("video frames", 100))
        with engine.conversation() as chat:
            watch = Watch(chat.session)
            start = time.perf_counter()
            answer = chat.send("What happens in this film?", params, videos=[film], progress=watch)
            stats = chat.session.stats()
            read, prefilled = watch.seen["prompt tokens"]
            result["seconds"] = {
                "frames and sound to embeddings": read - start,
                "prefill": stats.prefill_seconds,
                "answer": stats.decode_seconds,
                "all": time.perf_counter() - start,
            }
            result["tokens"] = {"prompt": stats.prefill_tokens, "answer": stats.decode_tokens}
            result["prefill_tokens_per_second"] = stats.prefill_tokens_per_second
            result["decode_tokens_per_second"] = stats.decode_tokens_per_second
            assert answer and prefilled > read
            chat.send("And at the end?", params)
            again = chat.session.stats().since(stats)
            result["second_question"] = {
                "prefill_tokens": again.prefill_tokens,
                "prefill_seconds": again.prefill_seconds,
            }
        result["cancelled_while_it_is_prefilled"] = cancelled(engine, film, ("prompt tokens", 1))
        result["media"] = {name: getattr(engine.stats(), f"media_{name}") for name in ("embedded", "reused")}
        result["peak_rss_bytes"] = peak_rss_bytes()
        engine.close()
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
