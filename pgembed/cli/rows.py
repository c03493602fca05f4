"""`pgembed duplicates | classify | recommend | outliers`: what SQL says of rows."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from pgembed.cli.analysis import PANEL, Into, Replace, say
from pgembed.cli.common import AsJson, Dsn, console
from pgembed.cli.options import takes_options
from pgembed.cli.search import TableName, shortened
from pgembed.dsn import connect
from pgembed.errors import InvalidParameter
from pgembed.options import (
    ClassifyOptions,
    DuplicateOptions,
    OutlierOptions,
    RecommendOptions,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pgembed.analysis.results import Kind
    from pgembed.evaluation.target import Connection

_MOST = 100  # lines of a table on the screen; --json and --into have all


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (duplicates, classify, recommend, outliers):
        app.command(rich_help_panel=PANEL)(command)


@takes_options(DuplicateOptions)
def duplicates(
    table: TableName,
    *,
    dsn: Dsn = "",
    groups: Annotated[
        bool,
        typer.Option("--groups", help="Groups that pairs connect, the largest first."),
    ] = False,
    into: Into = None,
    replace: Replace = False,
    as_json: AsJson = False,
    **options: Any,
) -> None:
    """Find rows that say nearly the same.

    --into writes the key and the group of each row of a group to a table.
    """
    from pgembed import client

    if (groups or into) and "since" in options:
        raise InvalidParameter("--since goes with pairs only, not with groups")
    with connect(dsn, autocommit=True) as conn:
        if not groups and into is None:
            pairs = client.duplicates(conn, table, **options)
            if as_json:
                _print_json(asdict(pair) for pair in pairs)
                return
            keys = [key for p in pairs[:_MOST] for key in (p.key_a, p.key_b)]
            rows = _rows(conn, table, keys)
            shown = [
                (f"{pair.similarity:.3f}", key, rows.get(_text(key)))
                for pair in pairs
                for key in (pair.key_a, pair.key_b)
            ]
            _show(("similarity", "key", "row"), shown, 2, len(pairs), "pairs")
            return
        with_table = _result_table(conn, table, into, "duplicates", replace)
        found = client.duplicate_groups(conn, table, **options)
        members = [(n, key) for n, keys in enumerate(found, 1) for key in keys]
        with_table([(*_parts(key), n) for n, key in members])
        if as_json:
            _print_json(
                {"group_id": n, "keys": keys} for n, keys in enumerate(found, 1)
            )
            return
        rows = _rows(conn, table, [key for _, key in members[:_MOST]])
        shown = [(str(n), key, rows.get(_text(key))) for n, key in members]
        _show(("group", "key", "row"), shown, 1, len(found), "groups")


@takes_options(ClassifyOptions)
def classify(
    table: TableName,
    *,
    label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=TEXT", help="A label and a text about it; once for each."
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSON instead: an object of labels and texts, vectors, or lists of "
            "keys of examples.",
        ),
    ] = None,
    examples: Annotated[
        bool, typer.Option("--examples", help="The file has keys of examples.")
    ] = False,
    dsn: Dsn = "",
    into: Into = None,
    replace: Replace = False,
    as_json: AsJson = False,
    **options: Any,
) -> None:
    """Give each row the label that it is most like, and count them.

    --into writes key, label, score and margin of each row to a table.
    """
    from pgembed import client

    given = _labels(label, labels)
    with connect(dsn, autocommit=True) as conn:
        with_table = _result_table(conn, table, into, "classes", replace)
        found = client.classify(
            conn,
            table,
            labels=None if examples else given,
            examples=given if examples else None,
            **options,
        )
        with_table([(*_parts(r.key), r.label, r.score, r.margin) for r in found])
        if as_json:
            _print_json(asdict(row) for row in found)
            return
        best = {name: [r for r in found if r.label == name] for name in given}
        firsts = {
            name: max(rows, key=lambda r: r.score if r.margin is None else r.margin).key
            for name, rows in best.items()
            if rows
        }
        docs = _rows(conn, table, list(firsts.values()))
        shown = [
            (f"{len(rows):,}", name, docs.get(_text(firsts.get(name))))
            for name, rows in best.items()
        ]
        _show(("rows", "label", "clearest row"), shown, 1, len(found), "rows")


@takes_options(RecommendOptions)
def recommend(
    table: TableName,
    likes: Annotated[
        list[str],
        typer.Argument(help="Keys of rows that are liked; JSON where composite."),
    ],
    *,
    dislike: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="A row that is disliked; once for each."),
    ] = None,
    dsn: Dsn = "",
    as_json: AsJson = False,
    **options: Any,
) -> None:
    """Find rows that are like those liked, and unlike those disliked."""
    from pgembed import client
    from pgembed.analysis.source import find_source

    with connect(dsn, autocommit=True) as conn:
        parts = len(find_source(conn, table).key)
        liked, disliked = (
            [_key(key, parts) for key in keys] for keys in (likes, dislike or ())
        )
        found = client.recommend(conn, table, liked, disliked, **options)
    if as_json:
        _print_json(asdict(row) for row in found)
        return
    shown = [(f"{row.score:.3f}", row.key, row.doc) for row in found]
    _show(("score", "key", "row"), shown, 1, len(found), "rows")


@takes_options(OutlierOptions)
def outliers(
    table: TableName,
    *,
    dsn: Dsn = "",
    into: Into = None,
    replace: Replace = False,
    as_json: AsJson = False,
    **options: Any,
) -> None:
    """Find the rows that belong least.

    --into writes key and score of all rows to a table.
    """
    from pgembed import client

    with connect(dsn, autocommit=True) as conn:
        with_table = _result_table(conn, table, into, "outliers", replace)
        if into is not None:
            options.setdefault("k", None)
        found = client.outliers(conn, table, **options)
        with_table([(*_parts(row.key), row.score) for row in found])
        if as_json:
            _print_json(asdict(row) for row in found)
            return
        rows = _rows(conn, table, [row.key for row in found[:_MOST]])
        shown = [(f"{r.score:.3f}", r.key, rows.get(_text(r.key))) for r in found]
        _show(("score", "key", "row"), shown, 1, len(found), "rows")


def _labels(pairs: list[str] | None, file: Path | None) -> dict[str, Any]:
    if (pairs is None) == (file is None):
        raise InvalidParameter(
            "no labels are given" if file is None else "labels are given twice",
            hint='--label sport="a text about sport", once for each, or --labels FILE.',
        )
    if file is not None:
        try:
            found = json.loads(file.read_text())
        except (OSError, ValueError) as exc:
            raise InvalidParameter(f"{file} cannot be read", detail=str(exc)) from exc
        if not isinstance(found, dict):
            raise InvalidParameter(f"{file} has no JSON object of labels")
        return found
    given: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        if not equals or not name or name in given:
            raise InvalidParameter(
                f"--label {pair!r} is not NAME=TEXT, or names a label again",
                hint='--label sport="a text about sport"',
            )
        given[name] = text
    return given


def _key(text: str, parts: int) -> Any:
    """Read a key: as it is typed, or as JSON where it has several parts."""
    if parts == 1:
        return text
    try:
        return json.loads(text)
    except ValueError as exc:
        raise InvalidParameter(
            f"{text!r} is not a key of {parts} columns", hint="""'["a", 1]'"""
        ) from exc


def _parts(key: Any) -> tuple[Any, ...]:
    return tuple(key) if isinstance(key, list) else (key,)


def _text(key: Any) -> str:
    return json.dumps(key, sort_keys=True)


def _result_table(
    conn: Connection,
    table: str,
    into: str | None,
    kind: Kind,
    replace: bool,
) -> Any:
    """Look whether results can be written, and give what writes them."""
    if into is None:
        return lambda *_: None
    from pgembed.analysis.results import COLUMNS, comment, result_table
    from pgembed.analysis.source import find_source

    source = find_source(conn, table)
    place = result_table(conn, into, source, COLUMNS[kind], replace=replace)

    def write(rows: Sequence[Sequence[object]]) -> None:
        place.write(conn, rows, comment=comment(kind, source))
        say(f"Written to {'.'.join(place.name)}: {len(rows):,} rows.")

    return write


def _rows(conn: Connection, table: str, keys: list[Any]) -> dict[str, dict[str, Any]]:
    """Read rows by their keys."""
    from psycopg import sql
    from psycopg.types.json import Jsonb

    from pgembed.analysis.source import find_source, reading

    if not keys:
        return {}
    source = find_source(conn, table)
    statement = sql.SQL(
        "select k.key, pg_catalog.to_jsonb(s.*) from pg_catalog.jsonb_array_elements("
        "%(keys)s) as k(key) join {table} as s on {key} = k.key"
    ).format(table=sql.SQL(source.table), key=sql.SQL(source.key_json))
    with reading(conn) as cursor:
        cursor.execute(statement, {"keys": Jsonb(keys)})
        return {_text(key): doc for key, doc in cursor}


def _print_json(rows: Iterable[dict[str, Any]]) -> None:
    for row in rows:
        typer.echo(json.dumps(row, default=str, ensure_ascii=False))


def _show(
    headings: tuple[str, str, str],
    lines: Sequence[tuple[str, Any, dict[str, Any] | None]],
    each: int,
    many: int,
    what: str,
) -> None:
    if not lines:
        console.print(f"No {what}.")
        return
    cells = [
        (
            first if number % each == 0 else "",
            key if isinstance(key, str) else json.dumps(key),
            "  ".join(f"{n}: {shortened(v)}" for n, v in (doc or {}).items()),
        )
        for number, (first, key, doc) in enumerate(lines[:_MOST])
    ]
    # What identifies a row is shown whole, of the row what fits beside it.
    taken = sum(
        max(map(len, column)) for column in list(zip(headings, *cells, strict=True))[:2]
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(headings[0], justify="right", no_wrap=True)
    table.add_column(headings[1], no_wrap=True)
    room = max(20, console.width - taken - 6)
    table.add_column(headings[2], no_wrap=True, max_width=room)
    for first, key, row in cells:
        table.add_row(first, Text(key), Text(row, overflow="ellipsis"))
    console.print(table)
    more = f"; the first {_MOST // each:,} lines" if len(lines) > _MOST else ""
    say(f"{many:,} {what if many != 1 else what[:-1]}{more}.", "dim")
