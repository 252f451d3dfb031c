"""Keeps LiteRT's greetings off the terminal, for the commands: a library must not touch the process's streams."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_GREETING = re.compile(
    rb"INFO: Created TensorFlow Lite XNNPACK delegate for CPU\."
    # The GPU accelerator tells what it chose; OpenCL is what it looks for beside Vulkan.
    rb"|INFO: Failed to load OpenCL library .*|WARNING: Logging before InitGoogle\(\) is written to STDERR"
    rb"|I\d{4} .* (environment|delegate_webgpu|delegate_kernel)\.cc:\d+\] .*"
)


@contextmanager
def without_greeting() -> Iterator[None]:
    """LiteRT's delegates write some lines to stderr and stdout when they are made, and the library has no switch for
    them. What else is written to these file descriptors meanwhile comes out when the block ends."""
    with _filtered(2), _filtered(1):
        yield


@contextmanager
def _filtered(descriptor: int) -> Iterator[None]:
    try:
        before = os.dup(descriptor)
    except OSError:  # it is closed
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), descriptor)
        try:
            yield
        finally:
            os.dup2(before, descriptor)
            os.close(before)
            held.seek(0)
            for line in held:
                if not _GREETING.fullmatch(line.rstrip()):
                    os.write(descriptor, line)
