"""A film: frames sampled over its length, with their times, and its sound track."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _checks, _native
from ..errors import InvalidRequestError
from ._container import open_container
from ._sources import Encoded, decoding, encoded
from .audio import Audio
from .image import Pixels, check_size, from_array

DEFAULT_FRAMES = 32
_REMEDY = "check that it is a complete film (MP4, MOV, MKV, WebM, AVI, GIF)"

Progress = Callable[[int, int], None]


class Video:
    """A film for the model: frames sampled evenly over its length.

    source: path, bytes, data URL, or uint8 array of frames [N, H, W, 3] (also a list of frames) with its frame_rate.
    num_frames: how many frames, at most as many as it has; fps: how many per second instead. Neither: 32, or all
    frames of a film that has fewer. The frame of sample i of n is floor(i * total / n).
    audio: the engine also hears its sound track.

    The file is examined here; frames are decoded one by one as frames() is read, and only the sampled ones are kept.
    """

    def __init__(
        self,
        source: object,
        *,
        fps: float | None = None,
        num_frames: int | None = None,
        audio: bool = False,
        frame_rate: float | None = None,
    ) -> None:
        self.audio = bool(audio)
        self._file = encoded("video", source)
        self._array: Sequence[npt.NDArray[Any]] | npt.NDArray[Any] = ()
        if self._file is not None:
            if frame_rate is not None:
                raise InvalidRequestError(f"{self._file.name}: frame_rate= is for arrays; a file says its own rate")
            total, rate = _probe(self._file)
        else:
            total, rate = self._take_array(source, frame_rate)
        self.frame_rate = rate  # of the film, per second
        self.one_size = not isinstance(self._array, (list, tuple)) or self._file is not None  # of all frames
        self.total_frames = total
        self.indices = _sample(total, rate, fps, num_frames)  # of the sampled frames
        self.timestamps = tuple(index / rate for index in self.indices)  # seconds
        self._hash = ""

    def __len__(self) -> int:
        """Sampled frames."""
        return len(self.indices)

    def frames(self, progress: Progress | None = None) -> Iterator[tuple[float, Pixels]]:
        """(seconds, [H, W, 3]) of each sampled frame in order, decoded as it is asked for: a list of them all may be
        large. `progress` is called with (frames decoded, frames to decode); what it raises ends the decoding.
        """
        if self._file is None:
            for done, index in enumerate(self.indices, 1):
                if progress is not None:
                    progress(done, len(self.indices))
                yield self.timestamps[done - 1], from_array(np.asarray(self._array[index]))
            return
        wanted = iter(zip(self.indices, self.timestamps, strict=True))
        last = self.indices[-1]
        index, seconds = next(wanted)
        decoded = 0
        for at, frame in _decoded(self._file):
            decoded = at + 1
            if progress is not None:
                progress(decoded, last + 1)
            if at == index:
                yield seconds, _rgb(self._file.name, frame)
                if at == last:
                    return
                index, seconds = next(wanted)
        raise InvalidRequestError(
            f"{self._file.name}: it ends after {decoded} of the {self.total_frames} frames that it names; {_REMEDY}"
        )

    def audio_track(self) -> Audio | None:
        """The sound of the same file; None when it has none or comes from an array."""
        if self._file is None:
            return None
        with open_container(self._file, _REMEDY) as container:
            if not container.streams.audio:
                return None
        return Audio(self._file.path or self._file.data)

    @property
    def content_hash(self) -> str:
        """SHA-256 over the file (or the frames of the array) and what is taken from it, in hex."""
        if not self._hash:
            digest = hashlib.sha256(f"video {self.frame_rate} {self.indices} {self.audio}\n".encode())
            if self._file is None:
                for index in self.indices:
                    digest.update(np.ascontiguousarray(self._array[index]).data)
            else:
                with self._file.open() as stream:
                    while block := stream.read(1 << 20):
                        digest.update(block)
            self._hash = digest.hexdigest()
        return self._hash

    def __repr__(self) -> str:
        return f"Video({len(self)} of {self.total_frames} frames, {self.total_frames / self.frame_rate:.1f} s)"

    def _take_array(self, source: object, frame_rate: float | None) -> tuple[int, float]:
        if not isinstance(source, (np.ndarray, list, tuple)):
            raise InvalidRequestError(
                f"a video must be a path, bytes, a data URL or an array of frames; got {type(source).__name__}"
            )
        if isinstance(source, np.ndarray) and source.ndim != 4:
            raise InvalidRequestError(f"a video array must be uint8 [N, H, W, 3]; got {list(source.shape)}")
        if len(source) == 0:
            raise InvalidRequestError("video array: 0 frames; nothing to see")
        if frame_rate is None:
            raise InvalidRequestError("video array: its rate is not known; pass frame_rate= in frames per second")
        self._array = source
        return len(source), _checks.real("frame_rate", frame_rate, 0.0, 1000.0, above=True)


def _sample(total: int, rate: float, fps: float | None, num_frames: int | None) -> tuple[int, ...]:
    """The sampled frames of `total`, as the reference chooses them."""
    most = _native.media_limits["max_video_frames"]
    if fps is not None and num_frames is not None:
        raise InvalidRequestError("fps= and num_frames= say the same in two ways; pass one of them")
    if num_frames is not None:
        count = _checks.integer("num_frames", num_frames, 1, most)
        if count > total:
            raise InvalidRequestError(f"num_frames is {count}, but the film has {total} frames; ask for fewer")
    elif fps is not None:
        count = min(total, max(1, int(total / rate * _checks.real("fps", fps, 0.0, 1000.0, above=True))))
    else:
        count = min(total, DEFAULT_FRAMES)
    if count > most:
        raise InvalidRequestError(f"{count} frames are sampled, but at most {most} are allowed; lower fps=")
    return tuple(i * total // count for i in range(count))


def _video_stream(name: str, container: Any) -> Any:
    if not container.streams.video:
        raise InvalidRequestError(f"{name}: it has no picture track; {_REMEDY}")
    stream = container.streams.video[0]
    context = stream.codec_context
    if context is None:
        raise InvalidRequestError(f"{name}: its codec is not supported; re-encode it as H.264")
    most = _native.media_limits["max_video_pixels"]
    check_size(name, context.width, context.height, most)
    context.options = {"max_pixels": str(most)}
    stream.thread_type = "AUTO"
    return stream


def _probe(file: Encoded) -> tuple[int, float]:
    """Frames and frames per second. Counted by reading packets, without decoding, where the header does not say."""
    with open_container(file, _REMEDY) as container, decoding(file.name, _REMEDY):
        stream = _video_stream(file.name, container)
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        total = stream.frames
        if total <= 0:
            total = sum(1 for packet in container.demux(stream) if packet.size)
        if total <= 0:
            raise InvalidRequestError(f"{file.name}: 0 frames; nothing to see")
        if not 0 < rate <= 1000:
            raise InvalidRequestError(f"{file.name}: {rate:g} frames per second cannot be true; re-encode it")
        return total, rate


def _decoded(file: Encoded) -> Iterator[tuple[int, Any]]:
    with open_container(file, _REMEDY) as container:
        stream = _video_stream(file.name, container)
        frames = enumerate(container.decode(stream))
        while True:
            with decoding(file.name, _REMEDY):
                found = next(frames, None)
            if found is None:
                return
            yield found


def _rgb(name: str, frame: Any) -> Pixels:
    check_size(name, frame.width, frame.height, _native.media_limits["max_video_pixels"])
    with decoding(name, _REMEDY):
        pixels: Pixels = frame.to_ndarray(format="rgb24")
        turns = round(getattr(frame, "rotation", 0) / 90) % 4  # counter-clockwise, as a phone was held
        return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels
