"""Tandem: runs a language model on the machine in front of you. `import tandem_lm as tl`.

Engine (a loaded bundle) -> Session (one sequence) -> tokens; Conversation is a chat on top of a session.
"""

from .conversation import Conversation
from .engine import Engine, Generation, Session
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
)
from .perplexity import Perplexity, measure_perplexity
from .text import Tokenizer
from .types import EngineInfo, SamplingParams, Stats, Token

__version__ = "0.1.0"

__all__ = [
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
    "InvalidRequestError",
    "OutOfMemoryError",
    "Perplexity",
    "SamplingParams",
    "Session",
    "Stats",
    "TandemError",
    "Token",
    "Tokenizer",
    "measure_perplexity",
]
