"""Functions that show the options they take."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from typing import Any, TypeVar

from pgembed.options import described

F = TypeVar("F", bound=Callable[..., Any])


class _Default:
    """Stands for what the server does where an option is not given."""

    def __repr__(self) -> str:
        return "..."


_DEFAULT = _Default()


def takes(options: type) -> Callable[[F], F]:
    """Show a function's options in its signature and documentation, one by one.

    Args:
        options: What its keyword arguments are.
    """

    def show(function: F) -> F:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        more = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=_DEFAULT,
                annotation=getattr(annotation, "__forward_arg__", annotation),
            )
            for name, annotation in options.__annotations__.items()
        ]
        shown = signature.replace(parameters=[*own, *more])
        function.__signature__ = shown  # type: ignore[attr-defined]
        function.__doc__ = _with_options(inspect.getdoc(function) or "", options)
        return function

    return show


def _with_options(text: str, options: type) -> str:
    entries = [
        textwrap.fill(
            f"{name}: {what}", 80, initial_indent=" " * 4, subsequent_indent=" " * 8
        )
        for name, what in described(options).items()
    ]
    before, found, after = text.partition("\n\nReturns:\n")
    if not found:
        before, found, after = text.partition("\n\nRaises:\n")
    return "\n".join([before, *entries]) + found + after
