"""The flows of what vectors are good for besides search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import sql
from psycopg.types.json import Jsonb

from pgembed._client import search
from pgembed._client.arguments import (
    check_names,
    checked,
    named,
    named_arguments,
    timeout_of,
)
from pgembed._client.names import table_identifier, table_parts
from pgembed._client.results import (
    SCORED_COLUMNS,
    ClassifiedRow,
    DuplicatePair,
    LabelScore,
    NearWord,
    OutlierScore,
    RowT,
    ScoredRow,
    scored_rows,
)
from pgembed._client.steps import Flow, Rows, Statement
from pgembed._client.values import (
    check_query,
    check_text,
    json_key,
    parse_vector,
    vector_text,
)
from pgembed.errors import InvalidParameter, InvalidQuery, PgembedError
from pgembed.options import (
    ClassifyOptions,
    DuplicateGroupOptions,
    DuplicateOptions,
    DuplicatesOfOptions,
    OutlierOptions,
    RecommendOptions,
    SimilarOptions,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pgembed.options import Table

_MISSING = sql.SQL(
    "select t.text from unnest(%(texts)s::text[]) as t(text) where"
    " (pgembed._cached_query(t.text, (pgembed._model(%(model)s)).model_id)).embedding"
    " is null"
)


def similarity(a: str, b: str, model: str, timeout: float) -> Flow[float]:
    """Compare two texts."""
    texts = [check_query(a), check_query(b)]
    yield from _encoded(texts, model, timeout)
    arguments = {"a": a, "b": b, "model": model}
    rows: Rows = yield Statement(
        sql.SQL("select pgembed.similarity(%(a)s, %(b)s, %(model)s)"), arguments
    )
    return float(rows.rows[0][0])


def centroid(
    table: Table, keys: Iterable[object], embedding: str | None
) -> Flow[list[float]]:
    """Give the mean vector of rows."""
    arguments = {
        "keys": _keys(keys, "keys"),
        **checked({"embedding": embedding}),
    }
    query = sql.SQL("select pgembed.centroid(NULL::{}, {})::text").format(
        table_identifier(table), named(arguments)
    )
    rows: Rows = yield Statement(query, arguments, table=table)
    return parse_vector(rows.rows[0][0])


def recommend(
    table: Table,
    likes: Iterable[object],
    dislikes: Iterable[object] | None,
    row_factory: Callable[..., RowT],
    options: Mapping[str, Any],
) -> Flow[list[ScoredRow[RowT]]]:
    """Find rows that are like those which somebody likes."""
    check_names("recommend", options, RecommendOptions)
    arguments = {"likes": _keys(likes, "likes"), **checked(options)}
    if dislikes is not None:
        arguments["dislikes"] = _keys(dislikes, "dislikes")
    return (yield from _scored("recommend", table, arguments, None, row_factory))


def row_analogy(
    table: Table,
    keys: tuple[object, object, object],
    row_factory: Callable[..., RowT],
    options: Mapping[str, Any],
) -> Flow[list[ScoredRow[RowT]]]:
    """Find rows that are to the third as the first is to the second."""
    check_names("row_analogy", options, SimilarOptions)
    arguments = checked(options)
    given: dict[str, sql.Composable] = {n: sql.Placeholder(n) for n in arguments}
    for name, key in zip("abc", keys, strict=True):
        given |= search.key_argument(name, key, arguments)
    composed = named_arguments(given)
    return (yield from _scored("row_analogy", table, arguments, composed, row_factory))


def duplicates(table: Table, options: Mapping[str, Any]) -> Flow[list[DuplicatePair]]:
    """Find pairs of rows that say nearly the same."""
    check_names("duplicates", options, DuplicateOptions)
    rows = yield from _rows("duplicates", table, checked(options))
    return [DuplicatePair(*row) for row in rows]


def duplicate_groups(table: Table, options: Mapping[str, Any]) -> Flow[list[list[Any]]]:
    """Find groups of rows that say nearly the same."""
    check_names("duplicate_groups", options, DuplicateGroupOptions)
    rows = yield from _rows("duplicate_groups", table, checked(options))
    groups: dict[int, list[Any]] = {}
    for group_id, _, key in rows:
        groups.setdefault(group_id, []).append(key)
    return list(groups.values())


def duplicates_of(
    table: Table,
    query: str | None,
    row_factory: Callable[..., RowT],
    options: Mapping[str, Any],
) -> Flow[list[ScoredRow[RowT]]]:
    """Find rows that say nearly what a text says."""
    check_names("duplicates_of", options, DuplicatesOfOptions)
    words = None if query is None else check_query(query)
    if words is None and options.get("query_embedding") is None:
        raise InvalidQuery("nothing to compare with: give query or query_embedding")
    arguments = checked(options)
    by_model = {**options, "query_encoder": "model"}
    arguments |= yield from search.query_vector(table, words, by_model)
    return (yield from _scored("duplicates_of", table, arguments, None, row_factory))


def outliers(table: Table, options: Mapping[str, Any]) -> Flow[list[OutlierScore]]:
    """Find rows that do not belong."""
    check_names("outliers", options, OutlierOptions)
    given = dict(options)
    arguments: dict[str, object] = {}
    if "k" in given and given["k"] is None:
        arguments["k"] = given.pop("k")
    rows = yield from _rows("outliers", table, {**arguments, **checked(given)})
    return [OutlierScore(*row) for row in rows]


def classify(
    table: Table,
    labels: Mapping[str, Any] | None,
    examples: Mapping[str, Iterable[object]] | None,
    options: Mapping[str, Any],
) -> Flow[list[ClassifiedRow]]:
    """Give each row the label that it is most like."""
    check_names("classify", options, ClassifyOptions)
    arguments = checked(options)
    if labels is not None:
        known: dict[str, object] = {}
        for label, value in _mapping(labels, "labels").items():
            known[label] = yield from _label(table, label, value, options)
        arguments["labels"] = Jsonb(known)
    if examples is not None:
        named_keys = {
            label: _listed(keys, f"examples of {label!r}")
            for label, keys in _mapping(examples, "examples").items()
        }
        arguments["examples"] = Jsonb(named_keys)
    rows = yield from _rows("classify", table, arguments)
    return [ClassifiedRow(*row) for row in rows]


def classify_text(
    text: str, labels: Mapping[str, Any], model: str, timeout: float
) -> Flow[list[LabelScore]]:
    """Say how like each label a text is."""
    given = {
        label: value if isinstance(value, str) else _label_numbers(label, value)
        for label, value in _mapping(labels, "labels").items()
    }
    texts = [value for value in given.values() if isinstance(value, str)]
    yield from _encoded([check_query(text), *texts], model, timeout)
    rows: Rows = yield Statement(
        sql.SQL("select * from pgembed.classify_text(%(text)s, %(labels)s, %(model)s)"),
        {"text": text, "labels": Jsonb(given), "model": model},
    )
    return [LabelScore(*row) for row in rows.rows]


def words(function: str, arguments: Mapping[str, Any]) -> Flow[list[NearWord]]:
    """Find words of a static model."""
    asked = ("query", "a", "b", "c")
    given: dict[str, object] = {
        name: check_query(arguments[name]) for name in asked if name in arguments
    }
    given |= checked({n: v for n, v in arguments.items() if n not in asked})
    query = sql.SQL("select * from pgembed.{}({})").format(
        sql.Identifier(function), named(given)
    )
    rows: Rows = yield Statement(query, given)
    return [NearWord(*row) for row in rows.rows]


def _encoded(texts: list[str], model: str, timeout: float) -> Flow[None]:
    """See to it that texts have vectors, of a service where they need one."""
    named_model = check_text(model, "model", InvalidParameter)
    missing: Rows = yield Statement(_MISSING, {"texts": texts, "model": named_model})
    for (text,) in missing.rows:
        yield from search.encode(text, named_model, timeout)


def _label(
    table: Table, label: str, value: Any, options: Mapping[str, Any]
) -> Flow[object]:
    if not isinstance(value, str):
        return _label_numbers(label, value)
    timeout_of(options)
    found = yield from search.query_vector(table, check_query(value), options)
    vector = found.get("query_embedding")
    return value if vector is None else parse_vector(str(vector))


def _label_numbers(label: str, value: Any) -> list[float]:
    try:
        return parse_vector(vector_text(value))
    except PgembedError as exc:
        raise InvalidParameter(
            f"label {label!r} has neither a text nor a vector: {value!r}",
            hint="Give a text about it, or its vector.",
        ) from exc


def _rows(
    function: str, table: Table, arguments: Mapping[str, object]
) -> Flow[list[tuple[Any, ...]]]:
    given = sql.SQL(", ") + named(arguments) if arguments else sql.SQL("")
    query = sql.SQL("select * from pgembed.{}(NULL::{}{})").format(
        sql.Identifier(function), table_identifier(table), given
    )
    rows: Rows = yield Statement(query, arguments, table=table)
    return rows.rows


def _scored(
    function: str,
    table: Table,
    arguments: Mapping[str, object],
    given: sql.Composed | None,
    row_factory: Callable[..., RowT],
) -> Flow[list[ScoredRow[RowT]]]:
    table_parts(table)
    select = search.Select(function, SCORED_COLUMNS, table)
    rows: Rows = yield select.statement(arguments, given)
    return scored_rows(rows.columns, rows.rows, row_factory)


def _mapping(value: Any, name: str) -> dict[str, Any]:
    try:
        return {check_text(key, name, InvalidParameter): value[key] for key in value}
    except TypeError as exc:
        raise InvalidParameter(
            f"{name} must be a mapping, not {type(value).__name__}: {value!r}",
            hint='Give each label with a text: {"sport": "a text about sport"}.',
        ) from exc


def _listed(keys: Any, name: str) -> list[object]:
    if isinstance(keys, str | bytes) or not hasattr(keys, "__iter__"):
        raise InvalidParameter(
            f"{name} must be a list of keys, not {type(keys).__name__}: {keys!r}",
            hint=f"[{keys!r}]",
        )
    return [json_key(key, name) for key in keys]


def _keys(keys: Any, name: str) -> Jsonb:
    return Jsonb(_listed(keys, name))
