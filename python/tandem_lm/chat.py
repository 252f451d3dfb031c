"""Chat templates: the Jinja2 source of a bundle, rendered in a sandbox the way transformers renders it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .errors import BundleError, InvalidRequestError

Message = Mapping[str, Any]


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja2's own filter escapes HTML characters, which a model must not see.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class ChatTemplate:
    """A compiled chat template. `variables` are seen by the template besides the messages (bos_token, eos_token)."""

    def __init__(self, source: str, **variables: str) -> None:
        # The source comes out of a file from anywhere: no attribute access to internals, nothing mutable.
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise BundleError(f"the bundle's chat template does not compile: {error}; use raw text instead") from error
        self._variables = variables

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True, **options: Any) -> str:
        """The prompt text of `messages`. `options` reach the template by name (enable_thinking, ...)."""
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=add_generation_prompt, **self._variables, **options
            )
        except TemplateError as error:
            raise InvalidRequestError(f"the chat template refused the messages: {error}") from error
        except (TypeError, ValueError, ArithmeticError, LookupError, RecursionError, OverflowError) as error:
            raise InvalidRequestError(f"the chat template failed on the messages: {error}") from error
