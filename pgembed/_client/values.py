"""Arguments on their way to the server, checked and converted.

They are checked here, where the message can say which argument it was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import date
from datetime import time as dt_time
from decimal import Decimal
from typing import Any, Protocol, runtime_checkable
from uuid import UUID, uuid4

from psycopg.types.json import Jsonb

from pgembed.errors import InvalidFilter, InvalidParameter, InvalidQuery, PgembedError
from pgembed.options import Filter, FloatArray, FloatList, Vector


@runtime_checkable
class SupportsItem(Protocol):
    """A NumPy scalar: `item()` gives Python's own number."""

    def item(self) -> Any: ...


_FLOAT4_MAX = 3.4028234663852886e38
_INT4_MAX = 2**31 - 1


def check_text(value: object, what: str, error: type[PgembedError]) -> str:
    """Return `value` when PostgreSQL can store it as text.

    Raises:
        PgembedError: Of class `error`, naming the argument `what`.
    """
    if not isinstance(value, str):
        raise error(f"{what} must be a str, not {type(value).__name__}: {value!r}")
    if "\0" in value:
        raise error(
            f"{what} contains a NUL byte at position {value.index(chr(0))}",
            hint="PostgreSQL's text cannot hold NUL: remove it.",
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise error(
            f"{what} is not valid Unicode: a lone surrogate at position {exc.start}",
            hint="Decode the bytes with the right encoding, or with errors='replace'.",
        ) from exc
    return value


def check_query(query: str) -> str:
    """Return a query's text when it has words.

    Raises:
        InvalidQuery: It is empty, has a NUL byte or is no valid Unicode.
    """
    text = check_text(query, "the query", InvalidQuery)
    if not text.strip():
        raise InvalidQuery(
            "the query is empty",
            hint="Give some words; vector_search() also takes query_embedding=...",
        )
    return text


def check_image(image: object, what: str = "query_image") -> bytes:
    """Return the bytes of an image file; what is in them, the model's side looks at.

    Raises:
        InvalidQuery: These are no bytes, or none.
    """
    if not isinstance(image, bytes | bytearray | memoryview) or not len(image):
        raise InvalidQuery(
            f"{what} must be the bytes of an image file, not {image!r}"[:200],
            hint="Path('photo.jpg').read_bytes()",
        )
    return bytes(image)


def check_asked(query: Any, image: object, what: str = "image") -> str | bytes:
    """Return the words, or the image, that is to be encoded.

    Raises:
        InvalidQuery: One is not in order, or both are given.
    """
    if image is None:
        return check_query(query)
    found = check_image(image, what)
    if query is not None:
        raise InvalidQuery(
            f"a search has one query: {what}, words or a vector",
            hint=f"Leave query and query_embedding out, or {what}.",
        )
    return found


def check_int(value: object, what: str, minimum: int = 1) -> int:
    """Return `value` when it is a whole number that fits an SQL integer.

    Raises:
        InvalidParameter: It is not, or is below `minimum`.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InvalidParameter(f"{what} must be a whole number, not {value!r}")
    number = int(value.__index__())
    if not minimum <= number <= _INT4_MAX:
        raise InvalidParameter(
            f"{what} must be at least {minimum}, not {number}"
            if number < minimum
            else f"{what} must be at most {_INT4_MAX}, not {number}"
        )
    return number


def check_bool(value: object, what: str) -> bool:
    """Return `value` when it is True or False.

    Raises:
        InvalidParameter: It is not.
    """
    if isinstance(value, SupportsItem):  # NumPy's
        value = value.item()
    if not isinstance(value, bool):
        raise InvalidParameter(f"{what} must be True or False, not {value!r}")
    return value


def check_seconds(value: float, what: str) -> float:
    """Return a time-out in seconds.

    Raises:
        InvalidParameter: It is not a number above zero.
    """
    number: object = value  # the annotation is a wish, callers may not be typed
    if (
        isinstance(number, bool)
        or not isinstance(number, (int, float))
        or not value > 0
    ):
        raise InvalidParameter(
            f"{what} must be a number of seconds above 0, not {value!r}"
        )
    return float(value)


def check_number(value: object, what: str) -> float:
    """Return `value` when it is a finite number.

    Raises:
        InvalidParameter: It is not.
    """
    if isinstance(value, SupportsItem):  # a number of NumPy's
        value = value.item()
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
    ):
        raise InvalidParameter(f"{what} must be a finite number, not {value!r}")
    return float(value)


def vector_text(vector: Vector) -> str:
    """Write a vector as pgvector's text form.

    Raises:
        InvalidQuery: It is empty, not flat, or holds something that is no finite
            number.
    """
    if isinstance(vector, (str, bytes)):
        raise InvalidQuery(
            f"query_embedding must be numbers, not {type(vector).__name__}",
            hint="Pass the query's words as query.",
        )
    hint = "Give a flat sequence of finite numbers, one a dimension."
    try:
        numbers = [float(value) for value in _numbers(vector)]
    except (TypeError, ValueError) as exc:
        raise InvalidQuery(
            f"query_embedding is not a vector of numbers: {exc}", hint=hint
        ) from exc
    if not numbers:
        raise InvalidQuery("query_embedding is empty", hint=hint)
    for position, number in enumerate(numbers):
        if not abs(number) <= _FLOAT4_MAX:  # NaN is not either
            raise InvalidQuery(
                f"query_embedding has {number} at position {position}", hint=hint
            )
    return f"[{','.join(map(repr, numbers))}]"


def _numbers(vector: Vector) -> Any:
    if isinstance(vector, FloatArray):
        return vector.tolist()
    return vector.to_list() if isinstance(vector, FloatList) else list(vector)


def parse_vector(text: str) -> list[float]:
    """Read pgvector's text form."""
    return [float(part) for part in text[1:-1].split(",")]


def filter_json(filter: Filter | None) -> Jsonb | None:
    """Convert a filter, with dates and UUIDs as text, decimals as the same numbers.

    Raises:
        InvalidFilter: It is not a mapping, or JSON cannot hold a value in it.
    """
    if filter is None:
        return None
    if not isinstance(filter, Mapping):
        raise InvalidFilter(
            f"filter must be a mapping of columns to conditions, not {filter!r}",
            hint='For example filter={"category": "books", "price": {"$lt": 20}}.',
        )
    decimals: dict[str, Decimal] = {}  # json writes no number that is not a float

    def scalar(value: object) -> object:
        if not isinstance(value, Decimal) or not value.is_finite():
            return _scalar(value)
        mark = uuid4().hex
        decimals[mark] = value
        return mark

    try:
        text = json.dumps(filter, allow_nan=False, default=scalar)
    except (TypeError, ValueError) as exc:
        raise InvalidFilter(f"filter cannot be written as JSON: {exc}") from exc
    for mark, value in decimals.items():
        text = text.replace(f'"{mark}"', f"{value:f}")
    if "\\u0000" in text.replace("\\\\", ""):
        raise InvalidFilter(
            "filter contains a NUL byte",
            hint="PostgreSQL's text cannot hold NUL, so no row could match.",
        )
    return Jsonb(filter, dumps=lambda _: text)


def _scalar(value: object) -> object:
    if isinstance(value, (date, dt_time, Decimal, UUID)):
        return str(value)
    if isinstance(value, SupportsItem):  # a number of NumPy's
        return value.item()
    raise TypeError(f"{value!r} has no JSON form")


def json_key(key: object, name: str) -> object:
    """Write a key, or a part of one, as JSON has it.

    Raises:
        InvalidParameter: It has a zero byte.
    """
    if isinstance(key, tuple | list):
        return [json_key(part, name) for part in key]
    if isinstance(key, bytes | bytearray | memoryview):
        return f"\\x{bytes(key).hex()}"
    if key is None or isinstance(key, bool | int):
        return key
    return check_text(str(key), name, InvalidParameter)
