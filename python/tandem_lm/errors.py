"""Every failure a caller can see, as one family of exceptions. The message says what failed, where, and the remedy.

The native module raises NativeError(code, message) and the converter its own ConversionError; `translated` is the one
place where both become the classes below.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class TandemError(Exception):
    """Base of all errors of this package."""


class BundleError(TandemError):
    """The bundle is missing, damaged, or of a version that this build does not read."""


class ConversionError(TandemError):
    """The checkpoint cannot be converted."""


class ContextLengthError(TandemError):
    """The request does not fit the context. Nothing was appended."""


class InvalidRequestError(TandemError):
    """An argument or option is wrong or not supported. The object stays usable."""


class OutOfMemoryError(TandemError):
    """An allocation failed, or the plan does not fit the memory."""


class BackendError(TandemError):
    """LiteRT is missing, of an untested version, or reported a failure."""


class Cancelled(TandemError):
    """Cancelled by the caller. The session keeps what was done."""


class TimeLimitError(TandemError, TimeoutError):
    """The time limit of the call passed. The session keeps what was done."""


class FileError(TandemError):
    """A file or folder could not be read or written."""


# tandem::Code of csrc/base/status.h
_BY_CODE: dict[int, type[TandemError]] = {
    1: InvalidRequestError,
    2: BundleError,
    3: ContextLengthError,
    4: OutOfMemoryError,
    5: BackendError,
    6: Cancelled,
    7: FileError,
    12: TimeLimitError,
}


def from_native(error: Exception) -> TandemError:
    """The exception that stands for a NativeError: args are (code, message)."""
    code, message = error.args if len(error.args) == 2 else (0, error)
    return _BY_CODE.get(code, TandemError)(str(message))


@contextmanager
def translated() -> Iterator[None]:
    """Turns errors of the native module and of the converter into this module's."""
    try:
        yield
    except TandemError:
        raise
    except MemoryError as error:
        raise OutOfMemoryError("out of memory: use a smaller context or a smaller quantisation") from error
    except Exception as error:
        # Compared by name, so that neither the converter nor the native module is loaded for the comparison.
        module, name = type(error).__module__, type(error).__name__
        if name == "NativeError" and module.endswith("_native"):
            raise from_native(error) from None
        if name == "ConversionError" and module.startswith("tandem_converter"):
            raise ConversionError(str(error)) from error
        raise
