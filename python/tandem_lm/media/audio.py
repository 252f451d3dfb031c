"""A recording: any common file format, or an array, to mono float at 16 kHz."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _checks, _native
from ..errors import InvalidRequestError, translated
from ._container import open_container
from ._sources import Encoded, decoding, encoded, package

RATE = 16_000  # Hz, what the model hears
_BLOCK = 1 << 16  # frames decoded at a time
_REMEDY = "check that it is a complete recording (WAV, FLAC, Ogg, MP3, AAC, Opus, or a film with sound)"
_SCALE = {np.dtype(np.int16): 2.0**-15, np.dtype(np.int32): 2.0**-31}  # what full scale of integers becomes 1.0

Samples = npt.NDArray[np.float32]


class Audio:
    """A recording for the model. Decoded, mixed and resampled at once, so that a bad file is refused here.

    source: path, bytes, data URL, or array [samples] or [samples, channels] of floats (full scale is 1.0), int16 or
    int32. Of a film, the first sound track. The mean of the channels is taken, then any rate is brought to 16 kHz.
    sample_rate: of an array, in Hz; files say it themselves.
    """

    def __init__(self, source: object, sample_rate: int | None = None) -> None:
        file = encoded("audio", source)
        if file is not None:
            if sample_rate is not None:
                raise InvalidRequestError(f"{file.name}: sample_rate= is for arrays; a file says its own rate")
            self._pcm = _decode(file)
        elif isinstance(source, np.ndarray):
            self._pcm = _from_array(source, sample_rate)
        else:
            raise InvalidRequestError(
                f"audio must be a path, bytes, a data URL or an array of samples; got {type(source).__name__}"
            )
        self._pcm.flags.writeable = False
        self._hash = ""

    def pcm(self) -> Samples:
        """[samples], mono, 16 kHz, full scale 1.0, read-only."""
        return self._pcm

    @property
    def seconds(self) -> float:
        return len(self._pcm) / RATE

    @property
    def content_hash(self) -> str:
        """SHA-256 over the samples at 16 kHz, in hex: equal exactly when the model hears the same."""
        if not self._hash:
            digest = hashlib.sha256(f"audio {len(self._pcm)}\n".encode())
            digest.update(self._pcm.data)
            self._hash = digest.hexdigest()
        return self._hash

    def __repr__(self) -> str:
        return f"Audio({self.seconds:.2f} s)"


def _convert(name: str, channels: int, rate: int, blocks: Iterable[npt.NDArray[Any]]) -> Samples:
    """Blocks [frames, channels] to mono 16 kHz; only one block at a time is in memory as decoded."""
    with translated():
        try:
            converter = _native.AudioConverter(channels, rate)
            parts = [converter.push(block) for block in blocks]
            parts.append(converter.finish())
        except _native.NativeError as error:
            raise _native.NativeError(error.args[0], f"{name}: {error.args[1].removeprefix('audio: ')}") from None
    pcm = np.concatenate(parts)
    if not len(pcm):
        raise InvalidRequestError(f"{name}: 0 samples; nothing to hear")
    return pcm


def _from_array(array: npt.NDArray[Any], sample_rate: int | None) -> Samples:
    if sample_rate is None:
        raise InvalidRequestError("audio array: its rate is not known; pass sample_rate= in Hz")
    limits = _native.media_limits
    rate = _checks.integer("sample_rate", sample_rate, limits["min_sample_rate"], limits["max_sample_rate"])
    most = limits["max_audio_channels"]
    scale = _SCALE.get(array.dtype)
    if array.ndim not in (1, 2) or not (scale or np.issubdtype(array.dtype, np.floating)):
        raise InvalidRequestError(
            "an audio array must be [samples] or [samples, channels] of float, int16 or int32; got "
            f"{array.dtype} {list(array.shape)}"
        )
    channels = 1 if array.ndim == 1 else array.shape[1]
    if not 1 <= channels <= most:
        raise InvalidRequestError(
            f"audio array: {channels} channels; 1 to {most} are supported, as [samples, channels]: transpose or mix it"
        )
    frames = array.reshape(-1, channels)

    def blocks() -> Iterator[npt.NDArray[Any]]:
        for start in range(0, len(frames), _BLOCK):
            with np.errstate(over="ignore"):  # beyond float32: becomes infinite and is refused as such
                block = frames[start : start + _BLOCK].astype(np.float32)
            yield block * np.float32(scale) if scale else block

    return _convert("audio array", channels, rate, blocks())


def _decode(file: Encoded) -> Samples:
    """By libsndfile where it knows the format and is installed, else by FFmpeg."""
    try:
        soundfile = package("soundfile", "decoding a recording")
    except InvalidRequestError:
        return decode_track(file)
    with file.open() as stream:
        try:
            sound = soundfile.SoundFile(stream)
        except Exception:  # not a format of libsndfile
            sound = None
        if sound is not None:
            with sound, decoding(file.name, _REMEDY):
                return _convert(file.name, sound.channels, sound.samplerate, _blocks(file.name, sound))
    return decode_track(file)


def _blocks(name: str, sound: Any) -> Iterator[npt.NDArray[Any]]:
    """Until the end of the file: nothing is allocated by what the header claims."""
    done = 0
    while len(block := sound.read(_BLOCK, dtype="float32", always_2d=True)):
        done += len(block)
        yield block
    if done < sound.frames < np.iinfo(np.int64).max:
        raise InvalidRequestError(
            f"{name}: it ends after {done} of the {sound.frames} samples that its header names; {_REMEDY}"
        )


def decode_track(file: Encoded) -> Samples:
    """The first sound track of a container, by FFmpeg."""
    av = package("av", "decoding compressed audio")
    with open_container(file, _REMEDY) as container, decoding(file.name, _REMEDY):
        if not container.streams.audio:
            raise InvalidRequestError(f"{file.name}: it has no sound track; {_REMEDY}")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise InvalidRequestError(f"{file.name}: its codec is not supported; re-encode it as FLAC or AAC")
        channels, rate = stream.codec_context.channels, stream.codec_context.sample_rate
        to_float = av.AudioResampler(format="flt")  # of the same layout and rate: only the sample format changes

        def blocks() -> Iterator[npt.NDArray[Any]]:
            for frame in container.decode(stream):
                if (frame.layout.nb_channels, frame.sample_rate) != (channels, rate):
                    raise InvalidRequestError(
                        f"{file.name}: {channels} channels of {rate} Hz become {frame.layout.nb_channels} of "
                        f"{frame.sample_rate} Hz on the way; re-encode it"
                    )
                for part in to_float.resample(frame):
                    yield part.to_ndarray().reshape(-1, channels)

        return _convert(file.name, channels, rate, blocks())
