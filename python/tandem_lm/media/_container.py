"""FFmpeg containers, opened so that a file can refer to nothing but itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ._sources import Encoded, decoding, package

# Demuxers of single files. Playlists and scripts (HLS, DASH, concat) are absent: they open other files and hosts.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,ogg,mp3,wav,w64,aiff,caf,flac,aac,ac3,mpeg,mpegts,flv,asf,gif,amr"


@contextmanager
def open_container(file: Encoded, remedy: str) -> Iterator[Any]:
    """A PyAV container over `file`, closed at the end."""
    av = package("av", "decoding films and compressed audio")
    with file.open() as stream:
        with decoding(file.name, remedy):
            container = av.open(
                stream, options={"format_whitelist": _FORMATS, "protocol_whitelist": ""}, metadata_errors="replace"
            )
        with container:
            yield container
