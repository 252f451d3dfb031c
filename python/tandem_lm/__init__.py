"""Tandem: runs a language model on the machine in front of you. `import tandem_lm as tl`.

Engine (a loaded bundle) -> Session (one sequence) -> tokens; Conversation is a chat on top of a session.
"""

from .conversation import Conversation
from .engine import AsyncGeneration, Engine, Generation, Session
from .errors import (
    BackendError,
    BundleError,
    Cancelled,
    ContextLengthError,
    ConversionError,
    FileError,
    InvalidRequestError,
    OutOfMemoryError,
    TandemError,
    TimeLimitError,
)
from .media import Audio, Image, Video
from .perplexity import Perplexity, measure_perplexity
from .text import Tokenizer
from .types import EngineInfo, PrefixStats, SamplingParams, Stats, Token

__version__ = "0.1.0"

__all__ = [
    "AsyncGeneration",
    "Audio",
    "BackendError",
    "BundleError",
    "Cancelled",
    "ContextLengthError",
    "Conversation",
    "ConversionError",
    "Engine",
    "EngineInfo",
    "FileError",
    "Generation",
    "Image",
    "InvalidRequestError",
    "OutOfMemoryError",
    "Perplexity",
    "PrefixStats",
    "SamplingParams",
    "Session",
    "Stats",
    "TandemError",
    "TimeLimitError",
    "Token",
    "Tokenizer",
    "Video",
    "measure_perplexity",
]
