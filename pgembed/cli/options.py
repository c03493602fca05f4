"""Options of the client's functions as options of commands, from their declaration."""

from __future__ import annotations

import functools
import inspect
import json
import re
import types
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from pgembed.errors import InvalidParameter
from pgembed.options import (
    EncoderOptions,
    FusionOptions,
    PageOptions,
    ReadingOptions,
    RerankOptions,
    VectorOptions,
    WordOptions,
    described,
)

#: For what a name alone does not say: how it is typed, and how its value is shown.
_SPECIAL: dict[str, dict[str, Any]] = {
    "k": {"flags": ("-k",)},
    "encoder": {"metavar": "MODEL"},
    "reranker": {"metavar": "MODEL"},
    "model": {"metavar": "MODEL"},
    "revision": {"metavar": "COMMIT"},
    "where_sql": {"metavar": "SQL"},
    "boost": {"metavar": "SQL"},
    "timeout": {"metavar": "SECONDS"},
}
#: Where an option is shown in the help of a command.
_PANELS: dict[str, str] = {
    name: panel
    for panel, options in (
        ("Both", FusionOptions),
        ("Words", WordOptions),
        ("Vectors", VectorOptions),
        ("Vectors", EncoderOptions),
        ("Re-ranking", RerankOptions),
        ("Words", ReadingOptions),
        ("Rows", PageOptions),
    )
    for name in options.__annotations__
}
_EXAMPLES = {
    "filter": '{"category": "books", "price": {"$lt": 20}}',
    "index_options": '{"m": 16}',
    "bm25_options": '{"k1": 1.2, "b": 0.75}',
}


_FIRST_SENTENCE = re.compile(r"^(.*?\.)( .*)?$", re.DOTALL)


def takes_options(
    options: type, *, without: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of one of the client's functions.

    The command gets those that were typed as keyword arguments, JSON as what it says.

    Args:
        options: One of the classes of `pgembed.options`.
        without: Names that the command does not have, or declares itself.
    """
    # Encoder and the like are names of models on a command line.
    loose: dict[str, Any] = dict.fromkeys(
        ("Encoder", "Reranker", "SupportsPredict"), str
    )
    loose["datetime"] = datetime
    hints = get_type_hints(options, localns=loose)
    help_of = described(options)
    names = [name for name in hints if name not in without]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True)
        kept = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        added = [_parameter(name, hints[name], help_of[name]) for name in names]

        @functools.wraps(command)
        def run(**values: Any) -> None:
            given = {
                name: _read(name, value, hints[name])
                for name in names
                if (value := values.pop(name)) is not None
            }
            command(**values, **given)

        parameters = [*kept, *added]
        run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def json_object(text: str | None, example: str) -> dict[str, Any]:
    """Read an option that is a JSON object; empty without one.

    Raises:
        InvalidParameter: It is none.
    """
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise InvalidParameter(
            f"not JSON: {text}", detail=str(exc), hint=f"For example '{example}'."
        ) from exc
    if not isinstance(value, dict):
        raise InvalidParameter(
            f"not a JSON object: {text}", hint=f"For example '{example}'."
        )
    return value


def _read(name: str, value: Any, hint: Any) -> Any:
    return json_object(value, _EXAMPLES[name]) if _kind(hint) is Mapping else value


def _parameter(name: str, hint: Any, help_text: str) -> inspect.Parameter:
    special = dict(_SPECIAL.get(name, {}))
    kind = _kind(hint)
    flag = f"--{name.replace('_', '-')}"
    flags = special.pop("flags", (flag,))
    if kind is bool:
        # What may be left to the default can be said both ways.
        flags = (f"{flag}/--no-{flag[2:]}",) if _may_be_none(hint) else (flag,)
    if kind is Mapping:
        kind, special = str, {"metavar": "JSON"}
    option = typer.Option(
        *flags,
        help=_FIRST_SENTENCE.sub(r"\1", help_text.replace("`", "")),
        show_default=False,
        rich_help_panel=_PANELS.get(name),
        **special,
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def _kind(hint: Any) -> Any:
    """Find what is typed for an option: str, int, float, bool or a mapping."""
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [_kind(one) for one in get_args(hint) if one is not type(None)]
        return str if str in kinds else kinds[0]
    if get_origin(hint) is Literal:
        return str
    return get_origin(hint) if get_origin(hint) is Mapping else hint


def _may_be_none(hint: Any) -> bool:
    return type(None) in get_args(hint)
