"""Options on their way to the server: each is checked by what its name stands for."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

from psycopg import sql
from psycopg.types.json import Jsonb

from pgembed._client.values import (
    check_bool,
    check_image,
    check_int,
    check_number,
    check_seconds,
    check_text,
    filter_json,
    vector_text,
)
from pgembed.errors import InvalidParameter
from pgembed.options import QueryEncoder

if TYPE_CHECKING:
    from collections.abc import Collection

Check: TypeAlias = Callable[[Any, str], object]

DEFAULT_K = 10
DEFAULT_TIMEOUT = 10.0


def _text(value: object, name: str) -> str:
    return check_text(value, name, InvalidParameter)


def _whole(value: object, name: str) -> int:
    return check_int(value, name, 0)


def _json(value: object, name: str) -> Jsonb:
    if not isinstance(value, Mapping):
        raise InvalidParameter(
            f"{name} must be a mapping, not {type(value).__name__}: {value!r}"
        )
    return Jsonb(dict(value))


def _vector(value: Any, _name: str) -> str:
    return vector_text(value)


def _image(value: Any, _name: str) -> bytes:
    return check_image(value)


def _filter(value: Any, _name: str) -> Jsonb | None:
    return filter_json(value)


def _names(value: Any, name: str) -> list[str]:
    if isinstance(value, str):
        raise InvalidParameter(
            f"{name} is a str, not a list of names: {value!r}", hint=f"[{value!r}]"
        )
    try:
        return [_text(one, name) for one in value]
    except TypeError as exc:
        raise InvalidParameter(f"{name} must be names, not {value!r}") from exc


def _time(value: Any, name: str) -> datetime:
    if not isinstance(value, datetime):
        raise InvalidParameter(
            f"{name} must be a datetime, not {type(value).__name__}: {value!r}"
        )
    return value


def _or_none(check: Check) -> Check:
    return lambda value, name: None if value is None else check(value, name)


def _query_encoder(value: Any, name: str) -> str:
    known = get_args(QueryEncoder)
    if value not in known:
        raise InvalidParameter(
            f"query_encoder is {value!r}", hint=f"Known: {', '.join(known)}."
        )
    return _text(value, name)


_TEXTS = (
    "boost, chunking, column_name, config, distance, document_prompt, embedding,"
    " fingerprint, fusion, generation, index, method, model, name,"
    " on_missing_query_embedding, only_query, other, provider, query_prompt,"
    " reduction, revision, role, storage, switch,"
    " syntax, text_expression, vector_type, wake, where_sql"
)
_WHOLE_NUMBERS = (
    "chunk_overlap, chunk_size, dimensions, max_attempts, max_tokens, partitions"
)
_COUNTS = "candidates, ef_search, min_rows, rrf_k"
_NUMBERS = "bm25_weight, min_score, min_similarity, vector_weight"
_SHARES = "dislike_weight, diversity"
_TRUTHS = "exact, exclude_own_filter, explain, fuzzy, prefix, snippets"
_MAPPINGS = "bm25_options, index_options, options"


def _all(names: str, check: Check) -> dict[str, Check]:
    return dict.fromkeys(names.split(", "), check)


#: How the value of an option is checked and written, by its name.
CHECKS: dict[str, Check] = {
    **_all(_TEXTS, _or_none(_text)),
    **_all(_WHOLE_NUMBERS, _or_none(_whole)),
    **_all(_COUNTS, _or_none(check_int)),
    **_all(_NUMBERS, _or_none(check_number)),
    **_all(_SHARES, check_number),
    **_all(_MAPPINGS, _or_none(_json)),
    **_all(_TRUTHS, check_bool),
    **_all("bm25, is_default, normalized", _or_none(check_bool)),
    **_all("capture, force, if_exists, if_not_exists", check_bool),
    **_all("k, max_values, neighbours, sample", check_int),
    "primary_dsn": _or_none(_text),
    "since": _or_none(_time),
    "offset": _whole,
    "reset": _or_none(_names),
    "filter": _filter,
    "query_embedding": _or_none(_vector),
    "query_encoder": _or_none(_query_encoder),
    "query_image": _or_none(_image),
}

#: Options that are for this process, and no arguments of the SQL function.
LOCAL = frozenset({"encoder", "timeout", "primary_dsn", "rerank", "reranker"})


def check_names(function: str, options: Collection[str], known: type) -> None:
    """See that a function has options of these names.

    Raises:
        TypeError: It has none of one name, as Python says it of any function.
    """
    names = known.__annotations__
    for name in options:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            raise TypeError(
                f"{function}() got an unexpected keyword argument {name!r}"
                + (f". Did you mean {near[0]!r}?" if near else "")
            )


def checked(options: Mapping[str, Any]) -> dict[str, object]:
    """Check options, and write those for the server that are not None.

    Raises:
        InvalidParameter: A value is of another type, or out of range; names it.
    """
    found: dict[str, object] = {}
    for name, value in options.items():
        if name in LOCAL and name not in CHECKS:
            continue
        written = CHECKS[name](value, name)
        if written is not None and name not in LOCAL:
            found[name] = written
    return found


def timeout_of(options: Mapping[str, Any]) -> float:
    """Check how long the encoder service is waited for."""
    return check_seconds(options.get("timeout", DEFAULT_TIMEOUT), "timeout")


def named(arguments: Mapping[str, object]) -> sql.Composed:
    """Compose `name => %(name)s, ...`."""
    return named_arguments({name: sql.Placeholder(name) for name in arguments})


def named_arguments(arguments: Mapping[str, sql.Composable]) -> sql.Composed:
    """Compose `name => value, ...`."""
    return sql.SQL(", ").join(
        sql.SQL("{} => {}").format(sql.Identifier(name), value)
        for name, value in arguments.items()
    )
